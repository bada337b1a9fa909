"""Files of `ctxvision export`: opened without trusting them, and run without the network's code."""

from .opening import KEY, SUFFIXES, Exported, ExportError, Metadata, open_exported

__all__ = ["KEY", "SUFFIXES", "ExportError", "Exported", "Metadata", "open_exported"]
