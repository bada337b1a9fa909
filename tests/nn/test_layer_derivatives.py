"""Layers under `torch.func` and second derivatives: what an operator test with arguments of its own cannot see."""

import contextlib

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from _oracle import assert_close, local_aggregation_unfold
from ctxvision.nn import ContextualConv2d, ContextualLoss, CoTLayer, Involution2d, temporal_shift
from ctxvision.ops import contextual_conv2d
from ctxvision.ops._geometry import as_pair
from ctxvision.ops.contextual_conv import reference


def conv_in_plain_torch(x, weight, offset, weight_offset, mask, bias, *, stride, padding, dilation, groups):
    if offset is None:
        return contextual_conv2d(x, weight, None, weight_offset, mask, bias, padding=padding, groups=groups)
    pairs = (as_pair(stride, "", 1), as_pair(padding, "", 0), as_pair(dilation, "", 1))
    return reference.contextual_conv(x, weight, offset, weight_offset, mask, bias, *pairs, groups)


class WithPrior(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        self.layer = ContextualConv2d(*args, prior_dim=3, weight_hidden=2, **kwargs)

    def forward(self, x):
        return self.layer(x, x.mean((2, 3))[:, :3])


LAYERS = {
    "involution": lambda: Involution2d(16, kernel_size=3, stride=2),
    "cot": lambda: CoTLayer(16),
    "cotnext": lambda: CoTLayer(32, key_groups=8, groups=2),
    "depthwise": lambda: WithPrior(4, 4, kernel_size=3, padding=1, groups=4),
    "dense, modulated": lambda: WithPrior(4, 3, kernel_size=2, modulation=True),
    "unsampled": lambda: WithPrior(4, 4, kernel_size=3, padding=1, groups=4, sampling=False),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    layer = request.param().double().eval()
    for name, parameter in layer.named_parameters():  # zero offsets lie on the kinks of the interpolation
        if "_offsets" in name:
            nn.init.normal_(parameter, std=0.1)
            nn.init.constant_(parameter, 0.3) if name.endswith("conv2.bias") else None
    return layer


@contextlib.contextmanager
def plain_torch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxvision.nn.cot.local_aggregation", local_aggregation_unfold)
        patch.setattr("ctxvision.nn.involution.local_aggregation", local_aggregation_unfold)
        patch.setattr("ctxvision.nn.contextual_conv.contextual_conv2d", conv_in_plain_torch)
        yield


def images(layer, channels_last=False):
    channels = (
        4
        if isinstance(layer, WithPrior)
        else next(m.in_channels for m in layer.modules() if isinstance(m, nn.Conv2d))
    )
    x = torch.randn(2, channels, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last) if channels_last else x


def second_derivatives(layer, x):
    """The gradient of a gradient penalty, as WGAN-GP and MAML need it."""
    x = x.clone().requires_grad_()
    leaves = [x, *layer.parameters()]
    grads = torch.autograd.grad(layer(x).pow(2).sum(), leaves, create_graph=True, materialize_grads=True)
    return torch.autograd.grad(sum(g.pow(2).sum() for g in grads), leaves, materialize_grads=True)


def test_second_derivatives(layer):
    x = images(layer)
    actual = second_derivatives(layer, x)
    with plain_torch():
        assert_close(actual, second_derivatives(layer, x), torch.float64)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_tangents(layer, channels_last):
    x = images(layer, channels_last)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    directions = {name: torch.randn_like(p) for name, p in parameters.items()}, torch.randn_like(x)

    def call(parameters, x):
        return functional_call(layer, parameters, (x,))

    tangent = jvp(call, (parameters, x), directions)[1]
    product = jvp(grad(lambda p, x: call(p, x).pow(2).sum(), 1), (parameters, x), directions)[1]
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(x, directions[1]))
        assert forward_ad.unpack_dual(dual).tangent.abs().max() > 0
        seen = forward_ad.unpack_dual(dual).tangent
    alone = jvp(layer, (x,), (directions[1],))[1]
    assert_close(seen, alone, torch.float64)
    with plain_torch():
        assert_close(tangent, jvp(call, (parameters, x), directions)[1], torch.float64)
        f = grad(lambda p, x: call(p, x).pow(2).sum(), 1)
        assert_close(product, jvp(f, (parameters, x), directions)[1], torch.float64)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_gradients_per_image_and_ensembles(layer, channels_last):
    x = images(layer, channels_last)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x[None],)).pow(2).sum()

    together = vmap(grad(loss), (None, 0))(parameters, x)
    for n in (0, 1):
        alone = torch.autograd.grad(
            layer(x[n : n + 1]).pow(2).sum(), list(layer.parameters()), materialize_grads=True
        )
        assert_close([g[n] for g in together.values()], alone, torch.float64)
    half = {name: 0.5 * p for name, p in parameters.items()}
    stack = {name: torch.stack([p, half[name]]) for name, p in parameters.items()}
    ensemble = vmap(lambda p: functional_call(layer, p, (x,)))(stack)
    assert_close(ensemble[1], functional_call(layer, half, (x,)), torch.float64)


def test_any_single_parameter_may_be_batched(layer):
    """What is computed in place elsewhere has to take a batch that only one of its terms has."""
    x = images(layer)
    for name, parameter in list(layer.named_parameters())[::2]:
        stack = torch.stack([parameter.detach(), 0.5 * parameter.detach()])
        together = vmap(lambda p, name=name: functional_call(layer, {name: p}, (x,)))(stack)
        assert_close(together[1], functional_call(layer, {name: stack[1]}, (x,)), torch.float64, name)


@pytest.mark.parametrize("past_only", [False, True])
def test_the_temporal_shift_in_both_modes_and_batched(past_only):
    x, v = (torch.randn(4, 8, 2, 2, generator=torch.Generator().manual_seed(n)) for n in (0, 1))

    def shift(x):
        return temporal_shift(x, 2, past_only=past_only)

    y, tangent = jvp(shift, (x,), (v,))
    assert torch.equal(tangent, shift(v))
    assert torch.equal(vmap(shift)(torch.stack([x, v])), torch.stack([y, shift(v)]))
    weighted = grad(lambda x: (shift(x) * v).sum())
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((shift(leaf) * v).sum(), leaf)
    assert torch.equal(weighted(x), expected)
    assert torch.equal(vmap(weighted)(torch.stack([x, x]))[1], expected)
    with forward_ad.dual_level():
        dual = shift(forward_ad.make_dual(leaf, v))
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, shift(v))


def test_contextual_loss_per_sample():
    from ctxvision.nn import ContextualOutput

    logits, target = torch.randn(3, 5), torch.tensor([0, 3, 4])
    classes = torch.arange(5).expand(3, -1)

    def loss(logits, classes, target):
        output = ContextualOutput(logits, (logits,), (classes,), torch.ones(()))
        return ContextualLoss()(output, target)

    each = vmap(grad(lambda s, c, t: loss(s[None], c[None], t[None])))(logits, classes, target)
    assert_close(
        each,
        torch.stack([grad(loss)(logits[n : n + 1], classes[:1], target[n : n + 1])[0] for n in range(3)]),
        torch.float32,
    )
