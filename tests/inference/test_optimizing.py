"""Networks prepared for inference: equal outputs, folded norms, refusals."""

import copy
import warnings

import pytest
import timm
import torch
from torch import nn

from ctxvision.inference import optimize
from ctxvision.inference import optimizing as module

NETWORKS = ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"]


def network(name, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **kwargs)
    model.train()(torch.randn(4, 3, 64, 64))  # statistics of norms that are not those of the start
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_equal_and_the_network_is_left_alone(name):
    model = network(name)
    before, weights = model.training, copy.deepcopy(model.state_dict())
    prepared = optimize(model, torch.randn(2, 3, 64, 64))
    images = torch.randn(3, 3, 64, 64)
    expected = copy.deepcopy(model).eval()(images)
    torch.testing.assert_close(prepared(images), expected, rtol=1e-4, atol=1e-5)
    assert model.training is before
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert not prepared(images).requires_grad
    folded = sum(isinstance(m, nn.BatchNorm2d) for m in prepared.modules())
    assert folded < sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) or "convnext" in name


def test_bfloat16_and_other_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.norm(self.conv(x))
            return {"map": y, "mean": y.mean((2, 3))}

    prepared = optimize(Two().bfloat16(), torch.randn(1, 3, 8, 8).bfloat16())
    assert set(prepared(torch.randn(2, 3, 8, 8).bfloat16())) == {"map", "mean"}
    assert prepared.description.startswith("BatchNorm folded")


def test_compiled_networks_leave_the_warnings_of_the_process_alone(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    filters = []

    class Net(nn.Module):
        def forward(self, x):
            filters.append(warnings.filters)
            return x

    compiled = module.Compiled(Net())
    for _ in range(2):
        compiled(torch.zeros(2, 3))
    assert filters[1] is warnings.filters is not filters[0]


def test_outputs_of_other_shapes_differ_without_bound():
    assert module.largest_difference(torch.ones(1, 3), torch.ones(2, 3)) == float("inf")
    assert module.largest_difference([torch.ones(2, 3), 1], [torch.full((2, 3), 2.0), 1]) == 0.5


def test_a_wrong_preparation_is_refused(monkeypatch):
    def wrong(model, example):
        broken = copy.deepcopy(model)
        with torch.no_grad():
            broken.get_classifier().weight.mul_(1.01)
        return broken

    monkeypatch.setattr(module, "fuse", wrong)
    with pytest.raises(ValueError, match=r"differs by 0\.0\d* of the largest .* the limit is 0\.0001"):
        optimize(network("cotnet_micro"), torch.randn(1, 3, 64, 64))


def test_nan_is_not_equal(monkeypatch):
    monkeypatch.setattr(module, "fuse", lambda model, example: _with_nan(model))
    with pytest.raises(ValueError, match="differs by nan"):
        optimize(network("cotnet_micro"), torch.randn(1, 3, 64, 64))


def _with_nan(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_classifier().bias.fill_(torch.nan)
    return broken


def test_the_layout_is_the_faster_one(monkeypatch):
    class Slow(nn.Module):
        """Takes its time for one memory format."""

        def __init__(self, slow):
            super().__init__()
            self.conv, self.slow = nn.Conv2d(3, 4, 3), slow

        def forward(self, x):
            clock[0] += 1.0 if x.is_contiguous(memory_format=self.slow) else 0.1
            return self.conv(x)

    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    example = torch.randn(2, 3, 8, 8)
    assert "nchw" in optimize(Slow(torch.channels_last), example).description
    assert "channels_last" in optimize(Slow(torch.contiguous_format), example).description


def test_training_is_refused():
    prepared = optimize(network("cotnet_micro"), torch.randn(1, 3, 64, 64))
    with pytest.raises(RuntimeError, match="for inference alone"):
        prepared.train()
    assert prepared.eval() is prepared


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_networks_are_equal(name):
    model = network(name)
    prepared = optimize(model, torch.randn(2, 3, 64, 64), compile=True)
    assert prepared.description.endswith("compiled")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(prepared(images), model.eval()(images), rtol=1e-4, atol=1e-4)
