"""A process in an environment of its own, which opens networks and computes when it is asked to."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.matrix.environments import python_with
from benchmarks.settings import ROOT

RUNNERS = Path(__file__).parent / "runners"


class CellError(Exception):
    """A network cannot be run in a form; the message is one line."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split())[:300])


class Remote:
    """A runner's process.

    Args:
        runner: Name of the environment and of the file in ``runners/``.
        threads: Number of threads that it computes with.

    Raises:
        CellError: If there is no such environment.
    """

    def __init__(self, runner: str, threads: int) -> None:
        python = python_with(runner)
        if python is None:
            raise CellError(f"there is no environment for {runner}; `make peers` makes it")
        self._name, self._threads = runner, threads
        self._folder = tempfile.TemporaryDirectory(prefix="ctxvision-")
        numbers = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        shared = {"PYTHONPATH": str(ROOT / "tools/foreign")}  # with the tools that look after published weights
        self._said = Path(self._folder.name) / "stderr.txt"
        with self._said.open("w") as errors:
            self._process = subprocess.Popen(
                [python, RUNNERS / f"run_{runner}.py"], env=os.environ | numbers | shared, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def open(self, key: str, images: Tensor, **request: Any) -> tuple[Tensor, str]:
        """Open a network for images (B, C, H, W); return its logits (B, N) and what computes them."""
        places = {name: str(Path(self._folder.name) / f"{name}.npy") for name in ("images", "answer")}
        np.save(places["images"], images.numpy())
        found = self._ask({"do": "open", "key": key, "threads": self._threads, **places, **request})
        return torch.from_numpy(np.load(places["answer"])), found["detail"]

    def call(self, key: str) -> None:
        """Compute once."""
        self._ask({"do": "call", "key": key})

    def forget(self, key: str) -> None:
        """Let a network go."""
        self._ask({"do": "close", "key": key})

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._folder.cleanup()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            while line and not line.startswith("{"):  # a library that prints while it is imported
                line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self._said.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise CellError(
                f"the process of {self._name} has ended, with status {self._process.wait()}: {said[-1]}"
            )
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise CellError(found["error"])
        return found
