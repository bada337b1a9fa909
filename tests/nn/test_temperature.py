"""τ stays where a softmax of cosines can learn, whatever the optimiser and whoever wrote the loop."""

import math

import pytest
import torch
from torch import nn

from ctxvision.nn import ClassFunnel, ContextualLoss
from ctxvision.tasks.optimization import Optimization, build_optimizer

# as recipes have them, and LAMB as its authors do
RATES = [
    Optimization(optimizer="sgd", lr=0.8, weight_decay=1e-4, optimizer_args={"momentum": 0.9}),
    Optimization(optimizer="momentum", lr=0.2, weight_decay=1e-4, optimizer_args={"momentum": 0.9}),
    Optimization(optimizer="adamw", lr=2e-3),
    Optimization(optimizer="lamb", lr=5e-3, weight_decay=0.02),
    Optimization(optimizer="muon", lr=6e-3),
]


def funnel(num_classes=10):
    torch.manual_seed(0)
    widths = {"channels": {4: 16}, "hidden": {4: 16}, "head_channels": 16, "head_hidden": 16}
    return ClassFunnel(num_classes, dim=8, merge_hidden=8, **widths)


class Classifier(nn.Module):
    """The funnel alone, on features instead of images."""

    def __init__(self):
        super().__init__()
        self.funnel = funnel()

    def forward(self, x):
        return self.funnel.score(x, [self.funnel.narrow(4, x, [])])


def taus(o, labels, x, steps):
    model = Classifier()
    optimizer, loss, seen = build_optimizer(model, o), ContextualLoss(), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), labels).backward()
        optimizer.step()
        seen.append(model.funnel.temperature.item())
    model(x)
    return torch.tensor(seen), model


@pytest.mark.parametrize("o", RATES, ids=lambda o: o.optimizer)
def test_labels_that_cannot_be_learned_do_not_drive_it_away(o):
    # a different answer in each row for the same features: only a softmax that is flat loses nothing
    x, labels = torch.ones(80, 16), torch.arange(80) % 10
    seen, model = taus(o, labels, x, 300)
    assert seen.max() < 0.21
    assert seen.min() > 0.009
    parameter = model.funnel.logit_scale.detach()
    assert math.log(1 / 0.2) - 1e-6 <= parameter <= math.log(1 / 0.01) + 1e-6, "it waits at the bound, not beyond"


@pytest.mark.parametrize("o", RATES, ids=lambda o: o.optimizer)
def test_a_step_moves_it_by_a_fraction_of_itself(o):
    x, labels = torch.randn(80, 16, generator=torch.Generator().manual_seed(1)), torch.arange(80) % 10
    steps = taus(o, labels, x, 60)[0].log().diff().abs()
    assert 1e-5 < steps.max() < 0.2


def test_gradients_at_a_bound_lead_back():
    for value, wanted in ((0.001, -1), (5.0, 1)):
        layer = funnel()
        layer.logit_scale.data.fill_(math.log(1 / value))
        assert layer.temperature.item() == pytest.approx(min(max(value, 0.01), 0.2))
        (wanted * layer.temperature).backward()
        assert layer.logit_scale.grad * wanted < 0, "a smaller scale must raise τ, a larger one lower it"


def test_evaluation_and_frozen_parameters_are_left_alone():
    for prepare in (lambda m: m.eval(), lambda m: m.requires_grad_(False)):
        model = Classifier()
        model.funnel.logit_scale.data.fill_(-3.0)
        prepare(model)(torch.randn(4, 16))
        assert model.funnel.logit_scale.item() == -3.0
