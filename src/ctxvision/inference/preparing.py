"""A trained network that answers sooner once it has much to answer: when it is prepared, and how."""

import copy
import logging
import threading
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from ctxvision.nn.layouts import LAYOUTS, Layout, to_layout

from .answer import InferenceError
from .optimizing import (
    TOLERANCE,
    Compiled,
    Optimized,
    faster_layout,
    folded,
    largest_difference,
    what_was_folded,
)

Optimize: TypeAlias = Literal["auto", "none", "fuse", "compile"]
OPTIMIZE: tuple[Optimize, ...] = get_args(Optimize)
_TRIAL_FROM = 1000  # images: a trial of the memory formats takes as long as some tens of them
_TRIAL_BATCH = 8
_log = logging.getLogger(__name__)


def require_optimize(how: Optimize) -> Optimize:
    """Return the word for how a network is prepared.

    Raises:
        InferenceError: It is none of ``"auto"``, ``"none"``, ``"fuse"`` and ``"compile"``.
    """
    if how not in OPTIMIZE:
        raise InferenceError(f"optimize must be one of {', '.join(OPTIMIZE)}, got {how!r}")
    return how


class Preparation:
    """Chooses what computes: a network as it is, or a copy that was prepared, once that pays.

    The network itself is never changed: who looks into its layers looks into those that were trained.

    Args:
        network: The network in evaluation mode: a trained task, or a network of images.
        part: The name of the module in it that takes one tensor of images; empty for the network itself.
        example: Images as this part takes them, (1, C, H, W), of the size that is usual.
        how: ``"auto"`` folds BatchNorm once ``pays_from`` samples are expected, ``"fuse"`` for the first;
            ``"compile"`` compiles as well; ``"none"`` leaves the network as it is.
        pays_from: The number of samples from which the folding saves more time than it takes.
    """

    def __init__(self, network: nn.Module, part: str, example: Tensor, how: Optimize, pays_from: int) -> None:
        self._network, self._part, self._example = network, part, example
        self._how, self._pays_from = how, pays_from
        self._asked = self._expected = 0
        self._chosen: nn.Module | None = network if how == "none" else None
        self._lock = threading.Lock()
        self._done: list[str] = []
        self._compiled: Compiled | None = None

    @property
    def done(self) -> str:
        """What was done, such as ``"BatchNorm folded into 53 layers"``; empty for a network as it was trained."""
        compiled = self._compiled is not None and not self._compiled.failed
        return ", ".join([*self._done, *(["compiled"] if compiled else [])])

    def expect(self, samples: int) -> None:
        """Say how many samples will be asked for."""
        self._expected = self._asked + samples

    def __call__(self, samples: int) -> Any:
        """Return what computes the next samples."""
        with self._lock:
            self._asked += samples
            if self._chosen is None:
                if self._how == "auto" and max(self._asked, self._expected) < self._pays_from:
                    return self._network
                self._chosen = self._prepared()
            return self._chosen

    @torch.no_grad()
    def _prepared(self) -> nn.Module:
        """Return a copy that was prepared and computes the same; where there is nothing to do, the network."""
        part = self._network.get_submodule(self._part)
        weight = next((p for p in part.parameters() if p.is_floating_point()), None)
        if weight is None:
            return self._network
        shifts = getattr(self._network, "shifts", None)
        shape = (1 if shifts is None else shifts.frames, *self._example.shape[1:])  # of clips, the frames of one
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        example = example.to(weight.device, weight.dtype)
        try:
            holder: Any = folded(_Holder(part, shifts), example)
        except Exception as error:  # such as a weight that is computed from others, or a lock
            _log.warning("the network cannot be copied to be prepared (%s); it answers as it is", error)
            return self._network
        copied, shifts = holder.network, holder.shifts
        folding = what_was_folded(part, copied)
        done = [folding] if folding else []
        layout = self._layout(copied, example, done)
        if not done and self._how != "compile":
            return self._network
        if folding and not self._is_same(part, copied, example):
            return self._network
        if layout is not None:
            to_layout(copied, layout)
        self._done = done
        if self._how == "compile":
            copied = self._compiled = Compiled(copied, required=False)
        if not self._part:
            return Optimized(copied, layout or "nchw", self.done, compile_it=False)
        twin = cast(Any, _replaced(self._network, self._part, copied))
        if shifts is not None:
            twin.shifts = shifts
        if layout is not None:
            twin.memory_format = LAYOUTS[layout]  # of the images that a task hands on
        return cast(nn.Module, twin)

    def _layout(self, part: nn.Module, example: Tensor, done: list[str]) -> Layout | None:
        """Choose the memory format of images and weights; ``None`` leaves them as they are."""
        own = getattr(self._network, "memory_format", None)
        if example.device.type != "cpu" or (self._part and own is None):
            return None
        layout: Layout = "nchw" if own == torch.contiguous_format else "channels_last"
        is_classifier = getattr(self._network, "kind", "classification") == "classification"
        if is_classifier and self._expected >= _TRIAL_FROM:
            layout = faster_layout(part, example[:1].repeat(_TRIAL_BATCH, 1, 1, 1))
        if LAYOUTS[layout] != (own or torch.contiguous_format):
            done.append(layout)
        return layout

    def _is_same(self, part: nn.Module, copied: nn.Module, example: Tensor) -> bool:
        with torch.autocast(example.device.type, enabled=False):  # which rounds more than folding does
            difference = largest_difference(copied(example), part(example))
        limit = TOLERANCE.get(example.dtype, TOLERANCE[torch.float32])
        if not difference <= limit:
            _log.warning(
                "folding BatchNorm would change an output by %.2g of its largest value, the limit is %.2g; "
                "the network answers as it is",
                difference,
                limit,
            )
        return difference <= limit


class _Holder(nn.Module):
    """A network and the temporal shifts whose hooks it has, which must be copied together."""

    def __init__(self, network: nn.Module, shifts: object) -> None:
        super().__init__()
        self.network, self.shifts = network, shifts

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


def _replaced(module: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Return a copy of a module, with the same parts, in which the part at a path is another one."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    name, _, rest = path.partition(".")
    twin._modules[name] = _replaced(module.get_submodule(name), rest, new) if rest else new
    return twin
