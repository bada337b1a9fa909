import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from _networks import lively, same_state, state
from ctxvision.explain import contextual_layers, contextual_offsets, explain, offsets_by_class
from ctxvision.nn import ContextualConv2d, replace_convs
from ctxvision.tasks import ClassificationTask


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (3, 2, 1, 2), (5, 3, 0, 1), (7, 1, 3, 1)],
)
def test_without_offsets_the_taps_are_those_of_the_plain_convolution(kernel, stride, padding, dilation):
    """What a plain convolution reads for an output position is where its gradient is not zero."""
    image = torch.rand(1, 2, 17, 14)
    layer = ContextualConv2d(
        2, 4, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, prior_dim=0
    )
    (bend,) = contextual_offsets(nn.Sequential(layer), image)
    assert np.array_equal(bend.sampled[0], bend.regular)
    assert not bend.sampling_offset.any()
    peer = nn.Conv2d(2, 4, kernel, stride, padding, dilation)
    nn.init.ones_(peer.weight)
    image.requires_grad_()
    output = peer(image)
    assert bend.regular.shape == (kernel**2, *output.shape[2:], 2)
    for row, column in np.ndindex(*output.shape[2:]):
        (gradient,) = torch.autograd.grad(output[0, 0, row, column], image, retain_graph=True)
        read = {tuple(place) for place in gradient[0, 0].nonzero().tolist()}
        taps = {tuple(int(n) for n in tap) for tap in bend.regular[:, row, column]}
        assert {(y, x) for y, x in taps if 0 <= y < 17 and 0 <= x < 14} == read


@pytest.mark.parametrize("name", ["contextual_convnext_micro", "contextual_resnet50"])
def test_a_constant_offset_moves_every_tap_by_it(name):
    model, image = timm.create_model(name, num_classes=12), torch.randn(2, 3, 64, 96)
    shifts = {}
    for layer_name in contextual_layers(model):
        layer = model.get_submodule(layer_name)
        shift = torch.randn(layer.weight.shape[2] ** 2, 2)
        layer.sampling_offsets.conv2.bias.data.copy_(shift.flatten())  # y and x by turns
        shifts[layer_name] = shift.numpy()
    found = contextual_offsets(model, image)
    assert [bend.name for bend in found] == contextual_layers(model)
    steps = {stage["module"]: stage["reduction"] for stage in model.feature_info}
    for bend in found:
        step = next(reduction for stage, reduction in steps.items() if bend.name.startswith(stage))
        strided = name.endswith("50") and bend.name.endswith(".0.conv2")  # reads the map before the stride
        step = step / 2 if strided and not bend.name.startswith("layer1") else step
        expected = bend.regular + (shifts[bend.name] * step)[:, None, None]
        np.testing.assert_allclose(bend.sampled, np.stack([expected] * 2), rtol=0, atol=1e-3)
        lengths = np.linalg.norm(shifts[bend.name] * step, axis=1)
        np.testing.assert_allclose(
            bend.sampling_offset, np.broadcast_to(lengths[:, None, None], bend.sampling_offset.shape), rtol=1e-3
        )


def test_the_offsets_are_those_that_the_layer_used():
    """The layer's own output follows from the taps: bilinear samples of its input at these places."""
    model, image = lively("contextual_convnext_micro", modulation=True), torch.randn(1, 3, 64, 64)
    name, seen = "stages.1.blocks.0.conv_dw", []
    layer = model.get_submodule(name)
    handle = layer.register_forward_hook(lambda m, i, o: seen.extend([i[0].clone(), i[1].clone(), o.clone()]))
    with torch.no_grad():
        model(image)
    handle.remove()
    (bend,) = contextual_offsets(model, image, [name])
    x, prior, output = seen
    change, _, _ = layer.offsets(x, prior)
    positions = (torch.from_numpy(bend.sampled[0]) - torch.tensor(bend.grid.start)) / torch.tensor(bend.grid.step)
    size = torch.tensor([x.shape[2], x.shape[3]])
    total = layer.bias.view(1, -1, 1, 1).clone()
    for tap in range(49):
        grid = ((2 * positions[tap] + 1) / size - 1).flip(-1)[None].float()  # grid_sample wants x, y in [-1, 1]
        sampled = torch.nn.functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
        weight = (layer.weight[:, 0].flatten(1)[None] + change.flatten(2))[..., tap]
        total = total + weight[..., None, None] * sampled * torch.from_numpy(bend.mask[0, tap])
    torch.testing.assert_close(total, output, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["contextual_convnext_micro", "contextual_resnet50"])
def test_kernel_changes_are_norms_of_what_is_added(name):
    model, images = lively(name).double(), torch.randn(2, 3, 64, 64).double()
    layer_name, seen = contextual_layers(model)[-1], []
    layer = model.get_submodule(layer_name)
    handle = layer.register_forward_hook(lambda m, i, o: seen.extend([i[0].clone(), i[1].clone()]))
    (bend,) = contextual_offsets(model, images, [layer_name])
    handle.remove()
    with torch.no_grad():
        change, _, _ = layer.offsets(*seen[-2:])
    depthwise = layer.groups > 1
    for row in range(2):
        kernel = layer.weight.detach()
        added = (
            change[row, :, None] if depthwise else change[row][None].expand_as(kernel)
        )  # shared by output channels
        assert added.shape == kernel.shape
        assert bend.weight_offset[row] == pytest.approx(float(added.norm() / kernel.norm()), rel=1e-4)


class ByBrightness(nn.Module):
    """A contextual network whose answers are known: class 0 for dark images, class 2 for bright ones."""

    def __init__(self):
        super().__init__()
        self.net = lively("contextual_convnext_micro", num_classes=4)

    def forward(self, x):
        bright = x.mean((1, 2, 3))
        return torch.stack([-bright, self.net(x)[:, 0] - 1e6, bright, torch.full_like(bright, -1e6)], 1)


def test_classes_bend_as_their_images_do():
    model = ByBrightness().eval()
    batches = [(torch.randn(n, 3, 64, 64) * 3 + torch.randn(n, 3, 1, 1) * 5, None) for n in (5, 0, 3)]
    before = state(model)
    found = offsets_by_class(model, batches)
    assert same_state(before, state(model))
    answers = torch.cat([model(images).argmax(1) for images, _ in batches if len(images)]).numpy()
    images = torch.cat([images for images, _ in batches])
    for bend, alone in zip(found, contextual_offsets(model, images), strict=True):
        assert bend.name == alone.name
        for c in range(4):
            of_class = answers == c
            assert bend.images[c] == of_class.sum()
            if not of_class.any():
                assert np.isnan(bend.sampling_offset[c])
                continue
            assert bend.sampling_offset[c] == pytest.approx(alone.sampling_offset[of_class].mean(), rel=1e-3)
            assert bend.weight_offset[c] == pytest.approx(alone.weight_offset[of_class].mean(), rel=1e-3)
    assert len(set(answers.tolist())) > 1


def test_ablations_and_other_networks():
    image = torch.randn(1, 3, 64, 64)
    no_grid = lively("contextual_convnext_micro", sampling_offsets=False)
    assert not contextual_offsets(no_grid, image)[0].sampling_offset.any()
    no_kernel = lively("contextual_convnext_micro", weight_offsets=False)
    assert contextual_offsets(no_kernel, image)[0].weight_offset is None
    assert np.isnan(offsets_by_class(no_kernel, [(image, None)])[0].weight_offset).all()
    other = replace_convs(timm.create_model("resnet10t", num_classes=3), "contextual")
    assert len(contextual_offsets(other, image)) == len(contextual_layers(other)) > 0


def test_hooks_go_also_when_the_network_fails():
    model = lively("contextual_convnext_micro")
    before = state(model)
    with pytest.raises(RuntimeError):
        contextual_offsets(model, torch.randn(1, 5, 64, 64))
    assert same_state(before, state(model))
    with pytest.raises(ValueError, match=r"'stem' is no contextual convolution.*stages.1.blocks.0.conv_dw"):
        contextual_offsets(model, torch.randn(1, 3, 64, 64), ["stem"])
    with pytest.raises(ValueError, match="no images"):
        offsets_by_class(model, [])


def test_taps_that_do_not_move_are_a_note_and_not_a_picture():
    spec = {"class_names": ["cat", "dog"], "input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3}
    torch.manual_seed(0)
    task = ClassificationTask("contextual_convnext_micro", spec)  # untrained: all offsets are 0
    (image,) = explain(task, Image.new("RGB", (64, 64), (200, 60, 60))).images
    assert all(layer.still for layer in image.offsets)
    assert any(note.startswith("No tap moves") for note in image.notes)
    assert not any("offsets" in figure.file for figure in image.figures)
    # one layer that moves is drawn, beside those that do not
    layer = task.model.get_submodule(image.offsets[-1].name)
    for parameter in layer.sampling_offsets.parameters():
        parameter.data.normal_(std=0.3)
    (image,) = explain(task, Image.new("RGB", (64, 64), (200, 60, 60))).images
    assert [layer.still for layer in image.offsets].count(False) == 1
    assert not image.notes
    (picture,) = [figure for figure in image.figures if "offsets" in figure.file]
    assert "no tap moves" in picture.element
