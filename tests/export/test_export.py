"""Exported networks against torch: every family, batches, sizes, what is inside the file, and what fails."""

import json
import os

import pytest
import torch

from _networks import EVERY_LAYER, kinds
from ctxvision.export import (
    ExportError,
    Metadata,
    export_onnx,
    export_program,
    export_pt2,
    open_exported,
    quantize_onnx,
)
from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d
from ctxvision.tasks.networks import create_network
from ctxvision.timing.preparation import set_batch_norm_statistics

SIZE = 32


def network(name, **options):
    torch.manual_seed(0)
    made = create_network(name, num_classes=6, in_chans=3, model_args=options)
    for key, parameter in made.named_parameters():  # what starts at zero would hide what lies behind it
        if "_offsets" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    return made.eval()


def metadata(**options):
    spec = {"class_names": [*"abcdef"], "input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3}
    return Metadata("some", "classification", spec, **options)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network that can be exported within a second, its file, and what is in it."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 6),
    ).eval()  # fmt: skip
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    export_onnx(net, path, metadata=metadata())
    return net, path


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_fewer_blocks_are_of_every_kind(name):
    full = {option: value for option, value in EVERY_LAYER[name].items() if option in ("stages", "prior")}
    found = kinds(network(name, **full))
    assert found
    assert kinds(network(name, **EVERY_LAYER[name])) == found


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_LAYER)
def test_onnx_computes_what_torch_computes(name, tmp_path):
    import onnx

    net = network(name, **EVERY_LAYER[name])
    path = tmp_path / "net.onnx"
    real = torch.randn(4, 3, SIZE, SIZE)
    worst = export_onnx(net, path, metadata=metadata(), samples=[real])
    assert worst < 1e-5
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert not graph.functions
    exported = open_exported(path)
    with torch.no_grad():
        torch.testing.assert_close(exported(real), net(real), rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.slow
def test_any_size(tmp_path):
    """One layer of each kind."""
    bent = ContextualConv2d(16, 6, kernel_size=3, padding=1, prior_dim=0)
    torch.nn.init.normal_(bent.sampling_offsets.conv2.weight, std=0.1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1), Involution2d(16, kernel_size=3), CoTLayer(16), bent,
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    ).eval()  # fmt: skip
    export_onnx(net, tmp_path / "net.onnx", metadata=metadata(dynamic_size=True))
    exported = open_exported(tmp_path / "net.onnx")
    for shape in ((1, 3, 48, 40), (3, 3, 33, 64)):
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), net(images), rtol=1e-4, atol=1e-5)


def test_network_that_depends_on_its_size_is_refused_as_such(tmp_path):
    net = create_network(
        "vit_tiny_patch16_224", num_classes=6, in_chans=3, model_args={"img_size": SIZE, "depth": 1}
    )
    with pytest.raises(ExportError, match="for any size"):
        export_onnx(net, tmp_path / "net.onnx", metadata=metadata(dynamic_size=True))
    assert not list(tmp_path.iterdir())


def test_metadata_travel(small):
    exported = open_exported(small[1])
    assert exported.metadata == metadata()
    assert exported.metadata.data_spec["class_names"] == [*"abcdef"]


def test_files_without_batches(small, tmp_path):
    net, _ = small
    fixed = metadata(dynamic_batch=False)
    export_onnx(net, tmp_path / "one.onnx", metadata=fixed)
    export_pt2(net, tmp_path / "one.pt2", metadata=fixed)
    images = torch.randn(3, 3, SIZE, SIZE)
    for name in ("one.onnx", "one.pt2"):
        exported = open_exported(tmp_path / name)
        assert not exported.metadata.dynamic_batch
        with torch.no_grad():
            torch.testing.assert_close(exported(images), net(images), rtol=1e-4, atol=1e-6)
        with pytest.raises((ExportError, RuntimeError)):
            exported.compute(images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contextual_convnext_micro", "cotnet_micro"])
@pytest.mark.parametrize("operators", ["native", "portable"])
def test_pt2_keeps_our_operators_or_needs_none(name, operators, tmp_path):
    net = network(name, **EVERY_LAYER[name])
    path = tmp_path / "net.pt2"
    assert export_pt2(net, path, metadata=metadata(), operators=operators) < 1e-5
    graph = torch.export.load(path).graph
    ours = {str(node.target) for node in graph.nodes if "ctxvision" in str(node.target)}
    assert bool(ours) == (operators == "native")
    exported, images = open_exported(path), torch.randn(3, 3, SIZE, SIZE)
    assert exported.metadata == metadata()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), net(images), rtol=1e-4, atol=1e-5)


def test_network_itself_is_left_alone():
    net = network("cotnet_micro").train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    export_program(net, torch.randn(2, 3, SIZE, SIZE))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_file_that_differs_from_torch_is_not_kept(small, tmp_path, monkeypatch):
    net, _ = small
    path = tmp_path / "net.onnx"
    path.write_bytes(b"what was there")
    monkeypatch.setattr(
        "ctxvision.inference.exported.onnx_reading.run_session",
        lambda session, images: (net(images).detach() + 0.1,),
    )
    with pytest.raises(ExportError, match="differs from torch's by"):
        export_onnx(net, path, metadata=metadata())
    assert path.read_bytes() == b"what was there"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["none.onnx", "text.onnx", "text.pt2", "text.txt", "bare.onnx", "bare.pt2", "wrong.onnx"]
)
def test_files_that_are_not_ours(name, small, tmp_path):
    import onnx

    path = tmp_path / name
    if name.startswith("text"):
        path.write_text("hello")
    elif name == "bare.pt2":
        torch.export.save(torch.export.export(small[0], (torch.randn(2, 3, SIZE, SIZE),)), path)
    elif name != "none.onnx":
        graph = onnx.load(small[1])
        del graph.metadata_props[:]
        if name == "wrong.onnx":
            graph.metadata_props.add(key="ctxvision", value=json.dumps({"format": 7}))
        onnx.save(graph, path)
    with pytest.raises(ExportError) as raised:
        open_exported(path)
    assert "\n" not in str(raised.value)


def test_quantised_networks_agree_closely(small, tmp_path):
    net, whole = small
    torch.manual_seed(0)
    images = torch.randn(64, 3, SIZE, SIZE)
    quantize_onnx(whole, tmp_path / "int8.onnx", images.split(16), input_name="images")
    exported = open_exported(tmp_path / "int8.onnx")
    assert exported.metadata == metadata(quantization="int8")
    with torch.no_grad():
        expected = net(images)
    found = exported(images)
    assert not torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    with pytest.raises(ExportError, match="got none"):
        quantize_onnx(whole, tmp_path / "none.onnx", [], input_name="images")
    assert os.listdir(tmp_path) == ["int8.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def test_quantised_files_compute_what_they_say_which_is_near_the_network(name, tmp_path):
    """Integers are compared with the same graph in floats, rounded where the file says so, and with the network.

    A network of random weights absorbs none of the rounding, of which 0.08 to 0.16 of the logits are left.
    """
    import onnxruntime

    net, random = network(name, **EVERY_LAYER[name]), torch.Generator().manual_seed(0)
    set_batch_norm_statistics(net, SIZE)
    calibration, images = (torch.randn(16, 3, SIZE, SIZE, generator=random) for _ in range(2))
    export_onnx(net.eval(), tmp_path / "float.onnx", metadata=metadata())
    quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", calibration.split(4), input_name="images")
    found = open_exported(tmp_path / "int8.onnx")(images)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", options)
    rounded = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        unrounded = net(images)
    assert (found - rounded).abs().max() < 0.01 * unrounded.abs().max()
    kept = [logits > logits.amax(1, keepdim=True) - 20 for logits in (found, unrounded)]  # others were dropped
    assert (kept[0] == kept[1]).double().mean() > 0.9
    found, unrounded = (logits[kept[0] & kept[1]] for logits in (found, unrounded))
    assert 0 < (found - unrounded).norm() < 0.2 * unrounded.norm()
    assert torch.corrcoef(torch.stack((found, unrounded)))[0, 1] > 0.98
