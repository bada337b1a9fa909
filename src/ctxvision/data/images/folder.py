"""Layouts of an image folder: which files belong to training, which to validation, and to which class."""

import os
from collections.abc import Sequence
from pathlib import Path

from ctxvision.data.error import DataError
from ctxvision.data.files import Listing, in_words, list_below, list_folder, subfolders
from ctxvision.data.labelled import Found, LabelledSet, arrange, in_order, quoted

from . import imagenet
from .reading import HINTS, is_image

VAL_FOLDERS = ("val", "validation", "valid", "test")


def scan_folder(
    root: str | os.PathLike[str],
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> LabelledSet:
    """Find the images of a data set and their classes.

    ``root`` holds ``train/CLASS/…`` and ``val/CLASS/…`` (or ``validation``, ``valid``, ``test``), or
    ``CLASS/…`` alone, which is then split class by class, see `hold_out`. Of ImageNet it may be the folder
    that Kaggle's archive makes, and ``val/`` may be flat, see `imagenet`.

    Args:
        root: The folder.
        val_fraction: The share of each class to hold out where there is no validation folder.
        split_seed: The seed that chooses which samples are held out.
        class_names: The classes of a trained network, in its order; by default those of the training folder.

    Raises:
        DataError: There is no such folder, it holds no classes or no images, or it has classes that the network or
            the training folder lacks.
    """
    given = Path(root)
    if not given.is_dir():
        raise DataError(f"{given}: {'not a folder' if given.exists() else 'no such folder'}")
    root = imagenet.inner_folder(given)
    # without folders of its own, train/ is a class like any other
    has_train = (root / "train").is_dir() and bool(subfolders(root / "train"))
    train_root = root / "train" if has_train else root
    val_root = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if train_root == root and val_root and all(name in VAL_FOLDERS for name in subfolders(root)):
        raise DataError(f"{root}: has {val_root.name}/ but no train/; to evaluate, name {val_root}")

    notes: list[str] = []
    train, val = _by_class(train_root, notes), None
    wordy = imagenet.names_of(train, given, class_names)
    if train_root != root and val_root:
        flat = imagenet.flat_validation(val_root, given) if wordy else None
        val = flat or _by_class(val_root, notes)
        val = {wordy.get(name, name): images for name, images in val.items()}
        if val_root.name != "val":
            notes.append(f"validating on {val_root}")
    labelled = arrange(
        {wordy.get(name, name): images for name, images in train.items()},
        val,
        where=str(train_root),
        where_val=str(val_root),
        val_fraction=val_fraction,
        split_seed=split_seed,
        class_names=class_names,
    )
    labelled.notes[:0] = notes
    labelled.root = str(given)
    return labelled


def _by_class(root: Path, notes: list[str]) -> Found:
    """Map the name of every class folder to the relative and the whole paths of its images."""
    try:
        loose, folders = list_folder(root, is_image)
    except OSError as error:
        raise DataError(f"{root}: {in_words(error)}") from error
    if not folders:
        found = f"{len(loose)} images but no class folders" if loose else "no class folders"
        raise DataError(f"{root}: {found}; expected {root}/CLASS/IMAGE")
    if loose:
        notes.append(f"{root}: {len(loose)} images outside the class folders are left out")
    start = len(os.path.join(root, ""))
    by_class, others = {}, Listing()
    places = {os.path.basename(folder): folder for folder in folders}
    for name in in_order(list(places)):
        by_class[name] = {
            path[start:].replace(os.sep, "/"): path for path in others.add(list_below(places[name], is_image))
        }
    summary = others.summary(HINTS)
    if not any(by_class.values()):
        raise DataError(
            f"{root}: no images in its {len(folders)} class folders ({quoted(list(by_class))})"
            + (f"; {summary}" if summary else "")
        )
    if summary:
        notes.append(f"{root}: {summary}")
    return by_class
