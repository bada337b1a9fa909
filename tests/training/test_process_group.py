"""How torchrun's processes find each other although the store remembers those of earlier attempts."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from ctxvision.training.processes import agree_on_attempt, is_lost_process


@pytest.mark.parametrize("first", [0, 1])
def test_attempts_have_names_of_their_own_whoever_comes_first(first):
    store = dist.HashStore()
    names = []
    for _ in range(3):  # what an attempt leaves there stays
        order = [first, *(rank for rank in range(3) if rank != first)]
        with ThreadPoolExecutor(3) as pool:
            found = {pool.submit(agree_on_attempt, store, rank, 3) for rank in order}
            names.append({name.result(timeout=120) for name in found})
        store.set("hello/2", "dead before it was answered")
    assert all(len(found) == 1 for found in names)
    assert len(set.union(*names)) == 3


def test_lost_process():
    assert is_lost_process(RuntimeError("[pair.cc:545] Read error [127.0.0.1]:9: Connection reset by peer."))
    assert not is_lost_process(RuntimeError("size mismatch"))
