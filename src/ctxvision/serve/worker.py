"""A process that runs a translated network for a server: both ends of its pipes.

torch calls what AOTInductor has compiled without giving away Python's lock, so that a server which called it would
do nothing else meanwhile. In another process it cannot stop the server either, whatever its machine code does.

The process runs this file by its path: of this library it needs the operators alone.
"""

import contextlib
import math
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_SECONDS_TO_END = 5.0
_SECONDS_TO_START = 120.0  # of which torch alone needs many on a busy machine
_SECONDS_TO_ANSWER = 10.0  # in less than a request has, so that the network still answers it
_TIMES_AS_LONG = 20.0  # as at its fastest, beyond those seconds: others use the processor too
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
        self._fastest = math.inf  # seconds for an image
        self._folder = temporary_folder()
        start = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
        self._process = subprocess.Popen(
            python(start, str(path)),
            env=environment(self._folder.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the server, which answers what it has begun
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, N) of normalised images (B, C, H, W), float32 on the CPU.

        Raises:
            WorkerError: The process has ended, or has been killed because it did not answer in time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            begin, limit, late = time.monotonic(), self._limit(len(images)), threading.Event()
            watch = threading.Timer(limit, self._kill, (late,))
            watch.daemon = True
            watch.start()
            try:
                write_tensor(self._process.stdin, images)
                found = read_tensor(self._process.stdout)
            except Exception as error:  # whatever it is, the pipes may hold a part of it
                self._end()
                how = f"has ended with {self._process.returncode}"
                if late.is_set():
                    how = f"did not answer within {limit:.3g} seconds"
                raise WorkerError(f"the process of the compiled network {how}") from error
            finally:
                watch.cancel()
            self._fastest = min(self._fastest, (time.monotonic() - begin) / max(len(images), 1))
            return found

    def _limit(self, images: int) -> float:
        """Return the seconds that an answer may take; before the first one the process has to begin."""
        if self._fastest == math.inf:
            return _SECONDS_TO_START
        return _SECONDS_TO_ANSWER + _TIMES_AS_LONG * self._fastest * images

    def _kill(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()  # at which the thread that waits for the answer goes on

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
        """Let the process end by itself if it can, and remove what torch has unpacked for it."""
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
        self._folder.cleanup()


def python(start: str, *arguments: str) -> list[str]:
    """Return the command line of a process that finds the modules that this one finds, and no others.

    ``python -c`` looks into the working directory first, where files of anybody may lie.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {start}", *arguments]


def environment(folder: str) -> dict[str, str]:
    """Return the environment of processes that compile and run: as many threads as torch has here.

    Args:
        folder: The folder of their temporary files.
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return {**os.environ, **threads, "TMPDIR": folder}


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for the temporary files of a process, which leaves them where it is killed."""
    return tempfile.TemporaryDirectory(prefix="ctxvision-", ignore_cleanup_errors=True)


def write_tensor(pipe: IO[bytes], tensor: Tensor) -> None:
    """Write the shape of a tensor, of at most four dimensions, and its values as float32."""
    values = tensor.to("cpu", torch.float32).contiguous().numpy().data
    shape = (*tensor.shape, *(0,) * (4 - tensor.dim()))
    pipe.write(_SHAPE.pack(tensor.dim(), *shape))
    pipe.write(values)
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
    del compiled  # at which torch removes what it has unpacked
    with contextlib.suppress(OSError):
        os.rmdir(os.environ["TMPDIR"])  # which is left empty where the server was killed


if __name__ == "__main__":
    _work(sys.argv[1])
