"""How a global batch is shared out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxvision.training import OptionError
from ctxvision.training.preparation import BatchPlan, solve

few, sizes = st.integers(1, 6), st.integers(1, 3000)


def plan_or_error(*args, **options):
    try:
        return solve(*args, **options)
    except OptionError as error:
        return str(error)


@given(sizes, few, few, st.none() | st.integers(1, 300), st.none() | few)
def test_a_plan_is_exact_and_within_its_limits(size, devices, nodes, micro_batch, accumulate):
    plan = plan_or_error(size, devices, nodes, micro_batch=micro_batch, accumulate=accumulate)
    if isinstance(plan, str):
        return
    assert (plan.devices, plan.nodes) == (devices, nodes)
    assert devices * nodes * plan.images * plan.accumulate == size
    assert accumulate in (None, plan.accumulate)
    if micro_batch is None:
        assert plan.accumulate == (accumulate or 1)
    else:
        assert plan.images <= micro_batch
    if micro_batch is not None and accumulate is None:
        share = size // (devices * nodes)
        divisors = [n for n in range(1, micro_batch + 1) if share % n == 0]
        assert plan.images == max(divisors)
        assert plan.accumulate == 1 or 2 * plan.images >= micro_batch


@given(sizes, few, few, st.integers(1, 300))
def test_refusals_name_batches_that_work(size, devices, nodes, micro_batch):
    error = plan_or_error(size, devices, nodes, micro_batch=micro_batch)
    if isinstance(error, BatchPlan):
        return
    named = [int(word) for word in error.rpartition(": ")[2].split() if word.isdigit()]
    assert named
    for other in named:
        if "shared equally" in error:
            assert other % (devices * nodes) == 0
            assert abs(other - size) <= devices * nodes
        else:
            assert isinstance(solve(other, devices, nodes, micro_batch=micro_batch), BatchPlan)


@given(sizes, st.integers(1, 300))
def test_only_what_cannot_be_done_is_refused(size, micro_batch):
    plan = plan_or_error(size, 1, micro_batch=micro_batch)
    parts = [n for n in range(1, micro_batch + 1) if size % n == 0 and (n == size or 2 * n >= micro_batch)]
    assert isinstance(plan, BatchPlan) == bool(parts)


@pytest.mark.parametrize(
    ("arguments", "options", "line"),
    [
        ((640, 8), {"micro_batch": 80}, "global batch 640 = 8 devices × 80 images"),
        ((640, 2), {"micro_batch": 40}, "global batch 640 = 2 devices × 40 images × 8 accumulated"),
        ((640, 1), {"micro_batch": 80}, "global batch 640 = 1 device × 80 images × 8 accumulated"),
        ((2048, 8, 8), {"micro_batch": 32}, "global batch 2048 = 8 nodes × 8 devices × 32 images"),
        ((640, 1), {"micro_batch": 90}, "global batch 640 = 1 device × 80 images × 8 accumulated"),
        ((64, 1), {}, "global batch 64 = 1 device × 64 images"),
        ((64, 1), {"accumulate": 64}, "global batch 64 = 1 device × 1 image × 64 accumulated"),
    ],
)
def test_lines(arguments, options, line):
    assert str(solve(*arguments, **options)) == line


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((640, 3), {}, "cannot be shared equally by 3; the nearest that can: 639 or 642"),
        ((1, 2), {}, "cannot be shared equally by 2; the nearest that can: 2"),
        (
            (97, 1),
            {"micro_batch": 64},
            "no equal parts of 32 to 64 images (--micro-batch); nearest: --batch-size 96 or 98",
        ),
        (
            (64, 1),
            {"accumulate": 3},
            "does not divide the 64 images of a device (--batch-size 64); the nearest that do: 2 or 4",
        ),
        (
            (64, 1),
            {"accumulate": 2, "micro_batch": 16},
            "leaves 32 images at a time on a device, more than --micro-batch 16; add --micro-batch 32",
        ),
        ((8, 1), {"accumulate": 9}, "the nearest that do: 8"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(OptionError) as error:
        solve(*arguments, **options)
    assert message in str(error.value)
    assert error.value.exit_code == 2
