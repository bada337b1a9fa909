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
        compute: logits (B, N) of normalised images (B, C, H, W), on the CPU.
    """

    path: Path
    metadata: Metadata
    compute: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, N) of normalised images (B, C, H, W); one by one where the file takes no batches.

        Raises:
            ExportError: images of another size.
        """
        if self.metadata.dynamic_batch or len(images) == 1:
            return self.compute(images)
        import torch

        return torch.cat([self.compute(image[None]) for image in images])


def open_exported(path: str | os.PathLike[str]) -> Exported:
    """Open a ``.onnx`` or ``.pt2`` file of `ctxvision export`.

    Raises:
        ExportError: no such file, not one of ours, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    if path.suffix.lower() == ".pt2":
        from .pt2_file import open_pt2

        compute, metadata = open_pt2(path)
        return Exported(path, metadata, compute)
    if path.suffix.lower() != ".onnx":
        raise ExportError(f"{path}: exported networks are {' or '.join(SUFFIXES)} files")
    from .onnx_file import open_session, run_session

    session = open_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if not text:
        raise ExportError(f"{path}: not a file of `ctxvision export`, it says nothing about its images")
    return Exported(path, Metadata.from_json(text), lambda images: run_session(session, images))
