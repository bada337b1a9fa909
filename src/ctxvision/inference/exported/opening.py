"""An exported network, whatever its file is, and what travels with it: preprocessing, class names, its origin."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ctxvision._version import __version__
from ctxvision.files import near_path
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.limits import require_moderate


class ExportError(ValueError):
    """The message is one line and names what to do."""


KEY = "ctxvision"
_FORMAT = 1
_TYPES: dict[str, type] = {
    "model": str, "task": str, "data_spec": dict, "dynamic_batch": bool, "dynamic_size": bool,
    "quantization": str, "version": str, "settings": dict,
}  # fmt: skip
_OPTIONAL = {"dynamic_batch", "dynamic_size", "quantization", "version", "settings"}
_NAMES = {str: "a text", dict: "an object", bool: "true or false"}


@dataclass(frozen=True)
class Metadata:
    """Plain values, stored as JSON under the key ``ctxvision``.

    Attributes:
        model: Registered name of the network.
        task: Kind of task that the network was trained for, as `ctxvision.tasks` calls it.
        data_spec: Description of the data, ``to_dict`` of the task's `DataSpec`, `SegmentationSpec`, `ClipSpec` or
            `DetectionSpec`: class names and, except for detection, input size and normalisation.
        dynamic_batch: Whether the graph takes any number of images.
        dynamic_size: Whether the graph takes any height and width.
        quantization: Kind of quantisation, ``"int8"``, or ``"none"``.
        version: Version of this library that wrote the file.
        settings: Further settings that a task needs around the graph, see `ctxvision.export.from_task`.
    """

    model: str
    task: str
    data_spec: Mapping[str, Any]
    dynamic_batch: bool = True
    dynamic_size: bool = False
    quantization: str = "none"
    version: str = __version__
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, *, where: object = "the graph", trust: bool = False) -> "Metadata":
        """Read what `to_json` wrote.

        Args:
            text: Text in JSON that `to_json` returned.
            where: The file, for messages.
            trust: Whether the settings may ask for more than a network usually does.

        Raises:
            ExportError: The text is something else.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{where}: its metadata are not JSON") from error
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise ExportError(f"{where}: its metadata are not of format {_FORMAT} of `ctxvision export`")
        for name, kind in _TYPES.items():
            if not isinstance(values.get(name, kind() if name in _OPTIONAL else None), kind):
                raise ExportError(f"{where}: in its metadata, {name} is not {_NAMES[kind]}")
        found = cls(
            **{name: value for name, value in values.items() if name in _TYPES}
        )  # a later version has more
        try:
            require_moderate(found.task, found.data_spec, found.settings, trust=trust)
        except TaskError as error:
            raise ExportError(f"{where}: {error}") from error
        return found


SUFFIXES = (".onnx", ".pt2")


@dataclass(frozen=True)
class Exported:
    """A network that needs neither its checkpoint nor its code.

    Attributes:
        path: Path of the exported file.
        metadata: Description of the network that the file holds.
        run: Function that computes the graph's outputs from its inputs, on the CPU. It maps images (B, C, H, W) or
            clips (B, T, C, H, W) to logits first; for detectors see `DetectorGraph`.
    """

    path: Path
    metadata: Metadata
    run: Callable[..., tuple[Tensor, ...]]

    def compute(self, images: Tensor) -> Tensor:
        """Return the graph's first output for images (B, C, H, W) or clips (B, T, C, H, W), all of them at once.

        The output is logits, (B, N), or of a segmentation network (B, N, H, W). B must be 1 where the file
        takes no batches.
        """
        return self.run(images)[0]

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits of normalised images or clips; one by one where the file takes no batches.

        Args:
            images: Normalised images, (B, C, H, W), or clips, (B, T, C, H, W).

        Returns:
            Logits of N classes, (B, N), or of a segmentation network (B, N, H, W).

        Raises:
            ExportError: The images have another size than the graph takes.
        """
        return self.all_outputs(images)[0]

    def all_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs for images (B, C, H, W), or clips (B, T, C, H, W).

        The logits of clips, (B, N), are followed by the logits of their frames, (B, T, N).

        Raises:
            ExportError: The images have another size than the graph takes.
        """
        if self.metadata.dynamic_batch or len(images) == 1:
            return self.run(images)
        import torch

        singly = [self.run(image[None]) for image in images]
        return tuple(torch.cat(output) for output in zip(*singly, strict=True))


def open_exported(path: str | os.PathLike[str], *, trust: bool = False) -> Exported:
    """Open a ``.onnx`` or ``.pt2`` file of `ctxvision export`, which need not be trusted.

    Args:
        path: Path of the file.
        trust: Whether a ``.pt2`` file may run code of its own, an ``.onnx`` file may read other files, and their
            settings may ask for more than a network usually does.

    Raises:
        ExportError: There is no such file, it was not written by this library, it is damaged, its weights are no
            numbers, or it needs trust.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path}: no such file{near_path(path)}")
    if path.suffix.lower() == ".pt2":
        from .pt2_reading import open_pt2

        run, metadata = open_pt2(path, trust=trust)
        return Exported(path, metadata, run)
    if path.suffix.lower() != ".onnx":
        raise ExportError(f"{path}: exported networks are {' or '.join(SUFFIXES)} files")
    from .onnx_reading import open_session, require_harmless, run_session

    if not trust:
        require_harmless(path)
    session = open_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if not text:
        raise ExportError(f"{path}: not a file of `ctxvision export`, it says nothing about its images")
    metadata = Metadata.from_json(text, where=path, trust=trust)
    return Exported(path, metadata, lambda *inputs: run_session(session, *inputs))
