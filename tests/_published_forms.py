"""Layers and networks in the order of operations that their authors published.

Production code sums the same terms in another order: it never puts `[x, K1]` together, it adds each product to its
sum with one rounding, and it blends two contexts by one interpolation. What is here concatenates, unfolds, rounds
every product before it is added, and weighs both contexts. `in_published_form` makes a whole network compute so.
"""

import copy
import types

import torch
import torch.nn.functional as F

from ctxvision.nn import CoTLayer, Involution2d


def aggregate(x, maps, stride=1, dilation=1, interleaved=False):
    """Neighbourhoods of `x` (B, C, H, W), unfolded, times their maps (B, G, k*k, H', W'), summed tap by tap."""
    groups, taps, *size = maps.shape[1:]
    kernel = round(taps**0.5)
    patches = F.unfold(x, kernel, dilation, dilation * (kernel - 1) // 2, stride)
    patches = patches.view(x.shape[0], *((-1, groups) if interleaved else (groups, -1)), taps, *size)
    products = patches * maps.unsqueeze(1 if interleaved else 2)
    total = products[:, :, :, 0]
    for tap in range(1, taps):
        total = total + products[:, :, :, tap]
    return total.flatten(1, 2)


def cot_forward(layer, x):
    """CoTNet, equations 4 and 5 and the fusion, `(B, C, H, W)` to `(B, C, H, W)`."""
    static = layer.key_embed(x)
    if layer.context == "static":
        return static
    batch, groups, taps = x.shape[0], layer.groups, layer.kernel_size**2
    both = torch.cat([x, static], 1) if groups == 1 else torch.stack([x, static], 2).flatten(1, 2)
    maps = layer.embed(both).reshape(batch * groups, layer.maps // groups, taps, *x.shape[2:])
    values = layer.conv1x1(x).reshape(batch * groups, -1, *x.shape[2:])
    dynamic = aggregate(values, maps, dilation=layer.dilation, interleaved=True)
    dynamic = layer.act(layer.bn(dynamic.reshape(x.shape)))
    if layer.context == "dynamic":
        return dynamic
    if layer.context == "linear":
        return static + dynamic
    shares = layer.se((dynamic + static).mean((2, 3), keepdim=True)).reshape(batch, -1, 2).softmax(2)
    return dynamic * shares[:, :, 0, None, None] + static * shares[:, :, 1, None, None]


def involution_forward(layer, x):
    """Involution, section 3.2, `(B, C, H, W)` to `(B, C, H', W')`."""
    return aggregate(x, layer.kernels(x), stride=layer.stride, dilation=layer.dilation)


def in_published_form(model):
    """A copy of a layer or a network, in which every layer of ours computes as published."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, CoTLayer):
            module.forward = types.MethodType(cot_forward, module)
        elif isinstance(module, Involution2d):
            module.forward = types.MethodType(involution_forward, module)
    return model
