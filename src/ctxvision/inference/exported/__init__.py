"""Files of `ctxvision export`: opened without trusting them, and run without the network's code."""

from .onnx_nodes import register_operators
from .opening import KEY, SUFFIXES, Exported, ExportError, Metadata, open_exported

__all__ = ["KEY", "SUFFIXES", "ExportError", "Exported", "Metadata", "open_exported", "register_operators"]
