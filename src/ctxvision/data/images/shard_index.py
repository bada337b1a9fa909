"""Shards on this machine: fetched once where they come from elsewhere, and an index of their samples, kept."""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

from ctxvision.data.error import DataError
from ctxvision.data.files import in_words, open_regular
from ctxvision.files import WriteError, reason, remove_parts, replacing, write_whole

from .reading import IMAGE_SUFFIXES

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


_LABEL_FILES = ("cls", "label", "cls.txt", "json")
_LABEL_FIELDS = ("label", "class", "class_name", "category", "target", "cls")
_FORMAT = 2  # of the index files
_MOST_HEADER = 1 << 24  # bytes; a header says itself how long it is
_MOST_LABEL = 1 << 24
_COMPRESSED = {"gunzip": b"\x1f\x8b", "unzstd": b"\x28\xb5\x2f\xfd", "unxz": b"\xfd7zX", "bunzip2": b"BZh"}
# tarfile lets through what a damaged header makes of its arithmetic
_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, LookupError, OverflowError, RecursionError)


class Member(NamedTuple):
    """One sample of a shard."""

    key: str
    file: str
    offset: int
    size: int
    label: str | None


class _Checked(io.BufferedReader):
    """A tar file whose headers cannot ask for petabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def index_shard(shard: str, image: str | None, label: str | None) -> tuple[list[Member], dict[str, int], str]:
    """Return what `scan_shard` does, from the cache where the shard has not changed.

    Raises:
        DataError: There is no such file.
    """
    try:
        status = os.stat(shard)
    except OSError as error:
        raise DataError(f"{shard}: {reason(error)}") from error
    identity = [_FORMAT, os.path.abspath(shard), status.st_size, status.st_mtime_ns, image, label]
    cached = cache_folder() / "shards" / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]}.json"
    try:
        members, others, problem = json.loads(cached.read_text(encoding="utf-8"))
        return [Member(*member) for member in members], dict(others), problem
    except (OSError, ValueError, TypeError):
        pass
    members, others, problem = scan_shard(shard, image, label)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, json.dumps([members, others, problem]))
    except OSError as error:  # a cache that cannot be written is no harm
        _log.warning("%s: the index is not kept (%s)", cached, reason(error))
    return members, others, problem


def scan_shard(
    shard: str, image: str | None = None, label: str | None = None
) -> tuple[list[Member], dict[str, int], str]:
    """List the samples of a tar file, in order.

    Args:
        shard: The path of a file that is not compressed.
        image: The suffix of the images; by default any that `list_images` knows.
        label: The suffix of the labels, or ``json.FIELD``.

    Returns:
        The samples that have an image, the number of other files by kind, and the fault of the tar file: empty if
        there is none.
    """
    from webdataset.tariterators import base_plus_ext

    members: list[Member] = []
    others: Counter[str] = Counter()
    files: dict[str, tarfile.TarInfo] = {}
    current, end, start = None, 0, b""
    try:
        with open_regular(shard) as file:
            raw = cast(io.RawIOBase, file.raw)
            start = raw.read(4)
            raw.seek(0)
            with tarfile.open(fileobj=_Checked(raw), mode="r:") as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined] # else it keeps them all
                    if info.size < 0 or tar.offset <= end:  # a negative size: tarfile would go round in a circle
                        raise tarfile.ReadError("a file of negative size")
                    end = tar.offset
                    base, suffix = base_plus_ext(info.name)
                    if not info.isreg() or info.issparse() or base is None:
                        others.update([] if info.isdir() else [_kind(info)])
                        continue
                    if base != current:
                        members += _sample(raw, current, files, image, label, others)
                        current, files = base, {}
                    files[suffix.lower()] = info
                members += _sample(raw, current, files, image, label, others)
                raw.seek(tar.offset)
                is_whole = raw.read(512) == bytes(512)  # tarfile takes the lack of an end mark for the end
    except _DAMAGE as error:
        for name, mark in _COMPRESSED.items():
            if start.startswith(mark):
                return [], {}, f"compressed; unpack it with {name}, images do not get smaller"
        return members, others, f"not a whole tar file ({in_words(error)})"
    return members, others, "" if is_whole else "truncated, it has no end mark"


def _kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "links"
    return "sparse files" if info.issparse() else "without a suffix" if info.isreg() else "devices"


def _sample(
    shard: io.RawIOBase,
    key: str | None,
    files: Mapping[str, tarfile.TarInfo],
    image: str | None,
    label: str | None,
    others: Counter[str],
) -> list[Member]:
    images = [
        suffix
        for suffix in files
        if (suffix == image if image else f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES)
    ]
    if key is None or not images:
        others.update(f".{suffix.rpartition('.')[2]}" for suffix in files)
        return []
    found = []
    # the key ends at the first dot of a name: of a.b.png and a.b.cls, both of a, the second belongs to the first
    for suffix in images:
        part = suffix[: suffix.rfind(".") + 1]
        own = _label(shard, files, label, part) if part else None
        if own is not None:
            info = files[suffix]
            found.append(Member(f"{key}.{part[:-1]}", info.name, info.offset_data, info.size, own))
    if found:
        return found
    info = files[images[0]]
    return [Member(key, info.name, info.offset_data, info.size, _label(shard, files, label))]


def _label(
    shard: io.RawIOBase, files: Mapping[str, tarfile.TarInfo], wanted: str | None, part: str = ""
) -> str | None:
    wanted = wanted or ""
    suffix, _, field = wanted.partition(".") if wanted.startswith("json") else (wanted, "", "")
    for name in [suffix] if suffix else _LABEL_FILES:
        info = files.get(part + name)
        if info is None or info.size > _MOST_LABEL:
            continue
        data = _read(shard, info)
        value: Any = None
        try:
            value = _field(json.loads(data), field) if name == "json" else data.decode("utf-8").strip()
        except (ValueError, AttributeError, TypeError, RecursionError):  # not JSON, or not an object
            continue
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def _read(shard: io.RawIOBase, info: tarfile.TarInfo) -> bytes:
    place = shard.tell()
    shard.seek(info.offset_data)
    data = b""
    while len(data) < info.size and (piece := shard.read(info.size - len(data))):
        data += piece
    shard.seek(place)
    return data


def _field(values: Any, field: str) -> Any:
    return values.get(field) if field else next((values[name] for name in _LABEL_FIELDS if name in values), None)
