"""Image files through a trained network."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from ctxvision.data import DataSpec
from ctxvision.data.dataset import BadImage, ImageDataset, Sample
from ctxvision.tasks import ClassificationTask

from .errors import UserError

Ranking = list[tuple[str, float]]


def classify(
    task: ClassificationTask, paths: Sequence[str], top_k: int, batch_size: int, workers: int, device: str
) -> Iterator[tuple[str, Ranking | str]]:
    """Predict the classes of image files, in their order.

    Yields:
        Every path, with its ``top_k`` most probable classes and their probabilities, or with the reason why
        the file cannot be used.

    Raises:
        UserError: no such device.
    """
    spec = DataSpec.from_dict(task.data_spec)
    try:
        task.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    dataset = ImageDataset([(path, 0) for path in paths], spec.eval_transform(), spec.color_mode)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=list)
    remaining = iter(paths)
    for items in loader:
        images = [item.image for item in items if isinstance(item, Sample)]
        rankings = iter(_rank(task, torch.stack(images), spec.class_names, top_k) if images else ())
        for item in items:
            yield next(remaining), item.reason if isinstance(item, BadImage) else next(rankings)


@torch.inference_mode()
def _rank(task: ClassificationTask, images: torch.Tensor, names: Sequence[str], top_k: int) -> list[Ranking]:
    probabilities = task(images.to(task.device)).float().softmax(1)
    values, classes = probabilities.topk(min(top_k, len(names)), 1)
    return [
        [(names[c], p) for c, p in zip(row, row_values, strict=True)]
        for row, row_values in zip(classes.tolist(), values.tolist(), strict=True)
    ]
