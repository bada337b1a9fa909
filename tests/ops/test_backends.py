"""Which kernels run: reported, forced, refused with the reason, and missing with one warning."""

import warnings

import pytest
import torch

import ctxvision.ops
from ctxvision.ops import _backend, _native, backends, contextual_conv2d, local_aggregation, use_backend


def run(dtype=torch.float32):
    return local_aggregation(torch.ones(1, 4, 5, 5, dtype=dtype), torch.ones(1, 2, 9, 5, 5, dtype=dtype))


def counted(name, function, called):
    def call(*args):
        called.append(name)
        return function(*args)

    return call


def calls_of(monkeypatch, module):
    """The functions of ``module`` that run from now on, by name."""
    called = []
    for name in ("aggregate", "input_grad", "weight_grad"):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name), called))
    return called


@pytest.fixture
def no_library(monkeypatch):
    """As after an installation without a compiler."""
    monkeypatch.setattr(_native, "__path__", [])
    _native.load.cache_clear()
    _native.warn_if_missing.cache_clear()
    yield
    monkeypatch.undo()
    _native.load.cache_clear()
    _native.warn_if_missing.cache_clear()


def test_what_there_is():
    by_name = {backend.name: backend for backend in backends()}
    assert list(by_name) == ["native", "triton", "torch"]
    assert by_name["torch"].available
    assert by_name["native"].available, f"the tests need the compiled kernels: {by_name['native'].reason}"
    assert "float32 and bfloat16" in str(by_name["native"])
    if not torch.cuda.is_available():
        assert not by_name["triton"].available
        assert str(by_name["triton"]) == "triton: not available, torch sees no CUDA device"


def test_the_native_kernels_run_without_asking(monkeypatch):
    from ctxvision.ops.aggregation import cpu

    called = calls_of(monkeypatch, cpu)
    run()
    run(torch.bfloat16)
    run(torch.float64)
    run(torch.float16)
    assert called == ["aggregate", "aggregate"]


def test_force_plain_torch_forward_and_backward(monkeypatch):
    from ctxvision.ops.aggregation import cpu, reference

    native, plain = calls_of(monkeypatch, cpu), calls_of(monkeypatch, reference)
    x, weight = torch.ones(1, 4, 5, 5, requires_grad=True), torch.ones(1, 2, 9, 5, 5, requires_grad=True)
    with use_backend("torch"):
        y = local_aggregation(x, weight)
        with use_backend("native"):
            y.sum().backward()
        run()
    assert native == ["input_grad", "weight_grad"]
    assert plain == ["aggregate", "aggregate"]
    run()
    assert native[2:] == ["aggregate"]


def test_the_default_returns_after_an_error():
    with pytest.raises(KeyError), use_backend("torch"):
        raise KeyError
    assert _backend.choose(torch.device("cpu"), torch.float32) == "native"


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match=r"backend must be one of native, triton, torch, got 'cuda'"):
        use_backend("cuda").__enter__()


@pytest.mark.parametrize("operator", ["local_aggregation", "contextual_conv2d"])
def test_an_explicit_request_that_cannot_run_raises_with_the_reason(operator):
    x = torch.ones(1, 4, 5, 5, dtype=torch.float64)
    call = {
        "local_aggregation": lambda: local_aggregation(x, x.new_ones(1, 2, 9, 5, 5)),
        "contextual_conv2d": lambda: contextual_conv2d(
            x, x.new_ones(4, 1, 3, 3), x.new_zeros(1, 18, 3, 3), groups=4
        ),
    }[operator]
    with use_backend("native"), pytest.raises(RuntimeError, match="it computes float32, bfloat16, got float64"):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton runs here")
def test_triton_without_a_device():
    with pytest.raises(RuntimeError, match="'triton' was asked for but cannot run: torch sees no CUDA device"):
        use_backend("triton").__enter__()


def test_without_compiled_kernels_plain_torch_computes_and_warns_once(no_library):
    with pytest.warns(UserWarning, match=r"plain torch, which is slower: .*install GCC or Clang") as caught:
        first = run()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(run(), first)
        run(torch.float64)
    assert not backends()[0].available
    with pytest.raises(RuntimeError, match=r"'native' was asked for but cannot run: .*compiled kernels"):
        use_backend("native").__enter__()


def test_float64_does_not_warn_without_compiled_kernels(no_library):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(torch.float64)


@pytest.mark.parametrize("content", [b"", b"not a library"], ids=["empty", "text"])
def test_a_damaged_library_is_a_reason_not_a_crash(no_library, monkeypatch, tmp_path, content):
    import sys

    (tmp_path / "lib").mkdir()
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    for level in ("avx512", "avx2", "baseline"):
        (tmp_path / "lib" / f"ctxvision_{level}{suffix}").write_bytes(content)
    monkeypatch.setattr(_native, "__path__", [str(tmp_path)])
    reason = _native.load()
    assert isinstance(reason, str)
    assert "cannot be opened" in reason


@pytest.mark.parametrize(
    ("capability", "levels"),
    [
        ("AVX512", ("avx512", "avx2", "baseline")),
        ("AVX2", ("avx2", "baseline")),
        ("DEFAULT", ("baseline",)),
        ("NEON", ("baseline",)),
    ],
)
def test_instructions_that_the_processor_lacks_are_never_opened(monkeypatch, capability, levels):
    opened = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(_native, "Library", lambda level, path: opened.append(level))
    load = _native.load.__wrapped__
    assert _native.runnable() == levels
    for level in ("avx512", "avx2", "baseline"):
        opened.clear()
        reason = load(level)
        if level not in levels:
            assert f"{level} instructions are none of those that torch uses here: {', '.join(levels)}" == reason
        assert (opened != []) == (level in levels and not isinstance(reason, str))
    opened.clear()
    load()
    assert opened in ([levels[0]], [])  # none where there are no compiled kernels


def test_a_library_of_another_version_is_refused(no_library, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(_native, "ABI", _native.ABI + 1)
    assert "another version" in _native.load()


def test_the_public_names():
    assert set(ctxvision.ops.__all__) >= {"backends", "use_backend", "local_aggregation", "contextual_conv2d"}
