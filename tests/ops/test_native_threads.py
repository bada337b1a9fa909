"""The kernels compute on torch's threads: no runtime of their own, and either of the two interfaces serves."""

import ctypes
import platform
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ctxvision.ops import _native, local_aggregation, use_backend

LIBRARY = _native.load()
pytestmark = pytest.mark.skipif(isinstance(LIBRARY, str), reason="ctxvision was built without its kernels here")
TEAM = 3


@contextmanager
def handed(**functions):
    """Let the kernels use these functions in place of those of torch's runtime; those not named are missing."""
    kept = {name: ctypes.cast(function, ctypes.c_void_p).value for name, function in functions.items()}
    use = LIBRARY._dll.ctxvision_use_openmp
    try:
        yield use((ctypes.c_void_p * len(_native.OPENMP))(*(kept.get(name) for name in _native.OPENMP)))
    finally:
        use((ctypes.c_void_p * len(_native.OPENMP))(*_native._openmp()))


class Runtime:
    """A runtime of `TEAM` threads that work one after the other, and what was asked of it."""

    def __init__(self):
        self.asked, self.me = [], 0
        query = ctypes.CFUNCTYPE(ctypes.c_int)
        self.common = {
            "omp_get_thread_num": query(lambda: self.me),
            "omp_get_num_threads": query(lambda: TEAM),
        }
        member = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

        def parallel(work, data, threads, flags):
            self.asked.append(threads)
            self._team(lambda: member(work)(data))

        self.gnu = {
            "GOMP_parallel": ctypes.CFUNCTYPE(
                None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
            )(parallel)
        }
        task = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)

        def fork(location, count, work, data):
            assert count == 1
            self._team(lambda: task(work)(None, None, data))

        self.llvm = {
            "__kmpc_global_thread_num": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda location: 7),
            "__kmpc_push_num_threads": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
                lambda location, thread, threads: self.asked.append(threads if thread == 7 else None)
            ),
            "__kmpc_fork_call": ctypes.CFUNCTYPE(
                None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
            )(fork),
        }

    def _team(self, work):
        for self.me in range(TEAM):
            work()
        self.me = 0


def compute():
    x = torch.arange(2 * 32 * 28 * 28.0).reshape(2, 32, 28, 28).sin()
    weight = torch.arange(2 * 4 * 9 * 28 * 28.0).reshape(2, 4, 9, 28, 28).cos()
    with use_backend("native"):
        return local_aggregation(x, weight)


@contextmanager
def threads_of_torch(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("interface", ["gnu", "llvm"])
def test_a_runtime_that_is_handed_in_runs_the_team(interface):
    if interface == "llvm" and (sys.platform, platform.machine()) == ("darwin", "arm64"):
        pytest.skip("ctypes cannot take a variable number of arguments on this system")
    runtime = Runtime()
    with threads_of_torch(1):
        expected = compute()
    with handed(**runtime.common, **getattr(runtime, interface)) as enough, threads_of_torch(5):
        assert enough
        assert torch.equal(compute(), expected)
    assert runtime.asked == [5]


def test_one_thread_asks_no_runtime():
    runtime = Runtime()
    with handed(**runtime.common, **runtime.gnu), threads_of_torch(1):
        compute()
    assert runtime.asked == []


def test_without_a_runtime_one_thread_computes():
    with threads_of_torch(1):
        expected = compute()
    runtime = Runtime()
    for part in ({}, runtime.common, runtime.gnu, {**runtime.common, **dict([*runtime.llvm.items()][:2])}):
        with handed(**part) as enough, threads_of_torch(5):
            assert not enough
            assert torch.equal(compute(), expected)


def test_torchs_runtime_is_found_here():
    assert LIBRARY.description.endswith("instructions, OpenMP")


def test_the_kernels_name_no_runtime_of_their_own():
    """A second pool of threads costs a switch at each operator, and on some systems ends the process."""
    folders = [Path(folder) / "lib" for folder in _native.__path__]
    files = [file for folder in folders if folder.is_dir() for file in folder.glob("ctxvision_*")]
    assert files
    for file in files:
        assert re.findall(rb"lib(?:gomp|omp|iomp5)\w*\.\w+", file.read_bytes()) == [], file
