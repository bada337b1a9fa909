"""The order of training images: complete, shared out, resumable."""

import pytest
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


@given(st.integers(1, 100), st.integers(1, 10), st.integers(1, 6))
def test_steps_have_all_their_parts_unless_the_epoch_is_shorter(size, batch_size, accumulate):
    count = batches(size, batch_size, accumulate)
    whole = batches(size, batch_size)
    assert whole - accumulate < count <= whole
    assert count == whole if whole < accumulate else count % accumulate == 0


@given(SIZES, st.integers(0, 5), st.integers(0, 60))
def test_shortened_epoch_is_the_beginning_of_the_whole(size, epoch, length):
    whole, short = EpochSampler(size, seed=3), EpochSampler(size, seed=3, length=length)
    for sampler in (whole, short):
        sampler.set_epoch(epoch)
    assert list(short) == list(whole)[:length]
    assert len(short) == len(list(short))


@given(SIZES, st.integers(0, 3), st.integers(2, 4), st.integers(1, 4))
def test_repeats_are_shared_among_processes(size, epoch, repeats, world_size):
    shares = []
    for rank in range(world_size):
        sampler = EpochSampler(size, seed=2, rank=rank, world_size=world_size, repeats=repeats)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == size // world_size
    order = [index for turn in zip(*shares, strict=True) for index in turn]
    assert len(set(order)) == len(order)  # so that every copy is augmented by itself
    images = [index % size for index in order]
    assert images == [image for image in dict.fromkeys(images) for _ in range(images.count(image))]
    copies = [images.count(image) for image in dict.fromkeys(images)]
    assert set(copies[:-1]) <= {repeats}


def test_repeats_visit_the_same_images_as_timm():
    """timm's sampler cuts epochs at a multiple of 256, so that 512 images are alike."""
    from timm.data.distributed_sampler import RepeatAugSampler

    for rank in range(2):
        theirs = RepeatAugSampler(range(512), num_replicas=2, rank=rank, num_repeats=3, shuffle=False)
        ours = EpochSampler(512, seed=0, rank=rank, world_size=2, repeats=3)
        assert len(ours) == len(theirs)
        order = [index % 512 for index in ours]
        positions = {image: position for position, image in enumerate(dict.fromkeys(_first(512, 3)))}
        assert [positions[image] for image in order] == list(theirs)


def _first(size, repeats):
    """The images of an epoch as a single process sees them."""
    return [index % size for index in EpochSampler(size, seed=0, repeats=repeats)]


def test_copies_of_different_epochs_are_different_indices():
    sampler = EpochSampler(10, seed=0, repeats=3)
    seen = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        seen += list(sampler)
    assert len(set(seen)) == len(seen)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 40))
def test_repeats_continue_in_the_middle(size, repeats, skip):
    whole, resumed = (EpochSampler(size, seed=1, repeats=repeats) for _ in range(2))
    whole.set_epoch(2)
    resumed.start_at(2, skip)
    assert list(resumed) == list(whole)[skip:]


def test_repeats_must_be_positive():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        EpochSampler(10, seed=0, repeats=0)
