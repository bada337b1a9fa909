"""Draw the first picture of the documentation: what a contextual network makes of a photograph.

    python tools/first_picture.py docs/figures/first.jpg

A small network is trained for some two minutes (no weights are needed) on pieces of scikit-learn's two photographs, which are cut from
rectangles with a name (sky, roof, petals, …). Then it is shown a whole photograph.
"""

import argparse
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from ctxvision.explain import ImageExplanation, explain
from ctxvision.tasks import ClassificationTask, load_task
from ctxvision.training import train

NETWORK = "contextual_resnet_micro"
SIZE = (432, 288)
"""Width and height of the whole photographs."""
PIECE = 64
PARTS = {  # on the photographs as scikit-learn has them, 640 × 427: left, top, right, bottom
    "sky": (0, [(0, 0, 95, 140), (330, 0, 640, 190)]),
    "roof": (0, [(105, 70, 315, 135), (75, 245, 345, 290)]),
    "gallery": (0, [(105, 130, 315, 245), (85, 280, 340, 345)]),
    "lake": (0, [(350, 235, 550, 330)]),
    "tree": (0, [(335, 310, 560, 427), (560, 150, 640, 427), (20, 345, 230, 427)]),
    "petals": (1, [(190, 110, 425, 335)]),
    "leaf": (1, [(0, 70, 130, 320)]),
    "shadow": (1, [(470, 40, 640, 380), (150, 0, 500, 75)]),
}


def photographs() -> list[Image.Image]:
    """Return the two photographs at the size at which they are looked at."""
    return [
        Image.fromarray(pixels).resize(SIZE, Image.Resampling.LANCZOS) for pixels in load_sample_images().images
    ]


def write_pieces(folder: Path, count: int = 60) -> None:
    """Cut pieces of 48 to 80 pixels around points of the named rectangles, and save them by class.

    Args:
        folder: The folder to write ``train/CLASS`` and ``val/CLASS`` to.
        count: The number of pieces of each class; a sixth is for validation.
    """
    random, photos = np.random.default_rng(0), photographs()
    scale = SIZE[0] / 640
    for name, (photo, boxes) in PARTS.items():
        areas = np.array([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes], float)
        for number in range(count):
            x0, y0, x1, y1 = (scale * edge for edge in boxes[random.choice(len(boxes), p=areas / areas.sum())])
            side = int(min(random.integers(40, 81), 1.3 * (x1 - x0), 1.3 * (y1 - y0)))
            x, y = random.uniform(x0, max(x0, x1 - side)), random.uniform(y0, max(y0, y1 - side))
            piece = photos[photo].crop((int(x), int(y), int(x) + side, int(y) + side)).resize((PIECE, PIECE))
            target = folder / ("val" if number % 6 == 0 else "train") / name / f"{number:03}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            piece.save(target)


def main() -> None:
    """Train, look, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JPEG file to write")
    parser.add_argument("--run", type=Path, help="run folder that is kept, and used if it is there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run = args.run or Path(work, "run")
        if not run.exists():
            write_pieces(Path(work, "pieces"))
            train(NETWORK, Path(work, "pieces"), recipe="small", epochs=15, out=run, workers=0, accelerator="cpu")
        trained = load_task(run / "checkpoints" / "best.ckpt")
    spec = dataclasses.asdict(trained.spec) | {"input_size": (3, SIZE[1], SIZE[0]), "crop_pct": 1.0}
    task = ClassificationTask(NETWORK, spec)
    task.load_state_dict(trained.state_dict())
    (image,) = explain(task, photographs()[:1], class_name="tree").images
    args.out.write_bytes(drawn(image, task.class_names))


def drawn(image: ImageExplanation, names: Sequence[str]) -> bytes:
    """Return a JPEG file: photograph, heat map, moved taps, funnel.

    Args:
        image: What the network made of the photograph.
        names: The names of the classes.
    """
    photo = np.asarray(photographs()[0])
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.2), dpi=100, layout="constrained")
    shown, heat, taps, funnel = axes.flat
    for place in (shown, heat, taps):
        place.imshow(photo if place is not taps else np.asarray(Image.fromarray(photo).convert("L")), cmap="gray")
    shown.set_title("a photograph")
    (cam,) = image.cams
    heat.imshow(cam.map, cmap="viridis", alpha=0.55)
    heat.set_title("what speaks for “tree” (Grad-CAM)")
    layer = next(layer for layer in image.offsets if "stages.2" in layer.name or "layer3" in layer.name)
    _, rows, columns, _ = layer.regular.shape
    for y in np.linspace(2, rows - 3, 4).round().astype(int):
        for x in np.linspace(2, columns - 3, 6).round().astype(int):
            spots = layer.sampled[0, :, y, x]
            middle = layer.regular[:, y, x].mean(0)
            for spot in spots:
                taps.plot([middle[1], spot[1]], [middle[0], spot[0]], color="#e69f00", lw=0.6)
            taps.plot(spots[:, 1], spots[:, 0], ".", color="#e69f00", ms=5)
            taps.plot(middle[1], middle[0], "+", color="white", ms=6)
    taps.set(xlim=(0, photo.shape[1]), ylim=(photo.shape[0], 0))
    taps.set_title("where 3 × 3 kernels read in stage 3")
    steps = image.funnel.stages
    for column, step in enumerate(steps):
        for row, (number, kept) in enumerate(zip(step.classes, step.kept, strict=True)):
            style = {"weight": "bold", "color": "#0b5cad"} if kept else {"color": "#8c959f"}
            funnel.text(column, -row, names[number], ha="center", va="center", fontsize=11, **style)
        funnel.text(column, 1.1, step.name, ha="center", va="center", fontsize=11)
    funnel.set(xlim=(-0.6, len(steps) - 0.4), ylim=(-len(names) + 0.4, 1.7))
    funnel.set_title("classes that each stage ranks; blue ones it keeps")
    for place in axes.flat:
        place.set_axis_off()
    jpeg = io.BytesIO()
    figure.savefig(jpeg, format="jpeg", pil_kwargs={"quality": 88, "optimize": True})
    return jpeg.getvalue()


if __name__ == "__main__":
    main()
