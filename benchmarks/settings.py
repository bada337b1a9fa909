"""What a run measures with: device, dtype, threads, batch, repetitions."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """How one run measures.

    Attributes:
        device: ``cpu`` or ``cuda``.
        dtype: Dtype of the operators' tensors; for networks, bfloat16 means autocast.
        threads: Threads of torch on the CPU.
        batch: Images per batch.
        repeats: Samples of every candidate, at most.
        seconds: No further round is started after this long, once there are five (per group of candidates).
        resolution: Side of the networks' images in pixels.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int
    batch: int
    repeats: int
    seconds: float
    resolution: int = 224

    @property
    def dtype_name(self) -> str:
        """``float32`` or ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def is_the_targets(self) -> bool:
        """Whether the targets are stated for these settings."""
        if self.device.type == "cuda":
            return self.dtype == torch.bfloat16 and self.batch == 128 and self.resolution == 224
        return self.dtype == torch.float32 and (self.threads, self.batch, self.resolution) == (2, 8, 224)

    def apply(self) -> None:
        """Set up the process: threads, a fixed seed, float32 that is float32."""
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True


def default_threads() -> int:
    """Two where there are two: the targets are stated for two cores."""
    return min(2, os.cpu_count() or 1)
