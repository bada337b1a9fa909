"""The figures of an evaluation against scikit-learn, torchmetrics and counting by hand."""

import base64
import io
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn import metrics
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from ctxvision.data import BadImage, Batch, DigitsData
from ctxvision.evaluation import EvaluationError, Source, read_real, real_accuracy, score, wilson_interval
from ctxvision.evaluation.answers import calibration, class_table, confused_pairs, confusion_matrix
from ctxvision.evaluation.classification import ClassificationEvaluator
from ctxvision.evaluation.imagenet import class_indices
from ctxvision.inference import predictor_of
from ctxvision.plots.pixels import confusion_picture
from ctxvision.runs import RunError
from ctxvision.tasks import ClassificationTask


class Given:
    """A classifier that answers with the logits that it is shown as images, (B, classes, 1, 1)."""

    task, model_name, device = "classification", "given", torch.device("cpu")
    module = network = exported = None

    def __init__(self, classes):
        self.class_names = _names(classes)
        self.data_spec = SimpleNamespace(mean=(0.0,), std=(1.0,))

    def raw(self, images):
        return images[:, :, 0, 0]


def _batches(logits, targets, batch):
    parts = zip(logits[:, :, None, None].split(batch), targets.split(batch), strict=True)
    return [part for part in parts if len(part[0])]


def _score(logits, targets, batch=4, clock=time.perf_counter, **options):
    data = SimpleNamespace(bad_images={}, batch_size=batch, workers=0, eval_dataset=lambda: targets)
    evaluator = ClassificationEvaluator(Given(logits.shape[1]), Source(data, "given", "val"), **options)
    return score(evaluator, _batches(logits, targets, batch), clock=clock)


def summary(found, names):
    assert found.class_names == names
    return found.numbers


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
    result = summary(found, _names(2))
    assert (result["top1"], result["top5"]) == (float(right), None)
    assert result["classes"][int(right)]["images"] == 0
    assert result["mean_class_top1"] == float(right)
    assert result["calibration"]["ece"] == pytest.approx(abs(right - 1 / (1 + math.exp(-9))))
    assert result["throughput"]["with_decoding"] is None
    assert result["throughput"]["network"]["images"] == 3


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
    assert calibration(found.answers.confidences, found.answers.correct)["ece"] == pytest.approx(
        oracle.item(), abs=1e-6
    )


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
    found = _score(logits, targets, 7, examples=9)
    losses = nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    worst = [entry["position"] for entry in found.numbers["worst"]]
    assert worst == losses.topk(9).indices.tolist()
    for position in worst:
        assert torch.equal(found.pictures[position][:, 0, 0], logits[position])
    assert not _score(logits, targets, 7).numbers["worst"]


def test_the_most_confident_mistakes_come_first_with_their_images():
    logits, targets = torch.randn(60, 5), torch.randint(0, 5, (60,))
    found = _score(logits, targets, 7, spread=2)
    wrong = [i for i in range(60) if logits[i].argmax() != targets[i]]
    expected = sorted(wrong, key=lambda i: -logits[i].double().softmax(0).max())
    assert found.answers.mistakes() == expected
    assert found.spread == (0, 30)
    assert set(found.pictures) == {0, 30, *expected[:12]}
    for position, image in found.pictures.items():
        assert torch.equal(image.flatten(), logits[position])
    right = _score(torch.eye(4), torch.arange(4))
    assert (right.answers.mistakes(), right.pictures) == ([], {})


def test_the_best_classes_of_an_image_begin_with_its_prediction():
    logits, targets = torch.randn(23, 7), torch.randint(0, 7, (23,))
    logits[4] = 1.0  # all alike
    found = _score(logits, targets)
    chances = logits.double().softmax(1)
    for position in range(23):
        top = found.top(position)
        assert top[0]["class"] == found.describe(position)["prediction"]
        assert [entry["probability"] for entry in top] == pytest.approx(chances[position].topk(5).values.tolist())
        assert len({entry["class"] for entry in top}) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value):
    logits, targets = _random(10)
    logits[6, 2] = value
    with pytest.raises(EvaluationError, match="given: image 7: the output of the network is NaN or infinite"):
        _score(logits, targets)
    with pytest.raises(RunError, match="no images"):
        _score(logits[:0], targets[:0])


def test_the_first_batch_is_not_timed():
    logits, targets = _random(10)
    ticks = iter(range(1000))
    found = _score(logits, targets, 4, clock=lambda: next(ticks))
    speed = found.numbers["throughput"]
    assert speed["network"] == {"images": 6, "seconds": 2, "images_per_second": 3}
    assert speed["with_decoding"] == {"images": 6, "seconds": 4, "images_per_second": 1.5}


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_recall_of_stages_equals_counting_image_by_image(selection):
    names = [f"class {i}" for i in range(30)]
    spec = {"class_names": names, "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3}
    task = ClassificationTask("contextual_convnext_micro", spec, model_args={"selection": selection}).eval()
    images, targets = torch.randn(21, 3, 32, 32), torch.randint(0, 30, (21,))
    data = SimpleNamespace(bad_images={}, batch_size=8, workers=0)
    evaluator = ClassificationEvaluator(predictor_of(task), Source(data, "given", "val"))
    found = score(evaluator, zip(images.split(8), targets.split(8), strict=True))
    considered, first, survived = np.zeros((3, 4), int)
    for image, target in zip(images, targets.tolist(), strict=True):
        with torch.inference_mode():
            output = task.model.forward_stages(image[None])
        keep = [15, 6, 5]
        for step in range(4):
            scores = dict(zip(output.classes[step][0].tolist(), output.scores[step][0].tolist(), strict=True))
            ranking = sorted(scores, key=lambda c: -scores[c])
            considered[step] += target in scores
            first[step] += ranking[0] == target
            survived[step] += (
                target in ranking[: keep[step]] if step < 3 else int(output.logits.argmax()) == target
            )
    stages = found.numbers["funnel"]["stages"]
    assert [s["considered"] for s in stages] == considered.tolist()
    assert [s["first"] for s in stages] == first.tolist()
    assert [s["survived"] for s in stages] == survived.tolist()
    assert found.numbers["right"] == survived[-1]
    if selection == "reduce":
        assert considered[0] == 21
        assert considered[1:].tolist() == survived[:-1].tolist()


def test_batches_whose_images_are_all_bad_are_passed_over(caplog):
    nothing = Batch(torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.int64), [BadImage("a.png", "empty")])
    loaded = [nothing, Batch(torch.ones(2, 3, 1, 1), torch.tensor([0, 1]), []), nothing]
    data = DigitsData()
    data.val_dataloader = lambda: loaded
    source = Source(data, "digits", "val")
    assert [len(images) for images, _ in source.batches(torch.device("cpu"))] == [2]
    assert source.bad_samples() == [{"path": "a.png", "reason": "empty"}]


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 20), (7, 9), (354, 359), (50000, 50000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval(right, total, confidence):
    expected = binomtest(right, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(right, total, confidence) == pytest.approx(tuple(expected), abs=1e-12)


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
    with pytest.raises(EvaluationError, match="images 1 to 2 only"):
        real_accuracy(labels[:2], files, predictions, names)
    with pytest.raises(EvaluationError, match="is for validation images"):
        real_accuracy(labels, ["a.png"], predictions[:1], names)
    with pytest.raises(EvaluationError, match="1000 classes"):
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
    with pytest.raises(EvaluationError, match=reason):
        read_real(tmp_path / "real.json")


def test_the_labels_that_timm_carries():
    labels = read_real("timm")
    assert len(labels) == 50_000
    assert labels[:3] == [[], [970, 795], [230, 231]]
