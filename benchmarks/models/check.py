"""The gate of the networks: finite, and the same numbers in every memory format and with every backend."""

from torch import Tensor

from benchmarks.gate import check, check_finite
from benchmarks.models.networks import Steps, random_batch
from ctxvision.nn.layouts import LAYOUTS, Layout, to_layout
from ctxvision.ops import use_backend

IMAGES = 2


def check_network(name: str, steps: Steps, size: int) -> None:
    """Compare logits in float32, relative to the largest, at the tolerance that the tests have for operators.

    What they are compared with is the pure-torch backend in NCHW; networks of timm's are only compared between
    formats.

    Args:
        name: For messages.
        steps: The network.
        size: Side of the images in pixels.

    Raises:
        RedGate: If logits are not finite or differ.
    """
    ours = type(steps.model).__module__.startswith("ctxvision.")
    if ours:
        with use_backend("torch"):
            expected = _logits(steps, "nchw", size)
    else:
        expected = _logits(steps, "nchw", size)
    check_finite(f"{name}, nchw", expected)
    scale = expected.abs().max()
    for layout in LAYOUTS:
        found = _logits(steps, layout, size)
        check_finite(f"{name}, {layout}", found)
        check(f"{name}, {layout}, against {'torch backend, ' if ours else ''}nchw, relative to the largest logit",
              found / scale, expected / scale, found.dtype)  # fmt: skip


def _logits(steps: Steps, layout: Layout, size: int) -> Tensor:
    to_layout(steps.model, layout)
    steps.model.eval()
    return steps.infer(random_batch(size, IMAGES, layout, steps.device), exact=True)
