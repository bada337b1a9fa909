"""The DATA argument of a classifier: which kind of source it names."""

import glob
import os
from pathlib import Path

from ctxvision.data.error import DataError
from ctxvision.data.labelled import DEFAULT_SPLIT, LabelledSet, SplitRule
from ctxvision.data.options import check_options, split_options
from ctxvision.data.table import read_table

from .cifar import read_cifar
from .folder import scan_folder
from .hub import read_hub
from .shard_index import is_url
from .shards import read_shards

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def find_images(
    data: str | os.PathLike[str], *, split: SplitRule = DEFAULT_SPLIT, strict: bool = False
) -> LabelledSet:
    """Find the classes and the images that a source holds.

    The first of these rules that fits decides:

    1. ``hf:NAME_OR_PATH[:CONFIG]``: see `read_hub`;
    2. ``cifar10:FOLDER``, ``cifar100:FOLDER``: see `read_cifar`;
    3. a URL, or what ends in ``.tar``: see `read_shards`;
    4. what ends in ``.csv`` or ``.tsv``: see `read_table`;
    5. a folder: see `scan_folder`.

    Options follow a ``#``, as in ``hf:cifar100#label=coarse_label``.

    Args:
        data: The DATA argument, the name of the source.
        split: The rule that says which samples are held out where the source has no validation part, and which
            classes there are.
        strict: Whether a sample that is listed but cannot be used raises an error.

    Raises:
        DataError: There is no such source, or its contents cannot be used.
    """
    where, options = split_options(os.fspath(data))
    prefix, _, rest = where.partition(":")
    if prefix == "hf" and not rest.startswith("//"):
        return read_hub(rest, options=options, split=split)
    if prefix in ("cifar10", "cifar100"):
        check_options(where, options, ())
        return read_cifar(prefix, rest or ".", split=split)
    if is_url(where) or where.lower().endswith(".tar"):
        return read_shards(where, options=options, strict=strict, split=split)
    if where.lower().endswith((".csv", ".tsv")):
        return read_table(where, options=options, strict=strict, split=split)
    check_options(where, options, ())
    if os.path.isfile(where):
        raise DataError(f"{where}: not a folder{_hint_file(where)}")
    try:
        return scan_folder(where, split=split)
    except DataError as error:
        hint = _hint(Path(where))
        raise DataError(f"{error}; {hint}") if hint else error from error


def _hint_file(file: str) -> str:
    if file.lower().endswith(_ARCHIVES):
        return "; unpack the archive first"
    if file.lower().endswith(".parquet"):
        return f"; did you mean hf:{file}?"
    return ", and neither .csv, .tsv nor .tar"


def _hint(folder: Path) -> str:
    """Recognise a folder that another kind of source reads."""
    for name in ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"):
        if folder.name == name or (folder / name).is_dir():
            return f"did you mean cifar10{'0' if '100' in name else ''}:{folder}?"
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json", "dataset_infos.json")):
        return f"did you mean hf:{folder}?"
    escaped = glob.escape(str(folder))
    if glob.glob(f"{escaped}/*.parquet") or glob.glob(f"{escaped}/data/*.parquet"):
        return f"did you mean hf:{folder}?"
    shards = sorted(glob.glob(f"{escaped}/*.tar"))
    if shards:
        return f"did you mean the shards {folder}/*.tar?"
    tables = sorted(glob.glob(f"{escaped}/*.[ct]sv"))
    return f"did you mean {tables[0]}?" if tables else ""
