"""What only the Triton kernels do, interpreted. `test_triton_interpreter.py` runs it in a process of its own."""

import pytest
import torch
from _battery import CONVOLUTIONS, both_layouts, laid_out, uninitialised_is_nan
from _op_cases import on_cpu_in_double

from _oracle import assert_close, outputs_and_gradients
from ctxvision.ops import use_backend
from ctxvision.ops.contextual_conv import _triton_kernels, triton

every_convolution = pytest.mark.parametrize("operator", CONVOLUTIONS, ids=str)
dense_convolutions = pytest.mark.parametrize("operator", CONVOLUTIONS[1:3], ids=str)


def check(operator, tensors, options):
    with use_backend("triton"):
        actual = outputs_and_gradients(operator.function, tensors, **options)
    assert_close(
        actual, outputs_and_gradients(operator.oracle, on_cpu_in_double(tensors), **options), torch.float32
    )
    return actual


@dense_convolutions
def test_columns_of_one_image_at_a_time(operator, monkeypatch):
    monkeypatch.setattr(triton, "COLUMNS", 1)
    check(operator, *operator.case(3, (3, 2), (1, 2), dtype=torch.float32))


@every_convolution
@both_layouts
def test_deterministic_algorithms_add_nothing_atomically(operator, channels_last, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an atomic addition")

    monkeypatch.setattr(_triton_kernels, "_scatter", refuse)
    tensors, options = operator.case(2, (3, 3), (2, 2), dtype=torch.float32)
    tensors[0] = laid_out(tensors[0], channels_last)
    with uninitialised_is_nan():
        first, second = (check(operator, tensors, options) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
