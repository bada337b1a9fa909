"""A contextual network in a loop that knows nothing of it: plain cross entropy on what the network returns."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

import ctxvision.models  # noqa: F401 - registers the networks

SMALL = {"depths": (1, 1, 1, 1), "planes": (8, 8, 12, 16), "dim": 64}


def pictures(count, classes, seed=0):
    """Return images of one of so many patches of colour, (count, 3, 32, 32), and which of them, (count,)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    colours = torch.randn(classes, 3, 1, 1, generator=torch.Generator().manual_seed(9))
    return colours[labels] + 0.5 * torch.randn(count, 3, 32, 32, generator=random), labels


def network(selection, classes):
    torch.manual_seed(0)
    return timm.create_model("contextual_resnet_micro", num_classes=classes, selection=selection, **SMALL)


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_the_first_loss_is_that_of_a_guess_and_reaches_every_stage(selection):
    x, y = pictures(64, 200)
    model = network(selection, 200).train()
    loss = F.cross_entropy(model(x), y)
    assert abs(loss.item() - math.log(200)) < 0.7
    loss.backward()
    steps = {**model.context.steps, "head": model.context.head}
    assert all(step.projection[0].weight.grad.abs().max() > 0 for step in steps.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == [], "DDP waits for all of them"


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adamw", 3e-3)])
def test_it_learns_and_so_does_every_stage(selection, optimizer, lr):
    x, y = pictures(96, 12)
    model = network(selection, 12)
    steps = create_optimizer_v2(model, opt=optimizer, lr=lr, weight_decay=1e-4)
    for _ in range(25):
        steps.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        steps.step()
    model.eval()
    with torch.no_grad():
        x, y = pictures(96, 12, seed=1)
        output = model.forward_stages(x)
        assert (output.logits.argmax(1) == y).float().mean() > 0.6, "chance is 0.08"
        for scores, classes in zip(output.scores[:-1], output.classes[:-1], strict=True):
            right = classes.gather(1, scores.argmax(1, keepdim=True))[:, 0] == y
            assert right.float().mean() > 0.3
        assert 0.01 <= model.context.temperature.item() < 0.3


def test_features_and_head_apart_give_what_the_whole_gives_in_both_modes():
    x, _ = pictures(8, 20)
    for model in (network("reduce", 20).eval(), network("rerank", 20).train()):
        model.requires_grad_(False)
        assert torch.equal(model.forward_head(model.forward_features(x)), model(x))
        assert torch.equal(model.eval()(x), model.forward_stages(x).logits)
