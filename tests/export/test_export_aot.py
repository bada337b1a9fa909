"""What AOTInductor is asked for, and what it makes of a network with our operators."""

import pytest
import timm
import torch

from _networks import lively
from ctxvision.export import ExportError, Metadata, export_pt2
from ctxvision.inference.exported import open_exported

SPEC = {"class_names": ["a", "b"], "input_size": [3, 32, 32]}


def test_weights_are_packed_and_a_failure_has_its_reason(tmp_path, monkeypatch):
    asked = []

    def compile_program(program, *, package_path, inductor_configs):
        asked.append((torch.is_grad_enabled(), inductor_configs["freezing"]))
        raise RuntimeError("no C++ compiler\nhere")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_program)
    network = timm.create_model("test_resnet", num_classes=2)
    metadata = Metadata("test_resnet", "classification", SPEC)
    with pytest.raises(
        ExportError, match=r"cannot compile this network here \(no C\+\+ compiler\); leave out --aot"
    ):
        export_pt2(network, tmp_path / "net.pt2", metadata=metadata, compiled=True)
    assert asked == [(False, True)]  # inductor packs weights only where nobody asks for gradients
    assert not list(tmp_path.iterdir())


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
