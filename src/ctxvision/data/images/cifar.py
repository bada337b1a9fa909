"""CIFAR-10 and CIFAR-100 from files that are already on disk.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ctxvision.data.error import DataError
from ctxvision.data.labelled import DEFAULT_SPLIT, Found, LabelledSet, SplitRule, arrange
from ctxvision.files import reason


class _Binary(NamedTuple):
    """Where the binary version of the files keeps labels and pixels."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int  # CIFAR-100: the coarse class, then the fine one


_BINARY = {
    "cifar10": _Binary(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        1,
    ),
    "cifar100": _Binary("cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt", 2),
}


class ArrayOpener:
    """Opens the rows of arrays as images, by names such as ``test/17``.

    Args:
        arrays: The images of each part, (N, H, W, 3) uint8.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __call__(self, name: str) -> Image.Image:
        """Return the image of a name."""
        part, _, row = name.rpartition("/")
        return Image.fromarray(self.arrays[part][int(row)])


def read_cifar(name: str, folder: str, *, split: SplitRule = DEFAULT_SPLIT) -> LabelledSet:
    """Read the training images and the test images; the latter are for validation.

    The Python version consists of pickles, which could run code: torchvision opens them only after their
    MD5 sums have turned out to be those of the official files. The binary version holds nothing but pixels
    and labels and is read as such; it is preferred where both are there.

    Args:
        name: The name of the set, ``cifar10`` or ``cifar100`` (its 100 fine classes).
        folder: The folder that the archive was unpacked in, or the folder that came out of it.
        split: The rule that names the classes; it holds nothing out, since the test images are for validation.

    Raises:
        DataError: The files are missing or damaged.
    """
    where = f"{name}:{folder}"
    if not Path(folder).is_dir():
        raise DataError(f"{where}: no such folder")
    binary = _BINARY[name]
    root = next((p for p in (Path(folder, binary.folder), Path(folder)) if (p / binary.test[0]).is_file()), None)
    names, parts = _read_binary(root, binary, where) if root else _read_python(name, Path(folder), where)
    labelled = arrange(
        _found(names, parts["train"][1], "train"),
        _found(names, parts["test"][1], "test"),
        where=f"{where} (train)",
        where_val=f"{where} (test)",
        split=split,
    )
    labelled.open_image = ArrayOpener({part: images for part, (images, _) in parts.items()})
    labelled.image_size = 32
    return labelled


Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def _found(names: Sequence[str], labels: np.ndarray, part: str) -> Found:
    return {
        name: {f"{row:05d}": f"{part}/{row}" for row in np.flatnonzero(labels == i).tolist()}
        for i, name in enumerate(names)
    }


def _read_binary(root: Path, binary: _Binary, where: str) -> tuple[list[str], Parts]:
    try:
        names = (root / binary.names).read_text(encoding="utf-8").split()
        parts: Parts = {}
        for part, files in (("train", binary.train), ("test", binary.test)):
            images, labels_of_files = zip(*(_records(root / file, binary) for file in files), strict=True)
            parts[part] = np.concatenate(images), np.concatenate(labels_of_files)
    except OSError as error:
        raise DataError(f"{where}: {error.filename}: {reason(error)}") from error
    for part, (_, labels) in parts.items():
        if labels.max() >= len(names):
            raise DataError(
                f"{where}: a label {labels.max()} in {part}, but {binary.names} names {len(names)} classes"
            )
    return names, parts


def _records(path: Path, binary: _Binary) -> tuple[np.ndarray, np.ndarray]:
    size, data = binary.label_bytes + 3072, np.fromfile(path, np.uint8)
    if not len(data) or len(data) % size:
        raise DataError(f"{path}: {len(data)} bytes, not a multiple of {size}; damaged, unpack the archive again")
    rows = data.reshape(-1, size)
    images = rows[:, binary.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, binary.label_bytes - 1].astype(np.int64)


def _read_python(name: str, folder: Path, where: str) -> tuple[list[str], Parts]:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    root = folder.parent if folder.name == kind.base_folder else folder
    try:
        train, test = (kind(root, train=is_train, download=False) for is_train in (True, False))
    except RuntimeError as error:
        archive = next((p for p in (folder / kind.filename,) if p.is_file()), None)
        advice = (
            f"unpack {archive}" if archive else f"expected {root / kind.base_folder} or {_BINARY[name].folder}"
        )
        raise DataError(
            f"{where}: the files are missing, or not the official ones by their MD5; {advice}"
        ) from error
    return list(train.classes), {
        part: (data.data, np.array(data.targets)) for part, data in (("train", train), ("test", test))
    }
