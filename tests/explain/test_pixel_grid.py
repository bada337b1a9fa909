import pytest
import timm
import torch
from torch import nn

import ctxvision  # noqa: F401
from ctxvision.explain import pixel_grids
from ctxvision.explain.layers import grid_of
from ctxvision.nn import ContextualConv2d, Involution2d


def centre_by_gradient(model, size, row, column):
    """Centre of the receptive field of one output position: the mean place of what positive weights read."""
    image = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(image)[0, :, row, column].sum(), image)
    weight = gradient[0, 0] / gradient.sum()
    return [float((weight.sum(1 - axis) * torch.arange(size[axis])).sum()) for axis in (0, 1)]


def positive(*layers):
    model = nn.Sequential(*layers).double()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    return model.eval()


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(1, 1, 7, 2, 3, bias=False), nn.AvgPool2d(3, 2, 1)],
        lambda: [nn.Conv2d(1, 1, 4, 4, bias=False), nn.Conv2d(1, 1, 2, 2, bias=False)],
        lambda: [nn.Conv2d(1, 1, 3, 2, 0, bias=False), nn.Conv2d(1, 1, 3, 3, 1, 2, bias=False)],
        lambda: [
            nn.Conv2d(1, 1, (3, 5), (1, 2), (0, 2), bias=False),
            nn.AvgPool2d(2),
            nn.Conv2d(1, 1, 1, 2, bias=False),
        ],
        lambda: [nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, 2, "valid", bias=False)],
    ],
)
def test_positions_lie_at_the_centres_of_what_they_read(layers):
    size, model = (64, 72), positive(*layers())
    output = model(torch.ones(1, 1, *size).double())
    grid = pixel_grids(model, torch.ones(1, 1, *size).double())[tuple(output.shape[2:])]
    assert grid.exact
    middle = [n // 2 for n in output.shape[2:]]  # away from the border, where padding takes part of the field
    for row, column in (middle, [n + 1 for n in middle]):
        expected = centre_by_gradient(model, size, row, column)
        assert [row * grid.step[0] + grid.start[0], column * grid.step[1] + grid.start[1]] == pytest.approx(
            expected
        )


@pytest.mark.parametrize(
    ("name", "step", "start"),
    [
        ("contextual_convnext_micro", 4, 1.5),
        ("contextual_convnext_micro", 8, 3.5),
        ("contextual_convnext_micro", 32, 15.5),
        ("contextual_resnet50", 8, 0),
        ("cotnet_micro", 16, 0),
        ("rednet_micro", 32, 0),
    ],
)
def test_networks(name, step, start):
    model = timm.create_model(name, num_classes=5)
    grid = pixel_grids(model, torch.zeros(1, 3, 128, 96))[128 // step, 96 // step]
    assert grid.step == (step, step)
    assert grid.start == (start, start)


def test_layers_that_keep_their_size_and_involution():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        Involution2d(16, stride=2),
        ContextualConv2d(16, 8, kernel_size=5, stride=2, padding=2, prior_dim=0),
    )
    grids = pixel_grids(model, torch.zeros(1, 3, 21, 33))
    assert {size: (grid.step, grid.start) for size, grid in grids.items()} == {
        (21, 33): ((1, 1), (0, 0)),
        (11, 17): ((2, 2), (0, 0)),  # the kernel generator's pool is narrower than the kernel
        (6, 9): ((4, 4), (0, 0)),
    }


def test_sizes_that_no_layer_makes_are_guessed():
    grid = grid_of({}, (8, 4), (64, 64))
    assert (grid.step, grid.start, grid.exact) == ((8, 16), (3.5, 7.5), False)
