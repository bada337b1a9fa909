"""Surgery over real architectures: shapes kept at odd and even sizes, gradients everywhere, contextual exact."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from _oracle import assert_close
from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d, plan_replacements, replace_convs

pytestmark = pytest.mark.slow

LAYERS = {"cot": CoTLayer, "involution": Involution2d, "contextual": ContextualConv2d}

SHALLOW = {"layers": (1, 2, 1, 1)}

# arguments that make the network small, and how many spatial convolutions each kind finds outside the stem
ARCHITECTURES = {
    "resnet18": ({}, 16),
    "resnet50d": (SHALLOW, 5),
    "resnext50_32x4d": (SHALLOW, 5),
    "seresnet50": (SHALLOW, 5),
    "regnetx_002": ({}, 13),
    "efficientnet_b0": ({}, 16),
    "mobilenetv3_small_100": ({}, 11),
    "convnext_atto": ({}, 15),
    "densenet121": ({"block_config": (2, 3, 2, 2)}, 9),
    "dla34": ({}, 26),
    "hrnet_w18_small": ({}, 63),
    "nf_resnet26": ({}, 8),
    "torchvision/resnet18": ({}, 16),
    "torchvision/mobilenet_v2": ({}, 17),
    "torchvision/shufflenet_v2_x0_5": ({}, 19),
    "torchvision/regnet_y_400mf": ({}, 16),
}
# those that a kind leaves: groups of 4 channels, 2x2 kernels, standardised weights
LEFT = {
    ("resnext50_32x4d", "cot"): 1,
    ("convnext_atto", "cot"): 3,
    ("convnext_atto", "involution"): 3,
    ("nf_resnet26", "contextual"): 8,
}
DEPTHWISE = ("efficientnet", "mobilenet", "convnext", "shufflenet")
CASES = [(name, kind) for name, (_, count) in ARCHITECTURES.items() for kind in LAYERS
         if LEFT.get((name, kind)) != count]  # fmt: skip


def create(name):
    """A small network of an architecture, whose norms and gains let every branch through."""
    library, _, short = name.rpartition("/")
    if library:
        model = torchvision.models.get_model(short, weights=None, num_classes=5)
    else:
        model = timm.create_model(name, num_classes=5, **ARCHITECTURES[name][0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("gamma", ".gain")):
            nn.init.ones_(parameter)
    return model


def size_of(name, *otherwise):
    """These two add maps of different strides, which fit only at multiples of 32."""
    return (64, 32) if name in ("dla34", "hrnet_w18_small") else otherwise


def shapes_of(model, names, images):
    """Shapes of the outputs of some modules, and of the network."""
    shapes = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: shapes.update({name: y.shape}))
        for name in names
    ]
    with torch.no_grad():
        shapes["output"] = model(images).shape
    for hook in hooks:
        hook.remove()
    return shapes


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_convolution_outside_the_stem(name, kind):
    model = create(name)
    options = {"groups": 1} if kind == "cot" and any(word in name for word in DEPTHWISE) else {}
    plan = plan_replacements(model, kind, **options)
    names = [item.name for item in plan.replaced]
    assert len(names) == ARCHITECTURES[name][1] - LEFT.get((name, kind), 0)
    images = torch.randn(2, 3, *size_of(name, 46, 33))
    expected = shapes_of(model.eval(), names, images)
    old = set(model.parameters())

    assert replace_convs(model, kind, **options) is model
    assert shapes_of(model, names, images) == expected
    assert sum(isinstance(module, LAYERS[kind]) for module in model.modules()) == len(names)
    new = {name: parameter for name, parameter in model.named_parameters() if parameter not in old}
    model.train()(images).square().sum().backward()
    for parameter_name, parameter in new.items():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    assert any(parameter.grad.abs().max() > 0 for parameter in new.values())


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "contextual"])
def test_contextual_leaves_the_outputs_unchanged(name):
    model = create(name).double().eval()
    images = torch.randn(1, 3, *size_of(name, 33, 46), dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        replace_convs(model, "contextual")
        assert_close(model(images), expected, torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_feature_strides_are_kept(kind):
    model = timm.create_model("vgg11_bn", features_only=True, mlp_ratio=0.01, out_indices=(1, 2, 3))
    size, images = model.feature_info.reduction(), torch.randn(1, 3, 40, 56)
    before = [feature.shape for feature in model.eval()(images)]
    replace_convs(model, kind, where=[1, 2])
    assert [feature.shape for feature in model(images)] == before
    assert [40 // feature[2] for feature in before] == size
    replaced = [name for name, module in model.named_modules() if isinstance(module, LAYERS[kind])]
    # VGG's third to sixth convolutions, at strides 4 and 8; the first of each pair changes the channels
    assert [name.split(".")[0] for name in replaced] == ["features_8", "features_11", "features_15", "features_18"]


def test_a_detector_s_backbone():
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    backbone = model.backbone.double().eval()
    images = torch.randn(1, 3, 64, 49, dtype=torch.float64)
    with torch.no_grad():
        expected = backbone(images)
        replace_convs(model, "contextual", where=[2, "backbone.fpn"])
        actual = backbone(images)
    assert list(actual) == list(expected)
    assert_close(list(actual.values()), list(expected.values()), torch.float64)
    replaced = [name for name, module in model.named_modules() if isinstance(module, ContextualConv2d)]
    assert replaced == [
        *(f"backbone.body.layer2.{block}.conv2" for block in range(4)),
        *(f"backbone.fpn.layer_blocks.{level}.0" for level in range(4)),
    ]


def test_batch_norms_stay():
    model = timm.create_model("resnet18")
    before = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    replace_convs(model, "involution", kernel_size=7)
    assert all(model.get_submodule(name) is module for name, module in before.items())
    assert {m.kernel_size for m in model.modules() if isinstance(m, Involution2d)} == {7}
