"""The most memory that a process ever held, and that of inference in a process of its own."""

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

CALLS = 3  # libraries allocate for later calls what the first did not need


def load_libraries(device: torch.device) -> None:
    """Train something tiny, so that code pages and thread stacks count as there before."""
    tiny = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(4)).to(device)
    tiny(torch.randn(2, 3, 16, 16, dtype=torch.float32, device=device)).sum().backward()


def high_water(device: torch.device) -> int:
    """Return the most bytes that this process held: on CUDA allocated, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss starts at what the parent process held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget(device: torch.device) -> None:
    """Let `high_water` begin anew with what is held now, where the system can."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed in small pieces
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_in_fresh_process(arguments: Mapping[str, Any]) -> float:
    """Return what `peak` measures, in a process that has held nothing else.

    Raises:
        RuntimeError: The measurement failed in that process; the message is the last line that it wrote.
    """
    command = [sys.executable, "-m", __name__, json.dumps(dict(arguments))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise RuntimeError(lines[-1])
    return float(done.stdout.split()[-1])


def peak(
    file: str,
    size: int | None,
    device: str,
    dtype: str,
    layout: str,
    batch: int,
    threads: int,
    fused: bool = False,
    trust: bool = False,
) -> float:
    """Return the MiB that a network and its inference need at their highest.

    This process must not have held anything large before.

    Args:
        file: Name or path that `open_subject` takes.
        size: Height and width of the images in pixels.
        device: Device on which the network computes.
        dtype: Data type of weights and images.
        layout: Memory format of weights and images.
        batch: Number of images computed at a time.
        threads: Number of threads on the CPU.
        fused: Whether BatchNorm is folded into other layers.
        trust: Whether the maker of the file is trusted, see `open_subject`.
    """
    from .subjects import open_subject

    torch.set_num_threads(threads)
    where = torch.device(device)
    load_libraries(where)
    reader = {".onnx": "onnxruntime", ".ckpt": "ctxvision.tasks"}.get(Path(file).suffix.lower())
    if reader:  # its code counts as there before
        import_module(reader)
    _forget(where)
    before = high_water(where)
    # neither values nor counts change what inference needs
    subject = open_subject(file, size, where, dtype, settled=False, fused=fused, trust=trust)
    call = subject.inference(batch, layout)
    _forget(where)  # what a checkpoint holds beside the weights
    for _ in range(CALLS):
        call()
    return (high_water(where) - before) / 2**20


if __name__ == "__main__":
    print(peak(**json.loads(sys.argv[1])))
