"""The folder in which indices of shards, and shards from elsewhere, are kept."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ctxvision.data.error import DataError
from ctxvision.files import WriteError, remove_parts, replacing

_log = logging.getLogger(__name__)
_SCHEMES = ("http", "https", "gs", "hf", "ais", "sftp", "ftps", "scp")
_AT_ONCE = 4


def cache_folder() -> Path:
    """Return ``$CTXVISION_CACHE``, else ``ctxvision`` in the user's cache folder; it need not exist."""
    return Path(
        os.environ.get("CTXVISION_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxvision"
    )


def is_url(text: str) -> bool:
    """Tell ``https://…`` and webdataset's ``pipe:…`` from paths, which may have colons in them."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|pipe:", text))


def local_copies(shards: Sequence[str]) -> list[str]:
    """Fetch the shards that are URLs, a few at a time and each once; return all paths in order.

    A file appears under its name only when it is whole. It is taken to be what its URL holds for ever:
    delete it to fetch it again. ``pipe:`` and other commands are refused, because settings files travel.

    Raises:
        DataError: A URL cannot be fetched.
    """
    folder = cache_folder() / "shards"
    paths = [_target(shard, folder) if is_url(shard) else Path(shard) for shard in shards]
    missing = [(url, path) for url, path in zip(shards, paths, strict=True) if is_url(url) and not path.is_file()]
    if missing:
        _log.warning("fetching %d shards into %s", len(missing), folder)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(_fetch, *zip(*missing, strict=True)))
    return [str(path) for path in paths]


def _target(url: str, folder: Path) -> Path:
    scheme = url.partition(":")[0].lower()
    if scheme not in _SCHEMES:
        raise DataError(f"{url}: {scheme}: is not among {', '.join(_SCHEMES)}; mount or download the shards")
    name = re.sub(r"[^\w.-]", "_", url.partition("?")[0].rpartition("/")[2])
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"


def _fetch(url: str, path: Path) -> None:
    from filelock import FileLock  # torch needs it too
    from webdataset.gopen import gopen

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.is_file():  # another process was faster
            return
        remove_parts(path.parent, path.stem)
        try:
            with replacing(path) as part, gopen(url) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (OSError, ValueError, LookupError, RuntimeError, AssertionError) as error:  # of a program it starts
            cause = error.__cause__ if isinstance(error, WriteError) and error.__cause__ else error
            raise DataError(f"{url}: cannot be fetched ({' '.join(str(cause).split())})") from error
