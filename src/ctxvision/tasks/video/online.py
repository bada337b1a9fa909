"""A network with temporal shifts on a stream: one frame at a time, without looking at any frame twice."""

import torch
from torch import Tensor

from ctxvision.tasks.error import TaskError

from .task import VideoTask


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
