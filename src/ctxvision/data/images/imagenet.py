"""ImageNet's own layout (ILSVRC 2012): folders named by synset, and a flat ``val/`` whose labels are elsewhere.

Source: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015; the archives of
image-net.org and of Kaggle's object localisation challenge.
"""

import csv
import pickle
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ctxvision.data.error import DataError
from ctxvision.data.files import in_words, read_regular, subfolders
from ctxvision.data.labelled import Found, in_order

from .reading import list_images

_SYNSET = re.compile(r"n\d{8}")
NAMED = re.compile(r"(?:.* \()?(n\d{8})\)?")
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_WORDS = ("LOC_synset_mapping.txt", "synset_words.txt")
_TRUTH = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", "meta.bin")
_MOST_BYTES = 100_000_000  # of a list; that of Kaggle for the validation images has 7 MB
_DEVKIT_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def inner_folder(root: Path) -> Path:
    """Return the folder with ``train/``: ``root``, or ``Data/CLS-LOC`` below it, as Kaggle packs it."""
    if not (root / "train").is_dir():
        for name in ("Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"):
            if (root / name / "train").is_dir():
                return root / name
    return root


def names_of(folders: Iterable[str], root: Path, class_names: Sequence[str] | None) -> dict[str, str]:
    """Name the classes of a folder of synsets, ``tench (n01440764)``, so that each has a name of its own.

    Args:
        folders: The names of the class folders.
        root: The folder in which to look for the file of words.
        class_names: The classes of a trained network, whose names win.

    Returns:
        The class name by synset; the synset itself where no words are at hand. The result is empty for any other
        folder.
    """
    folders = list(folders)
    if not folders or not all(map(_SYNSET.fullmatch, folders)):
        return {}
    names = {folder: folder for folder in folders}
    words = {} if class_names else _words(root)
    names |= {folder: f"{words[folder]} ({folder})" for folder in folders if words.get(folder)}
    if class_names and list(class_names) == list(labels().values()):  # of a network with pretrained weights
        names |= {folder: labels()[folder] for folder in folders if folder in labels()}
    return names | {m[1]: name for name in class_names or () if (m := NAMED.fullmatch(name))}


@cache
def labels() -> dict[str, str]:
    """Return the names of the 1000 classes by synset, in the order of ImageNet's labels; each is another name."""
    from timm.data import ImageNetInfo

    imagenet = ImageNetInfo()
    words = {
        imagenet.index_to_label_name(index): imagenet.index_to_description(index).partition(",")[0]
        for index in range(1000)
    }
    counts = Counter(words.values())  # two pairs of classes share a name, such as crane, the bird and the machine
    return {synset: word if counts[word] == 1 else f"{word} ({synset})" for synset, word in words.items()}


def flat_validation(folder: Path, root: Path) -> Found | None:
    """Sort the images of a flat ``val/`` into synsets.

    The labels come from the first that is there: Kaggle's ``LOC_val_solution.csv``, a list of one synset per
    line, torchvision's ``meta.bin``, or the development kit's ground truth with its ``meta.mat``.

    Returns:
        The images by synset; ``None`` where the images lie in class folders.

    Raises:
        DataError: There is no such file, or it does not fit the images.
    """
    if subfolders(folder):
        return None
    images = list_images(folder)
    synsets, source = _truth(root, folder)
    if isinstance(synsets, list):
        if len(synsets) != len(images):
            raise DataError(f"{source}: {len(synsets)} labels for the {len(images)} images of {folder}")
        synsets = {Path(path).stem: synset for path, synset in zip(images, synsets, strict=True)}
    unlabelled = [path for path in images if Path(path).stem not in synsets]
    if unlabelled:
        raise DataError(f"{source}: no label for {unlabelled[0]} and {len(unlabelled) - 1} more")
    found: Found = {synset: {} for synset in in_order([synsets[Path(path).stem] for path in images])}
    for path in images:
        found[synsets[Path(path).stem]][Path(path).name] = path
    return found


def _truth(root: Path, folder: Path) -> tuple[dict[str, str] | list[str], Path]:
    """Return synsets by image, or in the images' order, and where they are from."""
    path = _find(root, *_TRUTH)
    if path and path.suffix == ".csv":
        try:
            rows = [row for row in csv.reader(_text(path).splitlines()) if len(row) == 2]
        except csv.Error as error:
            raise DataError(f"{path}: not a table ({error})") from error
        return {name: boxes.split()[0] for name, boxes in rows[1:] if boxes.split()}, path
    if path and path.suffix == ".txt":
        return _text(path).split(), path
    if path:
        return _of_torchvision(path), path
    path, meta = _find(root, _DEVKIT_TRUTH), _find(root, "meta.mat")
    if path and meta:
        by_number = {int(row[0]): str(row[1]) for row in _synsets(meta)}
        try:
            return [by_number[int(line)] for line in _text(path).split()], path
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: {error} is no number of a class in {meta}") from error
    raise DataError(
        f"{folder}: flat, and no file says which image is of which class; put one of {', '.join(_TRUTH)} into "
        f"{root}, or unpack the development kit there ({_DEVKIT})"
    )


def _words(root: Path) -> dict[str, str]:
    """Return the first word of every synset, from whatever file of words there is."""
    path, meta = _find(root, *_WORDS), _find(root, "meta.mat")
    if path:
        lines = (line.split(maxsplit=1) for line in _text(path).splitlines())
        pairs = [(line[0], line[1]) for line in lines if len(line) == 2]
    else:
        pairs = [(str(row[1]), str(row[2])) for row in _synsets(meta)] if meta else []
    return {synset: words.split(",")[0].strip() for synset, words in pairs}


def _synsets(path: Path) -> list[Any]:
    from scipy.io import loadmat  # scikit-learn brings it
    from scipy.io.matlab import MatReadError

    damage = (MatReadError, OSError, ValueError, LookupError, TypeError, NotImplementedError, EOFError, zlib.error)
    try:
        return list(loadmat(path, squeeze_me=True)["synsets"])  # number, synset, words, gloss, …
    except damage as error:
        raise DataError(f"{path}: not the development kit's meta.mat ({in_words(error)})") from error


def _of_torchvision(path: Path) -> list[str]:
    import torch

    damage = (pickle.UnpicklingError, OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError)
    try:
        return [str(synset) for synset in torch.load(path, weights_only=True)[1]]
    except damage as error:
        raise DataError(f"{path}: not torchvision's meta.bin ({type(error).__name__})") from error


def _text(path: Path) -> str:
    try:
        return read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {in_words(error)}") from error


def _find(root: Path, *names: str) -> Path | None:
    places = [root, root / _DEVKIT, root / "data", root.parent, root.parent / _DEVKIT]
    if root.name == "CLS-LOC":
        places += [root.parents[1], root.parents[2]]
    return next((place / name for name in names for place in places if (place / name).is_file()), None)
