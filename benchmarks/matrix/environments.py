"""Environments of their own for runtimes and packages that ours does not have: ``make peers`` makes them.

python -m benchmarks.matrix.environments openvino kecam paddle
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from benchmarks.settings import ROOT

ENVIRONMENTS = ROOT / ".venv-peers"
# by environment: packages, and those whose own requirements belong to parts that are not imported
PACKAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "openvino": (("openvino==2026.4.1",), ()),
    "kecam": ((), ("keras_cv_attention_models==1.4.3", "ftfy", "wcwidth")),
    "paddle": (("paddlepaddle==3.3.1", "setuptools"), ("paddleclas==2.6.0",)),
}
_ON_OURS = ("kecam",)  # computes with the same torch as we do


def make(name: str) -> None:
    """Make an environment, unless it is there.

    Raises:
        RuntimeError: If pip cannot install the packages; what it says stands on the screen.
    """
    folder = ENVIRONMENTS / name
    if (folder / "complete").is_file():
        return
    venv.create(folder, with_pip=True)
    needed, alone = PACKAGES[name]
    for options in (needed, ("--no-deps", *alone)):
        if len(options) > (options[:1] == ("--no-deps",)):
            command = [_python(folder), "-m", "pip", "install", "--quiet", *options]
            if subprocess.run(command, check=False).returncode:
                raise RuntimeError(f"{folder}: pip cannot install {' '.join(options)}")
    if name in _ON_OURS:
        site = next(folder.glob("[Ll]ib*/**/site-packages"))
        places = [path for path in sys.path if path and Path(path).name == "site-packages"]
        (site / "ours.pth").write_text("\n".join(places or [sysconfig.get_path("purelib")]) + "\n")
    (folder / "complete").touch()


def python_with(name: str) -> Path | None:
    """Return the interpreter that has the packages, or ``None``: ours where it has them itself."""
    if (ENVIRONMENTS / name / "complete").is_file():
        return _python(ENVIRONMENTS / name)
    return Path(sys.executable) if name == "openvino" and importlib.util.find_spec(name) else None


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or PACKAGES:
        if wanted not in PACKAGES:
            sys.exit(f"{wanted}: no such environment; there are {', '.join(PACKAGES)}")
        make(wanted)
        print(ENVIRONMENTS / wanted)
