"""Weights from where other projects keep them: downloaded, checked and converted once, then kept."""

import contextlib
import logging
import os
import socket
import ssl
import urllib.error
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import safetensors
import torch.hub

from ctxvision.files import WriteError, remove_parts, replacing, write_whole
from ctxvision.models._weights import WEIGHTS
from ctxvision.wording import plural

from .conversion import write_converted
from .digest import digest_of
from .error import CheckpointError
from .finite import require_finite
from .layout import require_fit, skeleton
from .published import from_published
from .reading import read_state_dict

MIRROR = "CTXVISION_WEIGHTS_MIRROR"
"""Environment variable: an address under which the same files are looked for instead."""

_SILENCE = 60  # seconds without a byte after which a connection counts as lost
_IDLE = 3600  # seconds after which a part was left by a process that was killed
_log = logging.getLogger(__name__)


def fetch_weights(url: str, model_name: str, *, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the safetensors file of weights that another project keeps at an address.

    The original is downloaded to timm's folder for weights, unless it lies there already, its checksum is compared
    with the published one, and it is converted; what is there and whole is neither downloaded nor converted again.
    Where no checksum is published, the SHA-256 of the first file is kept beside it and later ones must have it.

    Args:
        url: Address of the original file.
        model_name: Name of the network of ours whose weights they are.
        folder: Folder to keep the files in; by default ``checkpoints`` in torch hub's folder (TORCH_HOME).

    Raises:
        CheckpointError: The file cannot be downloaded or kept, or is not the expected one; nothing half-written
            stays.
    """
    folder = Path(folder) if folder else Path(torch.hub.get_dir(), "checkpoints")
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    original = folder / (name or "weights")
    converted = original.with_suffix(".safetensors")
    if converted != original and _is_whole(converted):
        return converted
    md5 = {weights.url: weights.md5 for weights in WEIGHTS.values()}.get(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, f"cannot be made ({error.strerror})", url) from error
    if original.is_file():
        _check(original, original, md5, url)
        _convert(original, converted, model_name, original, url)
    else:
        _download(url, original, converted, model_name, md5)
    if md5 is None:
        _keep_sum(original)
    return converted


def _download(url: str, original: Path, converted: Path, model_name: str, md5: str | None) -> None:
    by_hand = f"; or get it elsewhere and put it at {original}"
    _log.info("downloading %s", url)
    remove_parts(original.parent, original.stem, idle=_IDLE)
    try:
        with replacing(original) as part, _patience():
            try:
                torch.hub.download_url_to_file(_mirrored(url), os.fspath(part), progress=True)
            except urllib.error.HTTPError as error:
                raise CheckpointError(url, f"the server answers {error.code} {error.reason}{by_hand}") from error
            except (urllib.error.URLError, TimeoutError, HTTPException, ssl.SSLError, ConnectionError) as error:
                cause = getattr(error, "reason", None) or error
                said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
                raise CheckpointError(
                    url, f"cannot be downloaded ({said}); check the connection and try again{by_hand}"
                ) from error
            except ValueError as error:  # of what is no address
                raise CheckpointError(url, f"is no address ({error})") from error
            _check(part, original, md5, url)
            _convert(part, converted, model_name, original, url)
    except WriteError as error:
        raise _unwritable(original, str(error).partition(": ")[2], url) from error
    except OSError as error:  # torch hub writes beside the part
        reason = error.strerror or str(error)
        raise _unwritable(original, f"cannot be written ({reason.lower()})", url) from error


def _check(file: Path, original: Path, md5: str | None, url: str) -> None:
    """Compare the checksum with the published one, or with that of the first file that was here."""
    with file.open("rb") as opened:
        start = opened.read(512).lstrip().lower()
    again = f"delete {original} and try again" if file == original else "try again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            url,
            f"what came is a web page, as proxies and log-in pages send it, not weights; {again}, or put the "
            f"file at {original}",
        )
    kept = _sum_of(original)
    expected, kind = (
        (md5, "md5") if md5 else (kept.read_text("utf-8").split()[0], "sha256") if kept.is_file() else ("", "")
    )
    if kind and (found := digest_of(file, kind)) != expected:
        size = file.stat().st_size
        what = "that is published" if md5 else f"of the first file, kept in {kept.name}"
        raise CheckpointError(
            url,
            f"the file, of {plural(size, 'byte')}, is not the one expected: its {kind.upper()} is {found}, not "
            f"{expected} {what}; {again}, or put the right file at {original}",
        )


def _convert(file: Path, converted: Path, model_name: str, original: Path, url: str) -> None:
    try:
        tensors = from_published(read_state_dict(file), model_name)
        require_finite(tensors, file)
        if url in {weights.url for weights in WEIGHTS.values() if weights.md5 is None}:
            require_fit(tensors, skeleton(model_name), model_name, file)  # no checksum says which file it is
    except CheckpointError as error:
        reason = str(error).partition("; download it again")[0].removeprefix(f"{file}: ")
        again = f"delete {original} and try again" if file == original else "try again"
        raise CheckpointError(
            url, f"the file cannot be used ({reason}); {again}, or put the right file at {original}"
        ) from error
    try:
        write_converted(tensors, converted, model_name, original.name)
    except CheckpointError as error:
        raise _unwritable(converted, str(error).removeprefix(f"{converted}: "), url) from error


def _unwritable(place: Path, reason: str, url: str) -> CheckpointError:
    return CheckpointError(
        place, f"{reason}; make room, or set TORCH_HOME to a folder that can be written, for the file from {url}"
    )


def _keep_sum(original: Path) -> None:
    """Keep the checksum of a file for which none is published, at its first use."""
    kept = _sum_of(original)
    if not kept.is_file():
        digest = digest_of(original, "sha256")
        with contextlib.suppress(OSError):
            write_whole(kept, f"{digest}  {original.name}\n")
        _log.warning("%s: no checksum is published; its SHA-256 is %s, kept in %s", original, digest, kept.name)


def _sum_of(original: Path) -> Path:
    return original.with_name(f"{original.name}.sha256")


def _is_whole(file: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            return bool(opened.keys())
    except (OSError, safetensors.SafetensorError):
        return False


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    return f"{mirror}/{url.rpartition('/')[2]}" if mirror else url


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Give up connections that are silent: torch hub would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
