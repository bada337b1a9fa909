"""A process that runs a translated network for a server: both ends of its pipes.

torch calls what AOTInductor has compiled without giving away Python's lock, so that a server which called it would
do nothing else meanwhile. In another process it cannot stop the server either, whatever its machine code does.

The process runs this file by its path: of this library it needs the operators alone.
"""

import contextlib
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_SECONDS_TO_END = 5.0
_SHAPE = struct.Struct("<5q")  # the number of dimensions, and four sizes


class WorkerError(Exception):
    """The process has failed; the message says how."""


class Worker:
    """A process that answers with a translation: images go in through one pipe, logits come out of another.

    Args:
        path: The ``.pt2`` file of the translation, which is trusted.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        start = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
        self._process = subprocess.Popen(
            python(start, str(path)),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the server, which answers what it has begun
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, N) of normalised images (B, C, H, W), float32 on the CPU.

        Raises:
            WorkerError: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                write_tensor(self._process.stdin, images)
                return read_tensor(self._process.stdout)
            except (OSError, EOFError, ValueError) as error:
                self._end()
                raise WorkerError("the process of the compiled network has ended") from error

    def close(self) -> None:
        """End the process once it has answered what it was asked; one that does not answer is killed."""
        if not self._lock.acquire(timeout=_SECONDS_TO_END):
            self._process.kill()  # at which the thread that waits for its answer goes on
            self._lock.acquire()
        try:
            self._end()
        finally:
            self._lock.release()

    def _end(self) -> None:
        """Let the process end by itself if it can: it removes what torch has unpacked for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # what was still to be written
            self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def python(start: str, *arguments: str) -> list[str]:
    """Return the command line of a process that finds the modules that this one finds, and no others.

    ``python -c`` looks into the working directory first, where files of anybody may lie.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {start}", *arguments]


def environment() -> dict[str, str]:
    """Return the environment of processes that compile and run: as many threads as torch has here."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def write_tensor(pipe: IO[bytes], tensor: Tensor) -> None:
    """Write the shape and the values of a float32 tensor, of at most four dimensions."""
    shape = (*tensor.shape, *(0,) * (4 - tensor.dim()))
    pipe.write(_SHAPE.pack(tensor.dim(), *shape))
    pipe.write(tensor.contiguous().numpy().data)
    pipe.flush()


def read_tensor(pipe: IO[bytes]) -> Tensor:
    """Return what `write_tensor` wrote.

    Raises:
        EOFError: The other end is closed.
    """
    head = pipe.read(_SHAPE.size)
    if len(head) < _SHAPE.size:
        raise EOFError
    dimensions, *shape = _SHAPE.unpack(head)
    found = torch.empty(shape[:dimensions], dtype=torch.float32, device="cpu")
    if found.numel() and pipe.readinto(found.numpy().data.cast("B")) < found.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return found


def _work(path: str) -> None:
    """Answer until the other end closes its pipe."""
    import ctxvision.ops  # noqa: F401 - registers what the graph calls

    compiled: Any = torch._inductor.aoti_load_package(path)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    with contextlib.suppress(EOFError, BrokenPipeError), torch.inference_mode():
        while True:
            found = compiled(read_tensor(sys.stdin.buffer))
            write_tensor(answers, found if isinstance(found, Tensor) else found[0])


if __name__ == "__main__":
    _work(sys.argv[1])
