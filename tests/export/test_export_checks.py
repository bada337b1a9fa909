"""What an export checks: few detections, calibration on all classes, the extra, the place of the file."""

import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision._cli import export as command
from ctxvision.cli import main
from ctxvision.data import DataSpec
from ctxvision.export import ExportError, Metadata, export_onnx
from ctxvision.export.same import require_same

DETECTION = Metadata("some", "detection", {"class_names": ["a"], "in_chans": 3})


def objects(*corners, score=0.9):
    boxes = torch.tensor([[x, y, x + 20.0, y + 20.0] for x, y in corners]).reshape(-1, 4)
    return boxes, torch.ones(len(boxes), dtype=torch.int64), torch.full((len(boxes),), score)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (objects((5, 5)), objects()),
        (objects(), objects((5, 5))),
        (objects((5, 5)), objects((505, 5))),
        (objects((5, 5), (50, 50), (90, 9)), objects((5, 5), (50, 50))),
    ],
)
def test_one_lost_detection_of_few_is_an_error(expected, found):
    network = torch.nn.Identity()
    network.forward = lambda *inputs: expected
    assert require_same(network, lambda *inputs: expected, DETECTION, [torch.zeros(1)], 1e-4) == 0
    with pytest.raises(ExportError, match=r"finds other things: 1 of [13] have no partner"):
        require_same(network, lambda *inputs: found, DETECTION, [torch.zeros(1)], 1e-4)


@pytest.mark.parametrize(("count", "lost"), [(10, 1), (100, 2)])
def test_one_of_several_may_lie_on_a_threshold(count, lost):
    many = objects(*((30 * index, 0) for index in range(count)))
    network = torch.nn.Identity()
    network.forward = lambda *inputs: many
    less, too_few = (tuple(value[n:] for value in many) for n in (lost, lost + 1))
    assert require_same(network, lambda *inputs: less, DETECTION, [torch.zeros(1)], 1e-4) == 0
    with pytest.raises(ExportError, match="finds other things"):
        require_same(network, lambda *inputs: too_few, DETECTION, [torch.zeros(1)], 1e-4)


@pytest.mark.parametrize(("tried", "silent"), [([(5, 5)], True), ([], False)])
def test_nothing_found_is_said_even_if_all_agree(tried, silent, caplog):
    network = torch.nn.Identity()
    network.forward = lambda *inputs: objects(*tried)
    assert require_same(network, network.forward, DETECTION, [torch.zeros(1)] * 2, 1e-4) == 0
    assert [record.getMessage()[:16] for record in caplog.records] == ([] if silent else ["it found nothing"])


@pytest.mark.parametrize("calibration", [3, 7, 10, 16, 29, 30, 31, 256])
def test_calibration_sees_all_classes_alike(calibration, tmp_path):
    for name in ("ant", "bee", "cat"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "val" / name).mkdir(parents=True)
        for index in range(10):
            image = Image.fromarray(np.full((8, 8, 3), 20 * index, dtype=np.uint8))
            image.save(tmp_path / "train" / name / f"{index}.png")
        image.save(tmp_path / "val" / name / "0.png")
    spec = DataSpec(("ant", "bee", "cat"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    task = Namespace(data_spec=spec.to_dict())
    args = Namespace(int8=str(tmp_path), batch_size=4, workers=0, calibration=calibration)
    data = command._open(task, args, "train")
    labels = torch.cat([targets for _, targets in command._batches(data)]).bincount(minlength=3)
    assert labels.sum() == min(calibration, 30)
    assert labels.max() - labels.min() <= 1


def test_a_missing_extra_is_named_before_any_work(monkeypatch, tmp_path):
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed, however it is imported
    monkeypatch.setattr("ctxvision.export.onnx_file.trace", lambda *_: pytest.fail("it was traced"))
    spec = {"class_names": ["a", "b"], "input_size": [3, 8, 8]}
    with pytest.raises(ModuleNotFoundError):
        export_onnx(torch.nn.Flatten(), tmp_path / "net.onnx", metadata=Metadata("some", "classification", spec))


def test_a_folder_in_the_place_of_the_file(tmp_path, capsys):
    (tmp_path / "net.onnx").mkdir()
    assert main(["export", "nothing.ckpt", str(tmp_path / "net.onnx")]) == 1
    assert "cannot be written (it is a folder)" in capsys.readouterr().err
