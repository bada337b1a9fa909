"""A trained classifier as an ONNX file with 8-bit weights and activations, beside what that costs in accuracy."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from ctxvision.data import DataError, DataSpec, DigitsData, ImageData, open_data
from ctxvision.inference import Predictor, open_predictor
from ctxvision.inference.exported import Metadata
from ctxvision.progress import Progress, counted, silent
from ctxvision.tasks import ClassificationTask

from .onnx_file import export_onnx
from .quantize import quantize_onnx


@dataclass(frozen=True)
class Int8Report:
    """How a quantised file compares with the float32 file that it was made from.

    Attributes:
        difference: Largest difference between float32 file and torch, as a share of the largest logit.
        images: Number of validation images that both files were scored on.
        float32_hits: Number of those that the float32 file classifies correctly.
        int8_hits: Number of those that the quantised file classifies correctly.
        float32_bytes: Size of the float32 file.
        bad_images: Number of images that could not be read.
    """

    difference: float
    images: int
    float32_hits: int
    int8_hits: int
    float32_bytes: int
    bad_images: int


def export_int8(
    task: ClassificationTask,
    out: Path,
    metadata: Metadata,
    data: str,
    *,
    calibration: int = 256,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress = silent,
) -> Int8Report:
    """Write a quantised ONNX file, calibrated on training images, and score it beside its float32 form.

    Args:
        task: Trained classifier.
        out: Path of the ``.onnx`` file to write; an existing one is replaced in one step.
        metadata: Metadata from `from_task` for any number of images.
        data: Images to calibrate and to score with, as `ctxvision.data.open_data` takes them.
        calibration: Number of training images to calibrate on, spread over all classes.
        batch_size: Number of images that are scored at a time.
        workers: Number of processes that decode images.
        progress: Function that is told how many images have been used; see `ctxvision.progress`.

    Raises:
        ExportError: The network cannot be exported or quantised.
        DataError: The data cannot be used, or no validation image could be read.
    """

    def opened(split: str) -> DigitsData | ImageData:
        spec = DataSpec.from_dict(task.data_spec)
        return open_data(data, spec=spec, batch_size=batch_size, workers=workers, eval_split=split, strict=False)

    held_out, training = opened("val"), opened("train")
    if isinstance(training, ImageData):
        # they are in the order of their classes
        count = len(training.eval_samples)
        few = min(calibration, count)
        training.eval_samples = [training.eval_samples[index * count // few] for index in range(few)]
    sample = next((images for images, _ in _batches(held_out)), None)
    if sample is None:
        raise DataError(f"{data}: no validation image could be read")
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.stem}.") as folder:
        whole = Path(folder) / "float.onnx"
        difference = export_onnx(task.model, whole, metadata=metadata, samples=[sample])
        used = counted(_first(_batches(training), calibration), progress, "calibrating images", size=len)
        quantize_onnx(whole, out, used, input_name="images")
        float32_hits, images = _hits(open_predictor(whole, trust=True), held_out, progress, "float32")
        float32_bytes = os.path.getsize(whole)
    int8_hits, _ = _hits(open_predictor(out, trust=True), held_out, progress, "int8")
    bad = len(held_out.bad_images) + len(training.bad_images)
    return Int8Report(difference, images, float32_hits, int8_hits, float32_bytes, bad)


def _batches(data: DigitsData | ImageData) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in data.val_dataloader():
        images, targets = data.on_after_batch_transfer(batch, 0)
        if len(images):
            yield images, targets


def _first(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> Iterator[Tensor]:
    left = count
    for images, _ in batches:
        if left <= 0:
            return
        yield images[:left]
        left -= len(images)


def _hits(classifier: Predictor, data: DigitsData | ImageData, progress: Progress, form: str) -> tuple[int, int]:
    """Count the images that a network classifies correctly, and all images."""
    hits = count = 0
    total, what = len(data.eval_dataset()), f"scoring images in {form}"
    for images, targets in counted(_batches(data), progress, what, total, size=lambda batch: len(batch[1])):
        logits = cast(Tensor, classifier.raw(images))
        hits += int((logits.argmax(1) == targets).sum())
        count += len(targets)
    return hits, count
