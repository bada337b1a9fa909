"""Where images with one class each come from: the kinds of sources, and the layouts of folders."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ctxvision.data.error import DataError
from ctxvision.data.files import Listing, in_words, list_below, list_folder, subfolders
from ctxvision.data.labelled import DEFAULT_SPLIT, Found, LabelledSet, SplitRule, arrange, in_order, quoted
from ctxvision.data.options import check_options, split_options
from ctxvision.data.table import read_table
from ctxvision.files import near_path

from . import imagenet
from .cifar import read_cifar
from .emoji import read_emoji
from .hub import read_hub
from .reading import HINTS, is_image
from .shard_index import is_url
from .shards import read_shards

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "validation", "valid", "test", "testing")

_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


class FileKind(NamedTuple):
    """A kind of files that classes are made of.

    Attributes:
        name: The word for one such file.
        is_wanted: The function that tells by the name of a file whether it is one.
        hints: The advice about other files, by suffix.
    """

    name: str
    is_wanted: Callable[[str], bool]
    hints: Mapping[str, str] | None = None


def find_images(
    data: str | os.PathLike[str], *, split: SplitRule = DEFAULT_SPLIT, strict: bool = False
) -> LabelledSet:
    """Find the classes and the images that a source holds.

    The first of these rules that fits decides:

    1. ``hf:NAME_OR_PATH[:CONFIG]``: see `read_hub`;
    2. ``cifar10:FOLDER``, ``cifar100:FOLDER``: see `read_cifar`;
    3. ``emoji``: see `read_emoji`;
    4. a URL, or what ends in ``.tar``: see `read_shards`;
    5. what ends in ``.csv`` or ``.tsv``: see `read_table`;
    6. a folder: see `scan_folder`.

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
    if where == "emoji":
        return read_emoji(options, split=split)
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


IMAGES = FileKind("image", is_image, HINTS)


def scan_folder(root: str | os.PathLike[str], *, split: SplitRule = DEFAULT_SPLIT) -> LabelledSet:
    """Find the images of a data set and their classes.

    ``root`` holds ``train/CLASS/…`` and ``val/CLASS/…`` (or other names, see `parts_of`), or ``CLASS/…`` alone,
    which is then split class by class, see `hold_out`. Of ImageNet it may be the folder
    that Kaggle's archive makes, and ``val/`` may be flat, see `imagenet`.

    Args:
        root: The path of the folder.
        split: The rule that says which images are held out where there is no validation folder, and which classes
            there are.

    Raises:
        DataError: There is no such folder, it holds no classes or no images, or it has classes that the network or
            the training folder lacks.
    """
    given = Path(root)
    root = imagenet.inner_folder(require_folder(given))
    train_root, val_root = parts_of(root)
    notes: list[str] = []
    train, val = by_class(train_root, notes, IMAGES), None
    if not val_root:
        notes += _layers(train_root, train, split.class_names)
    wordy = imagenet.names_of(train, given, split.class_names)
    if val_root:
        flat = imagenet.flat_validation(val_root, given) if wordy else None
        val = flat or by_class(val_root, notes, IMAGES)
        val = {wordy.get(name, name): images for name, images in val.items()}
        if val_root.name != "val":
            notes.append(f"validating on {val_root}")
    labelled = arrange(
        {wordy.get(name, name): images for name, images in train.items()},
        val,
        where=str(train_root),
        where_val=str(val_root),
        split=split,
    )
    labelled.notes[:0] = notes
    labelled.root = str(given)
    return labelled


def require_folder(root: Path) -> Path:
    """Return a folder; raise `DataError` for any other path."""
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}{near_path(root)}")
    return root


def parts_of(root: Path) -> tuple[Path, Path | None]:
    """Return the folder of the training classes, and that of the validation classes if there is one.

    They are called ``train`` or ``training``, and ``val``, ``validation``, ``valid``, ``test`` or ``testing``, in
    small or capital letters.

    Raises:
        DataError: There is a folder for validation and none for training.
    """
    train_root, val_root = part_of(root, TRAIN_FOLDERS), part_of(root, VAL_FOLDERS)
    # without folders of its own, train/ is a class like any other
    if train_root and subfolders(train_root):
        return train_root, val_root
    if val_root and all(name.lower() in VAL_FOLDERS for name in subfolders(root)):
        raise DataError(f"{root}: has {val_root.name}/ but no train/; to evaluate, name {val_root}")
    return root, None


def part_of(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder in ``root`` that has the first of some names, as written before in other letters."""
    there = subfolders(root)
    for name in names:
        alike = [folder for folder in there if folder.lower() == name]
        if alike:
            return root / (name if name in alike else alike[0])
    return None


def _layers(root: Path, found: Found, known: Sequence[str] | None) -> list[str]:
    """Say which folders the classes are where there are folders of folders.

    Raises:
        DataError: The only class is a folder of folders, which is no class of the network.
    """
    inner = {
        name: sorted({path.split("/")[1] for path in images if path.count("/") > 1})
        for name, images in found.items()
        if images
    }
    loose = any(path.count("/") < 2 for images in found.values() for path in images)
    if loose or all(len(folders) < 2 for folders in inner.values()):
        return []
    names = list(inner)
    if len(names) == 1 and names[0] not in (known or ()):
        (only,) = names
        raise DataError(
            f"{root}: its only folder {only} holds the folders {quoted(inner[only])}; did you mean {root / only}?"
        )
    below = in_order([folder for folders in inner.values() for folder in folders])
    line = f"{root}: the classes are {quoted(names)}; the folders in them ({quoted(below)}) are not told apart"
    same = len(names) < 4 and any(count > 1 for count in Counter(chain(*inner.values())).values())
    return [f"{line}; if those are the classes, call the folders above them train and val" if same else line]


def by_class(root: Path, notes: list[str], files: FileKind) -> Found:
    """Map the name of every class folder to the relative and the whole paths of its files.

    Args:
        root: The folder of the class folders.
        notes: The lines that a reader should know; what is left out is added.
        files: The kind of files that are wanted.

    Raises:
        DataError: The folder cannot be read, or it has no class folders or none of the wanted files in them.
    """
    try:
        loose, folders = list_folder(root, files.is_wanted)
    except OSError as error:
        raise DataError(f"{root}: {in_words(error)}") from error
    if not folders:
        found = f"{len(loose)} {files.name}s but no class folders" if loose else "no class folders"
        raise DataError(f"{root}: {found}; expected {root}/CLASS/{files.name.upper()}")
    if loose:
        notes.append(f"{root}: {len(loose)} {files.name}s outside the class folders are left out")
    start = len(os.path.join(root, ""))
    found_by_class, others = {}, Listing()
    places = {os.path.basename(folder): folder for folder in folders}
    for name in in_order(list(places)):
        listed = others.add(list_below(places[name], files.is_wanted))
        found_by_class[name] = {path[start:].replace(os.sep, "/"): path for path in listed}
    summary = others.summary(files.hints)
    if not any(found_by_class.values()):
        raise DataError(
            f"{root}: no {files.name}s in its {len(folders)} class folders ({quoted(list(found_by_class))})"
            + (f"; {summary}" if summary else "")
        )
    if summary:
        notes.append(f"{root}: {summary}")
    return found_by_class
