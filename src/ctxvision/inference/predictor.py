"""One call for every task: files or images in, typed answers out."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ctxvision.data import ClipSpec, DataSpec, DetectionSpec, SegmentationSpec
from ctxvision.data.error import BadImageError
from ctxvision.data.files import Listing, list_below
from ctxvision.data.images.reading import HINTS, is_image, read_image
from ctxvision.data.module import workers_for
from ctxvision.data.video.reading import Video, VideoFile, VideoInMemory
from ctxvision.tasks import Task

from .answer import Answer, InferenceError
from .exported import Exported
from .preparing import Optimize, Preparation

InMemory: TypeAlias = Image.Image | NDArray[np.uint8] | Tensor
Source: TypeAlias = str | os.PathLike[str] | InMemory
_IN_MEMORY = "an image in memory"


def read_picture(source: Source, color_mode: str) -> Image.Image:
    """Return an image in the mode of a network.

    Args:
        source: A path, an image of PIL's, a NumPy array (H, W), (H, W, 1) or (H, W, 3) uint8, or a torch tensor
            (H, W), (1, H, W) or (3, H, W) uint8.
        color_mode: The mode of the result, ``"RGB"`` or ``"L"``.

    Raises:
        BadImageError: The image cannot be read.
        InferenceError: An array or a tensor has another shape or dtype.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(source, color_mode)
    picture = source if isinstance(source, Image.Image) else Image.fromarray(_as_array(source))
    return read_image(picture, color_mode, _IN_MEMORY)


def _as_array(source: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
    """Return pixels (H, W) or (H, W, 3)."""
    channels_last = isinstance(source, np.ndarray)
    shape = "(height, width, 1 or 3)" if channels_last else "(1 or 3, height, width)"
    pixels = source if isinstance(source, np.ndarray) else as_numpy(source)
    if pixels.dtype != np.uint8:
        raise InferenceError(f"an image in memory holds uint8 pixels from 0 to 255, got {pixels.dtype}")
    if not channels_last and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or not pixels.size or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise InferenceError(f"an image in memory is {shape}, got {tuple(source.shape)}")
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def as_numpy(tensor: Tensor) -> NDArray[np.uint8]:
    """Return a tensor's values as an array on the CPU.

    Raises:
        InferenceError: The tensor does not hold 8-bit pixels.
    """
    if tensor.dtype != torch.uint8:
        raise InferenceError(f"pixels in memory are uint8, from 0 to 255, got {tensor.dtype}")
    array: NDArray[np.uint8] = tensor.detach().cpu().numpy()
    return array


Spec: TypeAlias = DataSpec | DetectionSpec | SegmentationSpec | ClipSpec
Batch: TypeAlias = Tensor | Sequence[Tensor]
Raw: TypeAlias = Tensor | list[Tensor] | list[dict[str, Tensor]]
Opened: TypeAlias = Task | Exported | nn.Module
Given: TypeAlias = Source | Video
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a call of a predictor asks for; see `Predictor.__call__`."""

    top_k: int = 5
    threshold: float = 0.5
    clips: int = 1
    crops: int = 1

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InferenceError(f"top_k must be at least 1, got {self.top_k}")
        if not 0 <= self.threshold <= 1:
            raise InferenceError(f"threshold must be between 0 and 1, got {self.threshold}")
        if self.clips < 1 or self.crops not in (1, 3):
            raise InferenceError(f"clips must be at least 1, crops 1 or 3, got {self.clips} and {self.crops}")


@dataclass(frozen=True)
class Prepare:
    """Makes a sample of an image; worker processes can be given it.

    Attributes:
        transform: The function from an image in the mode of the network to the sample.
        color_mode: The mode of the images that the network takes, ``"RGB"`` or ``"L"``.
    """

    transform: Callable[[Image.Image], Tensor]
    color_mode: str

    def __call__(self, source: Source) -> Tensor:
        """Return the sample; see `read_picture` for the errors."""
        return self.transform(read_picture(source, self.color_mode))


def described(opened: "Task | Exported") -> Mapping[str, Any]:
    """Return the description of the data that a trained task or an exported file holds."""
    return opened.metadata.data_spec if isinstance(opened, Exported) else opened.data_spec


class Predictor(ABC):
    """A trained network that answers: see `open_predictor`.

    Attributes:
        task: The task that the network was trained for, one of `ctxvision.tasks.registry.TASKS`.
        class_names: The names of the classes.
        data_spec: The description of the images or clips that the network takes.
        module: The trained task of a checkpoint, or of a name with pretrained weights; ``None`` for a network that
            comes from anything else.
        network: The network itself; ``None`` for an exported file. What answers may be a copy of it that was
            prepared for speed, see `open_predictor`.
        exported: The exported file; ``None`` for a network that comes from anything else.
        sample_name: The word for what an answer is about, ``"image"`` or ``"video"``.
        batch_size: The number of images or videos that a call computes at a time by default.
        answer_type: The class of the answers.
    """

    task: ClassVar[str]
    sample_name: ClassVar[str] = "image"
    batch_size: ClassVar[int] = 1
    data_spec: Spec
    answer_type: ClassVar[type[Answer]]
    _takes: "ClassVar[staticmethod[[str], bool]]" = staticmethod(is_image)  # by the name of a file
    _axes: ClassVar[int] = 3  # of an array that is one image or one video
    _part: ClassVar[str] = "model"  # of a task, which takes one tensor of images
    _pays_from: ClassVar[int] = 8  # samples, see `Preparation`

    def __init__(self, opened: Opened, device: torch.device, optimize: Optimize = "none") -> None:
        self.module = opened if isinstance(opened, Task) else None
        self.exported = opened if isinstance(opened, Exported) else None
        self.network: nn.Module | None = None
        if isinstance(opened, nn.Module):
            opened.to(device).eval()
            self.network = opened.model if isinstance(opened, Task) else opened
        self.device = device
        self._optimize = optimize

    @cached_property
    def _ready(self) -> Preparation | None:
        opened = self.network if self.module is None else self.module
        if opened is None:
            return None
        part = "" if self.module is None else self._part
        return Preparation(opened, part, self._example(), self._optimize, self._pays_from)

    @abstractmethod
    def _example(self) -> Tensor:
        """Return images as the network takes them, (1, C, H, W), of which only the shape matters."""

    def expect(self, samples: int) -> None:
        """Say how many samples `raw` will be asked about, so that the network is prepared where that pays."""
        if self._ready is not None:
            self._ready.expect(samples)

    def computing(self, samples: int) -> Any:
        """Return what computes the next samples: the network, or the copy of it that was prepared.

        Args:
            samples: The number of samples.

        Raises:
            InferenceError: The network is an exported file.
        """
        if self._ready is None:
            raise InferenceError("an exported file has no network")
        return self._ready(samples)

    @property
    def prepared(self) -> str:
        """What was done to the network that answers, ``"BatchNorm folded into 53 layers"``; empty if nothing."""
        return "" if self._ready is None else self._ready.done

    @property
    def model_name(self) -> str:
        """The registered name of the network, of a detector or a segmentation network that of its backbone."""
        if self.exported:
            return self.exported.metadata.model
        if self.module is not None:
            return str(self.module.hparams["model"])
        about: Mapping[str, Any] = getattr(self.network, "pretrained_cfg", {})
        return str(about.get("architecture", "network"))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.data_spec.class_names

    @abstractmethod
    def raw(self, batch: Batch) -> Raw:
        """Return what the network computes for a batch as the task's data loader gives it, without gradients."""

    @abstractmethod
    def resize_by(self, interpolation: str) -> None:
        """Resize with another filter from now on than the one that the network was trained with.

        Args:
            interpolation: The filter, one of `ctxvision.data.spec.Interpolation`.

        Raises:
            InferenceError: This network's images are never resized, or not with this filter.
        """

    def list_files(self, folder: str | os.PathLike[str]) -> Listing:
        """List the files below a folder that the network can answer about, and count what else is there."""
        return list_below(folder, self._takes)

    @abstractmethod
    def _preparation(self, wanted: Wanted) -> Callable[[Any], Any]:
        """Return a function that makes a sample of a path or of an image; worker processes can be given it.

        The function raises `BadImageError` where that cannot be read.
        """

    @abstractmethod
    def _answers(self, samples: Sequence[Any], paths: Sequence[str | None], wanted: Wanted) -> Iterable[Answer]:
        """Return the answers about samples of `_preparation`, in their order."""

    def __call__(
        self,
        inputs: Given | Iterable[Given],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        top_k: int = 5,
        threshold: float = 0.5,
        clips: int = 1,
        crops: int = 1,
    ) -> Iterator[Answer]:
        """Answer about files, or about images or videos in memory.

        What cannot be read, and what the network has no finite number for, gets an answer with an ``error``.

        Args:
            inputs: An input, or any number of inputs: a path of a file; a path of a folder, which stands for the
                files below it; for images, an image of PIL's, a NumPy array (H, W, C) or a torch tensor (C, H, W);
                for videos, a NumPy array (T, H, W, 3) or a torch tensor (T, 3, H, W). Pixels are uint8.
            batch_size: The number of images or videos that are computed at a time; by default the attribute
                `batch_size`.
            workers: The number of processes that read files; by default one for each processor, at most 8, where
                there is enough to read.
            top_k: The number of classes that an answer about an image or a video names.
            threshold: The least score of an object that a detector reports.
            clips: The number of clips, spread over a video, that are looked at and averaged.
            crops: The number of crops of a clip that are looked at and averaged, 1 or 3.

        Returns:
            The answers in the order of the inputs, each computed when it is asked for: `Classes`, `Objects`,
            `Pixels` or `Clip`, by the task.

        Raises:
            InferenceError: A value is not possible, a folder holds nothing that the network can answer about, or
                an array has another shape or dtype.
        """
        wanted = Wanted(top_k, threshold, clips, crops)
        size = self.batch_size if batch_size is None else batch_size
        if size < 1 or (workers is not None and workers < 0):
            raise InferenceError(f"batch_size must be at least 1, workers at least 0, got {size} and {workers}")
        items = list(self.expanded(inputs))
        self.expect(len(items))
        if workers is None:
            workers = workers_for(len(items), max(size, _WORTH_A_PROCESS))
        return self._loop(items, wanted, size, workers)

    def expanded(self, inputs: Given | Iterable[Given]) -> Iterator[Given]:
        """Yield the inputs one by one, and in the place of a folder the files below it.

        Args:
            inputs: The inputs, as a call takes them.

        Raises:
            InferenceError: A folder holds nothing that the network can answer about.
        """
        several = not isinstance(inputs, str | os.PathLike | Image.Image | VideoFile | VideoInMemory)
        if isinstance(inputs, np.ndarray | Tensor):
            several = inputs.ndim > self._axes
        for given in cast(Iterable[Given], inputs) if several else [cast(Given, inputs)]:
            if not isinstance(given, str | os.PathLike) or not os.path.isdir(given):
                yield given
                continue
            found, what = self.list_files(given), f"{self.sample_name}s"
            summary = found.summary(HINTS)
            if not found.files:
                raise InferenceError(
                    f"{os.fspath(given)}: no {what} in this folder" + (f"; {summary}" if summary else "")
                )
            if summary:
                _log.warning("%s: %s", os.fspath(given), summary)
            yield from found.files

    def _loop(self, items: Sequence[Given], wanted: Wanted, batch_size: int, workers: int) -> Iterator[Answer]:
        prepared = _Prepared(items, self._preparation(wanted))
        paths = iter([os.fspath(item) if isinstance(item, str | os.PathLike) else None for item in items])
        for batch in DataLoader(prepared, batch_size=batch_size, num_workers=workers, collate_fn=list):
            batch_paths = [next(paths) for _ in batch]
            good = [place for place, sample in enumerate(batch) if not isinstance(sample, _Unread)]
            samples, sample_paths = [batch[place] for place in good], [batch_paths[place] for place in good]
            answers = iter(self._answers(samples, sample_paths, wanted) if samples else ())
            for path, sample in zip(batch_paths, batch, strict=True):
                yield self.answer_type(path, sample.reason) if isinstance(sample, _Unread) else next(answers)


_WORTH_A_PROCESS = 32  # images or videos: to start a process for fewer takes longer than it saves


@dataclass(frozen=True)
class _Unread:
    reason: str


class _Prepared(Dataset[Any]):
    """Samples made of inputs; what cannot be read becomes an `_Unread`."""

    def __init__(self, items: Sequence[Given], prepare: Callable[[Given], Any]) -> None:
        self.items, self.prepare = items, prepare

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.prepare(self.items[index])
        except BadImageError as error:
            return _Unread(error.reason)
