"""Mean intersection over union as Cityscapes counts it: from one confusion matrix over all pixels of the set."""

from dataclasses import dataclass

from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ctxvision.data.segmentation.source import IGNORE


class PixelConfusion(MulticlassConfusionMatrix):
    """Counts pixels by true class (rows) and predicted class (columns), over all images and processes.

    Pixels whose truth is 255 do not count, whatever was predicted there. Images may have any sizes.

    Args:
        num_classes: The number of classes, 2 to 255.

    Examples:
        >>> import torch
        >>> confusion = PixelConfusion(2)
        >>> confusion.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]))
        >>> confusion.compute()
        tensor([[1, 1],
                [0, 0]])
    """

    def __init__(self, num_classes: int) -> None:
        # the data modules have checked that labels are classes, which would cost a sort of every image here
        super().__init__(num_classes, ignore_index=IGNORE, validate_args=False)

    def update(self, predictions: Tensor, truth: Tensor) -> None:
        """Count the pixels of images: predicted and true classes, both (B, H, W) or (H, W)."""
        super().update(predictions, truth.long())


@dataclass(frozen=True)
class IoU:
    """Intersection over union and pixel accuracy, as a confusion matrix gives them.

    Attributes:
        by_class: The intersection over union of each class, NaN for a class that is neither in the truth nor in
            the prediction.
        mean: The mean over the classes that have a value; NaN where none has, because every pixel is to be
            ignored.
        pixel_accuracy: The share of the pixels whose class is right; NaN where every pixel is to be ignored.
        truth: The number of pixels of each class.
    """

    by_class: tuple[float, ...]
    mean: float
    pixel_accuracy: float
    truth: tuple[int, ...]


def intersection_over_union(confusion: Tensor) -> IoU:
    """Compute IoU = TP / (TP + FP + FN) of every class, and the mean.

    A class that no counted pixel has and that was never predicted has no IoU and is left out of the mean, as the
    official script of Cityscapes does; a class that was predicted, but does not occur, has IoU 0 and counts.

    Args:
        confusion: The number of pixels by true class (rows) and predicted class, (num_classes, num_classes).
    """
    counts = confusion.cpu().double()
    right, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    by_class = right / (truth + predicted - right)  # 0 / 0 is NaN
    return IoU(
        by_class=tuple(by_class.tolist()),
        mean=by_class.nanmean().item(),
        pixel_accuracy=(right.sum() / counts.sum()).item(),
        truth=tuple(int(pixels) for pixels in truth.tolist()),
    )
