"""A network prepared for inference: the same numbers up to rounding, in less time."""

import contextlib
import copy
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import unfreeze_batch_norm_2d
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ctxvision.nn import fuse
from ctxvision.nn.layouts import LAYOUTS, Layout, to_layout

# Largest difference of an output, as a share of its largest value: sums in another order round otherwise, in each
# of a hundred layers.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TRIALS = 5
_log = logging.getLogger(__name__)


class Optimized(nn.Module):
    """A network that `optimize` has prepared.

    It is for inference alone: it computes without gradients, and its weights must not be changed.

    Attributes:
        description: What was done, such as ``"BatchNorm folded into 53 layers, channels_last, compiled"``.
    """

    def __init__(self, network: nn.Module, layout: Layout, description: str, compile_it: bool) -> None:
        super().__init__()
        self.network = network
        self.description = description
        self._layout = LAYOUTS[layout]
        self._call = Compiled(network) if compile_it else network
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns for images (B, C, H, W)."""
        with torch.inference_mode():
            return self._call(images.contiguous(memory_format=self._layout))

    def train(self, mode: bool = True) -> "Optimized":
        """Stay in evaluation mode; training is refused.

        Raises:
            RuntimeError: If ``mode`` is true.
        """
        if mode:
            raise RuntimeError("an optimized network is for inference alone; train the one that it was made of")
        return super().train(False)


def optimize(
    model: nn.Module, example: Tensor, *, compile: bool = False, tolerance: float | None = None
) -> Optimized:
    """Return a copy of a network that computes the same in less time.

    BatchNorm is folded into the layer before it where that is possible (see `ctxvision.nn.fuse`). The memory
    format is the faster one of channels-last and NCHW in a trial of a few calls. With ``compile``, `torch.compile`
    makes the code and packs the weights once (inductor's freezing); that takes a minute or more, and less where
    its cache on disk knows the network. The result is compared with the network on the example.

    Args:
        model: Network that takes one tensor of images, (B, C, H, W); it is not changed.
        example: Images of the batch size, height and width that will be usual, (B, C, H, W), on the model's device
            and in its data type.
        compile: Whether to compile. It pays for a server, and for hundreds of images.
        tolerance: Largest difference of an output, as a share of its largest value; by default 1e-4 in float32,
            and what the data type allows otherwise.

    Returns:
        The prepared network, in evaluation mode.

    Raises:
        ValueError: The prepared network computes something else; the message says by how much.
        RuntimeError: The network cannot be compiled.

    Examples:
        >>> import timm, torch
        >>> import ctxvision
        >>> from ctxvision.inference import optimize
        >>> net = optimize(timm.create_model("cotnet_micro", num_classes=10), torch.randn(1, 3, 64, 64))
        >>> net(torch.randn(3, 3, 64, 64)).shape
        torch.Size([3, 10])
        >>> net.description.split(", ")[0]
        'BatchNorm folded into 37 layers'
    """
    model_as_is = copy.deepcopy(model).eval()
    prepared = folded(model, example)
    folding = what_was_folded(model, prepared)
    layout = faster_layout(prepared, example)
    done = [*([folding] if folding else []), layout, *(["compiled"] if compile else [])]
    to_layout(prepared, layout)
    optimized = Optimized(prepared, layout, ", ".join(done), compile)
    with torch.inference_mode():
        difference = largest_difference(optimized(example), model_as_is(example))
    limit = TOLERANCE.get(example.dtype, 1e-4) if tolerance is None else tolerance
    if not difference <= limit:
        raise ValueError(
            f"the prepared network ({optimized.description}) differs by {difference:.2g} of the largest value of "
            f"an output, the limit is {limit:.2g}; use the network as it is, or a larger tolerance"
        )
    return optimized


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy in evaluation mode with BatchNorm folded where that is possible, fixed ones included.

    Raises:
        RuntimeError: The network cannot be copied.
    """
    # fixed ones are BatchNorm in evaluation mode, and slower
    prepared: nn.Module = unfreeze_batch_norm_2d(copy.deepcopy(network).eval())
    try:
        return fuse(prepared, example)
    except ValueError as error:  # it takes other images, or more than images
        _log.info("BatchNorm is not folded: %s", error)
    return prepared


def what_was_folded(before: nn.Module, after: nn.Module) -> str:
    """Say how many layers of a copy have taken in a BatchNorm; empty if none has."""
    norms = [
        sum(getattr(module, "running_mean", None) is not None for module in network.modules())
        for network in (before, after)
    ]
    count = norms[0] - norms[1]
    return f"BatchNorm folded into {count} layer{'s' if count > 1 else ''}" if count else ""


class Compiled(nn.Module):
    """A network that `torch.compile` translates at its first call, with its weights packed (inductor's freezing).

    One translation takes any number of images from two on. A single image needs another: where it comes first, it
    is made; after a batch, as at the end of a data set, it goes through the network itself.

    Args:
        network: Network of images (B, C, H, W) in evaluation mode.
        required: Whether a network that cannot be compiled is an error; if not, it computes as it is, and the log
            says why.
        any_batch: Whether one translation takes any number of images; if not, each number gets its own, which may
            be faster.

    Attributes:
        failed: Whether the network could not be compiled.
    """

    def __init__(self, network: nn.Module, *, required: bool = True, any_batch: bool = True) -> None:
        super().__init__()
        self.network, self._required, self._any_batch = network, required, any_batch
        self.failed = False
        self._calls: dict[tuple[str, bool], Callable[[Tensor], Any]] = {}
        if hasattr(network, "forward_stages"):
            self.forward_stages = partial(self._through, "forward_stages")

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns for images (B, C, H, W), without gradients.

        Raises:
            RuntimeError: The network cannot be compiled, and that is required.
        """
        return self._through("forward", images)

    def _through(self, method: str, images: Tensor) -> Any:
        plain: Callable[[Tensor], Any] = getattr(self.network, method)
        # inductor packs weights where it sees that no gradient is asked for; inference tensors confuse it
        with torch.inference_mode(False), torch.no_grad(), contextlib.ExitStack() as stack:
            images = images.clone() if images.is_inference() else images
            key = (method, len(images) > 1)
            if key not in self._calls:
                if self._any_batch and (method, True) in self._calls:
                    return plain(images)
                # not at every call: of two threads that call at once, one would leave the process without warnings
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                dynamic = None if self._any_batch else False
                self._calls[key] = torch.compile(plain, dynamic=dynamic, options={"freezing": True})
            if self._any_batch and len(images) > 1:
                torch._dynamo.maybe_mark_dynamic(images, 0)
            try:
                return self._calls[key](images)
            except Exception as error:  # of the compiler, of which there may be none
                if self._required or self._calls[key] is plain:
                    raise
                found = plain(images)  # where it fails, too, the compiler is not to blame
                self.failed = True
                line = (str(error).strip() or type(error).__name__).splitlines()[0]
                _log.warning("the network cannot be compiled here (%s); it computes as it is", line)
                self._calls = {(method, several): plain for method, _ in self._calls for several in (False, True)}
                return found


def faster_layout(network: nn.Module, example: Tensor) -> Layout:
    """Return the memory format in which the network answers sooner; both take turns, so that noise hits both."""
    seconds: dict[Layout, list[float]] = {layout: [] for layout in LAYOUTS}
    with torch.inference_mode():
        for trial in range(_TRIALS + 1):
            for layout, times in seconds.items():
                to_layout(network, layout)
                images = example.contiguous(memory_format=LAYOUTS[layout])
                network(images)
                _wait(example.device)
                begin = time.perf_counter()
                network(images)
                _wait(example.device)
                if trial:  # the first warms up
                    times.append(time.perf_counter() - begin)
    return min(seconds, key=lambda layout: statistics.median(seconds[layout]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def largest_difference(found: Any, expected: Any) -> float:
    """Return the largest difference among the outputs, as a share of a tensor's largest value; NaN if any is.

    Of outputs of other shapes it is infinite.
    """
    shares = [0.0]
    for actual, value in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if isinstance(value, Tensor) and actual.shape != value.shape:
            shares.append(math.inf)
        elif isinstance(value, Tensor) and value.numel():
            largest = value.double().abs().max().item()
            shares.append((actual.double() - value.double()).abs().max().item() / (largest or 1.0))
    return max(shares) if not any(share != share for share in shares) else float("nan")
