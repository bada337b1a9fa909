"""What an export checks: detections that few or many have, and whether the extra is there."""

import sys

import pytest
import torch

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


def test_a_missing_extra_is_named_before_any_work(monkeypatch, tmp_path):
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed, however it is imported
    monkeypatch.setattr("ctxvision.export.onnx_file.trace", lambda *_: pytest.fail("it was traced"))
    spec = {"class_names": ["a", "b"], "input_size": [3, 8, 8]}
    with pytest.raises(ModuleNotFoundError):
        export_onnx(torch.nn.Flatten(), tmp_path / "net.onnx", metadata=Metadata("some", "classification", spec))
