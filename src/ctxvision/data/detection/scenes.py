"""The embedded scenes as a set of images with annotations, in memory or as files."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxvision.data.embedded.digits import CLASS_NAMES
from ctxvision.data.embedded.scenes import SPLITS, SceneOptions, Split

from .coco import Annotation, CocoImage, CocoSet, PackedAnnotations
from .coco_masks import encode_masks

_CATEGORY_IDS = tuple(1 + 2 * digit for digit in range(10))  # with gaps, as COCO's have


class SceneOpener:
    """Opens the rows of an array as images.

    Args:
        images: The images, (N, H, W, 3) uint8.
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __call__(self, name: str) -> Image.Image:
        """Return the image of a name as `scenes_set` gives it."""
        return Image.fromarray(self.images[int(name.rpartition("-")[2])])


def scenes_set(split: Split, options: SceneOptions, *, masks: bool = True) -> CocoSet:
    """Compose scenes and keep them in memory as a set of annotated images.

    Args:
        split: The part of the digits to draw from, and of the options' counts to use.
        options: The number, the size and the contents of the scenes.
        masks: Whether objects have masks.
    """
    count, size = options.count(split), options.size
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    listed = []
    annotations = []
    for index, scene in enumerate(options.scenes(split)):
        images[index] = scene.image
        listed.append(CocoImage(index + 1, f"{split}-{index:06d}", size, size))
        codes = encode_masks(scene.masks)
        objects = zip(scene.labels, scene.boxes.tolist(), scene.masks, codes, strict=True)
        annotations.append(
            [
                Annotation(int(label) + 1, (x0, y0, x1, y1), float(mask.sum()), False, code if masks else None)
                for label, (x0, y0, x1, y1), mask, code in objects
            ]
        )
    return CocoSet(
        CLASS_NAMES, _CATEGORY_IDS, listed, PackedAnnotations(annotations), open_image=SceneOpener(images)
    )


def export_coco(folder: str | os.PathLike[str], **options: int) -> None:
    """Write scenes in COCO's layout: ``annotations/instances_*.json``, and PNG files in ``train`` and ``val``.

    Masks are compressed run-length codes, since polygons know no holes.

    Args:
        folder: The folder to write to; it is made if it does not exist.
        options: The fields of `SceneOptions`.
    """
    root, scenes = Path(folder), SceneOptions(**options)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, scene in enumerate(scenes.scenes(split)):
            name = f"{index:06d}.png"
            Image.fromarray(scene.image).save(root / split / name)
            images.append({"id": index + 1, "file_name": name, "height": scenes.size, "width": scenes.size})
            for label, box, mask, code in zip(
                scene.labels, scene.boxes.tolist(), scene.masks, encode_masks(scene.masks), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": _CATEGORY_IDS[label],
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": code,
                    }
                )
        categories = [{"id": i, "name": name} for i, name in zip(_CATEGORY_IDS, CLASS_NAMES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
