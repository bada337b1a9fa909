"""A served network that another process translates while it answers already, and that the translation replaces.

The translation is a ``.pt2`` file of AOTInductor, made as ``ctxvision export --aot`` makes it. It stays in the
user's cache, so that a server which starts again loads it within seconds. It runs in a process of its own: torch
calls it without giving away Python's lock, so that a server which called it would do nothing else meanwhile; and
whatever machine code does there, the server goes on.
"""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ctxvision._version import __version__
from ctxvision.data import DataSpec
from ctxvision.data.images.shard_index import cache_folder
from ctxvision.files import remove_parts
from ctxvision.inference import open_predictor
from ctxvision.inference.classification import ClassificationPredictor
from ctxvision.inference.exported import Metadata
from ctxvision.inference.optimizing import largest_difference

from .memory import free_memory
from .worker import Worker, WorkerError, environment, python, temporary_folder

_log = logging.getLogger(__name__)
_AFTER = 1000  # answers: a server that is asked less often never earns the minutes back
_TRIAL_BATCH, _TRIALS = 8, 5
_TOLERANCE = 1e-3  # of logits; the order of sums differs in many layers, one after the other
_LEAST_GAIN = 1.05
_LEAST_MEMORY = 3 * 2**30  # bytes that the compiler may need
_PATIENCE = 1800.0  # seconds
_SECONDS_TO_TIDY = 10.0
_ONE_COMPILER = threading.Lock()  # for all networks of a server: each takes gigabytes


class NotCompiledError(Exception):
    """The message says in a few words why there is no translation."""


class Computing:
    """The function from images to logits of a served network, which its own translation replaces.

    Args:
        name: The name of the network, for the log.
        source: What `open_predictor` opens, from which the other process opens the network too.
        predictor: The network, opened from it.
        trust: Whether the source is trusted.
        wait: Whether to translate now and wait for it; if not, another process begins once a thousand images were
            answered, or a thread loads at once what the cache has.

    Attributes:
        undisturbed: A lock of who looks into the network, and does not want to see the images of the trial.
    """

    def __init__(
        self,
        name: str,
        source: str,
        predictor: ClassificationPredictor,
        *,
        trust: bool = False,
        wait: bool = False,
    ) -> None:
        self._name, self._source, self._trust = name, source, trust
        self._network, self._input_size = predictor.network, predictor.data_spec.input_size
        self._on_cpu = predictor.device.type == "cpu"
        self._plain: Callable[[Tensor], Tensor] = predictor.raw
        self._compute: Callable[[Tensor], Tensor] = self._plain
        self._left = _AFTER
        self.undisturbed = threading.Lock()
        self._worker: Worker | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._replace, name=f"compile-{name}", daemon=True)
        self._closed = False
        if wait:
            self._begin()
            self._thread.join()
        elif (
            self._network is not None
            and _folder().is_dir()
            and _path_of(self._network, self._input_size).is_file()
        ):
            self._begin()

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (B, N) of normalised images (B, C, H, W)."""
        if self._left > 0:
            self._left -= len(images)
            if self._left <= 0:
                self._begin()
        try:
            return self._compute(images)
        except WorkerError as error:
            self._compute = self._plain
            if not self._closed:
                _log.warning("%s: %s; the network answers as it did", self._name, error)
            return self._plain(images)

    def _alone(self, images: Tensor) -> Tensor:
        with self.undisturbed:
            return self._plain(images)

    def close(self) -> None:
        """End the other processes."""
        self._closed = True
        if self._process is not None:
            _terminate(self._process)
        if self._worker is not None:
            self._worker.close()

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._left = 0
            self._thread.start()

    def _replace(self) -> None:
        """Let the translation answer if it gives the same answers, and sooner."""
        try:
            faster, gain = self._translated()
        except Exception as error:  # whatever it is, the network answers
            if not self._closed:
                kind = "" if isinstance(error, NotCompiledError | OSError) else f"{type(error).__name__}: "
                _log.warning("%s: not compiled, %s%s; it answers as it did", self._name, kind, error)
            return
        self._worker = faster  # before the question: whoever comes later closes it
        if self._closed:
            faster.close()
            return
        self._compute = faster
        _log.warning("%s: compiled, %.2g times as fast", self._name, gain)

    def _translated(self) -> "tuple[Worker, float]":
        if self._network is None or not self._on_cpu:
            raise NotCompiledError("only networks of torch on the CPU are")
        path = _path_of(self._network, self._input_size)
        _require_own(_made(path.parent))
        with _ONE_COMPILER:
            if not path.is_file():
                _require_possible()
                remove_parts(path.parent, idle=_PATIENCE)
                self._translate(path)
        _require_own(path)
        worker = Worker(path)
        try:
            images = torch.randn(_TRIAL_BATCH, *self._input_size, dtype=torch.float32, device="cpu")
            for size in (_TRIAL_BATCH, 1):
                difference = largest_difference(worker(images[:size]), self._alone(images[:size]))
                if not difference <= _TOLERANCE:
                    path.unlink(missing_ok=True)
                    raise NotCompiledError(f"its outputs differ by {difference:.2g} of the largest value")
            gain = _gain(self._alone, worker, images)
            if gain < _LEAST_GAIN:
                raise NotCompiledError(f"which would be {gain:.2g} times as fast")
        except BaseException as error:
            worker.close()
            if not isinstance(error, WorkerError):
                raise
            if not self._closed:  # a file that cannot be used, rather than a server that stops
                path.unlink(missing_ok=True)
            raise NotCompiledError(str(error)) from error
        return worker, gain

    def _translate(self, path: Path) -> None:
        """Let another process write the file, at a low priority."""
        start = f"from {__name__} import translate; translate()"
        words = python(start, self._source, str(path), "trust" if self._trust else "")
        with (
            temporary_folder() as folder,  # of which it may leave something
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        ):
            # the pipe tells it when this process has ended, however that was
            self._process = subprocess.Popen(
                words,
                env=environment(folder),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            if self._closed:
                _terminate(self._process)
            code = _end_of(self._process)
            said.seek(0)
            lines = said.read().strip().splitlines()
        if code or not path.is_file():
            raise NotCompiledError(lines[-1] if lines else f"the compiler's process ended with {code}")


def _gain(plain: Callable[[Tensor], Tensor], faster: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Return how many times as fast the second is; both take turns, so that noise hits both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TRIALS):
        for compute, times in zip((plain, faster), seconds, strict=True):
            begin = time.perf_counter()
            compute(images)
            times.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _path_of(network: nn.Module, input_size: Sequence[int]) -> Path:
    """Return where the cache has the translation of this network for images (C, H, W), this machine and torch."""
    found = hashlib.sha256()
    about = (
        torch.__version__,
        __version__,
        torch.get_num_threads(),
        platform.machine(),
        _processor(),
        type(network),
        str(network),  # strides and activations, which have no weights
        tuple(input_size),
    )
    found.update(repr(about).encode())
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return _folder() / f"{found.hexdigest()[:32]}.pt2"


def _folder() -> Path:
    return cache_folder() / "compiled"


def _processor() -> str:
    """Return the instructions that the processor has, where the system says so: code for more would crash."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def _made(folder: Path) -> Path:
    """Make a folder that nobody else may use.

    Raises:
        NotCompiledError: It cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NotCompiledError(f"{folder} cannot be used ({error.strerror})") from error
    return folder


def _require_own(path: Path) -> None:
    """Check a file or folder: code in it runs here, so that nobody else may have written there.

    Raises:
        NotCompiledError: Others may, it is a link, or it is not there.
    """
    try:
        about = path.lstat()
    except OSError as error:
        raise NotCompiledError(f"{path} cannot be used ({error.strerror})") from error
    if stat.S_ISLNK(about.st_mode):
        raise NotCompiledError(f"{path} is a link")
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise NotCompiledError(f"{path} is one that others may write to")


def _require_possible() -> None:
    """Check that there are a compiler, and the memory that it needs.

    Raises:
        NotCompiledError: Something is missing.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++") if name):
        raise NotCompiledError("there is no C++ compiler")
    free = free_memory()
    if free is not None and free < _LEAST_MEMORY:
        raise NotCompiledError(f"which takes up to 3 GiB of memory, of which {free / 2**30:.1f} are free")


def _end_of(process: "subprocess.Popen[bytes]") -> int:
    """Wait until a translation ends; returns its exit code.

    Raises:
        NotCompiledError: It has taken too long and was ended.
    """
    assert process.stdin is not None
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired as error:
        _terminate(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2 * _SECONDS_TO_TIDY)
        raise NotCompiledError(f"the compiler has not ended within {_PATIENCE / 60:g} minutes") from error
    finally:
        if process.poll() is None:
            _terminate(process, kill=True)
            process.wait()
        process.stdin.close()


def _terminate(process: "subprocess.Popen[bytes]", *, kill: bool = False) -> None:
    """End a translation and the compilers that it has started."""
    with contextlib.suppress(OSError):  # it has ended
        if hasattr(os, "killpg") and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        elif kill:
            process.kill()
        else:
            process.terminate()


def _end_with_the_server() -> None:
    """Wait until the server closes the pipe or is gone; then end this process and its compilers."""
    os.read(0, 1)  # not sys.stdin, whose lock this thread would hold at the end
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGTERM)
        time.sleep(_SECONDS_TO_TIDY)  # in which the main thread removes what is half written
    os._exit(1)


def translate() -> None:
    """Write the translation that the command line asks for: source, path, and a word if the source is trusted."""
    source, path, trust = sys.argv[1:]
    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what is half written is removed
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    with tempfile.TemporaryDirectory() as cache:  # torch's own has a name that others can guess, and stays
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        _write(source, Path(path), bool(trust))


def _write(source: str, path: Path, trust: bool) -> None:
    from ctxvision.export import export_pt2, from_task

    predictor = open_predictor(source, trust=trust, optimize="none")
    network = predictor.network
    assert network is not None
    assert isinstance(predictor.data_spec, DataSpec)
    if _path_of(network, predictor.data_spec.input_size).name != path.name:  # of which the name tells the weights
        sys.exit(f"{source} is not what it was when the server opened it")
    metadata = Metadata(predictor.model_name, predictor.task, predictor.data_spec.to_dict())
    if predictor.module is not None:
        network, metadata = from_task(predictor.module)
    export_pt2(network, path, metadata=metadata, compiled=True)
