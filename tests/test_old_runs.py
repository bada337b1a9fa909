"""Run folders that version 0.1.0 wrote, one of each task: every later version opens them and computes the same.

They were trained for a few steps on the embedded data, with networks of a few thousand parameters.
"""

import json
from pathlib import Path

import pytest
import torch

from ctxvision.cli import main
from ctxvision.tasks import load_task
from ctxvision.training.settings import basis_of

RUNS = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((RUNS / "expected.json").read_text())
DATA = {
    "classification": "digits",
    "detection": "digits-scenes#train=8,val=4",
    "segmentation": "digits-scenes#train=8,val=4",
    "video": "moving-digits",
}


def outputs(task):
    """The numbers of a network for one fixed image or clip, as lists."""
    image = torch.linspace(0, 1, 3 * 64 * 64).reshape(3, 64, 64)
    with torch.inference_mode():
        if task.kind == "detection":
            found = task([image])[0]
            return {"scores": found["scores"][:5].tolist(), "boxes": found["boxes"][:5].flatten().tolist()}
        answer = task(image.expand(1, 2, -1, -1, -1) if task.kind == "video" else image[None])
    return {"logits": answer.flatten()[::997][:50].tolist() if answer.dim() > 2 else answer.flatten().tolist()}


@pytest.mark.parametrize("name", DATA)
def test_an_old_run_computes_what_it_computed(name):
    found = outputs(load_task(RUNS / name))
    assert found.keys() == EXPECTED[name]["outputs"].keys()
    for key, values in EXPECTED[name]["outputs"].items():
        assert len(values) > 4
        assert found[key] == pytest.approx(values, rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("name", DATA)
def test_an_old_run_is_evaluated_as_it_was(name, tmp_path, capsys):
    written = tmp_path / "numbers.json"
    assert main(["evaluate", str(RUNS / name), DATA[name], "--json", str(written), "--workers", "0"]) == 0
    numbers = json.loads(written.read_text())
    for key, value in EXPECTED[name]["numbers"].items():
        assert numbers[key] == pytest.approx(value, rel=0.05, abs=0.01), key


@pytest.mark.parametrize(("name", "filter_"), [("classification", "bicubic"), ("video", "bilinear")])
def test_an_old_run_goes_on_with_the_filter_that_it_had(name, filter_):
    given = {"resume": str(RUNS / name), "model": "rednet50"}  # whose own filter is bilinear
    assert basis_of(given).settings["interpolation"] == filter_
