"""Video classification: a network of images with temporal shifts (TSM, without them TSN), clips and streams."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ctxvision.data import ClipSpec
from ctxvision.nn.contextual_loss import LossClasses
from ctxvision.tasks.classifier import Batch, ClassifierTask, logits_of
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.optimization import Optimization

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
        stage_alpha: The weight α of the loss of each stage of a contextual network beside that of the head.
        loss_classes: The classes over which a contextual network's stage is trained, see `ContextualLoss`.
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
        stage_alpha: float = 0.15,
        loss_classes: LossClasses = "considered",
        channels_last: bool = True,
        **optimization: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.begin(data_spec, optimization)
        self.build(drop_path_rate=drop_path_rate, dropout=dropout, channels_last=channels_last)
        self.shifts = TemporalShifts(self.model, self.data_spec["frames"], shift, shift_divisor, shift_layers)
        self.train_loss = ClipLoss(stage_alpha, label_smoothing, loss_classes)
        self.val_loss = ClipLoss(stage_alpha)

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


class OnlineTsm:
    """Classifies a stream frame by frame, as the one-directional network would classify it as one long clip.

    Between two frames it remembers, for each residual block, the channels that shift forward in time: an eighth of
    its input, of one frame. Of each block's input that much is copied, and nothing else.

    A stream belongs to one thing that is watched; several may share a task, one after the other.

    Args:
        task: A task trained with ``shift="past"``, or ``"none"``; it is put into evaluation mode.

    Raises:
        TaskError: The network also shifts from the future.

    Examples:
        >>> spec = {"class_names": ["left", "right"], "input_size": [3, 32, 32], "frames": 4}
        >>> stream = OnlineTsm(VideoTask("resnet10t", spec, shift="past"))
        >>> stream(torch.zeros(3, 32, 32)).shape  # logits of this frame, which knows those before it
        torch.Size([2])
    """

    def __init__(self, task: VideoTask) -> None:
        if task.shifts.shift == "both":
            raise TaskError(
                "a stream has no future frames, which this network was trained with; train it with --shift past"
            )
        self.task = task.eval()
        self.reset()

    def reset(self) -> None:
        """Begin another stream."""
        self._cache: dict[str, Tensor] = {}
        self._shape: torch.Size | None = None
        self.frames = 0
        self._sum: Tensor | None = None

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Tensor:
        """Return the logits of the next frame, (num_classes,), or of as many streams, (B, num_classes).

        Args:
            frame: The frame, (C, H, W), or the frames of B streams that go in step, (B, C, H, W); normalised as in
                training.

        Raises:
            TaskError: The frame has another shape than the frames before.
        """
        if frame.dim() not in (3, 4):
            raise TaskError(f"a frame must be (C, H, W) or (B, C, H, W), got {tuple(frame.shape)}")
        if self._shape not in (None, frame.shape):
            raise TaskError(
                f"a frame of {tuple(frame.shape)} follows frames of {tuple(self._shape or ())}; "
                "resize it, or begin another stream with reset()"
            )
        self._shape = frame.shape
        images = frame if frame.dim() == 4 else frame.unsqueeze(0)
        # a copy, because the first layer may be one that is lent channels of the past
        images = images.clone(memory_format=self.task.memory_format)
        with self.task.shifts.streaming(self._cache):
            logits: Tensor = self.task.model(images)
        self.frames += 1
        self._sum = logits.float().softmax(1) + (0 if self._sum is None else self._sum)
        return logits if frame.dim() == 4 else logits[0]

    @property
    def probabilities(self) -> Tensor:
        """The mean class probabilities of all frames since the beginning, (num_classes,) or (B, num_classes).

        Raises:
            TaskError: No frame has come yet.
        """
        if self._sum is None or self._shape is None:
            raise TaskError("no frame of this stream has come yet")
        mean = self._sum / self.frames
        return mean if len(self._shape) == 4 else mean[0]
