"""Finding and opening the compiled CPU kernels.

One source is compiled once per instruction set into a library of its own; the one that fits the processor is
opened with ctypes and is handed the functions of torch's OpenMP runtime, so that both share its threads.
"""

import ctypes
import platform
import sys
import sysconfig
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

ABI = 4  # of the C functions; ctxvision_abi() in vector.hpp must agree
CODES = {torch.float32: 0, torch.bfloat16: 1}  # Element in vector.hpp
LEVELS = {"AVX512": "avx512", "AVX2": "avx2"}
OPENMP = (
    "omp_get_thread_num",
    "omp_get_num_threads",
    "GOMP_parallel",
    "__kmpc_global_thread_num",
    "__kmpc_push_num_threads",
    "__kmpc_fork_call",
)  # Runtime in threads.cpp; on Windows there is no GOMP_parallel, in libgomp nothing but it


class Library:
    """The compiled kernels for one instruction set."""

    def __init__(self, level: str, path: Path) -> None:
        self._dll = ctypes.CDLL(str(path))
        if self._dll.ctxvision_abi() != ABI:
            raise OSError(f"{path} is of another version; install ctxvision again")
        self.level, self.path = level, path
        shared = self._dll.ctxvision_use_openmp((ctypes.c_void_p * len(OPENMP))(*_openmp()))
        threads = "OpenMP" if shared else "one thread, torch's OpenMP runtime was not found"
        self.description = f"{level} instructions, {threads}"

    def call(self, function: str, tensors: Sequence[torch.Tensor | None], numbers: Sequence[int]) -> None:
        """Call ``function(const void **tensors, const int64_t *numbers, int threads)``.

        Raises:
            MemoryError: If the kernel cannot get its working memory.
            ValueError: If a tensor is none whose memory the kernels read.
        """
        for tensor in tensors:
            if tensor is not None and (not tensor.is_cpu or tensor.dtype not in CODES or tensor.is_neg()):
                raise ValueError(
                    f"{function} reads float32 and bfloat16 on the CPU, got {tensor.dtype} on {tensor.device}"
                )
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        status = getattr(self._dll, function)(
            (ctypes.c_void_p * len(addresses))(*addresses),
            (ctypes.c_int64 * len(numbers))(*numbers),
            torch.get_num_threads(),
        )
        if status:
            raise MemoryError(f"{function} could not allocate its working memory")


def _openmp() -> list[int | None]:
    """Return the addresses of the functions of torch's OpenMP runtime, in the order of ``OPENMP``.

    On Linux and macOS they are looked up from torch's own module and the libraries that it depends on. The
    runtime's file is ``libgomp.so.1`` in most wheels, ``libgomp-947d5fa1.so.1.0.0`` in that of torch 2.8 for
    aarch64, ``libomp.dylib`` on macOS.
    """
    try:
        runtime = ctypes.CDLL("libiomp5md.dll" if sys.platform == "win32" else torch._C.__file__)
    except OSError:
        return [None] * len(OPENMP)
    functions = [getattr(runtime, name, None) for name in OPENMP]
    return [function and ctypes.cast(function, ctypes.c_void_p).value for function in functions]


def runnable() -> tuple[str, ...]:
    """Return the instruction sets that this processor has, the widest first, as torch sees them."""
    widest = LEVELS.get(torch.backends.cpu.get_cpu_capability())
    levels = tuple(LEVELS.values())
    return (*levels[levels.index(widest) :], "baseline") if widest else ("baseline",)


@cache
def load(level: str | None = None) -> Library | str:
    """Return the kernels for this processor, or why there are none.

    Args:
        level: Name of the instruction set, ``"avx512"``, ``"avx2"`` or ``"baseline"``; ``None`` chooses as torch
            does for its own kernels.
    """
    usable = runnable()
    if level is None:
        level = usable[0]
    elif level not in usable:
        # its first instruction, run when it is opened, would end the process
        return f"{level} instructions are none of those that torch uses here: {', '.join(usable)}"
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    found = [
        path for folder in __path__ if (path := Path(folder) / "lib" / f"ctxvision_{level}{suffix}").is_file()
    ]  # editable installs keep sources and binaries apart
    if not found:
        return (
            "ctxvision was installed without its compiled kernels (no C++ compiler?); "
            "install GCC or Clang and then ctxvision again"
        )
    try:
        return Library(level, found[0])
    except (OSError, AttributeError) as error:
        return f"{found[0].name} cannot be opened on {platform.machine()} ({sysconfig.get_platform()}): {error}"


@cache
def warn_if_missing() -> None:
    """Warn, once, that the slower path computes."""
    library = load()
    if isinstance(library, str):
        warnings.warn(f"ctxvision computes with plain torch, which is slower: {library}", stacklevel=2)
