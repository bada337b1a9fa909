import numpy as np
import pytest
import timm
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix
from torch import nn

import ctxvision  # noqa: F401
from ctxvision.evaluation.predictions import collect_predictions, wilson_interval


class Table(nn.Module):
    """Answers each image with the logits that are written in it."""

    def forward(self, images):
        return images.flatten(1)


def _batches(logits, targets, size):
    images = logits[:, :, None, None]
    return list(zip(images.split(size), targets.split(size), strict=True))


def test_batches_add_up():
    logits, targets = torch.randn(23, 7), torch.randint(0, 7, (23,))
    found = collect_predictions(Table(), _batches(logits, targets, 5), top_k=3)
    chances = logits.softmax(1)
    assert torch.equal(found.classes, chances.topk(3).indices)
    assert torch.equal(found.true_probabilities, chances[torch.arange(23), targets])
    assert found.correct.tolist() == (logits.argmax(1) == targets).tolist()
    expected = confusion_matrix(targets, logits.argmax(1), labels=range(7))
    assert np.array_equal(found.confusion().numpy(), expected)
    assert found.stages == ()


def test_the_most_confident_mistakes_come_first_with_their_images():
    logits, targets = torch.randn(60, 5), torch.randint(0, 5, (60,))
    found = collect_predictions(Table(), _batches(logits, targets, 7), keep={0, 59}, mistakes=4)
    wrong = [i for i in range(60) if logits[i].argmax() != targets[i]]
    expected = sorted(wrong, key=lambda i: -logits[i].softmax(0).max())
    assert found.worst() == expected
    assert found.worst(4) == expected[:4]
    assert set(found.pictures) == {0, 59, *expected[:4]}
    for position, image in found.pictures.items():
        assert torch.equal(image.flatten(), logits[position])


def test_no_mistakes():
    logits = torch.eye(4)
    found = collect_predictions(Table(), _batches(logits, torch.arange(4), 4), mistakes=3)
    assert found.worst() == []
    assert found.pictures == {}


def test_batches_without_images_are_passed_over():
    nothing = torch.empty(0, 0, 0, 0), torch.empty(0, dtype=torch.int64)
    found = collect_predictions(Table(), [nothing, *_batches(torch.eye(3), torch.arange(3), 2), nothing])
    assert len(found.targets) == 3
    with pytest.raises(ValueError, match="no images"):
        collect_predictions(Table(), [nothing])


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_recall_equals_counting_image_by_image(selection):
    model = timm.create_model("contextual_convnext_micro", num_classes=30, selection=selection).eval()
    images, targets = torch.randn(21, 3, 32, 32), torch.randint(0, 30, (21,))
    found = collect_predictions(model, zip(images.split(8), targets.split(8), strict=True))
    considered, first, survived = np.zeros((3, 4), int)
    for image, target in zip(images, targets.tolist(), strict=True):
        with torch.inference_mode():
            output = model.forward_stages(image[None])
        keep = [15, 6, 5]
        for step in range(4):
            scores = dict(zip(output.classes[step][0].tolist(), output.scores[step][0].tolist(), strict=True))
            ranking = sorted(scores, key=lambda c: -scores[c])
            considered[step] += target in scores
            first[step] += ranking[0] == target
            survived[step] += (
                target in ranking[: keep[step]] if step < 3 else int(output.logits.argmax()) == target
            )
    assert [s.considered for s in found.stages] == considered.tolist()
    assert [s.first for s in found.stages] == first.tolist()
    assert [s.survived for s in found.stages] == survived.tolist()
    if selection == "reduce":
        assert considered[0] == 21
        assert considered[1:].tolist() == survived[:-1].tolist()


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (0, 20), (7, 9), (354, 359), (50000, 50000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval(right, total, confidence):
    expected = binomtest(right, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(right, total, confidence) == pytest.approx(tuple(expected), abs=1e-12)
