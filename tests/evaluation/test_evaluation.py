"""The figures of an evaluation against scikit-learn, torchmetrics and counting by hand."""

import base64
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from ctxvision.evaluation.by_class import class_table, confused_pairs, confusion_matrix, confusion_picture
from ctxvision.evaluation.calibration import calibration
from ctxvision.evaluation.classification import summary
from ctxvision.evaluation.imagenet_real import class_indices, read_real, real_accuracy
from ctxvision.evaluation.predictions import wilson_interval
from ctxvision.evaluation.scores import NotFiniteError, score_images
from ctxvision.runs import RunError


class Given(nn.Module):
    """Answers with the logits that it is shown as images, (B, classes, 1, 1)."""

    def forward(self, images):
        return images[:, :, 0, 0]


def _task():
    return SimpleNamespace(
        model=Given(), is_contextual=False, val_loss=nn.CrossEntropyLoss(), device=torch.device("cpu")
    )


def _score(logits, targets, batch=4, **options):
    parts = zip(logits[:, :, None, None].split(batch), targets.split(batch), strict=True)
    return score_images(_task(), parts, **options)


def _random(images=200, classes=12):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(images, classes, generator=generator) * 3
    targets = torch.randint(classes - 1, (images,), generator=generator)  # the last class has no images
    return logits, targets


def _names(count):
    return tuple(f"class {i}" for i in range(count))


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_accuracy_and_losses_are_scikit_learns(batch):
    logits, targets = _random()
    result = summary(_score(logits, targets, batch), _names(12))
    chances = logits.double().softmax(1).numpy()
    labels = list(range(12))
    assert result["images"] == 200
    assert result["top1"] == metrics.accuracy_score(targets, chances.argmax(1))
    assert result["top5"] == pytest.approx(metrics.top_k_accuracy_score(targets, chances, k=5, labels=labels))
    assert result["cross_entropy"] == pytest.approx(metrics.log_loss(targets, chances, labels=labels))
    assert result["loss"] == pytest.approx(result["cross_entropy"], rel=1e-6)
    assert result["top1_interval95"] == list(wilson_interval(result["right"], 200))
    assert result["mean_class_top1"] == pytest.approx(
        metrics.balanced_accuracy_score(targets, chances.argmax(1)), abs=1e-12
    )


def test_classes_are_scikit_learns():
    logits, targets = _random()
    result = summary(_score(logits, targets), _names(12))
    predictions, labels = logits.argmax(1), list(range(12))
    matrix = metrics.confusion_matrix(targets, predictions, labels=labels)
    assert result["confusion"] == matrix.tolist()
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        targets, predictions, labels=labels, zero_division=0
    )
    for i, row in enumerate(result["classes"]):
        assert row["images"] == support[i]
        assert row["predicted"] == int((predictions == i).sum())
        assert row["precision"] == pytest.approx(precision[i])
        among = logits[targets == i].topk(5).indices == i
        if i == 11:
            assert (row["images"], row["top1"], row["top5"], row["confused_with"]) == (0, None, None, None)
        else:
            assert row["top1"] == pytest.approx(recall[i])
            assert row["top5"] == pytest.approx(among.any(1).float().mean().item())
    wrong = matrix - np.diag(matrix.diagonal())
    assert sum(pair["images"] for pair in result["confused"]) == wrong.sum()
    assert result["confused"][0]["images"] == wrong.max()


def test_ties_go_to_the_earlier_class():
    logits = torch.zeros(8, 8)
    result = summary(_score(logits, torch.arange(8)), _names(8))
    assert (result["top1"], result["top5"]) == (1 / 8, 5 / 8)
    assert result["cross_entropy"] == pytest.approx(math.log(8))
    confusion = np.array([[1, 2, 2], [0, 0, 0], [1, 1, 3]])
    table = class_table(confusion, "abc")
    assert [row["confused_with"] for row in table] == ["b", None, "a"]
    assert [row["precision"] for row in table] == [0.5, 0.0, 0.6]
    assert confused_pairs(confusion, "abc", 3) == [
        {"truth": "a", "prediction": "b", "images": 2},
        {"truth": "a", "prediction": "c", "images": 2},
        {"truth": "c", "prediction": "a", "images": 1},
    ]


@pytest.mark.parametrize("right", [True, False])
def test_one_image_of_one_class(right):
    found = _score(torch.tensor([[9.0, 0.0]]), torch.tensor([0 if right else 1]))
    result = summary(found, ("a", "b"))
    assert (result["top1"], result["top5"]) == (float(right), None)
    assert result["classes"][int(right)]["images"] == 0
    assert result["mean_class_top1"] == float(right)
    assert result["calibration"]["ece"] == pytest.approx(abs(right - 1 / (1 + math.exp(-9))))
    assert found.with_decoding is None
    assert found.network.images == 3


def test_all_wrong_and_sure():
    logits = torch.full((6, 7), -200.0)
    logits[:, 0] = 200
    result = summary(_score(logits, torch.full((6,), 3)), _names(7))
    assert (result["top1"], result["calibration"]["ece"]) == (0, 1)
    assert result["calibration"]["bins"][-1] == {
        "from": pytest.approx(14 / 15),
        "to": 1,
        "images": 6,
        "confidence": 1,
        "top1": 0,
    }
    assert result["cross_entropy"] == 400  # a float32 probability would be 0 and its logarithm infinite
    assert result["classes"][0]["precision"] == 0
    assert result["classes"][0]["top1"] is None


def test_ece_is_torchmetrics():
    logits, targets = _random(500)
    logits[:100] *= 4
    found = _score(logits, targets, 64)
    oracle = multiclass_calibration_error(logits.softmax(1), targets, 12, n_bins=15)
    assert calibration(found.confidences, found.correct)["ece"] == pytest.approx(oracle.item(), abs=1e-6)


def test_bins_hold_their_upper_edges():
    confidences = np.array([0.0, 0.2, 0.2000001, 0.6, 1.0])
    correct = np.array([True, True, False, False, True])
    result = calibration(confidences, correct, bins=5)
    assert [entry["images"] for entry in result["bins"]] == [2, 1, 1, 0, 1]
    by_hand = (abs(0.1 - 1) * 2 + 0.2000001 + 0.6 + 0) / 5
    assert result["ece"] == pytest.approx(by_hand)
    assert result["bins"][3]["confidence"] is None


def test_the_worst_images_are_kept_over_batches():
    logits, targets = _random(50)
    found = _score(logits, targets, 7, worst=9)
    losses = nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    assert found.worst() == losses.topk(9).indices.tolist()
    for position in found.worst():
        assert torch.equal(found.pictures[position][:, 0, 0], logits[position])
    assert not _score(logits, targets, 7).pictures


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value):
    logits, targets = _random(10)
    logits[6, 2] = value
    with pytest.raises(NotFiniteError, match="image 7"):
        _score(logits, targets)
    with pytest.raises(RunError, match="no images"):
        score_images(_task(), [(torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.int64))])


def test_the_first_batch_is_not_timed():
    logits, targets = _random(10)
    ticks = iter(range(1000))
    found = _score(logits, targets, 4, clock=lambda: next(ticks))
    assert (found.network.images, found.network.seconds) == (6, 2)
    assert (found.with_decoding.images, found.with_decoding.seconds) == (6, 4)
    assert found.with_decoding.images_per_second == 1.5


@pytest.mark.parametrize(("size", "side"), [(6, 500), (7, 3)])
def test_picture_of_a_matrix(size, side):
    confusion = np.zeros((size, size), np.int64)
    confusion[0, 0], confusion[0, -1], confusion[2, 2] = 3, 1, 5
    data = base64.b64decode(confusion_picture(confusion, side).split(",")[1])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (min(size, side), min(size, side), 4)
    assert pixels[0, 0, 2] > pixels[0, 0, 0]  # blue
    assert pixels[0, -1, 0] > pixels[0, -1, 2]  # orange
    assert 0 < pixels[0, -1, 3] < pixels[0, 0, 3]
    assert (pixels[..., 3] > 0).sum() == (3 if size == 6 else 2)


def test_confusion_counts_every_image_once():
    matrix = confusion_matrix(np.array([0, 2, 2]), np.array([1, 2, 0]), 4)
    assert matrix.sum() == 3
    assert (matrix[0, 1], matrix[2, 2], matrix[2, 0]) == (1, 1, 1)


def test_real_labels_by_number_of_the_image():
    names = [f"n{i:08d}" for i in range(1000)][::-1]  # the network's order is not ImageNet's
    labels = [[5, 7], [], [999], [0]]
    files = [f"val/n00000001/ILSVRC2012_val_{number:08d}.JPEG" for number in (4, 1, 2, 3)]
    predictions = 999 - np.array([0, 7, 7, 8])
    result = real_accuracy(labels, files, predictions, names)
    assert (result["images"], result["skipped"], result["right"]) == (3, 1, 2)
    assert result["top1"] == 2 / 3
    nothing = real_accuracy([[]], [files[1]], predictions[:1], names)
    assert (nothing["images"], nothing["top1"], nothing["top1_interval95"]) == (0, None, None)
    with pytest.raises(RunError, match="images 1 to 2 only"):
        real_accuracy(labels[:2], files, predictions, names)
    with pytest.raises(RunError, match="is for validation images"):
        real_accuracy(labels, ["a.png"], predictions[:1], names)
    with pytest.raises(RunError, match="1000 classes"):
        real_accuracy(labels, files, predictions, names[1:])


def test_places_of_classes():
    assert class_indices(["b (n00000009)", "n00000003"]) == [1, 0]
    assert class_indices(["2", "0", "1"]) == [2, 0, 1]
    assert class_indices(["2", "3", "1"]) is None
    assert class_indices(["n00000003", "x (n00000003)"]) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "no such file"), ("[[1", "not JSON"), ("{}", "expected a list"), ("[[1], [1000]]", "expected a list")],
)
def test_a_wrong_file_of_real_labels(tmp_path, text, reason):
    if text:
        (tmp_path / "real.json").write_text(text)
    with pytest.raises(RunError, match=reason):
        read_real(tmp_path / "real.json")
