"""What the tests of several processes compare with."""

import pytest

from _processes import TWO, WORDS, finish, start


@pytest.fixture(scope="session")
def whole(made_once):
    """A run of two processes that nobody disturbs; those that SLURM or `--devices` starts end like it."""

    def make(folder):
        said = finish(process := start(*WORDS, f"--out={folder / 'run'}", torchrun=TWO))
        assert process.returncode == 0, said
        assert "global batch 64 = 2 devices × 32 images" in said

    return made_once("two-processes", make) / "run"
