"""Packages that come with an extra: what to install when one is missing or does not fit."""

import json
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

_TRAIN = ("PIL", "jinja2", "jsonargparse", "lightning", "matplotlib", "rich", "sklearn", "torchmetrics", "yaml")
_EXTRAS = dict.fromkeys(_TRAIN, "train") | dict.fromkeys(
    ("onnx", "onnx_ir", "onnxruntime", "onnxscript"), "export"
)
_EXTRAS |= dict.fromkeys(("datasets", "webdataset"), "data")
_EXTRAS |= {
    "av": "video",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "faster_coco_eval": "detect",
    "h5py": "weights",
    "resvg_py": "emoji",
}
_EXTRAS |= dict.fromkeys(("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"), "serve")
_INCLUDES: dict[str, tuple[str, ...]] = {
    "train": ("weights",),
    "serve": ("explain", "train", "weights"),
    "track": ("tensorboard", "wandb"),
    **dict.fromkeys(("data", "emoji", "detect", "segment", "video", "explain", "export"), ("train", "weights")),
}


def explain_import(error: ImportError, wanted: Iterable[str] = ()) -> str | None:
    """Say what to install, where an extra's package could not be imported.

    Only a package that is not there is missing. One that is there and lacks something is of a version that does
    not fit, and what it lacks is told.

    Args:
        error: What the import raised.
        wanted: Names of the extras that the caller needs in any case. They are named too, so that what is
            installed is enough, and not the first of several steps.

    Returns:
        One line; ``None`` where the error is about none of these packages.
    """
    package, _, inner = (error.name or "").partition(".")
    extra = _EXTRAS.get(package)
    if extra is None:
        return None
    extras = [*wanted, extra]
    if isinstance(error, ModuleNotFoundError) and (not inner or sys.modules.get(package) is None):
        return f"needs the package {package}: {install_command(*extras)}"
    what = " ".join(str(error).split())
    return f"{_distribution(package)} does not fit ({what}); {install_command(*extras, upgrade=True)}"


def install_command(*extras: str, upgrade: bool = False) -> str:
    """Return the command that installs extras of ctxvision from where ctxvision itself came.

    That is a clone, a file, a repository or an index; pip notes which beside what it installs.

    Args:
        extras: Names of the extras; one that another includes is left out.
        upgrade: Whether packages that are already there are replaced by newer ones.
    """
    included = {name for extra in extras for name in _INCLUDES.get(extra, ())}
    names = ",".join(extra for extra in dict.fromkeys(extras) if extra not in included)
    pip = "pip install --upgrade" if upgrade else "pip install"
    try:
        note = metadata.distribution("ctxvision").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # the sources are on Python's path
        note = "{}"
    if note is None:
        return f'{pip} "ctxvision[{names}]"'
    origin = json.loads(note)
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}"
    if "dir_info" not in origin and url:
        return f'{pip} "ctxvision[{names}] @ {url}"'
    clone = Path(url2pathname(unquote(urlsplit(url).path)))
    if not url or not (clone / "pyproject.toml").is_file():
        return f'{pip} ".[{names}]" in a clone of ctxvision'
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f'{pip} {editable}"{clone}[{names}]"'


def _distribution(package: str) -> str:
    """Name what is installed to have a package, with its version if it is there."""
    names = metadata.packages_distributions().get(package)
    return f"{names[0]} {metadata.version(names[0])}" if names else package
