"""Trained tasks as graphs, and exported graphs in the place of trained tasks."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .error import ExportError
from .exported import Exported
from .metadata import Metadata
from .photographs import pictures
from .same import difference_of_detections

_OUTPUTS = ("boxes", "labels", "scores", "masks")
_TOLERANCE = 1e-3  # of pixels and scores; the order of sums differs in many layers, one after the other

if TYPE_CHECKING:
    from ctxvision.tasks.segmentation import Segmentation
    from ctxvision.tasks.training import TrainingTask
    from ctxvision.tasks.video import VideoTask


def from_task(
    task: "TrainingTask", *, dynamic_batch: bool = True, dynamic_size: bool = False
) -> tuple[nn.Module, Metadata]:
    """Return what `export_onnx` and `export_pt2` take: the network of a trained task, and what travels with it.

    What the network takes and returns, by task:

    - classification: images (B, C, H, W) to ``logits`` (B, N);
    - segmentation: images to ``logits`` (B, N, H, W); the settings have ``window`` and ``stride``, if the task
      slides a window over images;
    - video: ``clips`` (B, T, C, H, W) to ``logits`` (B, N) and ``frame_logits`` (B, T, N);
    - detection: see `DetectorGraph`; the settings say how an image is resized (``min_size``, ``max_size``),
      normalised (``mean``, ``std``) and padded (to multiples of 32).

    Args:
        task: task from `load_task`.
        dynamic_batch: whether the graph takes any number of samples; detectors take one.
        dynamic_size: whether it takes any height and width that the network takes; detectors always do.

    Raises:
        ExportError: a task that has no such network.
    """
    settings: dict[str, Any] = {}
    network: nn.Module = task.model
    if task.kind == "segmentation":
        settings = {"window": task.window, "stride": task.window_stride}
    elif task.kind == "video":
        network = _ClipNetwork(task)  # type: ignore[arg-type]
    elif task.kind == "detection":
        from .detector_graph import DetectorGraph

        network, dynamic_batch, dynamic_size = DetectorGraph(task.model), False, True  # type: ignore[arg-type]
        transform = task.model.network.transform  # type: ignore[union-attr]
        settings = {
            "min_size": transform.min_size[-1],
            "max_size": transform.max_size,
            "mean": list(transform.image_mean),
            "std": list(transform.image_std),
            "masks": task.model.has_masks,
        }
    elif task.kind != "classification":
        raise ExportError(f"networks for {task.kind} cannot be exported")
    metadata = Metadata(
        model=task.hparams["model"],
        task=task.kind,
        data_spec=task.data_spec,
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        settings=settings,
    )
    return network, metadata


def as_task(exported: Exported) -> Any:
    """Return what stands for the trained task of an exported network wherever answers are made, on the CPU.

    Raises:
        ExportError: there is nothing that stands for its task.
    """
    known = {"segmentation": _SegmentationStandIn, "video": _VideoStandIn, "detection": _DetectionStandIn}
    if exported.metadata.task not in known:
        raise ExportError(f"{exported.path}: its task is {exported.metadata.task}, not {', '.join(known)}")
    try:
        return known[exported.metadata.task](exported)
    except (KeyError, TypeError) as error:
        raise ExportError(f"{exported.path}: its metadata are incomplete ({error})") from error


def require_same_detections(task: "TrainingTask", network: nn.Module, metadata: Metadata) -> None:
    """Compare the graph of a detector with torchvision's way through the trained one, on two photographs.

    Args:
        task: a `DetectionTask`, on the CPU.
        network: exportable network that `from_task` made of the task.
        metadata: metadata from `from_task`; its settings are compared too, since they say how images are prepared.

    Raises:
        ExportError: they find other things.
    """
    standing = as_task(Exported(Path("the graph"), Metadata.from_json(metadata.to_json()), network.eval()))
    for image in pictures(2, metadata.data_spec.get("in_chans", 3)):
        with torch.inference_mode():
            (found,), (expected,) = standing([image]), task([image])
        # not the masks: they are pasted into boxes of whole pixels, where rounding moves them by one
        outputs = [tuple(one[name] for name in _OUTPUTS[:3]) for one in (found, expected)]
        difference = difference_of_detections(*outputs)
        if not difference <= _TOLERANCE:
            raise ExportError(
                f"the graph of this detector differs from it by {difference:.2g} of the largest value"
            )


class _ClipNetwork(nn.Module):
    """The network of a video task with its temporal shifts, for clips of as many frames as it was trained on."""

    def __init__(self, task: "VideoTask") -> None:
        super().__init__()
        self.model, self.is_contextual = task.model, task.is_contextual
        self.frames: int = task.data_spec["frames"]
        task.shifts.frames = self.frames

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        from ctxvision.tasks.video import clip_consensus

        images = clips.flatten(0, 1)
        output = self.model.forward_stages(images) if self.is_contextual else self.model(images)
        together = clip_consensus(output, self.frames)
        by_frame = output.logits if self.is_contextual else output
        logits = together if isinstance(together, Tensor) else together.logits
        return logits, by_frame.unflatten(0, (-1, self.frames))


class _StandIn:
    """What the command line asks of every task."""

    sample_name = "image"

    def __init__(self, exported: Exported) -> None:
        self.exported, self.kind = exported, exported.metadata.task
        self.data_spec, self.settings = dict(exported.metadata.data_spec), exported.metadata.settings
        self.device = torch.device("cpu")

    def eval(self) -> "_StandIn":
        return self


class _SegmentationStandIn(_StandIn):
    def __init__(self, exported: Exported) -> None:
        super().__init__(exported)
        window, stride = self.settings["window"], self.settings["stride"]
        self.window, self.stride = (None if pair is None else (pair[0], pair[1]) for pair in (window, stride))

    def segment(self, image: Tensor) -> "Segmentation":
        from ctxvision.tasks.segmentation import segment

        return segment(self.exported, image, window=self.window, stride=self.stride)


class _VideoStandIn(_StandIn):
    sample_name = "video"

    def classify(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        logits, by_frame = self.exported.all_outputs(clips)
        return logits, by_frame


class _DetectionStandIn(_StandIn):
    def __init__(self, exported: Exported) -> None:
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        super().__init__(exported)
        s = self.settings
        self.model = SimpleNamespace(has_masks=s["masks"], in_chans=self.data_spec.get("in_chans", 3))
        self.transform = GeneralizedRCNNTransform(s["min_size"], s["max_size"], s["mean"], s["std"]).eval()

    def __call__(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            prepared, _ = self.transform([image])
            size = prepared.image_sizes[0]
            outputs = self.exported.run(prepared.tensors, torch.tensor(size, device="cpu"))
            one = dict(zip(_OUTPUTS, outputs, strict=False))
            found += self.transform.postprocess([one], [size], [tuple(image.shape[-2:])])
        return found
