"""Shards in webdataset's format: tar files in which the files of one sample follow each other."""

import glob
import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from ctxvision._extras import explain_import
from ctxvision.data.error import DataError
from ctxvision.data.files import Listing, in_words, open_regular, read_regular
from ctxvision.data.labelled import DEFAULT_SPLIT, Found, LabelledSet, SplitRule, arrange, in_order
from ctxvision.data.options import check_options

from .reading import HINTS
from .shard_index import index_shard, is_url, local_copies

_NAME = re.compile(r"(.*)::(.*)@(\d+)\+(\d+)", re.DOTALL)
_AMBIGUOUS = re.compile(r"(?<=:):|^:")  # colons of a member that would move the last "::" of its name
_MOST_SHARDS = 1_000_000
_MOST_BYTES = 10_000_000  # of the names of classes
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")


def read_shards(
    pattern: str,
    *,
    options: Mapping[str, str] | None = None,
    strict: bool = False,
    split: SplitRule = DEFAULT_SPLIT,
) -> LabelledSet:
    """Index shards, so that any sample can be read by itself.

    Every shard is read through once, without its images where it is on disk; the index is kept in the cache
    folder until the shard changes. It gives the number of samples, their classes and where they lie, and
    with it the same shuffling over all samples, the same split and the same exact resuming as for single
    files. Shards behind a URL are fetched into the cache folder first, see `local_copies`.

    Args:
        pattern: The paths or URLs, with ``{000..009}`` for a range and ``{a,b}`` for a choice; paths may have
            ``*`` too.
        options: The options of DATA. ``val`` names the shards to validate on (commas in braces are not possible
            there); ``image`` and ``label`` are the suffixes of these files, and ``label=json.FIELD`` a field;
            ``classes`` is a file with the names of the classes 0, 1, …, one per line.
        strict: Whether a shard that is truncated, or a sample without an image or a label, raises an error.
        split: The rule that says which samples are held out where no shards are named for validation, and which
            classes there are. Samples are known by the names of their shards and files.

    Raises:
        DataError: The package is missing, there are no such shards, none of the samples has a label, or two have
            the same name.
    """
    options = check_options(pattern, options, ("val", "image", "label", "classes"))
    notes: list[str] = []
    train = _collect(pattern, options, strict, notes)
    val = _collect(options["val"], options, strict, notes) if "val" in options else None
    order = in_order([*train, *(val or ())])
    names = _names(options["classes"], order) if "classes" in options else {label: label for label in order}
    labelled = arrange(
        {names[label]: train[label] for label in order if label in train},
        None if val is None else {names[label]: images for label, images in val.items()},
        where=pattern,
        where_val=options.get("val", ""),
        split=split,
    )
    labelled.notes[:0] = notes
    labelled.open_image = open_member
    return labelled


def open_member(name: str) -> BinaryIO:
    """Read one file out of a tar file: ``shard.tar::member@offset+size``, where the member is for people only.

    Raises:
        OSError: The shard is not there any more.
        ValueError: The shard ends before the file does.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError("not a name of a shard's file")
    with open_regular(match[1]) as shard:
        shard.seek(int(match[3]))
        data = shard.read(int(match[4]))
    if len(data) != int(match[4]):
        raise ValueError("the shard is truncated")
    return io.BytesIO(data)


def expand(pattern: str) -> list[str]:
    """Return the shards that a pattern means; a file of exactly this name is itself.

    Raises:
        DataError: The package is missing, there are no such shards, or there are more than a million.
    """
    if os.path.isfile(pattern):
        return [pattern]
    try:
        from webdataset.shardlists import expand_urls
    except ModuleNotFoundError as error:
        raise DataError(f"{pattern}: {explain_import(error) or error}") from error
    if _count(pattern) > _MOST_SHARDS:
        raise DataError(f"{pattern}: means more than {_MOST_SHARDS} shards; give a smaller range in the braces")
    try:
        expanded = expand_urls(pattern)
    except ValueError as error:  # braces that do not match, a step of 0
        raise DataError(f"{pattern}: not a pattern of shards ({in_words(error)})") from error
    shards: list[str] = []
    for shard in expanded:
        found = sorted(glob.glob(shard)) if not is_url(shard) and glob.has_magic(shard) else [shard]
        if not found:
            raise DataError(f"{shard}: no such shards")
        shards += found
    return shards


def _count(pattern: str) -> int:
    """Return how many shards a pattern means at most, without making them: braces within braces count double."""
    count = 1
    for part in re.split(r"[{}]", pattern):
        found = _RANGE.fullmatch(part)
        if found and max(map(len, filter(None, found.groups()))) > len(str(_MOST_SHARDS)) + 8:
            return _MOST_SHARDS + 1  # Python refuses to read numbers of thousands of digits
        if found:
            count *= abs(int(found[2]) - int(found[1])) // max(int(found[3] or 1), 1) + 1
        else:
            count *= part.count(",") + 1
        if count > _MOST_SHARDS:
            break
    return count


def _collect(pattern: str, options: Mapping[str, str], strict: bool, notes: list[str]) -> Found:
    found: Found = {}
    unlabelled, listing = 0, Listing()
    for shard in local_copies(expand(pattern)):
        members, others, problem = index_shard(shard, options.get("image"), options.get("label"))
        listing.left_out.update(others)
        if problem and (strict or not members):
            raise DataError(f"{shard}: {problem}")
        if problem:
            notes.append(f"{shard}: {problem}; the {len(members)} samples before are used")
        for member in members:
            if member.label is None:
                unlabelled += 1
                if strict:
                    raise DataError(f"{shard}: {member.key} has no label")
                continue
            key = f"{os.path.basename(shard)}/{member.key}"
            images = found.setdefault(member.label, {})
            if key in images:
                raise DataError(f"{shard}: two samples are called {member.key}")
            file = _AMBIGUOUS.sub("%3A", member.file)
            images[key] = f"{shard}::{file}@{member.offset}+{member.size}"
    if unlabelled:
        notes.append(f"{pattern}: {unlabelled} samples have no label and are left out")
    summary = listing.summary(HINTS)
    if not found:
        raise DataError(
            f"{pattern}: no sample has an image and a label; expected files as 0001.jpg and 0001.cls or "
            "0001.json, other suffixes are named with #image=SUFFIX,label=SUFFIX"
            + (f"; {summary}" if summary else "")
        )
    if summary:
        notes.append(f"{pattern}: {summary}")
    return found


def _names(file: str, labels: Sequence[str]) -> dict[str, str]:
    try:
        names = read_regular(file, _MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({in_words(error)})") from error
    try:
        return {label: names[int(label)].strip() for label in labels}
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{file}: names classes 0 to {len(names) - 1}, but there is a label {labels[-1]!r}"
        ) from error
