"""Networks as files that need neither this library nor Python: ONNX, and `torch.export`'s ``.pt2``."""

from ctxvision.inference.exported import Exported, ExportError, Metadata, open_exported, register_operators

from .onnx_file import export_onnx
from .program import export_program
from .pt2_file import export_pt2
from .quantize import quantize_onnx
from .trained import from_task

__all__ = [
    "ExportError",
    "Exported",
    "Metadata",
    "export_onnx",
    "export_program",
    "export_pt2",
    "from_task",
    "open_exported",
    "quantize_onnx",
    "register_operators",
]
