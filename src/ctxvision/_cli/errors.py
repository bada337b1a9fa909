"""Mistakes that end a command with one line."""

_TRAIN = ("PIL", "jinja2", "jsonargparse", "lightning", "matplotlib", "rich", "sklearn", "torchmetrics", "yaml")
_EXTRAS = dict.fromkeys(_TRAIN, "train") | dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export")
_EXTRAS |= {"pytorch_grad_cam": "explain"}
_EXTRAS |= dict.fromkeys(("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"), "serve")


class UserError(Exception):
    """What the user can put right.

    Attributes:
        exit_code: 2 for a wrong command line, else 1.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


def explain_error(error: Exception) -> str:
    """Say in one line what went wrong, and for our own bugs how to see where."""
    message = " ".join(str(error).split())
    if type(error).__module__.startswith("ctxvision."):
        return message
    if isinstance(error, ImportError) and (extra := _EXTRAS.get((error.name or "").split(".")[0])):
        return f'this command needs more packages: pip install "ctxvision[{extra}]" (there is no {error.name})'
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; lower --micro_batch (train), --batch_size or --image_size"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return f"unexpected {type(error).__name__}: {message} (CTXVISION_DEBUG=1 shows where)"
