"""Where a trained network computes."""

from typing import Any

from .errors import UserError


def on_device(task: Any, device: str) -> Any:
    """Move a task to a device and return it.

    Raises:
        UserError: there is no such device.
    """
    import torch

    try:
        return task.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
