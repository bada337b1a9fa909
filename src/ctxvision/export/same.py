"""Whether an exported graph computes what the network does."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ctxvision.inference.exported import ExportError, Metadata

from .signature import Inputs

_log = logging.getLogger(__name__)

_SEVERAL = 10  # detections
_STRAY = 0.02  # share of detections whose scores or overlaps are so near to a threshold that rounding decides


def require_suffix(path: str | os.PathLike[str], suffix: str) -> None:
    """Check the name of a file before it is made: by its suffix it is opened again.

    Raises:
        ExportError: The name ends otherwise.
    """
    if Path(path).suffix.lower() != suffix:
        raise ExportError(f"{os.fspath(path)}: its name must end in {suffix}, by which it is opened again")


def require_same(
    network: nn.Module,
    run: Callable[..., Inputs],
    metadata: Metadata,
    trials: Sequence[Tensor | Inputs],
    tolerance: float,
) -> float:
    """Compare a graph with its network; return the largest difference, as a share of an output's largest value.

    Raises:
        ExportError: The difference is above the tolerance, or the outputs have other shapes.
    """
    worst = 0.0
    objects = 0
    compare = difference_of_detections if metadata.task == "detection" else _of_outputs
    for trial in trials:
        inputs = (trial,) if isinstance(trial, Tensor) else trial
        with torch.inference_mode():
            expected = network(*inputs)
        found = run(*inputs)
        difference = compare(found, (expected,) if isinstance(expected, Tensor) else tuple(expected))
        if not difference <= tolerance:
            raise ExportError(
                f"the exported network differs from torch's by {difference:.2g} of the largest value, more than "
                f"{tolerance:g}"
            )
        worst = max(worst, difference)
        objects += len(expected[0])  # of a detector
    if metadata.task == "detection" and not objects:
        _log.warning(
            "it found nothing on what was tried, so little was compared; compare predictions on your images"
        )
    return worst


def _of_outputs(found: Inputs, expected: Inputs) -> float:
    worst = 0.0
    for mine, true in zip(found, expected, strict=True):
        if mine.shape != true.shape:
            raise ExportError(f"the exported network returns {tuple(mine.shape)}, not {tuple(true.shape)}")
        worst = max(worst, _share(mine, true))
    return worst


def _share(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def difference_of_detections(found: Inputs, expected: Inputs) -> float:
    """Compare detections with their partners: that of the same label whose box and score are nearest."""
    mine, true = len(found[0]), len(expected[0])
    strays = abs(mine - true)
    worst = 0.0
    if mine and true:
        distance = (found[0][:, None] - expected[0][None]).abs().amax(-1)  # (mine, true), pixels
        distance = distance + (found[2][:, None] - expected[2][None]).abs() * expected[0].max()
        nearest = distance.masked_fill(found[1][:, None] != expected[1][None], torch.inf).min(0)
        together = nearest.values < 1
        strays = max(strays, int((~together).sum()))
        for name, output, wanted in zip(("boxes", "labels", "scores", "masks"), found, expected, strict=False):
            if name != "labels":
                worst = max(worst, _share(output[nearest.indices[together]], wanted[together]))
    of = max(mine, true)
    # one of several may lie on a threshold or share the last score that is kept; of few, each is needed
    if strays > max(of >= _SEVERAL, _STRAY * of):
        raise ExportError(f"the exported detector finds other things: {strays} of {of} have no partner")
    return worst
