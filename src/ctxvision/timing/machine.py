"""What computes."""

import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """Return the model name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
