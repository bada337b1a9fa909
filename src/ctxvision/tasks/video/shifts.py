"""The temporal shift in a finished network: its layers and the names of its weights stay as they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from ctxvision.nn import temporal_shift
from ctxvision.nn.shifting import shifted_channels
from ctxvision.tasks.error import TaskError

from .blocks import residual_layers

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
