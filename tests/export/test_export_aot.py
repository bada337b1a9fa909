"""What AOTInductor is asked for, and what it makes of a network with our operators."""

import errno
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from _networks import lively
from ctxvision.export import ExportError, Metadata, export_pt2
from ctxvision.inference.exported import open_exported

NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
SPEC = {"class_names": ["a", "b"], "input_size": [3, 32, 32]}


def test_weights_are_packed_and_a_failure_has_its_reason(tmp_path, monkeypatch):
    asked = []

    def compile_program(program, *, package_path, inductor_configs):
        asked.append((torch.is_grad_enabled(), inductor_configs["freezing"]))
        raise RuntimeError("no C++ compiler\nhere")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_program)
    metadata = Metadata("test_resnet", "classification", SPEC)
    with pytest.raises(
        ExportError, match=r"cannot compile this network here \(no C\+\+ compiler\); leave out --aot"
    ):
        export_pt2(NETWORK, tmp_path / "net.pt2", metadata=metadata, compiled=True)
    assert asked == [(False, True)]  # inductor packs weights only where nobody asks for gradients
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fullest", ["cache", "tmp"])
def test_a_full_disk_is_named_and_not_the_compiler(tmp_path, monkeypatch, fullest):
    def compile_program(*_, **__):
        raise RuntimeError("C++ compile error\nfatal error: error writing to a.s: No space left on device")

    for name in ("cache", "tmp", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    usage = SimpleNamespace(free=0), SimpleNamespace(free=1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage[Path(folder).name != fullest])
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_program)
    metadata = Metadata("test_resnet", "classification", SPEC)
    with pytest.raises(OSError, match="No space left on device") as caught:
        export_pt2(NETWORK, tmp_path / "out" / "net.pt2", metadata=metadata, compiled=True)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / fullest))
    assert not list((tmp_path / "out").iterdir())


ON_A_FULL_DISK = """
import os, sys, torch
from ctxvision.export import Metadata, export_onnx, export_pt2
from ctxvision.files import WriteError
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 100), torch.nn.Linear(100, 2))
metadata = Metadata("some", "classification", {"class_names": ["a", "b"], "input_size": [3, 32, 32]})
for export, name in ((export_pt2, "net.pt2"), (export_onnx, "net.onnx")):
    try:
        export(network, name, metadata=metadata)
    except WriteError as error:
        print(error, os.listdir())
"""


@pytest.mark.slow
@pytest.mark.process
def test_on_a_disk_that_is_really_full_nothing_is_left_and_the_reason_is_given(tmp_path):
    mount = 'mount -t tmpfs -o size=600k none "$1" && cd "$1"'
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    if shutil.which("unshare") is None or run(["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path]).returncode:
        pytest.skip("needs user namespaces, to mount without being root")
    command = f'{mount} && "$2" -c "$3"'
    done = run(["unshare", "-rm", "sh", "-c", command, "sh", tmp_path, sys.executable, ON_A_FULL_DISK])
    said = [f"net.{suffix}: cannot be written (no space left on device) []" for suffix in ("pt2", "onnx")]
    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr


@pytest.mark.slow
@pytest.mark.process
def test_compiled_files_answer_for_every_batch(tmp_path):
    network = lively("rednet_micro", num_classes=2)
    metadata = Metadata("rednet_micro", "classification", SPEC)
    assert export_pt2(network, tmp_path / "net.pt2", metadata=metadata, compiled=True) < 1e-4
    compiled = open_exported(tmp_path / "net.pt2", trust=True)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(compiled(images), network(images), rtol=1e-3, atol=1e-4)
