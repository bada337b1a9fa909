"""What an export checks: detections that few or many have, and whether the extra is there."""

import errno
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision.data import DataSpec
from ctxvision.export import ExportError, Metadata, export_onnx, export_pt2, int8
from ctxvision.export.quantize import quantize_onnx
from ctxvision.export.same import require_same
from ctxvision.files import WriteError

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


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_the_network_stays_as_it_was(export, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).to(torch.bfloat16).train()
    weight = network[1].weight.clone()
    spec = {"class_names": ["a", "b"], "input_size": [3, 8, 8]}
    path = tmp_path / ("net.onnx" if export is export_onnx else "net.pt2")
    export(network, path, metadata=Metadata("some", "classification", spec))
    assert network.training
    assert torch.equal(network[1].weight, weight)
    assert network[1].weight.dtype == torch.bfloat16


def test_an_error_without_words_is_named_by_its_kind(tmp_path, monkeypatch):
    def broken(model):
        raise AssertionError

    monkeypatch.setattr("ctxvision.export.onnx_file.expand", broken)
    spec = {"class_names": ["a", "b"], "input_size": [3, 8, 8]}
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    with pytest.raises(ExportError, match=r"this network has no ONNX \(AssertionError\)"):
        export_onnx(network, tmp_path / "net.onnx", metadata=Metadata("some", "classification", spec))


def test_a_full_disk_is_no_fault_of_the_network_that_is_quantised(tmp_path, monkeypatch):
    def quantise(source, part, *_, **__):
        raise RuntimeError("onnx could not be saved") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", quantise)
    with pytest.raises(WriteError, match=r"int8\.onnx: cannot be written \(no space left on device\)"):
        quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", [], input_name="images")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("calibration", [3, 7, 10, 16, 29, 30, 31, 256])
def test_calibration_sees_all_classes_alike(calibration, tmp_path, monkeypatch):
    for label, name in enumerate(("ant", "bee", "cat")):
        for part, count in (("train", 10), ("val", 1)):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(np.full((8, 8, 3), 80 * label, dtype=np.uint8))
                image.save(tmp_path / part / name / f"{index}.png")
    spec, seen = DataSpec(("ant", "bee", "cat"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3), []
    monkeypatch.setattr(int8, "export_onnx", lambda network, path, **_: float(path.write_bytes(b"")))
    monkeypatch.setattr(int8, "quantize_onnx", lambda whole, out, images, **_: (out.touch(), seen.extend(images)))
    monkeypatch.setattr(int8, "open_predictor", lambda *_, **__: None)
    monkeypatch.setattr(int8, "_hits", lambda *_: (0, 0))
    task = SimpleNamespace(data_spec=spec.to_dict(), model=None)
    out = tmp_path / "net.onnx"
    int8.export_int8(task, out, None, str(tmp_path), calibration=calibration, batch_size=4)
    labels = ((torch.cat(seen).mean((1, 2, 3)) * 0.5 + 0.5) * 255 / 80).round().long().bincount(minlength=3)
    assert labels.sum() == min(calibration, 30)
    assert labels.max() - labels.min() <= 1
