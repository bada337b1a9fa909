"""Trained tasks as graphs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ctxvision.inference import predictor_of
from ctxvision.inference.detection import OUTPUTS
from ctxvision.inference.exported import Exported, ExportError, Metadata

from .photographs import pictures
from .same import difference_of_detections

_TOLERANCE = 1e-3  # of pixels and scores; the order of sums differs in many layers, one after the other

if TYPE_CHECKING:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

    from ctxvision.tasks import Task
    from ctxvision.tasks.video import VideoTask


def from_task(
    task: "Task", *, dynamic_batch: bool = True, dynamic_size: bool = False
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
        task: Trained task, from `load_task`.
        dynamic_batch: Whether the graph takes any number of samples; detectors take one.
        dynamic_size: Whether the graph takes any height and width that the network takes; detectors always do.

    Raises:
        ExportError: The task has no such network.
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
        transform = cast("GeneralizedRCNN | RetinaNet", task.model.network).transform
        settings = {
            "min_size": transform.min_size[-1],
            "max_size": transform.max_size,
            "interpolation": transform.interpolation,
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


def require_same_detections(task: "Task", network: nn.Module, metadata: Metadata) -> None:
    """Compare the graph of a detector with torchvision's way through the trained one, on two photographs.

    Args:
        task: Trained `DetectionTask`, on the CPU.
        network: Exportable network that `from_task` made of the task.
        metadata: Metadata from `from_task`; its settings are compared too, since they say how images are prepared.

    Raises:
        ExportError: The two find other things.
    """
    graph = predictor_of(Exported(Path("the graph"), Metadata.from_json(metadata.to_json()), network.eval()))
    for image in pictures(2, metadata.data_spec.get("in_chans", 3)):
        with torch.inference_mode():
            (found,), (expected,) = cast(list[dict[str, Tensor]], graph.raw([image])), task([image])
        # not the masks: they are pasted into boxes of whole pixels, where rounding moves them by one
        outputs = [tuple(one[name] for name in OUTPUTS[:3]) for one in (found, expected)]
        difference = difference_of_detections(*outputs)
        if not difference <= _TOLERANCE:
            raise ExportError(
                f"the graph of this detector differs from it by {difference:.2g} of the largest value"
            )


class _ClipNetwork(nn.Module):
    """The network of a video task with its temporal shifts, for clips of as many frames as it was trained on."""

    def __init__(self, task: "VideoTask") -> None:
        super().__init__()
        self.model, self.has_stage_outputs = task.model, task.has_stage_outputs
        self.frames: int = task.data_spec["frames"]
        task.shifts.frames = self.frames

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        from ctxvision.tasks.video import clip_consensus

        images = clips.flatten(0, 1)
        output = cast(Any, self.model).forward_stages(images) if self.has_stage_outputs else self.model(images)
        together = clip_consensus(output, self.frames)
        by_frame = output.logits if self.has_stage_outputs else output
        logits = together if isinstance(together, Tensor) else together.logits
        return logits, by_frame.unflatten(0, (-1, self.frames))
