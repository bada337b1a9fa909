"""A trained task as the start of another: every detector, decoder and family, torchvision's, refusals."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.models import detection as torchvision_detection

from _checkpoints import classification_task, detection_task, segmentation_task, video_task, write_task
from ctxvision.checkpoints import CheckpointError
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.fine_tuning import in_short

DETECTORS = {
    "faster_rcnn": ["box predictor"],
    "mask_rcnn": ["box predictor", "mask predictor"],
    "cascade_rcnn": ["box predictor"],
    "cascade_mask_rcnn": ["box predictor", "mask predictor"],
    "retinanet": ["class logits"],
}
MAKERS = {
    **{name: lambda model, classes, d=name: detection_task(d, model, classes) for name in DETECTORS},
    "semantic_fpn": lambda model, classes: segmentation_task(model, classes, decoder="semantic_fpn"),
    "upernet": lambda model, classes: segmentation_task(
        model, classes, decoder="upernet", decoder_args={"channels": 32}
    ),
    "video": video_task,
    "classification": classification_task,
}
NEW = {
    **DETECTORS,
    "semantic_fpn": ["classifier"],
    "upernet": ["classifier", "auxiliary classifier"],
    "video": ["classifier"],
    "classification": ["classifier"],
}


def random_values(task):
    """Give every tensor values of its own, so that what is copied shows."""
    for number, value in enumerate(task.model.state_dict().values()):
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(number)) + 1)
    return task


def said(line):
    """Return how many tensors of how many were loaded, and the new parts."""
    found = re.fullmatch(r".*: loaded (\d+) of (\d+) tensors(?:; new: (.*))?", line)
    assert found, line
    return int(found[1]), int(found[2]), found[3].split(", ") if found[3] else []


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("model", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def test_all_but_the_heads_of_the_classes_is_loaded(tmp_path, kind, model):
    if model != "rednet_micro" and kind in ("mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"):
        model = "test_resnet"  # the backbone is the same in all detectors
    before = random_values(MAKERS[kind](model, 3))
    after = MAKERS[kind](model, 4)
    own = {name: value.clone() for name, value in after.model.state_dict().items()}
    line = in_short(after.start_from(write_task(before, tmp_path / "before.ckpt")))
    theirs = before.model.state_dict()
    changed = [name for name, value in own.items() if value.shape != theirs[name].shape]
    loaded, count, new = said(line)
    assert changed
    assert loaded == count - len(changed)
    assert new == (["class embeddings"] if model.startswith("contextual") and not after.backbone else NEW[kind])
    for name, value in after.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        assert torch.equal(value, own[name] if name in changed else theirs[name]), name

    # as many classes with other names: what of the shapes does not tell must stay new just the same
    namesakes = MAKERS[kind](model, 3)
    namesakes.data_spec["class_names"] = ["x", "y", "z"]
    assert in_short(namesakes.start_from(tmp_path / "before.ckpt")) == line
    # the same classes: everything
    loaded, count, new = said(in_short(MAKERS[kind](model, 3).start_from(tmp_path / "before.ckpt")))
    assert (loaded, new) == (count, [])


@pytest.mark.parametrize(
    ("published", "detector", "new"),
    [
        ("fasterrcnn_resnet50_fpn", "faster_rcnn", ["box predictor"]),
        ("maskrcnn_resnet50_fpn", "mask_rcnn", ["box predictor", "mask predictor"]),
        ("retinanet_resnet50_fpn", "retinanet", ["class logits"]),
    ],
)
@pytest.mark.parametrize("old_layout", [False, True])
@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_torchvisions_detectors_are_a_start(published, detector, new, old_layout):
    with torch.device("meta"):
        theirs = getattr(torchvision_detection, published)(weights=None, weights_backbone=None, num_classes=91)
    if published.startswith("retinanet"):
        options = {"extra_levels_from": "pyramid"}
    else:
        options = {}
    weights = {name: torch.zeros(()).expand(value.shape) for name, value in theirs.state_dict().items()}
    if old_layout:
        weights = {as_published(name): value for name, value in weights.items()}
        assert not any(re.search(r"blocks\.\d\.0\.|conv\.\d\.0\.|mask_head\.\d", name) for name in weights)
    spec = {"class_names": ["a", "b"], "category_ids": [1, 2], "in_chans": 3}
    with torch.device("meta"):
        task = DetectionTask("resnet50", spec, detector=detector, **options)
    report = task.start_from(weights)
    _, _, parts = said(in_short(report))
    assert parts == new
    own = task.model.state_dict()
    counters = [name for name in weights if name.endswith("num_batches_tracked")]
    assert not any(name.endswith("num_batches_tracked") for name in own)  # the norms are frozen
    of_classes = [name for name in report.unused if report.reasons[name] == "other classes"]
    assert len(report.loaded) == len(weights) - len(counters) - len(of_classes)


def as_published(name):
    """Return the name that a tensor has in the files that torchvision publishes."""
    name = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    name = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)
    return re.sub(r"(\w+_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", name)


def test_torchvisions_detector_computes_the_same_after_it():
    theirs = torchvision_detection.faster_rcnn.FasterRCNN(
        torchvision_detection.backbone_utils._resnet_fpn_extractor(_small_resnet(), 5),
        num_classes=3, min_size=64, max_size=96, box_detections_per_img=10, box_score_thresh=0.0,
    ).eval()  # fmt: skip
    spec = {"class_names": ["a", "b"], "category_ids": [1, 2], "in_chans": 3}
    task = DetectionTask(
        "resnet18", spec, min_size=64, max_size=96, detections=10, score_threshold=0.0, norm="eval"
    ).eval()
    report = task.start_from(theirs.state_dict())
    assert (report.new, report.unused) == ((), ())
    image = torch.rand(3, 64, 80)
    with torch.no_grad():
        (expected,), (found,) = theirs([image]), task([image])
    assert len(expected["scores"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-3)


def _small_resnet():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(weights=None)


def test_a_mask_rcnn_starts_from_a_faster_rcnn_and_says_what_is_new():
    report = detection_task("mask_rcnn").start_from(detection_task("faster_rcnn"))
    assert said(in_short(report))[2] == ["mask head", "mask predictor"]


def test_a_neck_of_another_width_is_named(tmp_path):
    file = write_task(detection_task("faster_rcnn", width=32), tmp_path / "wide.ckpt")
    line = in_short(detection_task("faster_rcnn").start_from(file))
    assert "; new: FPN, region proposals, box head; not taken from it: FPN, region proposals, box head (" in line


@pytest.mark.parametrize("kind", ["faster_rcnn", "upernet"])
def test_another_backbone_is_refused_whole_unless_asked_for(tmp_path, kind):
    before, after = MAKERS[kind]("rednet_micro", 3), MAKERS[kind]("cotnet_micro", 3)
    file = write_task(before, tmp_path / "before.ckpt")
    own = {name: value.clone() for name, value in after.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"its backbone is another one: .*--init-partial"):
        after.start_from(file)
    assert all(torch.equal(value, own[name]) for name, value in after.model.state_dict().items())
    assert len(after.start_from(file, partial=True).loaded) > 10


def test_a_broken_checkpoint_changes_nothing():
    before, after = detection_task("faster_rcnn"), detection_task("faster_rcnn")
    before.model.state_dict()["network.rpn.head.conv.0.0.weight"].fill_(float("nan"))
    own = {name: value.clone() for name, value in after.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"rpn\.head\.conv"):
        after.start_from(before)
    assert all(torch.equal(value, own[name]) for name, value in after.model.state_dict().items())


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_fine_tuning_starts_better_than_from_nothing(tmp_path, kind):
    batch = _scene(kind)

    def loss_after(task, steps):
        optimizer = torch.optim.Adam(task.model.parameters(), 3e-3)
        task.train()
        for _ in range(steps):
            torch.manual_seed(1)  # which RoIs are sampled
            optimizer.zero_grad()
            loss = _loss(task, batch)
            loss.backward()
            optimizer.step()
        return loss.item()

    def make(classes):
        return (
            detection_task("faster_rcnn", classes=classes)
            if kind == "detection"
            else segmentation_task(classes=classes, decoder_args={"pyramid_channels": 16, "channels": 16})
        )

    before, tuned, nothing = make(2), make(3), make(3)
    loss_after(before, 40)
    tuned.start_from(write_task(before, Path(tmp_path, "before.ckpt")))
    assert loss_after(tuned, 5) < 0.8 * loss_after(nothing, 5)


def _scene(kind):
    """A bright square on a dark picture, as a batch of the task."""
    image = torch.zeros(3, 96, 96)
    image[:, 20:60, 30:70] = 1
    if kind == "segmentation":
        return image[None], (image[0] > 0).long()[None]
    return [image], [{"boxes": torch.tensor([[30.0, 20.0, 70.0, 60.0]]), "labels": torch.tensor([1])}]


def _loss(task, batch):
    images, targets = batch
    if isinstance(images, list):
        return sum(task.model(images, targets).values())
    return torch.nn.functional.cross_entropy(task.model(images), targets)


def test_other_class_sets_than_the_source_s_are_told(tmp_path, caplog):
    ratios = {"class_ratios": [1.0, 1.0, 0.75, 0.5]}
    before = classification_task("contextual_convnext_micro", 3, model_args=ratios)
    source = write_task(before, tmp_path / "a.ckpt")
    for maker in (classification_task, video_task):
        maker("contextual_convnext_micro", 3, model_args=ratios).start_from(source)
    assert "makes them alike" not in caplog.text
    detection_task("retinanet", "contextual_convnext_micro", 3).start_from(source)
    assert "--model-args '{class_ratios: [1.0, 1.0, 0.75, 0.5]}' makes them alike" in caplog.text
