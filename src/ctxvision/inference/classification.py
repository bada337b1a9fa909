"""The classes of images."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxvision.data import DataError, DataSpec
from ctxvision.tasks import Task

from .answer import BROKEN, InferenceError, RankedAnswer, ranking
from .exported import Exported
from .predictor import Batch, Predictor, Prepare, Source, Wanted, described
from .preparing import Optimize


@dataclass(frozen=True, eq=False)
class Classes(RankedAnswer):
    """What a classifier says about an image.

    Attributes:
        top: The most probable classes with their probabilities, the most probable first.
        probabilities: The probabilities of all N classes, (N,).
    """

    columns = ("image", "rank", "class", "probability")

    probabilities: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def _values(self) -> dict[str, Any]:
        return {"predictions": [one.to_dict() for one in self.top]}


class ClassificationPredictor(Predictor):
    """Answers with `Classes`; see `Predictor`."""

    task = "classification"
    answer_type = Classes
    batch_size = 32
    data_spec: DataSpec

    _pays_from = 64

    def __init__(
        self,
        opened: Task | Exported | nn.Module,
        device: torch.device,
        optimize: Optimize = "none",
        *,
        spec: DataSpec | None = None,
    ) -> None:
        super().__init__(opened, device, optimize)
        if isinstance(opened, Exported | Task):
            spec = DataSpec.from_dict(described(opened))
        assert spec is not None
        self.data_spec = spec

    def _example(self) -> Tensor:
        return torch.zeros(1, *self.data_spec.input_size, dtype=torch.float32, device="cpu")

    def resize_by(self, interpolation: str) -> None:
        """Resize with another filter from now on; see `Predictor`."""
        try:
            self.data_spec = dataclasses.replace(self.data_spec, interpolation=interpolation)
        except DataError as error:
            raise InferenceError(str(error)) from error

    @torch.no_grad()
    def raw(self, batch: Batch) -> Tensor:
        """Return the logits (B, N) of normalised images (B, C, H, W), as float32 on the network's device."""
        images = batch if isinstance(batch, Tensor) else torch.stack(list(batch))
        compute: Callable[[Tensor], Tensor] = self.exported or self.computing(len(images))
        return compute(images.to(self.device)).float()

    def _preparation(self, wanted: Wanted) -> Callable[[Source], Tensor]:
        return Prepare(self.data_spec.eval_transform(), self.data_spec.color_mode)

    def _answers(
        self, samples: Sequence[Tensor], paths: Sequence[str | None], wanted: Wanted
    ) -> Iterator[Classes]:
        probabilities = self.raw(samples).softmax(1).cpu().numpy()
        for path, of_image in zip(paths, probabilities, strict=True):
            if np.isfinite(of_image).all():
                yield Classes(path, "", ranking(of_image, self.class_names, wanted.top_k), of_image)
            else:
                yield Classes(path, BROKEN)
