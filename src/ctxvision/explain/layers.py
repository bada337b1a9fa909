"""The layers of a network whose output is a map, and the choice of the layer to explain."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.nn.contextual_conv import WeightOffsets
from ctxvision.ops._geometry import as_pair
from ctxvision.tasks.classification.class_sets import is_contextual

MIN_SIDE = 4  # positions per side below which a map says little about places

Hook = Callable[[Any, Any, Any], None]
"""Takes a module, its inputs and its output, as ``register_forward_hook`` calls it."""


class LayerError(ValueError):
    """A layer cannot be used for an explanation; the message is one line that names usable layers."""


@dataclass(frozen=True)
class MapLayer:
    """A layer that returned a map.

    Attributes:
        name: The name of the layer in the network, as ``get_submodule`` takes it.
        channels: The number of channels of the map.
        size: The height and width (H, W) of the map, in positions.
        stage: The number of the stage that ends with the layer, from 1; 0 for the stem of a contextual network;
            ``None`` for other layers.
    """

    name: str
    channels: int
    size: tuple[int, int]
    stage: int | None = None


@contextmanager
def watching(model: nn.Module, watched: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients and with hooks, until the block ends, and restore it.

    Args:
        model: Any network.
        watched: Modules of the network, each with the hook that is called whenever the module has run.
    """
    with evaluation_mode(model), ExitStack() as hooks:
        for module, hook in watched:
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def map_format(shape: Sequence[int], image_size: Sequence[int]) -> Literal["NCHW", "NHWC"] | None:
    """Return in which axes of a layer's output the image's rows and columns are, by the image's proportions.

    Networks of timm such as Swin and MambaOut compute in NHWC, and so do parts of its ConvNeXt; the output of
    attention has neither format.

    Args:
        shape: The shape of the layer's output, four numbers.
        image_size: The height and width (H, W) of the network's input, in pixels.

    Returns:
        ``"NCHW"`` or ``"NHWC"``; ``None`` if no axes have the proportions of the image.
    """
    _, second, third, last = shape
    if _has_proportions(third, last, image_size):
        return "NCHW"
    return "NHWC" if _has_proportions(second, third, image_size) else None


def _has_proportions(height: int, width: int, image_size: Sequence[int]) -> bool:
    expected = width * image_size[0] / image_size[1]
    # strides and paddings round
    return abs(height - expected) <= 1 or max(height, expected) <= 1.5 * min(height, expected)


def map_layers(model: nn.Module, images: Tensor) -> list[MapLayer]:
    """List the layers that return a map (B, C, H, W) or (B, H, W, C), in the order in which they finish.

    Args:
        model: Any network.
        images: The normalised images, (B, C, H, W), on the network's device; one image is enough.

    Returns:
        The layers, with the shapes of their maps.
    """
    names = {module: name for name, module in model.named_modules() if name}
    sizes: dict[str, tuple[int, tuple[int, int]]] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        # offsets of kernels have four axes, but of taps
        if not isinstance(output, Tensor) or output.dim() != 4 or isinstance(module, WeightOffsets):
            return
        found = map_format(output.shape, images.shape[2:])
        # of a layer that runs twice, the first time counts, as in pytorch-grad-cam
        if found == "NCHW":
            sizes.setdefault(names[module], (output.shape[1], (output.shape[2], output.shape[3])))
        elif found == "NHWC":
            sizes.setdefault(names[module], (output.shape[3], (output.shape[1], output.shape[2])))

    with watching(model, [(module, note) for module in names]):
        model(images[:1])
    stages = {name: number for number, name in enumerate(_stage_ends(model, list(sizes)), _first_stage(model))}
    return [MapLayer(name, *shape, stages.get(name)) for name, shape in sizes.items()]


def _first_stage(model: nn.Module) -> int:
    return 0 if _stem(model) else 1


def _stem(model: nn.Module) -> list[str]:
    return [str(model.stem_end)] if is_contextual(model) else []


def _stage_ends(model: nn.Module, finished: list[str]) -> list[str]:
    """Return the layer that each stage ends with: itself, or its last part where only the parts are called."""
    ends = []
    for places in [[name] for name in _stem(model)] + stage_places(model):
        below = tuple(f"{place}." for place in places)
        inside = [name for name in finished if name in places or name.startswith(below)]
        if inside:
            ends.append(inside[-1])
    return ends


def stage_places(model: nn.Module) -> list[list[str]]:
    """Return the possible names of each stage of a network, by timm's ``feature_info``; empty without it.

    The network may be part of a larger one, such as a detector, and cut open by timm's ``features_only``, which
    renames the stages. A first level of stride 2 that is an activation, as in ResNets, belongs to the stem.
    """
    for prefix, part in model.named_modules():
        info = getattr(part, "feature_info", None)
        if info is None:
            continue
        try:
            names = info.module_name() if hasattr(info, "module_name") else [entry["module"] for entry in info]
        except (KeyError, TypeError):
            return []
        names = names[1:] if names[:1] == ["act1"] else names
        renamed = ((name, name.replace(".", "_"), f"model.{name}") for name in names)
        return [[f"{prefix}.{name}".lstrip(".") for name in dict.fromkeys(found)] for found in renamed]
    return []


def find_layer(layers: Sequence[MapLayer], name: str | None) -> MapLayer:
    """Return the layer with a name, or by default the layer that explains an answer best.

    The default is the end of the last stage whose map has at least 4 × 4 positions, or else the largest of the
    ends. In networks that do not tell where their stages end (by timm's ``feature_info``), it is the last layer
    with at least 4 × 4 positions.

    Args:
        layers: The layers that `map_layers` returned.
        name: The name of one of these layers; ``None`` for the default.

    Raises:
        LayerError: There is no layer of this name, or the network has no maps.
    """
    if name is not None:
        for layer in layers:
            if layer.name == name:
                return layer
        raise LayerError(f"no layer {name!r} that returns a map; {_candidates(layers, name)}")
    ends = [layer for layer in layers if layer.stage] or [layer for layer in layers if min(layer.size) > 1]
    if not ends:
        raise LayerError(
            "no layer of this network returns a map (B, C, H, W), so there is nothing to draw on an image"
        )
    fine = [layer for layer in ends if min(layer.size) >= MIN_SIDE]
    return fine[-1] if fine else max(ends, key=lambda layer: layer.size[0] * layer.size[1])


def _candidates(layers: Sequence[MapLayer], name: str) -> str:
    names = [layer.name for layer in layers]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    below = [n for n in names if n.startswith(f"{name}.")][-1:]
    ends = [layer.name for layer in layers if layer.stage is not None] or names[-4:]
    hint = f"did you mean {' or '.join(dict.fromkeys(below + near))}? " if near or below else ""
    return f"{hint}The ends of the stages are {', '.join(ends)}; {len(names)} layers return maps"


def chosen_layers(known: list[str], layers: Sequence[str] | None, otherwise: str) -> list[str]:
    """Return the names that were asked for, by default all that are known.

    Args:
        known: The names of the layers that can be chosen.
        layers: The names that were asked for.
        otherwise: The words that tell what another layer lacks; the known names follow.

    Raises:
        ValueError: A name is not known.
    """
    for name in layers or ():
        if name not in known:
            raise ValueError(f"{name!r} {otherwise} {', '.join(known) or 'none'}")
    return known if layers is None else list(layers)


def last_of_each_stage(model: nn.Module, names: Sequence[str], limit: int = 4) -> list[tuple[int, str]]:
    """Choose the last of the named layers in each stage.

    Args:
        model: A network with timm's ``feature_info``, or one that has such a network for a backbone; without
            ``feature_info`` the layers are chosen evenly, and numbered.
        names: The names of the layers, in the network's order.
        limit: The largest number of layers to choose; those of the last stages are kept.

    Returns:
        The number of the stage, from 1, and the name of each layer that was chosen.
    """
    chosen = []
    for number, places in enumerate(stage_places(model)[-4:], 1):
        inside = [name for name in names if any(name.startswith(f"{place}.") for place in places)]
        if inside:
            chosen.append((number, inside[-1]))
    if not chosen:
        count = min(len(names), limit)
        chosen = [(i + 1, names[(i + 1) * len(names) // count - 1]) for i in range(count)]
    return chosen[-limit:]


@dataclass(frozen=True)
class PixelGrid:
    """The places of a map's positions in the image: ``position · step + start``, in pixels, for y and x.

    The centre of a pixel has whole numbers as coordinates; the first pixel is at 0.

    Attributes:
        step: The distance between neighbouring positions in pixels, (y, x).
        start: The pixel of position 0, (y, x).
        exact: Whether the grid was computed from the strides and paddings of the layers; if not, it is estimated
            from the sizes alone.
    """

    step: tuple[float, float]
    start: tuple[float, float]
    exact: bool = True


def pixel_grids(model: nn.Module, images: Tensor) -> dict[tuple[int, int], PixelGrid]:
    """Return the grid of every size (H, W) of map that convolutions and poolings of a network return.

    A position lies at the centre of its receptive field. Where branches with different kernels lead to maps of one
    size, the largest kernel decides, because a shortcut has a narrower kernel than the branch beside it.

    Args:
        model: Any network.
        images: The normalised images, (B, C, H, W), on the network's device; one image is enough.

    Returns:
        The grids by the size (H, W) of the map.

    Examples:
        >>> import torch
        >>> layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(2))
        >>> grids = pixel_grids(layers, torch.zeros(1, 3, 32, 32))
        >>> grids[8, 8].step, grids[8, 8].start
        ((4.0, 4.0), (1.0, 1.0))
    """
    image = (int(images.shape[2]), int(images.shape[3]))
    grids = {image: PixelGrid((1.0, 1.0), (0.0, 0.0))}
    widest: dict[tuple[int, int], int] = {}

    def follow(module: nn.Module, inputs: Any, output: Any) -> None:
        if not all(isinstance(part, Tensor) and part.dim() == 4 for part in (output, *inputs[:1])) or not inputs:
            return
        before, after = tuple(inputs[0].shape[2:]), tuple(output.shape[2:])
        geometry = _geometry(module)
        if geometry is None or before not in grids or after in (before, image):
            return
        kernel, stride, padding, dilation = geometry
        if max(kernel) <= widest.get(after, 0):
            return
        widest[after] = max(kernel)
        old = grids[before]
        y, x = (old.start[i] + (dilation[i] * (kernel[i] - 1) / 2 - padding[i]) * old.step[i] for i in (0, 1))
        grids[after] = PixelGrid((old.step[0] * stride[0], old.step[1] * stride[1]), (y, x), old.exact)

    with watching(model, [(module, follow) for module in model.modules()]):
        model(images[:1])
    return grids


def _geometry(module: nn.Module) -> tuple[list[int], ...] | None:
    """Return kernel size, stride, padding and dilation of a layer, each (y, x); ``None`` without a window."""
    if isinstance(module, nn.ConvTranspose2d):
        return None
    weight = getattr(module, "weight", None)
    kernel = getattr(module, "kernel_size", None)
    if kernel is None and isinstance(weight, Tensor) and weight.dim() == 4:
        kernel = tuple(weight.shape[2:])
    stride = getattr(module, "stride", None)
    if kernel is None or stride is None:
        return None
    kernel, dilation = as_pair(kernel, "kernel", 1), as_pair(getattr(module, "dilation", 1), "dilation", 1)
    padding = getattr(module, "padding", None)
    if padding == "valid":
        padding = 0
    elif not isinstance(padding, int | tuple | list):  # "same", and involution
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return kernel, as_pair(stride, "stride", 1), as_pair(padding, "padding", 0), dilation


def grid_of(grids: dict[tuple[int, int], PixelGrid], size: tuple[int, int], image: tuple[int, int]) -> PixelGrid:
    """Return the grid of maps of a size (H, W), estimated from the image's (H, W) if no layer is known."""
    if size in grids:
        return grids[size]
    step = (image[0] / size[0], image[1] / size[1])
    return PixelGrid(step, ((step[0] - 1) / 2, (step[1] - 1) / 2), exact=False)
