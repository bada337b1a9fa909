"""Networks under `torch.func`: derivatives in both modes agree with each other, and with one image at a time."""

import pytest
import timm
import torch
from torch.func import functional_call, grad, jvp, vmap

from _oracle import assert_close
from ctxvision.models import contextual, cotnet, rednet

pytestmark = pytest.mark.slow

MICRO = [name for family in (cotnet, rednet, contextual) for name in family.default_cfgs if name.endswith("micro")]
NETWORKS = {
    **{name: {} for name in MICRO},
    # second derivatives of 49 taps in plain torch take their time
    "contextual_convnext_micro": {"depths": (1, 1, 1, 1), "contextual_blocks": (1, 1, 1, 1), "stages": (4,)},
    "contextual_resnet50": {"depths": (1, 1, 1, 1)},
    "cotnext50_2x48d": {"depths": (1, 1, 1, 1)},
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    torch.manual_seed(0)
    model = timm.create_model(request.param, num_classes=3, **NETWORKS[request.param]).double().eval()
    for name, parameter in model.named_parameters():
        if "_offsets" in name:
            torch.nn.init.normal_(parameter, std=0.02)
        if name.endswith("gamma"):  # as small as it starts, it would hide the blocks
            torch.nn.init.constant_(parameter, 0.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_both_modes_and_the_second_derivative(network, images):
    v = torch.randn_like(images)

    def energy(x):
        return network(x).pow(2).sum()

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaf), leaf, create_graph=True)
    (product,) = torch.autograd.grad(gradient, leaf, v)
    assert_close(jvp(energy, (images,), (v,))[1], (gradient * v).sum(), torch.float32)
    functional, forward_over_reverse = jvp(grad(energy), (images,), (v,))
    assert_close(functional / gradient.abs().max(), gradient / gradient.abs().max(), torch.float32)
    assert product.abs().max() > 0
    assert_close(forward_over_reverse / product.abs().max(), product / product.abs().max(), torch.float32)


def test_gradients_per_image_and_ensembles(network, images):
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())

    def loss(parameters, x):
        return functional_call(network, (parameters, buffers), (x[None],)).pow(2).sum()

    together = vmap(grad(loss), (None, 0))(parameters, images)
    alone = grad(loss)(parameters, images[1])
    for name, gradient in alone.items():
        scale = gradient.abs().max().clamp(min=1e-12)
        assert_close(together[name][1] / scale, gradient / scale, torch.float32, name)
    halved = {name: 0.9 * p for name, p in parameters.items()}
    stack = {name: torch.stack([p, halved[name]]) for name, p in parameters.items()}
    ensemble = vmap(lambda p: functional_call(network, (p, buffers), (images,)))(stack)
    assert_close(ensemble[1], functional_call(network, (halved, buffers), (images,)), torch.float32)


@pytest.mark.parametrize("design", [{}, {"stages": ()}])
def test_tools_that_hook_layers_meet_tensors_alone_and_a_network_with_parameters_of_its_own(design):
    """Opacus goes layer by layer, unless a module has parameters of its own: it takes that one as a whole."""
    model = timm.create_model("contextual_convnext_micro", num_classes=3, **design)
    own = {name for name, p in model.named_parameters() if any(p is q for q in model.parameters(recurse=False))}
    assert own == (set() if design else {"context.embedding.weight", "context.logit_scale"})
    assert len(list(model.parameters())) == len(dict(model.named_parameters()))
    seen = []
    for module in model.modules():
        if not own and next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    model(torch.randn(1, 3, 32, 32))
    assert all(isinstance(value, torch.Tensor) for value in seen)
