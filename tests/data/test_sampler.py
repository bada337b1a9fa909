"""The order of training images: complete, shared out, resumable."""

from hypothesis import given
from hypothesis import strategies as st

from ctxvision.data.sampler import EpochSampler, batches

SIZES = st.integers(1, 50)


@given(SIZES, st.integers(0, 5), st.integers(0, 5), st.integers(1, 4))
def test_processes_share_an_epoch(size, seed, epoch, world_size):
    shares = []
    for rank in range(world_size):
        sampler = EpochSampler(size, seed=seed, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == size // world_size
    everything = [index for share in shares for index in share]
    assert len(set(everything)) == len(everything)
    assert {index // size for index in everything} <= {epoch}


@given(SIZES, st.integers(0, 3), st.integers(0, 50))
def test_start_in_the_middle_continues_the_epoch(size, epoch, skip):
    whole = EpochSampler(size, seed=1)
    whole.set_epoch(epoch)
    resumed = EpochSampler(size, seed=1)
    resumed.start_at(epoch, skip)
    resumed.set_epoch(epoch)  # as Lightning does at once
    assert list(resumed) == list(whole)[skip:]
    assert len(resumed) == size
    resumed.set_epoch(epoch + 1)
    whole.set_epoch(epoch + 1)
    assert list(resumed) == list(whole)


def test_epochs_differ():
    sampler = EpochSampler(30, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(tuple(index % 30 for index in sampler))
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(30)) for order in orders)


@given(st.integers(1, 100), st.integers(1, 40))
def test_batches(size, batch_size):
    count = len(range(0, size, batch_size))
    has_rest = size % batch_size != 0
    assert batches(size, batch_size) == max(1, count - has_rest)
