"""Layouts of an image folder: which files belong to training, which to validation, and to which class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .error import DataError
from .images import IMAGE_SUFFIXES, list_images
from .split import fingerprint, hold_out

VAL_FOLDERS = ("val", "validation", "valid", "test")
Samples = list[tuple[str, int]]


@dataclass
class FolderContents:
    """What `scan_folder` found.

    Attributes:
        class_names: sorted, or as they were asked for.
        train: (path, class) pairs.
        val: likewise, held out.
        fingerprint: of the names of a folder that was split; empty where ``train/`` and ``val/`` exist.
        notes: what a reader should know, one line each.
    """

    class_names: tuple[str, ...]
    train: Samples = field(default_factory=list)
    val: Samples = field(default_factory=list)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)


def scan_folder(
    root: str | os.PathLike[str],
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> FolderContents:
    """Find the images of a data set and their classes.

    ``root`` holds ``train/CLASS/…`` and ``val/CLASS/…`` (or ``validation``, ``valid``, ``test``), or
    ``CLASS/…`` alone, which is then split class by class, see `hold_out`.

    Args:
        root: the folder.
        val_fraction: share of each class to hold out where there is no validation folder.
        split_seed: of that choice.
        class_names: the classes of a trained network, in its order; by default those of the training folder.

    Raises:
        DataError: not a folder, no classes, no images, or classes that the network or the training folder
            lacks.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    if not 0 < val_fraction < 1:
        raise DataError(f"the validation fraction must lie between 0 and 1, got {val_fraction}")
    # without folders of its own, train/ is a class like any other
    has_train = (root / "train").is_dir() and bool(_subfolders(root / "train"))
    train_root = root / "train" if has_train else root
    val_root = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if train_root == root and val_root and all(p.name in VAL_FOLDERS for p in _subfolders(root)):
        raise DataError(f"{root}: has {val_root.name}/ but no train/; to evaluate, name {val_root}")

    notes: list[str] = []
    by_class = _by_class(train_root, notes)
    contents = FolderContents(tuple(class_names or by_class), notes=notes)
    _require_known(by_class, contents.class_names, train_root, "the network" if class_names else "")
    if train_root != root and val_root:
        _add_both(contents, by_class, _by_class(val_root, notes), train_root, val_root)
    else:
        _add_split(contents, by_class, train_root, val_fraction, split_seed)
    absent = [name for name in contents.class_names if name not in by_class]
    if absent:
        notes.append(f"{train_root}: no images of {_names(absent)}")
    return contents


def _add_both(
    contents: FolderContents,
    train: dict[str, list[str]],
    val: dict[str, list[str]],
    train_root: Path,
    val_root: Path,
) -> None:
    _require_known(val, contents.class_names, val_root, f"{train_root}")
    unseen = [name for name in contents.class_names if name not in val]
    if unseen:
        contents.notes.append(f"{val_root}: no images of {_names(unseen)}, so their accuracy stays unknown")
    if val_root.name != "val":
        contents.notes.append(f"validating on {val_root}")
    for label, name in enumerate(contents.class_names):
        contents.train += [(path, label) for path in train.get(name, ())]
        contents.val += [(path, label) for path in val.get(name, ())]


def _add_split(
    contents: FolderContents, by_class: dict[str, list[str]], root: Path, fraction: float, seed: int
) -> None:
    keys: list[str] = []
    lonely: list[str] = []
    for label, name in enumerate(contents.class_names):
        paths = {Path(path).relative_to(root).as_posix(): path for path in by_class.get(name, ())}
        held_out = hold_out(list(paths), fraction, seed)
        contents.val += [(path, label) for key, path in paths.items() if key in held_out]
        contents.train += [(path, label) for key, path in paths.items() if key not in held_out]
        keys += paths
        if len(paths) == 1:
            lonely.append(name)
    if lonely:
        contents.notes.append(f"{root}: the only image of {_names(lonely)} is used for training, none to validate")
    contents.fingerprint = fingerprint(keys)


def _by_class(root: Path, notes: list[str]) -> dict[str, list[str]]:
    """Map the name of every class that has images to their sorted paths."""
    folders = _subfolders(root)
    loose = [p for p in root.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not folders:
        found = f"{len(loose)} images but no class folders" if loose else "no class folders"
        raise DataError(f"{root}: {found}; expected {root}/CLASS/IMAGE")
    if loose:
        notes.append(f"{root}: {len(loose)} images outside the class folders are left out")
    by_class = {folder.name: list_images(folder) for folder in folders}
    empty = [name for name, paths in by_class.items() if not paths]
    if len(empty) == len(by_class):
        raise DataError(f"{root}: no images in its {len(folders)} class folders ({_names(list(by_class))})")
    if empty:
        notes.append(f"{root}: no images in {_names(empty)}, left out of the classes")
    return {name: paths for name, paths in by_class.items() if paths}


def _subfolders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _require_known(found: dict[str, list[str]], known: Sequence[str], where: Path, owner: str) -> None:
    unknown = [name for name in found if name not in set(known)]
    if unknown:
        raise DataError(f"{where}: {owner} has no class {_names(unknown)}; it has {_names(list(known))}")


def _names(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(map(repr, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")
