"""Draw figures of the documentation anew: what a trained CoTNet, a detector and the serving page look like now.

    python tools/docs_figures.py contexts RUN
    python tools/docs_figures.py boxes RUN
    python tools/docs_figures.py serve CONTEXTUAL_RUN COT_RUN

RUN is a run folder of ``ctxvision train``: of a CoTNet for segmentation on ``digits-scenes``, of a detector on
them, of a contextual network and a CoTNet on ``digits``. The last needs playwright and Chromium.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ctxvision.data import open_data
from ctxvision.data.embedded.scenes import make_scene
from ctxvision.explain import explain
from ctxvision.inference import open_predictor
from ctxvision.runs import RunFolder

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
LARGEST = 200_000  # bytes
THRESHOLD = 0.3
SCENES = 100
"""Number of validation scenes of which the one with the clearest answers, all of them right, is drawn."""


def save(picture: Image.Image, name: str, width: int) -> None:
    """Write a PNG file of at most ``width`` pixels across, with as many colours as its size allows."""
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    picture = picture.convert("RGB")
    for colors in (0, 256, 128, 64):
        file = io.BytesIO()
        chosen = picture.quantize(colors, dither=Image.Dither.NONE) if colors else picture
        chosen.save(file, "png", optimize=True)
        if len(file.getvalue()) < LARGEST:
            break
    (FIGURES / name).write_bytes(file.getvalue())
    print(f"{FIGURES / name}: {picture.width} × {picture.height}, {len(file.getvalue()):,} bytes")


def figure_of(run: Path, image: Image.Image, kind: str) -> Image.Image:
    """Return one figure of the explanation of an image."""
    explanation = explain(open_predictor(run, device="cpu"), image, threshold=THRESHOLD)
    content = next(data for name, data in explanation.files().items() if name.endswith(f"-{kind}.png"))
    return Image.open(io.BytesIO(content))


def contexts(run: Path) -> None:
    """Draw static and dynamic context at the layers of a CoTNet, for a held-out scene."""
    scene = make_scene(0, 0, split="val", digits=3, heights=(0.3, 0.6))
    save(figure_of(run, Image.fromarray(scene.image), "contexts"), "explain-contexts.png", 1000)


def boxes(run: Path) -> None:
    """Draw what speaks for the boxes of a detector, on the held-out scene with the clearest answers."""
    settings, _ = RunFolder(run).load_settings()
    scenes = open_data(settings["data"], "detection", train=False).eval_dataset()
    predictor = open_predictor(run, device="cpu")
    best: tuple[float, Image.Image] | None = None
    for index in range(min(SCENES, len(scenes))):
        pixels, target = scenes[index][:2]
        image = Image.fromarray(np.asarray(pixels.permute(1, 2, 0)))
        (answer,) = predictor([image])
        found = [one for one in answer.objects if one.score >= THRESHOLD]
        right = sorted(one.label for one in found) == sorted(row["label"] for row in target["truth"])
        certain = sum(one.score for one in found) * right
        if best is None or certain > best[0]:
            best = certain, image
    assert best is not None
    save(figure_of(run, best[1], "grad-cam"), "explain-boxes.png", 800)


def serve(contextual: Path, cot: Path) -> None:
    """Photograph the serving page with two networks."""
    from playwright.sync_api import sync_playwright

    words = ["-m", "ctxvision", "serve", f"contextual={contextual}", f"cotnet={cot}", "--port", "0"]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 1600})
            page.goto(address)
            page.select_option("#second", "cotnet")
            page.click("#examples button >> nth=8")
            page.wait_for_selector("text=Most probable classes", timeout=60_000)
            page.click("#stages label >> nth=2")
            page.wait_for_timeout(3000)
            save(Image.open(io.BytesIO(page.screenshot())), "serve.png", 1200)
            browser.close()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["contexts", "boxes", "serve"])
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    {"contexts": contexts, "boxes": boxes, "serve": serve}[args.figure](*args.runs)


if __name__ == "__main__":
    main()
