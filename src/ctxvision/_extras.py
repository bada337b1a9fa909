"""Packages that come with an extra: what to install when one is missing or does not fit."""

import sys
from importlib import metadata

_TRAIN = ("PIL", "jinja2", "jsonargparse", "lightning", "matplotlib", "rich", "sklearn", "torchmetrics", "yaml")
_EXTRAS = dict.fromkeys(_TRAIN, "train") | dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export")
_EXTRAS |= dict.fromkeys(("datasets", "webdataset"), "data")
_EXTRAS |= dict.fromkeys(("faster_coco_eval", "pycocotools"), "detect")
_EXTRAS |= {
    "av": "video",
    "h5py": "weights",
    "segmentation_models_pytorch": "segment",
}
_EXTRAS |= dict.fromkeys(("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"), "serve")


def explain_import(error: ImportError) -> str | None:
    """Say what to install, where an extra's package could not be imported.

    Only a package that is not there is missing. One that is there and lacks something is of a version that does
    not fit, and what it lacks is told.

    Returns:
        One line; ``None`` where the error is about none of these packages.
    """
    package, _, inner = (error.name or "").partition(".")
    extra = _EXTRAS.get(package)
    if extra is None:
        return None
    if isinstance(error, ModuleNotFoundError) and (not inner or sys.modules.get(package) is None):
        return f'needs the package {package}: pip install "ctxvision[{extra}]"'
    what = " ".join(str(error).split())
    return f'{_distribution(package)} does not fit ({what}); pip install --upgrade "ctxvision[{extra}]"'


def _distribution(package: str) -> str:
    """Name what is installed to have a package, with its version if it is there."""
    names = metadata.packages_distributions().get(package)
    return f"{names[0]} {metadata.version(names[0])}" if names else package
