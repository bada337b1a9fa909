"""Video classification: a network of images with temporal shifts, trained on clips (TSM; without shifts TSN)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ctxvision.data import ClipSpec
from ctxvision.tasks.classifier import Batch, ClassifierTask, logits_of
from ctxvision.tasks.task import Optimization

from .consensus import ClipLoss, ClipOutput, clip_consensus
from .shifts import Shift, TemporalShifts


class VideoTask(ClassifierTask):
    """Trains one of timm's networks, or ours, on videos with one class each.

    The network sees every frame by itself, but for an eighth of its channels each way, which the first layer of
    each residual branch takes from the frames beside (Lin, Gan, Han, TSM, ICCV 2019); what the frames say is
    averaged (`clip_consensus`). Its parameters are those of the network for images, under the same names, so that
    weights trained on images load.

    Every argument is a plain Python value and travels in the checkpoint; see `ctxvision.tasks.load_task`.

    Args:
        model: The registered name of the network.
        data_spec: The fields of `ctxvision.data.ClipSpec`, see its ``to_dict``; the task itself needs
            ``class_names``, ``input_size`` and ``frames``.
        shift: The direction that shifted channels come from: ``both`` directions in time, the ``past`` alone, for
            streams (`OnlineTsm`), or ``none``, which is TSN.
        shift_divisor: The divisor of the number of channels that are shifted each way; 8 shifts an eighth.
        shift_layers: The names of the layers before which channels are shifted; by default `residual_layers` finds
            them.
        model_args: More arguments of the network's constructor.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch.
        dropout: The probability that dropout zeroes a feature before the classifier, in each frame by itself.
        label_smoothing: The share of the target that is spread over all classes.
        channels_last: Whether the network and its input are channels-last in memory.
        optimization: The fields of `ctxvision.tasks.Optimization`, by default SGD with a cosine schedule.

    Raises:
        TaskError: The model or the optimiser is unknown, arguments do not fit, or the network has no residual
            blocks.

    Examples:
        >>> spec = {"class_names": ["left", "right"], "input_size": [3, 32, 32], "frames": 4}
        >>> task = VideoTask("resnet10t", spec)
        >>> task(torch.zeros(2, 4, 3, 32, 32)).shape
        torch.Size([2, 2])
    """

    kind = "video"
    sample_name = "video"
    defaults = Optimization(optimizer="sgd", lr=0.01, weight_decay=1e-4)

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        shift: Shift = "both",
        shift_divisor: int = 8,
        shift_layers: Sequence[str] = (),
        model_args: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        dropout: float = 0.5,
        label_smoothing: float = 0.0,
        channels_last: bool = True,
        **optimization: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.begin(data_spec, optimization)
        self.build(drop_path_rate=drop_path_rate, dropout=dropout, channels_last=channels_last)
        self.shifts = TemporalShifts(self.model, self.data_spec["frames"], shift, shift_divisor, shift_layers)
        self.train_loss, self.val_loss = ClipLoss(label_smoothing=label_smoothing), ClipLoss()

    @property
    def spec(self) -> ClipSpec:
        """The description of the clips.

        Raises:
            DataError: The task was built from less than a whole description.
        """
        return ClipSpec.from_dict(self.data_spec)

    def example_input(self) -> Tensor:
        """Return one black clip, (1, T, C, H, W)."""
        return torch.zeros(
            1, self.data_spec["frames"], *self.data_spec["input_size"], dtype=torch.float32, device="cpu"
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips (B, T, C, H, W): logits (B, num_classes)."""
        output = self.classify(clips)[0]
        return output if isinstance(output, Tensor) else output.logits

    def classify(self, clips: Tensor) -> tuple[ClipOutput | Tensor, Tensor]:
        """Classify clips (B, T, C, H, W), as a whole and frame by frame.

        Returns:
            The consensus of the frames, which `ClipLoss` takes, and the logits of the frames, (B, T, num_classes).

        Raises:
            ValueError: The clips have another shape.
        """
        if clips.dim() != 5:
            raise ValueError(f"clips must be (B, T, C, H, W), got {tuple(clips.shape)}")
        count, frames = clips.shape[:2]
        self.shifts.frames = frames
        output = self.outputs(clips.flatten(0, 1))
        by_frame: Tensor = logits_of(output).unflatten(0, (count, frames))
        return clip_consensus(output, frames), by_frame

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of clips (B, T, C, H, W) with classes (B,); of an empty one, `loss_of_nothing`."""
        clips, targets = batch
        if not len(clips):
            return self.loss_of_nothing()
        self.expect(clips.shape[0] * clips.shape[1])
        loss: Tensor = self.train_loss(self.classify(clips)[0], targets)
        self.log_train_loss(loss, len(clips))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Score a batch of videos: clips (B, T, C, H, W), or several views of each, (B, V, T, C, H, W).

        Returns:
            The mean ``probabilities`` over the views, (B, num_classes), and the ``targets`` (B,), for callbacks.
        """
        clips, targets = batch
        if not len(clips):
            return None
        views = clips.shape[1] if clips.dim() == 6 else 1
        output, _ = self.classify(clips.flatten(0, 1) if clips.dim() == 6 else clips)
        loss = self.val_loss(output, targets.repeat_interleave(views))
        logits = output if isinstance(output, Tensor) else output.logits
        probabilities = logits.float().softmax(1).unflatten(0, (-1, views)).mean(1)
        self.score(probabilities, loss, targets)
        return {"probabilities": probabilities, "targets": targets}
