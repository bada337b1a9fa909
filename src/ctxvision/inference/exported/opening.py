"""An exported network, whatever its file is."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .error import ExportError
from .metadata import KEY, Metadata

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
        raise ExportError(f"{path}: no such file")
    if path.suffix.lower() == ".pt2":
        from .pt2_reading import open_pt2

        run, metadata = open_pt2(path, trust=trust)
        return Exported(path, metadata, run)
    if path.suffix.lower() != ".onnx":
        raise ExportError(f"{path}: exported networks are {' or '.join(SUFFIXES)} files")
    from .onnx_model import require_harmless
    from .onnx_session import open_session, run_session

    if not trust:
        require_harmless(path)
    session = open_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if not text:
        raise ExportError(f"{path}: not a file of `ctxvision export`, it says nothing about its images")
    metadata = Metadata.from_json(text, where=path, trust=trust)
    return Exported(path, metadata, lambda *inputs: run_session(session, *inputs))
