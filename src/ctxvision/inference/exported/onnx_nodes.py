"""Nodes of our own domain in ONNX files: written by ``ctxvision export --ops native``, computed by our kernels."""

from typing import TYPE_CHECKING

from .opening import ExportError

if TYPE_CHECKING:
    import onnxruntime

DOMAIN = "ctxvision"
OPERATORS = ("LocalAggregation", "DepthwiseContextualConv", "ContextualSamples")


def register_operators(options: "onnxruntime.SessionOptions") -> "onnxruntime.SessionOptions":
    """Let sessions with these options compute what ``ctxvision export --ops native`` writes.

    The operators of the domain ``ctxvision`` are then computed by this library's own kernels, on onnxruntime's
    threads, in float32 on the CPU.

    Args:
        options: Options of a session that is to be made.

    Returns:
        The same options.

    Raises:
        ExportError: There are no compiled kernels here, or onnxruntime is older than 1.17; the message says which.

    Examples:
        >>> import onnxruntime
        >>> from ctxvision.export import register_operators
        >>> options = register_operators(onnxruntime.SessionOptions())

        ``onnxruntime.InferenceSession("net.onnx", options)`` opens the file.
    """
    from ctxvision.ops import _native

    library = _native.load()
    if isinstance(library, str):
        raise ExportError(f"onnxruntime cannot compute the operators of the domain {DOMAIN!r}: {library}")
    try:
        options.register_custom_ops_library(str(library.path))
    except Exception as error:  # onnxruntime has its own kinds, without a common base
        why = " ".join(str(error).split())[:200]
        raise ExportError(f"onnxruntime does not take the operators of {library.path.name} ({why})") from error
    return options
