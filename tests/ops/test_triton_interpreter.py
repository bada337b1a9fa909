"""The Triton kernels against the oracles, interpreted on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.slow]

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("files", [["test_battery.py"], ["test_nonfinite.py", "_triton_interpreted.py"]], ids=str)
def test_interpreted_kernels_equal_the_oracles(files):
    pytest.importorskip("triton")
    # a process of its own: triton asks once, on import, whether to interpret
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *(str(FOLDER / file) for file in files)],
        cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
