"""Examples of docs/integrations.md that need packages of others, marked `py`; test_docs.py runs the rest."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from _publishing import SPEC, task_of
from PIL import Image

from ctxvision.publish import publish

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
FENCE = re.compile(r"^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples():
    text = PAGE.read_text(encoding="utf-8")
    found = [(match[1], text.count("\n", 0, match.start(1))) for match in FENCE.finditer(text)]
    return [pytest.param(code, line, id=f"line{line + 1}") for code, line in found]


@pytest.mark.parametrize(("code", "line"), examples())
def test_example_runs(code, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish(task_of("cotnet_micro", spec={**SPEC, "input_size": [3, 64, 64]}), tmp_path / "net")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    for part in ("images", "labels"):
        Path("data", part).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(pixels).save(f"data/images/{number}.png")
        Path(f"data/labels/{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    about = {"path": str(tmp_path / "data"), "train": "images", "val": "images", "names": ["a"]}
    Path("data.yaml").write_text(yaml.safe_dump(about))
    exec(compile("\n" * line + code, str(PAGE), "exec"), {"__name__": "__example__"})


def test_examples_are_short():
    text = PAGE.read_text(encoding="utf-8")
    for code in re.findall(r"^```py\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert len([line for line in code.splitlines() if line.strip()]) <= 10, code
