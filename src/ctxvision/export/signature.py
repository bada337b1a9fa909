"""What goes into an exported graph and what comes out of it, by kind of task."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim

from ctxvision.inference.exported import ExportError, Metadata

Inputs = tuple[Tensor, ...]
Operators = Literal["portable", "native"]

_NAMES = {
    "classification": (("images",), ("logits",)),
    "segmentation": (("images",), ("logits",)),
    "video": (("clips",), ("logits", "frame_logits")),
    "detection": (("images", "size"), ("boxes", "labels", "scores", "masks")),
}
_DIVISOR = 32  # of the padded images of detectors
_LEAST = 256  # sides of a detector's example, so that no level of its pyramid is one pixel


def names_of(metadata: Metadata) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the graph's inputs and outputs.

    Raises:
        ExportError: The task is unknown, or does not go with the freedom asked for.
    """
    task = metadata.task
    if task not in _NAMES:
        raise ExportError(f"networks for {task} cannot be exported")
    if task == "video" and metadata.dynamic_size:
        raise ExportError("clips are always resized to the network's input size; leave out --dynamic-size")
    if task == "detection" and (metadata.dynamic_batch or not metadata.dynamic_size):
        raise ExportError("detectors are exported for one image of any size at a time")
    inputs, outputs = _NAMES[task]
    return inputs, outputs if metadata.settings.get("masks", True) else outputs[:-1]


def shape_of(metadata: Metadata, batch: int, *, larger: Sequence[int] = (0, 0)) -> tuple[int, ...]:
    """Return the shape of the first input: of images (B, C, H, W), of clips (B, T, C, H, W)."""
    spec = metadata.data_spec
    if metadata.task == "detection":
        return (batch, spec.get("in_chans", 3), _LEAST + larger[0], _LEAST + larger[1])
    channels, height, width = spec["input_size"]
    frames = (spec["frames"],) if metadata.task == "video" else ()
    return (batch, *frames, channels, height + larger[0], width + larger[1])


def example_inputs(metadata: Metadata) -> Inputs:
    """Return inputs to trace with: two samples for any number; for any size so large that no map becomes a pixel.

    What is 1 while a network is traced, or as high as wide, is taken to be so always.
    """
    if metadata.task == "detection":
        return _detector_inputs(metadata, (0, _DIVISOR), torch.Generator().manual_seed(0))
    shape = shape_of(metadata, 2 if metadata.dynamic_batch else 1)
    if metadata.dynamic_size:
        shape = (*shape[:-2], max(shape[-2], 128), max(shape[-1], 128) + 32)
    return (torch.randn(shape, dtype=torch.float32, device="cpu"),)


def freedom(metadata: Metadata) -> tuple[dict[int, Any] | None, ...]:
    """Return, for each input, which of its dimensions are free."""
    dimensions: dict[int, Any] = {0: Dim.DYNAMIC} if metadata.dynamic_batch else {}
    if metadata.dynamic_size:
        dimensions |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return (dimensions, None) if metadata.task == "detection" else (dimensions,)


def random_inputs(metadata: Metadata) -> list[Inputs]:
    """Return inputs to compare on: one sample and three, and another size, each where it is free."""
    generator = torch.Generator().manual_seed(0)
    if metadata.task == "detection":
        return [_detector_inputs(metadata, larger, generator) for larger in ((0, 0), (96, 32))]
    counts = [1, 3] if metadata.dynamic_batch else [1]
    shapes = [shape_of(metadata, count) for count in counts]
    if metadata.dynamic_size:
        shapes.append(shape_of(metadata, counts[-1], larger=(32, 64)))
    return [(torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"),) for shape in shapes]


def _detector_inputs(metadata: Metadata, larger: Sequence[int], generator: torch.Generator) -> Inputs:
    images = torch.randn(
        shape_of(metadata, 1, larger=larger), generator=generator, dtype=torch.float32, device="cpu"
    )
    height, width = images.shape[2] - 5, images.shape[3] - 9
    images[:, :, height:], images[:, :, :, width:] = 0, 0
    return images, torch.tensor([height, width], dtype=torch.int64, device="cpu")
