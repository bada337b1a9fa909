"""The Triton kernels compiled for GPUs that are not here: how often, to what, and whether they compile at all.

A pretended driver lets the operators run up to the point where a kernel would be compiled and launched. What they
ask for is recorded, and compiled to machine code by Triton and the assembler that it brings along.
"""

import importlib
import os
import re
import subprocess
import sys

import pytest
import torch

from ctxvision.ops import use_backend

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

pytestmark = pytest.mark.slow

HOPPER, AMPERE = ("cuda", 90, 32), ("cuda", 80, 32)
CDNA3 = ("hip", "gfx942", 64)
OPERATORS = ["aggregation", "contextual_conv"]


class Driver:
    """What Triton asks of a driver before it compiles."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*HOPPER)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


@pytest.fixture
def recorded(monkeypatch):
    """Kernels that would be compiled from now on: (function's name, key) -> (function, what to compile)."""
    seen = {}

    def record(*, key, fn, compile, **_):
        seen[fn.name.rpartition(".")[2], str(key)] = fn.jit_function, compile
        return True  # neither compiled nor launched

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", record)
    before = dict(vars(triton.runtime.driver))
    triton.runtime.driver.set_active(Driver())
    yield seen
    vars(triton.runtime.driver).update(before)  # reset_active() would look for a device


def module_of(operator):
    """The operator's kernels once more, so that the real ones never see the pretended driver."""
    package = importlib.import_module(f"ctxvision.ops.{operator}")
    names = [f"{package.__name__}.{file}" for file in ("_triton_kernels", "triton")]
    real = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        return importlib.import_module(names[1])
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(real)
        for name, module in real.items():
            setattr(package, name.rpartition(".")[2], module)


def laid_out(channels_last, *shape, dtype):
    x = torch.zeros(shape, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def run_aggregation(module, batch, size, *, k=3, channels_last=True, dtype=torch.float32, interleaved=False):
    x, groups = laid_out(channels_last, batch, 64, *size, dtype=dtype), 8 if interleaved else 4
    weight, geometry = torch.zeros(batch, groups, k * k, *size, dtype=dtype), ([1, 1], [k // 2, k // 2], [1, 1])
    y = module.aggregate(x, weight, *geometry, interleaved)
    module.input_grad(y, weight, list(size), *geometry, interleaved)
    module.weight_grad(x, y, groups, k * k, *geometry, interleaved)


def run_contextual(module, batch, size, *, k=3, channels_last=True, dtype=torch.float32, groups=64):
    x = laid_out(channels_last, batch, 64, *size, dtype=dtype)
    weight, bend = torch.zeros(64, 64 // groups, k, k, dtype=dtype), torch.zeros(batch, 64, k, k, dtype=dtype)
    offset, mask = (torch.zeros(batch, n * k * k, *size, dtype=dtype) for n in (2, 1))
    geometry = ([1, 1], [k // 2, k // 2], [1, 1], groups)
    y = module.contextual_conv(x, weight, offset, bend, mask, weight[:, 0, 0, 0].clone(), *geometry)
    module.backward(y, x, weight, offset, bend, mask, *geometry, [True] * 5)


POINTERS = {
    "source", "weight", "result", "grad", "x", "kernel", "sampling_offset", "mask", "bias",
    "grad_x", "grad_sampling_offset", "grad_mask",
}  # fmt: skip
RUN = {"aggregation": run_aggregation, "contextual_conv": run_contextual}


def compiled(kernel, target=HOPPER):
    """Compile a recorded kernel for a target."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function, wanted = kernel
    source = ASTSource(function, wanted["signature"], wanted["constants"], wanted["configs"][0])
    options = {"num_warps": wanted["num_warps"], "num_stages": wanted["num_stages"]}
    return triton.compile(source, target=GPUTarget(*target), options=options)


def stack_bytes(kernel, path):
    """Bytes per thread that the assembler spilled, from the machine code."""
    path.write_bytes(kernel.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
    used = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(size) for size in re.findall(r"STACK:(\d+)", used.stdout + used.stderr)]


# ------------------------------------------------------------------------------------------------ how often


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("operator", "options", "kernels"),
    [
        ("aggregation", {}, ["_correlate_kernel", "_gather_kernel", "_gather_kernel"]),
        ("contextual_conv", {}, ["_forward_kernel", "_kernel_kernel", "_position_kernel"]),
        ("contextual_conv", {"groups": 1}, ["_forward_kernel", "_position_kernel"]),
    ],
    ids=["aggregation", "depthwise", "dense"],
)
def test_one_compilation_serves_all_batches_and_resolutions(recorded, operator, options, kernels, channels_last):
    module = module_of(operator)
    for batch in (1, 7, 16):
        for size in ((7, 7), (14, 14), (16, 1), (56, 56), (57, 31)):
            RUN[operator](module, batch, size, channels_last=channels_last, **options)
            assert sorted(name for name, _ in recorded) == kernels, (batch, size)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_size_is_specialised(operator):
    functions = [f for f in vars(module_of(operator)).values() if isinstance(f, triton.runtime.JITFunction)]
    launched = [f for f in functions if f.fn.__name__.endswith("_kernel")]
    assert len(launched) >= 2
    for function in launched:
        specialised = {p.name for p in function.params if not (p.is_constexpr or p.do_not_specialize)}
        assert specialised <= POINTERS, "only the alignment of tensors may tell two compilations apart"


# ------------------------------------------------------------------------------------------- whether and to what


def check(kernel, target, channels_last, tmp_path):
    name = kernel[0].fn.__name__
    built = compiled(kernel, target)
    if target[0] == "cuda":
        assert stack_bytes(built, tmp_path / "cubin") == [0], f"{name} spills"
        if channels_last:
            assert "ld.global.v4.b32" in built.asm["ptx"], f"{name} does not load 16 bytes at a time"
    # 64-bit addresses: pointers move by 64-bit offsets only
    moved = re.findall(r"tt\.addptr .* : .*, (.*?)(?: loc|$)", built.asm["ttir"], re.MULTILINE)
    assert moved
    assert not [offset for offset in moved if "i64" not in offset], name


@pytest.mark.parametrize(
    ("target", "dtype", "channels_last", "k"),
    [
        (HOPPER, torch.bfloat16, True, 7),
        (HOPPER, torch.float32, True, 3),
        (HOPPER, torch.float16, False, 3),
        (AMPERE, torch.bfloat16, True, 3),
        (CDNA3, torch.bfloat16, True, 3),
    ],
    ids=lambda value: str(value[1] if isinstance(value, tuple) else value),
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_compile(recorded, operator, target, dtype, channels_last, k, tmp_path):
    RUN[operator](module_of(operator), 2, (14, 14), k=k, channels_last=channels_last, dtype=dtype)
    assert len(recorded) == 3
    for kernel in recorded.values():
        check(kernel, target, channels_last, tmp_path)


@pytest.mark.parametrize(
    ("operator", "options"),
    [("aggregation", {"interleaved": True}), ("contextual_conv", {"groups": 4})],
    ids=["interleaved", "dense"],
)
def test_other_routes_compile(recorded, operator, options, tmp_path):
    RUN[operator](module_of(operator), 2, (14, 14), dtype=torch.bfloat16, **options)
    for kernel in recorded.values():
        check(kernel, HOPPER, True, tmp_path)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_triton_is_refused_without_a_device():
    with pytest.raises(RuntimeError, match="'triton' was asked for but cannot run: torch sees no CUDA device"):
        use_backend("triton").__enter__()
