"""A contextual network that starts from a plain one classifies as it, after one pass over images."""

import dataclasses
import json

import pytest
import timm
import torch
from torch import nn

from _checkpoints import write_task
from _pictures import make_folder
from _recipes import config_of
from ctxvision.checkpoints import fit_classes, warm_start
from ctxvision.checkpoints.class_fitting import PlainClassifier
from ctxvision.training import TrainingError
from ctxvision.training.preparation import prepare

NETWORKS = {
    "contextual_convnext_micro": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48), "contextual_blocks": (1,) * 4},
    "contextual_resnet_micro": {"depths": (1, 1, 1, 1), "planes": (8, 8, 12, 16)},
}


def pictures(count, classes, seed):
    """Return images of one of so many colours, (count, 3, 32, 32), and which of them, (count,)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    colours = 2 * torch.randn(classes, 3, 1, 1, generator=torch.Generator().manual_seed(9))
    return colours[labels] + 0.3 * torch.randn(count, 3, 32, 32, generator=random), labels


def pair(name, classes, **options):
    """Return a plain network that knows the colours by its last layer, and a contextual one with its features."""
    torch.manual_seed(0)
    options = NETWORKS[name] | options
    plain = timm.create_model(name, num_classes=classes, **options, stages=()).eval()
    x, y = pictures(30 * classes, classes, 1)
    with torch.no_grad():
        features = plain.forward_head(plain.forward_features(x), pre_logits=True)
        features = torch.cat([features, torch.ones(len(x), 1)], 1)
        ridge = 1e-4 * torch.eye(features.shape[1]) * len(x) * features.square().mean()
        wanted = 8 * nn.functional.one_hot(y, classes).float()
        solved = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
        plain.fc.weight.copy_(solved[:-1].T)
        plain.fc.bias.copy_(solved[-1])
    model = timm.create_model(name, num_classes=classes, **options).eval()
    return plain, model, warm_start(model, plain)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_begins_where_the_plain_network_ended(name):
    plain, model, report = pair(name, 12)
    assert report.fits_classes
    train, test = pictures(240, 12, 2), pictures(120, 12, 3)
    model.train()
    model.context.head.eval()
    fit = fit_classes(model, [tuple(part[i::2] for part in train) for i in (0, 1)], report.classifier)
    assert fit.images == 240
    assert fit.class_ratios == model.context.ratios
    assert model.training
    assert not model.context.head.training
    model.eval()
    with torch.no_grad():
        theirs, ours = plain(test[0]), model(test[0])
        accuracy = (theirs.argmax(1) == test[1]).float().mean()
        assert accuracy > 0.5
        assert (ours.argmax(1) == test[1]).float().mean() > accuracy - 0.02
        # the head by itself, whatever the stages drop, ranks all classes alike
        pooled = model.forward_head(model.forward_features(test[0]), pre_logits=True)
        head = model.context.head.scores(pooled, model.context.embedding.weight)
        assert (head.argsort(1)[:, -2:] == theirs.argsort(1)[:, -2:]).float().mean() > 0.95


def test_without_a_classifier_of_these_classes_it_begins_at_a_regression():
    _, model, report = pair("contextual_resnet_micro", 12)
    x, y = pictures(240, 12, 2)
    elsewhere = report.classifier._replace(weight=report.classifier.weight.roll(5, 0))
    accuracies = []
    for classifier in (None, elsewhere):
        torch.manual_seed(0)
        fit_classes(model, [(x, y)], classifier)
        with torch.no_grad():
            accuracies.append((model(x).argmax(1) == y).float().mean().item())
    assert accuracies[0] == accuracies[1] > 0.5


def test_stages_that_cannot_tell_classes_apart_keep_more_of_them():
    _, model, report = pair("contextual_resnet_micro", 12)
    x, _ = pictures(240, 12, 2)
    noise = torch.randint(12, (240,), generator=torch.Generator().manual_seed(0))  # nobody can
    before = model.context.ratios
    assert not fit_classes(model, [(x, noise)], report.classifier, recall=0.0).widened
    assert model.context.ratios == before
    fit = fit_classes(model, [(x, noise)], report.classifier)
    assert fit.widened
    assert min(fit.class_ratios) > 0.9
    assert list(fit.class_ratios) == sorted(fit.class_ratios, reverse=True)
    assert model(x).shape == (240, 12)


def test_more_classes_than_dimensions():
    plain, model, report = pair("contextual_convnext_micro", 30, dim=16, hidden=24, head_hidden=24)
    x, y = pictures(600, 30, 2)
    fit_classes(model, [(x, y)], report.classifier)
    assert model.context.embedding.weight.norm(dim=1).sub(1).abs().max() < 1e-5
    with torch.no_grad():
        theirs, ours = ((net(x).argmax(1) == y).float().mean() for net in (plain, model))
    assert ours > 0.9 * theirs > 0.3


def test_a_run_starts_so_and_is_resumed_with_the_same_class_ratios(tmp_path):
    name = "contextual_resnet_micro"
    plain, _, _ = pair(name, 8)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    counts = {f"{part}/{c}": n for part, n in (("train", 2), ("val", 1)) for c in "abcdefgh"}
    root = make_folder(tmp_path / "data", counts)
    words = ["--batch-size=4", "--image-size=32", "--workers=0", "--device=cpu", f"--data={root}"]
    options = config_of(None, name, *words, f"--model-args={json.dumps(NETWORKS[name])}", "--warmup-epochs=0")
    options = dataclasses.replace(options, init_from=str(tmp_path / "plain.pth"))
    prepared = prepare(options, None)
    model = prepared.task.model
    assert model.context.embedding.weight.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    ratios = prepared.options.model_args["class_ratios"]
    assert min(ratios) > 5 / 8, "wider than the least that there is, five classes"
    path = write_task(prepared.task, tmp_path / "last.ckpt")
    again = prepare(prepared.options, path).task.model
    assert list(again.context.ratios) == list(model.context.ratios) == ratios


def test_a_run_without_a_readable_image_says_so(tmp_path):
    name = "contextual_resnet_micro"
    torch.save(pair(name, 2)[0].state_dict(), tmp_path / "plain.pth")
    root = make_folder(tmp_path / "data", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    for path in (root / "train").rglob("*.*"):
        path.write_bytes(b"x")
    words = ["--batch-size=2", "--image-size=32", "--workers=0", "--device=cpu", f"--data={root}"]
    options = config_of(None, name, *words, f"--model-args={json.dumps(NETWORKS[name])}", "--warmup-epochs=0")
    with pytest.raises(TrainingError, match="not one training image could be read"):
        prepare(dataclasses.replace(options, init_from=str(tmp_path / "plain.pth")), None)


def test_what_cannot_be_fitted_is_named():
    plain, model, report = pair("contextual_resnet_micro", 12)
    with pytest.raises(ValueError, match="no images"):
        fit_classes(model, [], report.classifier)
    with pytest.raises(ValueError, match="contextual network"):
        fit_classes(plain, [pictures(12, 12, 0)])
    assert isinstance(report.classifier, PlainClassifier)
