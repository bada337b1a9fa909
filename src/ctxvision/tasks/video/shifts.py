"""The temporal shift in a finished network: its layers and the names of its weights stay as they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from ctxvision.nn import temporal_shift
from ctxvision.nn.shifting import shifted_channels
from ctxvision.tasks.error import TaskError

# what the first convolution of a branch is called in timm's networks and in ours
_FIRST = ("conv1", "conv_dw", "conv_pw", "conv_exp", "dwconv")
# what else a block with a shortcut has
_SHORTCUT = ("downsample", "shortcut", "drop_path")
_LAYERS = ", ".join(_FIRST)


def residual_layers(model: nn.Module, layers: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Find the first layer of every residual branch, by its name in the network.

    A residual block is known by what timm's networks and ours call its parts: a first convolution (``conv1`` of a
    ResNet's block, ``conv_dw`` of a ConvNeXt's, ``conv_pw`` of an inverted bottleneck) and something that belongs
    to a shortcut. Blocks that say themselves that they have none (``has_skip`` of EfficientNet) are left out.

    Args:
        model: The network.
        layers: The names of the layers themselves, for networks whose blocks are not known.

    Raises:
        TaskError: There is no such block, or no such layer.
    """
    if layers:
        known = dict(model.named_modules())
        missing = [name for name in layers if name not in known]
        if missing:
            raise TaskError(f"temporal shift: the network has no layer {missing[0]!r}")
        return {name: known[name] for name in layers}
    found: dict[str, nn.Module] = {}
    for name, block in model.named_modules():
        # in the order in which they are used: a depthwise convolution may come first or second
        first = next((part for part, _ in block.named_children() if part in _FIRST), None)
        if name and first and _has_shortcut(block):
            found[f"{name}.{first}"] = block.get_submodule(first)
    if not found:
        raise TaskError(
            f"temporal shift: {type(model).__name__} has no residual blocks that begin with a convolution "
            f"({_LAYERS}); name the layers with shift_layers, or choose a ResNet, a ConvNeXt or one of ours"
        )
    return found


def _has_shortcut(block: nn.Module) -> bool:
    if hasattr(block, "has_skip"):
        return bool(block.has_skip)
    return any(hasattr(block, part) for part in _SHORTCUT)


Shift = Literal["both", "past", "none"]


class TemporalShifts:
    """The shifts of one network, all for clips of the same number of frames.

    They are hooks: the network keeps its modules, its parameters and its ``state_dict``, so that weights of a
    network without them load, and the other way round.

    Args:
        model: The network, which is changed in place until `remove`.
        frames: The number of frames of a clip; it may be set anew at any time, as the network is called with clips
            of another length.
        shift: The frames that shifted channels come from: the frames in ``both`` directions, or in the ``past``
            for streams; ``none`` leaves the network alone.
        divisor: The divisor of the number of channels that are shifted each way; 8 shifts an eighth.
        layers: The names of the layers before which channels are shifted; by default the first of every residual
            branch, see `residual_layers`.

    Attributes:
        frames: The number of frames of a clip.
        shift: The frames that shifted channels come from: the frames in ``both`` directions, or in the ``past``
            for streams; ``none`` leaves the network alone.
        divisor: The divisor of the number of channels that are shifted each way.
        layers: The names of the layers whose inputs are shifted.

    Raises:
        TaskError: There is nothing to shift, or the network has shifts already.

    Examples:
        >>> import timm, torch
        >>> model = timm.create_model("resnet10t", num_classes=5)
        >>> shifts = TemporalShifts(model, frames=4)
        >>> shifts.layers
        ('layer1.0.conv1', 'layer2.0.conv1', 'layer3.0.conv1', 'layer4.0.conv1')
        >>> model(torch.zeros(2 * 4, 3, 64, 64)).shape  # two clips of four frames
        torch.Size([8, 5])
    """

    def __init__(
        self,
        model: nn.Module,
        frames: int,
        shift: Shift = "both",
        divisor: int = 8,
        layers: Sequence[str] = (),
    ) -> None:
        if shift not in ("both", "past", "none"):
            raise TaskError(f"shift must be both, past or none, got {shift!r}")
        if min(frames, divisor) < 1:
            raise TaskError(f"frames and shift divisor must be at least 1, got {frames} and {divisor}")
        self.frames = frames
        self.shift: Shift = shift
        self.divisor = divisor
        found = {} if shift == "none" else residual_layers(model, layers)
        if any(isinstance(h, _Hook) for layer in found.values() for h in layer._forward_pre_hooks.values()):
            raise TaskError("temporal shift: the network has shifts already; remove those first")
        self.layers = tuple(found)
        self._stream: dict[str, Tensor] | None = None
        self._handles: list[Any] = []
        for name, layer in found.items():
            hook = _Hook(self, name)
            self._handles += [layer.register_forward_pre_hook(hook), layer.register_forward_hook(hook.put_back)]

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def streaming(self, cache: dict[str, Tensor]) -> Iterator[None]:
        """Let the network take single frames inside the ``with`` block; shifted channels wait in the cache.

        Args:
            cache: The state of one stream, empty at its beginning; it holds for each layer the ``C // divisor``
                channels, ``(B, C // divisor, ...)``, of the frame before.
        """
        self._stream = cache
        try:
            yield
        finally:
            self._stream = None


class _Hook:
    """Shifts the input of one layer."""

    def __init__(self, shifts: TemporalShifts, name: str) -> None:
        self.shifts = shifts
        self.name = name

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args
        s = self.shifts
        if s._stream is None:
            return (temporal_shift(x, s.frames, divisor=s.divisor, past_only=s.shift == "past"), *rest)
        # The shortcut needs x again, so that its channels are only lent to the past for as long as the layer runs:
        # three times an eighth is copied instead of everything.
        fold = shifted_channels(x, s.divisor, True)
        now = x[:, :fold].clone()
        before = s._stream.get(self.name)
        x[:, :fold] = 0 if before is None else before
        s._stream[self.name] = now
        return args

    def put_back(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Give a frame of a stream its own channels back."""
        if self.shifts._stream is not None:
            now = self.shifts._stream[self.name]
            args[0][:, : now.shape[1]] = now
