"""Small data of the embedded digits, as files: single digits, boards of four, sheets of one or two in boxes."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.embedded.digits import CLASS_NAMES, digit_keys, held_out_digits, load_digits

SIDE = 32  # of a digit on boards and sheets, in pixels; a classifier sees it as large
_CANVAS = 2 * SIDE
_SMOOTH = Image.Resampling.BICUBIC
_INK = 127  # brighter pixels are the digit's
_VALIDATION = 100


def digit_files(work: Path) -> Path:
    """Return a folder with the embedded digits as files, held out as everywhere; made once."""

    def write(folder: Path) -> None:
        pixels, targets = load_digits()
        held_out = held_out_digits(digit_keys(targets))
        for index, (picture, target) in enumerate(zip(pixels.numpy(), targets.tolist(), strict=True)):
            part = folder / ("val" if held_out[index] else "train") / str(target)
            part.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(part / f"{index:04d}.png")

    return _made(work / "digits", write)


def digit_boards(work: Path, train: int) -> Path:
    """Return a folder of boards, 2 × 2 digits each, and of their masks; made once.

    Scenes are too much for some hundred steps of SGD: after 600 of 8 scenes the mean IoU was 10 %.

    Args:
        work: The folder to make it in.
        train: The number of training boards.
    """

    def write(folder: Path) -> None:
        for split, count in (("train", train), ("val", _VALIDATION)):
            for kind in ("images", "masks"):
                (folder / kind / split).mkdir(parents=True)
            draw = _drawer(split)
            for index in range(count):
                tiles, labels = zip(*draw(4), strict=True)
                board = np.block([list(tiles[:2]), list(tiles[2:])])
                digits = np.kron(np.array(labels).reshape(2, 2), np.ones((SIDE, SIDE), int))
                mask = np.where(board > _INK, digits + 1, 0).astype(np.uint8)
                for kind, picture in (("images", board), ("masks", mask)):
                    Image.fromarray(picture).save(folder / kind / split / f"{index:03d}.png")
        (folder / "classes.txt").write_text("\n".join(("background", *CLASS_NAMES)))

    return _made(work / f"boards-{train}", write)


def digit_sheets(work: Path, train: int) -> Path:
    """Return a folder in COCO's layout of sheets, one or two digits anywhere that do not overlap; made once.

    Scenes are too much for some hundred steps of SGD: after 400 of 4 scenes AP50 was 0 to 10 %.

    Args:
        work: The folder to make it in.
        train: The number of training sheets.
    """

    def write(folder: Path) -> None:
        (folder / "annotations").mkdir(parents=True)
        for split, count in (("train", train), ("val", _VALIDATION)):
            (folder / split).mkdir()
            draw, random = _drawer(split), np.random.default_rng(1)
            images, objects = [], []
            for index in range(count):
                sheet = np.zeros((_CANVAS, _CANVAS), np.uint8)
                tops = [0, SIDE] if random.random() < 0.5 else [int(random.integers(0, SIDE + 1))]
                for top, (tile, label) in zip(tops, draw(len(tops)), strict=True):
                    left = int(random.integers(0, SIDE + 1))
                    alone = np.zeros_like(sheet)
                    alone[top : top + SIDE, left : left + SIDE] = tile
                    sheet = np.maximum(sheet, alone)
                    objects.append(
                        {
                            "id": len(objects) + 1,
                            "image_id": index,
                            "category_id": label + 1,
                            **_outlined(alone > _INK),
                        }
                    )
                name = f"{index:04d}.png"
                Image.fromarray(sheet).save(folder / split / name)
                images.append({"id": index, "file_name": name, "height": _CANVAS, "width": _CANVAS})
            categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, 1)]
            listed = {"images": images, "annotations": objects, "categories": categories}
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(listed))

    return _made(work / f"sheets-{train}", write)


def _outlined(mask: NDArray[np.bool_]) -> dict[str, object]:
    """Return box, area and run-length code of a mask, as an annotation has them."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    flat = mask.T.ravel()  # COCO counts along columns, first what is not the object
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts},
    }


def _drawer(split: str) -> Callable[[int], list[tuple[NDArray[np.uint8], int]]]:
    """Return a function that draws enlarged digits of a split, with their classes."""
    pixels, targets = load_digits()
    held_out = held_out_digits(digit_keys(targets))
    numbers = np.flatnonzero((held_out if split == "val" else ~held_out).numpy())
    random = np.random.default_rng(0)

    def draw(count: int) -> list[tuple[NDArray[np.uint8], int]]:
        return [
            (np.array(Image.fromarray(pixels[one].numpy()).resize((SIDE, SIDE), _SMOOTH)), int(targets[one]))
            for one in random.choice(numbers, count)
        ]

    return draw


def _made(folder: Path, write: Callable[[Path], None]) -> Path:
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write(unfinished)
        unfinished.rename(folder)
    return folder


MAKERS: Mapping[str, Callable[[Path, int], Path]] = {
    "files": lambda work, train: digit_files(work),
    "boards": digit_boards,
    "sheets": digit_sheets,
}
"""By `Data.source`; what is named otherwise is DATA of `ctxvision train`."""
