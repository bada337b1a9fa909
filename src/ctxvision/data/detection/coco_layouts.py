"""Where a folder in COCO's layout, or in that of a tool's export, keeps its annotation files and images."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ctxvision.data.error import DataError
from ctxvision.data.images.folder import VAL_FOLDERS

_PARTS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test", "testing")}


class CocoPart(NamedTuple):
    """An annotation file and the folder that its file names begin in."""

    file: str
    images: str


def find_parts(root: Path, options: Mapping[str, str]) -> CocoPart | dict[str, CocoPart | DataError]:
    """Find the annotation files of a folder.

    - COCO and CVAT: ``annotations/instances_NAME.json``, with the images in ``NAME/``, ``images/NAME/`` or
      ``images/``;
    - Roboflow: one ``.json`` each in ``train/`` and ``valid/`` (or ``val``, ``validation``, ``test``), beside the
      images;
    - Label Studio, FiftyOne, labelme: one ``.json`` in the folder itself, the images beside or below it.

    Args:
        root: the folder.
        options: ``train`` and ``val`` name the parts of COCO's layout.

    Returns:
        The parts ``train`` and ``val``, or why there is none; or one part that is to be split.

    Raises:
        DataError: it is none of these.
    """
    if (root / "annotations").is_dir():
        return _of_annotations(root, options)
    beside = {
        "train": _beside(root / "train"),
        "val": next(filter(None, (_beside(root / name) for name in VAL_FOLDERS)), None),
    }
    train, val = beside["train"], beside["val"]
    if train and val:
        return {"train": train, "val": val}
    alone = train or val or _beside(root)
    if alone:
        return alone
    raise DataError(
        f"{root}: not in COCO's layout, it has no folder annotations, no train/*.json and no single .json; for a "
        "single annotation file write IMAGES:ANNOTATIONS.json"
    )


def _beside(folder: Path) -> CocoPart | None:
    """Return the only annotation file of a folder, which holds the images too."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    named = [file for file in files if file.name == "_annotations.coco.json"] or files
    return CocoPart(str(named[0]), str(folder)) if len(named) == 1 else None


def _of_annotations(root: Path, options: Mapping[str, str]) -> CocoPart | dict[str, CocoPart | DataError]:
    names = sorted(file.name[10:-5] for file in (root / "annotations").glob("instances_*.json"))
    parts = {split: _names(names, split, options.get(split)) for split in _PARTS}
    if len(names) == 1 and not any(parts.values()) and not options.keys() & set(_PARTS):
        part = _part(root, names[0])  # CVAT's instances_default.json
        if isinstance(part, DataError):
            raise part
        return part
    found: dict[str, CocoPart | DataError] = {}
    for split, chosen in parts.items():
        if len(chosen) == 1:
            found[split] = _part(root, chosen[0])
        elif chosen:
            found[split] = DataError(
                f"{root}: several annotation files for {split} ({', '.join(chosen)}); "
                f"choose with #{split}={chosen[-1]}"
            )
        else:
            wanted = options.get(split, f"{split}*")
            found[split] = DataError(f"{root}: no annotations/instances_{wanted}.json")
    return found


def _names(names: list[str], split: str, asked: str | None) -> list[str]:
    if asked:
        return [name for name in names if name == asked]
    exact = [name for name in names if name.startswith(split)]
    # CVAT's parts are called Train and Validation
    return exact or [name for name in names if name.lower() in _PARTS[split] or name.lower().startswith(split)]


def _part(root: Path, name: str) -> CocoPart | DataError:
    for images in (root / name, root / "images" / name, root / "images"):
        if images.is_dir():
            return CocoPart(str(root / "annotations" / f"instances_{name}.json"), str(images))
    return DataError(f"{root}: no folder {name} with the images of annotations/instances_{name}.json")
