"""Image files through a trained network."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ctxvision.data import BadImage, DataSpec, ImageDataset, LoadedSample
from ctxvision.tasks import ClassificationTask

from .device import on_device
from .errors import UserError
from .kinds import BROKEN

if TYPE_CHECKING:
    from ctxvision.export import Exported

Ranking = list[tuple[str, float]]
Compute = Callable[[Tensor], Tensor]


def prepared(opened: "ClassificationTask | Exported", device: str) -> tuple[Compute, DataSpec]:
    """Return what an opened classifier computes, logits (B, N) of images (B, C, H, W), and what the images are.

    Raises:
        UserError: no such device.
    """
    if isinstance(opened, ClassificationTask):
        on_device(opened, device)
        return lambda images: opened(images.to(opened.device)).float(), DataSpec.from_dict(opened.data_spec)
    if device != "cpu":
        raise UserError(f"exported networks run on the CPU here, not on {device!r}; leave out --device")
    return opened, DataSpec.from_dict(opened.metadata.data_spec)


def classify(
    compute: Compute, spec: DataSpec, paths: Sequence[str], top_k: int, batch_size: int, workers: int
) -> Iterator[tuple[str, Ranking | str]]:
    """Predict the classes of image files, in their order.

    Args:
        compute: logits (B, N) of images (B, C, H, W).
        spec: classes, size and normalisation of the images.
        paths: of the files.
        top_k: classes for each.
        batch_size: images at a time.
        workers: processes that decode.

    Yields:
        Every path, with its ``top_k`` most probable classes and their probabilities, or with the reason why
        the file cannot be used, or the network's output for it is no number.
    """
    dataset = ImageDataset([(path, 0) for path in paths], spec.eval_transform(), spec.color_mode)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=list)
    remaining = iter(paths)
    for items in loader:
        images = [item.image for item in items if isinstance(item, LoadedSample)]
        rankings = iter(_rank(compute, torch.stack(images), spec.class_names, top_k) if images else ())
        for item in items:
            yield next(remaining), item.reason if isinstance(item, BadImage) else next(rankings)


@torch.inference_mode()
def _rank(compute: Compute, images: torch.Tensor, names: Sequence[str], top_k: int) -> list[Ranking | str]:
    probabilities = compute(images).softmax(1)
    values, classes = probabilities.topk(min(top_k, len(names)), 1)
    return [
        [(names[c], p) for c, p in zip(row, row_values, strict=True)] if math.isfinite(sum(row_values)) else BROKEN
        for row, row_values in zip(classes.tolist(), values.tolist(), strict=True)
    ]
