"""A small set in COCO's layout, to be damaged by tests."""

import copy
import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]


def content(images: int = 4) -> dict:
    """Four images with a polygon, a run-length code, a crowd, and nothing."""
    listed = [{"id": 10 + i, "file_name": f"{i:03d}.png", "height": HEIGHT, "width": WIDTH} for i in range(images)]
    polygon = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [5, 6, 10, 20], "area": 200.0, "iscrowd": 0}
    polygon["segmentation"] = [[5, 6, 15, 6, 15, 26, 5, 26]]
    code = {"id": 2, "image_id": 11, "category_id": 17, "bbox": [0, 0, 2, 40], "area": 80, "iscrowd": 0}
    code["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [0, 80, HEIGHT * WIDTH - 80]}
    crowd = {"id": 3, "image_id": 12, "category_id": 3, "bbox": [20, 0, 10, 40], "area": 400, "iscrowd": 1}
    crowd["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [800, 400, HEIGHT * WIDTH - 1200]}
    return copy.deepcopy(
        {"images": listed, "annotations": [polygon, code, crowd], "categories": list(reversed(CATEGORIES))}
    )


def write(root: Path, train: dict | str | None = None, val: dict | str | None = None) -> Path:
    """Write annotation files (or other text in their place) and the pictures of four images."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for split, what in (("train", train), ("val", val)):
        (root / split).mkdir(exist_ok=True)
        text = what if isinstance(what, str) else json.dumps(what or content())
        (root / "annotations" / f"instances_{split}.json").write_text(text)
        for index in range(4):
            pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{index:03d}.png")
    return root
