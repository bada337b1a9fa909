"""What a row says about where it was measured. No host name, no user, no path."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from benchmarks.settings import ROOT, Settings
from ctxvision.ops import backends
from ctxvision.ops._backend import choose
from ctxvision.timing.clock import device_name

COLUMNS = (
    "date", "commit", "dirty", "device", "threads", "python", "torch", "torchvision", "timm", "ctxvision",
    "backend", "dtype",
)  # fmt: skip


def describe(settings: Settings) -> dict[str, object]:
    """Return the columns that all rows of a run share."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": int(bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results"))),
        "device": device_name(settings.device),
        "threads": settings.threads,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "torchvision", "timm", "ctxvision")},
        "backend": backend(settings),
        "dtype": settings.dtype_name,
    }


def backend(settings: Settings) -> str:
    """Return what computes our operators, and its own description of itself."""
    name = choose(settings.device, settings.dtype)
    return str(next(found for found in backends() if found.name == name))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a checkout, as on a machine that is only lent
        return "not installed"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # not a checkout, or no git
        return ""
    return done.stdout.strip()
