"""The packages of the npm registry that hold the drawings: fetched once, checked, and read without unpacking."""

import base64
import hashlib
import http.client
import io
import json
import logging
import os
import re
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ctxvision.data.error import DataError
from ctxvision.files import write_whole

_log = logging.getLogger(__name__)

_SCOPE = "@iconify-json"
_PUBLIC_REGISTRY = "https://registry.npmjs.org/"
_MOST_PACKAGE = 16 << 20  # bytes; the largest of the pinned packages has 3.7 million
_MOST_FILE = 64 << 20
_WANTED = ("chars.json", "icons.json", "info.json")
_SECONDS = 60


class Package(NamedTuple):
    """A pinned version of a package of drawings by one artist."""

    name: str
    """Name below the registry's scope, and of the artist in options and files."""
    version: str
    sha512: str
    """Of the archive, base64, as in npm's lock files."""


_PINNED = """
noto 1.2.9 DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==
twemoji 1.2.5 uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==
openmoji 1.2.29 vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==
fluent-emoji-flat 1.2.6 RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==
noto-v1 1.2.5 /DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==
fxemoji 1.2.2 UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==
emojione 1.2.3 T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==
emojione-v1 1.2.3 UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==
"""

PACKAGES = tuple(Package(*line.split()) for line in _PINNED.split("\n") if line)
"""The artists. Another version may draw or name something differently: it would be another data set."""


def open_packages(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what the packages hold, fetching those that the folder lacks.

    Args:
        folder: Where the archives are kept.

    Returns:
        By artist the contents of ``chars.json``, ``icons.json`` and ``info.json``, by name without suffix.

    Raises:
        DataError: A package cannot be fetched, or is not the one that is pinned.
    """
    missing = [package for package in PACKAGES if not _path(package, folder).is_file()]
    if missing:
        registry = registry_url()
        _log.warning("emoji: fetching %d packages, some 14 MB, into %s", len(missing), folder)
        folder.mkdir(parents=True, exist_ok=True)
        for package in missing:
            write_whole(_path(package, folder), _checked(package, _fetch(package, registry), registry))
    return {package.name: _contents(package, folder) for package in PACKAGES}


def registry_url(environment: Mapping[str, str] = os.environ) -> str:
    """Return the registry that npm would ask for these packages, with a slash at the end.

    The first of these decides, as for npm: ``NPM_CONFIG_REGISTRY`` in the environment, in capitals or not; in
    the user's ``.npmrc`` (``NPM_CONFIG_USERCONFIG``, else in the home folder) the registry of the packages'
    scope, then the general one; the public registry. Access tokens are not read: the registry must answer without.

    Args:
        environment: The environment variables.

    Raises:
        DataError: It is not an address that begins with ``https:``, ``http:`` or ``file:``.
    """
    asked = {key.lower(): value for key, value in environment.items() if key.lower().startswith("npm_config_")}
    settings = _npmrc(Path(asked.get("npm_config_userconfig") or Path.home() / ".npmrc"), environment)
    url = (
        asked.get("npm_config_registry")
        or settings.get(f"{_SCOPE}:registry")
        or settings.get("registry")
        or _PUBLIC_REGISTRY
    )
    if not re.match(r"(https?|file)://", url):
        raise DataError(f"emoji: npm's registry is {url!r}; expected https://…, http://… or file://…")
    return url.rstrip("/") + "/"


def _npmrc(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith((";", "#")))
    settings = {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
    return {
        name: re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], ""), value)
        for name, value in settings.items()
    }


def _path(package: Package, folder: Path) -> Path:
    return folder / f"{package.name}-{package.version}.tgz"


def _fetch(package: Package, registry: str) -> bytes:
    url = f"{registry}{_SCOPE}/{package.name}/-/{package.name}-{package.version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            data: bytes = answer.read(_MOST_PACKAGE + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(
            f"emoji: {url}: cannot be fetched ({' '.join(str(why).split())}); the drawings are fetched once, "
            "which needs a network; NPM_CONFIG_REGISTRY names another registry, also file:///FOLDER of that layout"
        ) from error
    if len(data) > _MOST_PACKAGE:
        raise DataError(f"emoji: {url}: more than {_MOST_PACKAGE} bytes; this is not the package that is pinned")
    return data


def _checked(package: Package, data: bytes, where: str) -> bytes:
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != package.sha512:
        raise DataError(
            f"emoji: {package.name} {package.version} from {where} is not the pinned package: its SHA-512 is "
            f"{found[:12]}…, expected {package.sha512[:12]}…; delete a damaged file, or ask another registry"
        )
    return data


def _contents(package: Package, folder: Path) -> Mapping[str, Any]:
    """Read the wanted files of an archive; nothing is unpacked to the disk."""
    path = _path(package, folder)
    data = _checked(package, path.read_bytes(), str(path))
    found: dict[str, Any] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if name in _WANTED and member.isreg() and member.size <= _MOST_FILE:
                    content = archive.extractfile(member)
                    assert content is not None  # of a regular file
                    found[name.removesuffix(".json")] = json.loads(content.read())
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    absent = [name for name in _WANTED if name.removesuffix(".json") not in found]
    if absent:
        raise DataError(f"{path}: holds no {', '.join(absent)}")
    return found
