"""Shared set-up: one thread per xdist worker, reproducible hypothesis examples, a fixed seed per test."""

import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "ctxvision", deadline=None, derandomize=True, database=None, max_examples=100, print_blob=False
)


def pytest_configure(config):
    hypothesis.settings.load_profile("ctxvision")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    # float32 means float32 in the tests, on Ampere and later GPUs too
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
