"""What lies where in a shard, found out once."""

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from .error import DataError
from .images import IMAGE_SUFFIXES
from .shard_cache import cache_folder, write_whole

_LABEL_FILES = ("cls", "label", "cls.txt", "json")
_LABEL_FIELDS = ("label", "class", "class_name", "category", "target", "cls")
_FORMAT = 1  # of the index files


class Member(NamedTuple):
    """One sample of a shard."""

    key: str
    file: str
    offset: int
    size: int
    label: str | None


def index_shard(shard: str, image: str | None, label: str | None) -> tuple[list[Member], str]:
    """Return what `scan_shard` does, from the cache where the shard has not changed.

    Raises:
        DataError: there is no such file.
    """
    try:
        status = os.stat(shard)
    except OSError as error:
        raise DataError(f"{shard}: {(error.strerror or str(error)).lower()}") from error
    identity = [_FORMAT, os.path.abspath(shard), status.st_size, status.st_mtime_ns, image, label]
    cached = cache_folder() / "shards" / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]}.json"
    try:
        members, problem = json.loads(cached.read_text(encoding="utf-8"))
        return [Member(*member) for member in members], problem
    except (OSError, ValueError, TypeError):
        pass
    members, problem = scan_shard(shard, image, label)
    write_whole(cached, json.dumps([members, problem]))
    return members, problem


def scan_shard(shard: str, image: str | None = None, label: str | None = None) -> tuple[list[Member], str]:
    """List the samples of a tar file, in order.

    Args:
        shard: path of a file that is not compressed.
        image: suffix of the images; by default any that `list_images` knows.
        label: suffix of the labels, or ``json.FIELD``.

    Returns:
        The samples that have an image, and what is wrong with the file: empty if nothing is.
    """
    from webdataset.tariterators import base_plus_ext

    members: list[Member] = []
    files: dict[str, tarfile.TarInfo] = {}
    current = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined] # else it keeps them all
                base, suffix = base_plus_ext(info.name)
                if not info.isreg() or info.issparse() or base is None:
                    continue
                if base != current:
                    members += _sample(tar, current, files, image, label)
                    current, files = base, {}
                files[suffix.lower()] = info
            members += _sample(tar, current, files, image, label)
            end = tar.offset
        with open(shard, "rb") as file:
            file.seek(end)
            is_whole = file.read(512) == bytes(512)  # tarfile takes the lack of an end mark for the end
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        with open(shard, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        if compressed:
            return [], "compressed; unpack it with gunzip, images do not get smaller"
        return members, f"not a whole tar file ({error})"
    return members, "" if is_whole else "truncated, it has no end mark"


def _sample(
    tar: tarfile.TarFile,
    key: str | None,
    files: Mapping[str, tarfile.TarInfo],
    image: str | None,
    label: str | None,
) -> list[Member]:
    found = next(
        (
            files[suffix]
            for suffix in files
            if (suffix == image if image else f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES)
        ),
        None,
    )
    if key is None or found is None:
        return []
    return [Member(key, found.name, found.offset_data, found.size, _label(tar, files, label))]


def _label(tar: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], wanted: str | None) -> str | None:
    wanted = wanted or ""
    suffix, _, field = wanted.partition(".") if wanted.startswith("json") else (wanted, "", "")
    for name in [suffix] if suffix else _LABEL_FILES:
        file = tar.extractfile(files[name]) if name in files else None
        if file is None:
            continue
        data = file.read()
        value: Any = None
        try:
            value = _field(json.loads(data), field) if name == "json" else data.decode("utf-8").strip()
        except (ValueError, AttributeError, TypeError):  # not JSON, or not an object
            continue
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def _field(values: Any, field: str) -> Any:
    return values.get(field) if field else next((values[name] for name in _LABEL_FIELDS if name in values), None)
