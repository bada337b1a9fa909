"""Segmentation, video and detection as exported graphs, against the trained tasks."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from _checkpoints import detection_task, segmentation_task, video_task
from ctxvision.cli import main
from ctxvision.export import (
    Exported,
    ExportError,
    Metadata,
    export_onnx,
    export_pt2,
    from_task,
    open_exported,
)
from ctxvision.export.photographs import photographs
from ctxvision.export.pooling import adaptive_avg_pool2d
from ctxvision.export.same import difference_of_detections, require_same
from ctxvision.export.trained import require_same_detections
from ctxvision.inference import open_predictor, predictor_of
from ctxvision.tasks.registry import TASKS

pytestmark = pytest.mark.slow

DETECTORS = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet")
SMALL = {"pyramid_channels": 16, "channels": 16}


def in_place_of(task, **options):
    """What stands for a task, around its graph without any file."""
    network, metadata = from_task(task, **options)
    metadata = Metadata.from_json(metadata.to_json())  # what a file keeps of it

    def run(*inputs):
        with torch.no_grad():
            found = network.eval()(*inputs)
        return (found,) if isinstance(found, torch.Tensor) else found

    return predictor_of(Exported(Path("some.onnx"), metadata, run))


def in_order(objects):
    """Sort objects; those with equal scores have none of their own."""
    rows = zip((-objects["scores"]).tolist(), objects["labels"].tolist(), objects["boxes"].tolist(), strict=True)
    places = [place for _, place in sorted((row, place) for place, row in enumerate(rows))]
    return {name: value[places] for name, value in objects.items()}


def require_same_objects(found, expected):
    assert len(expected["boxes"])
    assert found.keys() == expected.keys()
    found, expected = in_order(found), in_order(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_detector_graphs_find_what_detectors_find(detector):
    task = detection_task(detector, classes=3)
    standing = in_place_of(task).raw
    labels = set()
    for size in ((80, 120), (120, 70), (33, 200)):
        image = torch.rand(3, *size) * torch.linspace(0, 2, size[1])
        with torch.no_grad():
            expected = task([image])[0]
        require_same_objects(standing([image])[0], expected)
        labels |= set(expected["labels"].tolist())
    assert len(labels) > 1


@pytest.mark.parametrize("detector", DETECTORS)
def test_graphs_are_compared_with_torchvision_before_they_are_exported(detector):
    task = detection_task(detector)
    network, metadata = from_task(task)
    require_same_detections(task, network, metadata)
    wrong = dataclasses.replace(metadata, settings=metadata.settings | {"min_size": 64})
    with pytest.raises(ExportError, match=r"finds other things|differs from it by"):
        require_same_detections(task, network, wrong)
    less_certain = copy.deepcopy(network)
    for name, bias in less_certain.named_parameters():
        if name.endswith(("cls_score.bias", "cls_logits.bias")):
            bias.data += torch.linspace(0, 1, len(bias))
    with pytest.raises(ExportError, match=r"finds other things|differs from it by"):
        require_same_detections(task, less_certain, metadata)


def test_detector_graphs_know_more_boxes_than_places():
    """Fewer positions than proposals in every level of the pyramid, and more; grey images."""
    for proposals in (3, 2000):
        task = detection_task(
            "faster_rcnn", channels=1, test_proposals=proposals, image_mean=[0.4], image_std=[0.3]
        )
        image = torch.rand(1, 64, 96)
        with torch.no_grad():
            expected = task([image])[0]
        require_same_objects(in_place_of(task).raw([image])[0], expected)


def test_detector_graphs_that_find_nothing():
    task = detection_task("mask_rcnn", score_threshold=0.999)
    found = in_place_of(task).raw([torch.rand(3, 40, 50)])[0]
    assert found["boxes"].shape == (0, 4)
    assert found["masks"].shape == (0, 1, 40, 50)


@pytest.mark.parametrize("window", [None, [32, 48]])
def test_segmentation_slides_its_window(window):
    task = segmentation_task(decoder_args=SMALL, window=window)
    image = torch.randn(3, 70, 50)
    expected, (logits,) = task.segment(image), in_place_of(task).raw([image])
    confidence, classes = logits.softmax(0).max(0)
    assert len(expected.classes.unique()) > 1
    torch.testing.assert_close(classes, expected.classes.long())
    torch.testing.assert_close(confidence, expected.confidence)


@pytest.mark.parametrize("model", ["test_resnet", "contextual_convnext_micro"])
@pytest.mark.parametrize("shift", ["both", "past", "none"])
def test_clips_say_the_same(model, shift):
    task = video_task(model, shift=shift)
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        expected, frames = task.classify(clips)
    expected = expected if isinstance(expected, torch.Tensor) else expected.logits
    found, by_frame = in_place_of(task).clip_and_frames(clips)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(by_frame, frames)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name, size in (("a.png", (80, 64)), ("b.png", (60, 90))):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def predictions(network, what, tmp_path, *words):
    name = Path(network).suffix[1:]
    out, drawn = tmp_path / f"{name}.json", tmp_path / name
    words = [str(network), str(what), "--format=json", f"--out={out}", f"--draw={drawn}", *words]
    assert main(["predict", *words]) == 0
    return json.loads(out.read_text()), {p.name: p.read_bytes() for p in sorted(drawn.iterdir())}


def near(found, expected):
    """Compare nested plain values; numbers may differ by rounding, codes of masks by a pixel."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"pictures", "segmentation", "area"}:
            near(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            near(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-3, abs=1e-3) if isinstance(expected, float) else expected)


def test_segmentation_predicts_the_same_from_a_file(networks_of, exported, pictures, tmp_path):
    checkpoint, file = networks_of("segmentation") / "best.ckpt", exported("segmentation", "net.onnx")
    assert "largest difference to torch" in file.with_suffix(".txt").read_text()
    metadata = open_exported(file).metadata
    assert (metadata.task, metadata.dynamic_batch, metadata.dynamic_size) == ("segmentation", True, True)
    expected, drawn = predictions(checkpoint, pictures, tmp_path)
    found, drawn_again = predictions(file, pictures, tmp_path)
    near(found, expected)
    assert drawn_again.keys() == drawn.keys()
    assert len(drawn) == 4
    assert drawn_again == drawn


def find_the_same(standing, task):
    """Compare what a file and its task find in images of several shapes."""
    order = ("boxes", "labels", "scores", "masks")
    for size in ((80, 120), (160, 150), (200, 150)):
        image = torch.rand(3, *size) * torch.linspace(0, 2, size[1])
        with torch.no_grad():
            expected = task([image])[0]
        found = standing([image])[0]
        assert len(expected["boxes"]) > 3
        assert found.keys() == expected.keys()
        found, expected = (tuple(objects[key] for key in order if key in objects) for objects in (found, expected))
        assert difference_of_detections(found, expected) < 1e-5


def test_detection_predicts_the_same_from_a_file(networks_of, exported, pictures, tmp_path):
    import onnx

    checkpoint, file = networks_of("detection") / "best.ckpt", exported("detection", "net.onnx")
    graph = onnx.load(file).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert {"NonMaxSuppression", "RoiAlign"} <= {node.op_type for node in graph.node}
    assert [place.name for place in graph.output] == ["boxes", "labels", "scores", "masks"]
    expected, drawn = predictions(checkpoint, pictures, tmp_path, "--threshold=0.1")
    found, drawn_again = predictions(file, pictures, tmp_path, "--threshold=0.1")
    assert sum(len(entry["objects"]) for entry in expected) > 2
    near(found, expected)
    assert drawn_again.keys() == drawn.keys()


@pytest.mark.parametrize(
    ("detector", "name"),
    [("retinanet", "net.onnx"), ("cascade_mask_rcnn", "net.onnx"), ("faster_rcnn", "net.pt2")],
)
def test_files_of_detectors_find_what_detectors_find(detector, name, tmp_path):
    task = detection_task(detector, classes=3, min_size=160, max_size=320)
    network, metadata = from_task(task)
    write = export_onnx if name.endswith(".onnx") else export_pt2
    write(network, tmp_path / name, metadata=metadata)
    find_the_same(open_predictor(tmp_path / name).raw, task)


def test_pt2_detectors_find_nothing_and_name_the_images_that_are_too_small(tmp_path):
    """torchvision's fake `nms` always keeps two boxes; a graph that believes it refuses images with fewer."""
    task = detection_task("retinanet", score_threshold=0.999, min_size=200, max_size=200)
    network, metadata = from_task(task)
    assert export_pt2(network, tmp_path / "net.pt2", metadata=metadata) == 0
    standing = open_predictor(tmp_path / "net.pt2").raw
    assert standing([torch.rand(3, 40, 50).round()])[0]["boxes"].shape == (0, 4)
    with pytest.raises(ExportError, match=r"does not take 1 × 3 × 64 × 224 images.*larger.*\.onnx"):
        standing([torch.rand(3, 40, 140)])


def test_video_predicts_the_same_from_a_file(networks_of, exported, tmp_path):
    from ctxvision.data.video.writing import write_video

    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", pixels, rate=4)
    checkpoint, file = networks_of("video") / "best.ckpt", exported("video", "net.pt2")
    words = ["--clips=2", "--crops=3"]
    expected, drawn = predictions(checkpoint, tmp_path / "clip.mp4", tmp_path, *words)
    found, drawn_again = predictions(file, tmp_path / "clip.mp4", tmp_path, *words)
    near(found, expected)
    assert drawn_again.keys() == drawn.keys()


def test_video_files_weigh_classes_as_networks_do(tmp_path):
    few = {"depths": [1, 1, 1, 1], "contextual_blocks": [1, 1, 1, 1], "stages": [3, 4]}
    task = video_task("contextual_convnext_micro", classes=7, model_args=few)
    network, metadata = from_task(task)
    export_onnx(network, tmp_path / "net.onnx", metadata=metadata)
    predictor = open_predictor(tmp_path / "net.onnx")
    for batch in (1, 3):
        clips = torch.randn(batch, 4, 3, 32, 32)
        with torch.no_grad():
            expected, frames = task.classify(clips)
            found, by_frame = predictor.clip_and_frames(clips)
        expected = expected.logits
        assert frames.std(1).min() > 1e-4  # the frames of a clip differ
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(by_frame, frames, rtol=1e-4, atol=1e-5)


def test_exported_files_of_another_task(tmp_path, capsys, monkeypatch):
    network, metadata = from_task(video_task())
    exported = Exported(Path("some.onnx"), metadata, network)
    monkeypatch.setattr("ctxvision.inference.opening.open_exported", lambda path, trust: exported)
    for words, message in (
        (["--task=segment"], "its task is video, not segment"),
        (["--device=cuda"], "exported networks run on the CPU here"),
    ):
        assert main(["predict", "some.onnx", "a.mp4", *words]) in (1, 2)
        assert message in capsys.readouterr().err
    with pytest.raises(ExportError, match="its task is tracking"):
        predictor_of(Exported(Path("some.onnx"), Metadata("some", "tracking", {}), network))
    for kind in TASKS:
        with pytest.raises(ExportError, match="incomplete"):
            predictor_of(Exported(Path("some.onnx"), Metadata("some", kind, {}), network))


def test_detections_that_differ_are_found():
    task = detection_task("faster_rcnn")
    network, metadata = from_task(task)
    trial = photographs(metadata)[0]
    with torch.no_grad():
        boxes, labels, scores = network.eval()(*trial)
    assert len(boxes) > 3

    def share(*outputs):
        return require_same(network, lambda *inputs: outputs, metadata, [trial], 1e-4)

    assert share(boxes, labels, scores) == 0
    assert share(boxes[1:], labels[1:], scores[1:]) == 0  # one may be lost to rounding
    with pytest.raises(ExportError, match="finds other things"):
        share(boxes[2:], labels[2:], scores[2:])
    with pytest.raises(ExportError, match="finds other things"):
        share(boxes, labels + 1, scores)
    with pytest.raises(ExportError, match="differs"):
        share(boxes + 0.5, labels, scores)
    with pytest.raises(ExportError, match="differs"):
        share(boxes, labels, scores * 0.999)


def test_photographs_fit_every_task():
    for task in (video_task(), segmentation_task(decoder_args=SMALL)):
        network, metadata = from_task(task)
        (images,) = photographs(metadata)[0]
        assert 0.1 < images.std() < 3
        with torch.no_grad():
            network.eval()(images)


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)), cells=st.tuples(st.integers(1, 7), st.integers(1, 7))
)
def test_adaptive_pooling(size, cells):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, cells)
    torch.testing.assert_close(adaptive_avg_pool2d(x, cells), expected, rtol=1e-12, atol=1e-12)


def test_pooling_over_any_size_is_exported(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten())
    spec = {"class_names": ["a", "b"], "input_size": [3, 32, 32]}
    metadata = Metadata("some", "classification", spec, dynamic_size=True)
    assert export_onnx(network, tmp_path / "net.onnx", metadata=metadata) < 1e-5
