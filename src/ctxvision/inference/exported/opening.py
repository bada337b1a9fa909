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
        path: of its file.
        metadata: what the file says about itself.
        run: the graph's outputs for its inputs, on the CPU; for detectors see `DetectorGraph`.
    """

    path: Path
    metadata: Metadata
    run: Callable[..., tuple[Tensor, ...]]

    def compute(self, images: Tensor) -> Tensor:
        """Return the graph's first output, as the graph takes batches."""
        return self.run(images)[0]

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits of normalised images or clips; one by one where the file takes no batches.

        Args:
            images: (B, C, H, W), of clips (B, T, C, H, W).

        Returns:
            (B, N), of segmentation (B, N, H, W).

        Raises:
            ExportError: images of another size.
        """
        return self.all_outputs(images)[0]

    def all_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs; of clips the logits of their frames (B, T, N) come second.

        Raises:
            ExportError: images of another size.
        """
        if self.metadata.dynamic_batch or len(images) == 1:
            return self.run(images)
        import torch

        singly = [self.run(image[None]) for image in images]
        return tuple(torch.cat(output) for output in zip(*singly, strict=True))


def open_exported(path: str | os.PathLike[str], *, trust: bool = False) -> Exported:
    """Open a ``.onnx`` or ``.pt2`` file of `ctxvision export`, which need not be trusted.

    Args:
        path: path of the file.
        trust: let a ``.pt2`` file run code of its own, an ``.onnx`` file read others, and their settings ask for
            more than a network usually does.

    Raises:
        ExportError: no such file, not one of ours, damaged, its weights are no numbers, or it needs trust.
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
