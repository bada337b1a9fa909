"""Small sets of images with masks for the tests of segmentation."""

from pathlib import Path

import numpy as np
from PIL import Image

from ctxvision.data.segmentation.cityscapes import COLORS, LABEL_IDS

NAMES = ("sky", "ground", "tree")


def scene(seed: int = 0, size: tuple[int, int] = (24, 20), classes: int = 3) -> tuple[Image.Image, np.ndarray]:
    """A picture of blocks in their classes' colours, and the classes (H, W)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, classes, (-(-size[1] // 4), -(-size[0] // 4)))
    mask = blocks.repeat(4, 0).repeat(4, 1)[: size[1], : size[0]].astype(np.uint8)
    colors = np.array(COLORS)[mask]
    return Image.fromarray((colors + random.integers(0, 10, colors.shape)).astype(np.uint8)), mask


def make_pixels(root: Path, counts: dict[str, int], size: tuple[int, int] = (24, 20)) -> Path:
    """Write ``images/PART/000.png`` and its mask for every part, and ``classes.txt``."""
    root.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        for folder in ("images", "masks"):
            (root / folder / part).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, mask = scene(index, size)
            image.save(root / "images" / part / f"{index:03d}.png")
            Image.fromarray(mask).save(root / "masks" / part / f"{index:03d}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def make_cityscapes(root: Path, count: int = 3, city: str = "ulm") -> Path:
    """Write Cityscapes' layout: every second mask with train ids, the others with label ids."""
    for split in ("train", "val"):
        pictures, truths = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        pictures.mkdir(parents=True)
        truths.mkdir(parents=True)
        for index in range(count):
            image, mask = scene(index, (32, 16), classes=19)
            mask[0] = 255
            stem = f"{city}_000000_{index:06d}"
            image.save(pictures / f"{stem}_leftImg8bit.png")
            ids = np.array([*LABEL_IDS, *[0] * 236, 0])[mask].astype(np.uint8)
            truth = (mask, "labelTrainIds") if index % 2 else (ids, "labelIds")
            Image.fromarray(truth[0]).save(truths / f"{stem}_gtFine_{truth[1]}.png")
    return root
