"""Segmentation networks: the published parameters and cost, equal to other implementations, any backbone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from ctxvision.models import count_macs
from ctxvision.nn import Involution2d
from ctxvision.tasks import TaskError
from ctxvision.tasks.segmentation import SemanticFPN, UPerNet, build_network

# decoder, its arguments, millions of parameters, GMACs: the involution paper's table of Cityscapes results
ROWS = [
    ("semantic_fpn", {}, 18.5, 293.9),
    ("semantic_fpn", {"neck": "involution"}, 16.4, 205.2),
    ("upernet", {}, 56.4, 1825.6),
]
CHANNELS = (8, 16, 32, 48)


def features(sizes=((16, 24), (8, 12), (4, 6), (2, 3)), batch=2):
    return [torch.randn(batch, channels, *size) for channels, size in zip(CHANNELS, sizes, strict=True)]


def perturbed(module):
    """Norms that do something, and no dropout."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return module.eval()


@pytest.mark.parametrize(("decoder", "options", "millions", "gmacs"), ROWS)
def test_parameters_and_cost_are_the_paper_s(decoder, options, millions, gmacs):
    with torch.device("meta"):
        model = build_network("rednet50", 19, decoder=decoder, decoder_args=options)
    # parameters with the auxiliary head, which only trains
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    # the paper counts a whole image of Cityscapes, 1024 × 2048: a crop of 512 × 1024 costs a quarter
    assert count_macs(model, (3, 1024, 2048)) / 1e9 == pytest.approx(gmacs, rel=0.02)
    assert count_macs(model, (3, 512, 1024)) / 1e9 == pytest.approx(gmacs / 4, rel=0.02)


def test_the_authors_stem_brings_the_cost_to_the_paper_s():
    with torch.device("meta"):
        model = build_network("rednet50", 19, model_args={"stem_kernel_size": 7})
    assert count_macs(model, (3, 1024, 2048)) / 1e9 == pytest.approx(292.9, abs=0.05)  # of 293.9


def test_upernet_equals_segmentation_models_pytorch():
    """Theirs has a layer norm on every feature besides, which the published network does not have."""
    ours = perturbed(UPerNet(CHANNELS, 5, channels=24))
    theirs = UPerNetDecoder([3, 0, *CHANNELS], decoder_channels=24).eval()
    extra = sum(p.numel() for p in theirs.feature_norms.parameters())
    assert extra == 2 * sum(CHANNELS)
    theirs.feature_norms = nn.ModuleList(nn.Identity() for _ in CHANNELS)
    for ours_part, theirs_part in [
        (ours.pooling.branches, theirs.psp.blocks),
        (ours.pooling.fuse, theirs.psp.out_conv),
        (ours.laterals, [block.conv_norm_relu for block in theirs.fpn_lateral_blocks][::-1]),
        (ours.outputs, list(theirs.fpn_conv_blocks)[::-1]),
        (ours.fuse, theirs.fusion_block),
    ]:
        values = list(ours_part.state_dict().values())
        part = nn.ModuleList(theirs_part) if isinstance(theirs_part, list) else theirs_part
        names = list(part.state_dict())
        part.load_state_dict(dict(zip(names, values, strict=True)))
    x = features()
    dummy = [torch.empty(2, 3, 64, 96), torch.empty(2, 0, 32, 48)]
    with torch.no_grad():
        expected = ours.classifier(theirs([*dummy, *[f.clone() for f in x]]))
        torch.testing.assert_close(ours(x), expected)


def stretched(x, size):
    """Resize (B, C, H, W) bilinearly: a pixel is a weighted mean of the two rows and columns around its centre."""
    for axis, count in zip((2, 3), size, strict=True):
        places = ((torch.arange(count) + 0.5) * x.shape[axis] / count - 0.5).clamp(0, x.shape[axis] - 1)
        weight = (1 - (places[:, None] - torch.arange(x.shape[axis])).abs()).clamp(min=0)
        x = (x.movedim(axis, -1) @ weight.T).movedim(-1, axis)
    return x


@pytest.mark.parametrize(
    "sizes", [((16, 24), (8, 12), (4, 6), (2, 3)), ((25, 33), (13, 17), (7, 9), (4, 5))], ids=["even", "97x131"]
)
def test_semantic_fpn_written_out(sizes):
    """Pyramid, one to three 3 × 3 convolutions each followed by doubling, sum in the finest size, classifier."""
    head = perturbed(SemanticFPN(CHANNELS, 5, pyramid_channels=32, channels=16))
    x = features(sizes)

    def double(x):
        return stretched(x, (2 * x.shape[2], 2 * x.shape[3]))

    pyramid = FeaturePyramidNetwork(list(CHANNELS), 32)
    pyramid.load_state_dict(head.pyramid.state_dict())
    with torch.no_grad():
        p = list(pyramid(dict(zip("0123", x, strict=True))).values())
        blocks = head.levels
        total = blocks[0][0](p[0]) + stretched(double(blocks[1][0](p[1])), sizes[0])
        total = total + stretched(double(blocks[2][1](double(blocks[2][0](p[2])))), sizes[0])
        coarsest = double(blocks[3][2](double(blocks[3][1](double(blocks[3][0](p[3]))))))
        total = total + stretched(coarsest, sizes[0])
        torch.testing.assert_close(head(x), head.classifier(total))


def test_semantic_fpn_over_stages_that_dilate_doubles_only_where_sizes_differ():
    head = perturbed(SemanticFPN(CHANNELS, 5, pyramid_channels=32, channels=16, strides=(4, 8, 8, 8)))
    x = features(((16, 24), (8, 12), (8, 12), (8, 12)))
    with torch.no_grad():
        p = list(head.pyramid(dict(zip("0123", x, strict=True))).values())
        total = head.levels[0][0](p[0])
        for level in (1, 2, 3):
            y = p[level]
            for block in head.levels[level]:
                y = block(y)
            total = total + stretched(y, (16, 24))
        torch.testing.assert_close(head(x), head.classifier(total))


def test_involution_neck_replaces_the_four_output_convolutions_alone():
    plain, bent = (SemanticFPN(CHANNELS, 5, neck=neck) for neck in ("convolution", "involution"))
    layers = list(bent.pyramid.layer_blocks)
    assert all(type(layer) is Involution2d and layer.kernel_size == 7 for layer in layers)
    assert len(layers) == 4

    def others(head):
        return {name: p.shape for name, p in head.named_parameters() if "layer_blocks" not in name}

    assert others(plain) == others(bent)


@settings(max_examples=8)
@given(st.integers(33, 100), st.integers(33, 100), st.sampled_from(ROWS))
def test_logits_have_the_size_of_any_image(height, width, row):
    options = row[1] | ({"channels": 32} if row[0] == "upernet" else {"pyramid_channels": 32, "channels": 32})
    model = build_network("rednet_micro", 3, decoder=row[0], decoder_args=options).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize(
    "name",
    ["cotnet_micro", "contextual_convnext_micro", "resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"],
)
def test_any_backbone_gets_gradients(name):
    arguments = {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1, 1)} if name.startswith("swin") else {}
    options = {"pyramid_channels": 32, "channels": 32, "norm": "group", "neck": "involution"}
    model = build_network(name, 4, decoder_args=options, model_args=arguments)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    first = next(p for p in model.backbone.parameters() if p.ndim == 4)
    assert first.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.decoder.parameters())


@pytest.mark.parametrize("decoder", ["semantic_fpn", "upernet"])
@pytest.mark.parametrize(
    ("name", "stride"), [("cotnet_micro", 16), ("rednet_micro", 8), ("resnet10t", 8), ("convnext_atto", 16)]
)
def test_stages_that_dilate_instead_of_striding(name, stride, decoder):
    options = {"channels": 32} | ({"pyramid_channels": 32} if decoder == "semantic_fpn" else {})
    arguments = {"output_stride": stride}
    model = build_network(name, 4, decoder=decoder, decoder_args=options, model_args=arguments).eval()
    sizes = [-(-70 // min(each, stride)) for each in (4, 8, 16, 32)]
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        maps = model.backbone(images)
        logits = model(images)
        expected = model.backbone.body(images)[-4:]
    assert logits.shape == (2, 4, 70, 70)
    assert [m.shape[1] for m in maps] == model.backbone.channels
    if name != "convnext_atto":  # whose maps have no batch norm: a layer norm comes after them
        assert [tuple(m.shape[2:]) for m in maps] == [(size, size) for size in sizes]
        for found, wanted in zip(maps, expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_auxiliary_head_reads_stage_3_and_only_trains():
    model = build_network("rednet_micro", 4, decoder="upernet", decoder_args={"channels": 32})
    images = torch.randn(2, 3, 64, 64)
    logits, auxiliary = model.forward_with_auxiliary(images)
    assert logits.shape == auxiliary.shape == (2, 4, 64, 64)
    assert model.auxiliary[0][0].in_channels == model.backbone.channels[2]
    assert model.auxiliary[0][0].out_channels == 256
    seen = []
    model.auxiliary.register_forward_hook(lambda *_: seen.append(1))
    model.eval()(images)
    assert not seen
    assert build_network("rednet_micro", 4).forward_with_auxiliary(images)[1] is None
    assert build_network("rednet_micro", 4, auxiliary=True).auxiliary is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "rednet_micros"}, "did you mean rednet_micro"),
        ({"model": "vit_tiny_patch16_224"}, "this network needs 4, 8, 16, 32"),
        ({"model_args": {"colour": 1}}, "colour"),
        ({"model_args": {"output_stride": 12}}, "output_stride must be 8, 16 or 32, got 12"),
        ({"model_args": {"output_stride": "16"}}, "output_stride"),
        ({"model": "swin_tiny_patch4_window7_224", "model_args": {"output_stride": 16}}, "output_stride"),
        ({"decoder": "unet"}, "there are semantic_fpn, upernet"),
        ({"decoder_args": {"neck": "pool"}}, "neck must be convolution or involution, got 'pool'"),
        ({"decoder_args": {"norm": "layer"}}, "norm must be batch or group"),
        ({"decoder_args": {"norm": "group", "channels": 40}}, "multiple of 32 channels, got 40"),
        ({"decoder_args": {"neck": "involution", "pyramid_channels": 40}}, "channels 40 must be a multiple"),
        ({"decoder_args": {"width": 3}}, "width"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(TaskError, match=message) as error:
        build_network(**({"model": "rednet_micro", "num_classes": 3} | options))
    assert "\n" not in str(error.value)
