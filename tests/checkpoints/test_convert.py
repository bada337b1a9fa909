"""Published file in, safetensors out: whole, right, or not at all."""

import os

import pytest
import safetensors
import safetensors.torch
import timm
import torch

import ctxvision.models  # noqa: F401 - registers the networks
from _published import fill, published_keys, published_state_dict
from ctxvision.checkpoints import CheckpointError, convert, from_published, warm_start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights():
    """RedNet-26 in the published layout: RedNet-38 less the last block of each stage."""
    last = [f"backbone.layer{stage}.{block}." for stage, block in ((1, 1), (2, 2), (3, 4), (4, 1))]
    return {
        key: torch.as_tensor(fill(key, tuple(shape)), dtype=None if "num_batches" in key else torch.float32)
        for key, shape in published_keys("rednet38").items()
        if not key.startswith(tuple(last))
    }


@pytest.fixture(scope="module")
def published_file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "rednet26-1a2b3c4d.pth"
    torch.save({"meta": {"CLASSES": ["cat"]}, "state_dict": weights}, path)
    return path


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "rednet26.safetensors"


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64))


def expected_logits(published, name="rednet26"):
    model = timm.create_model(name)
    model.load_state_dict(from_published(published, name))
    return logits(model)


def assert_refused(source, out, reason, name="rednet26", **options):
    """The conversion fails with one line, and the folder is as it was."""
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(CheckpointError, match=reason) as caught:
        convert(source, out, name, **options)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


# ------------------------------------------------------------------------------------------------ round trips


def test_rednet_from_openmmlab(published_file, weights, out):
    report = convert(published_file, out, "rednet26")
    torch.testing.assert_close(
        logits(timm.create_model("rednet26", checkpoint_path=out)), expected_logits(weights), rtol=0, atol=0
    )
    assert (report.destination, report.model, report.used_ema) == (out, "rednet26", False)
    assert report.tensors == len(weights)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert report.parameters == sum(v.numel() for k, v in weights.items() if not k.endswith(buffers))
    assert "rednet26" in str(report)
    with safetensors.safe_open(out, "pt") as file:
        assert file.metadata() == {"format": "pt", "model": "rednet26", "source": published_file.name}
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("ema", "stored"), [(True, True), (False, True), (True, False)])
def test_prefix_and_moving_average(weights, out, tmp_path, prefix, ema, stored):
    average = {**weights, "head.fc.bias": weights["head.fc.bias"] + 1}
    checkpoint = {
        "epoch": 350,
        "arch": "rednet26",
        "state_dict": {prefix + name: value for name, value in weights.items()},
        "state_dict_ema": average if stored else None,
    }
    torch.save(checkpoint, tmp_path / "a.pth.tar")
    report = convert(tmp_path / "a.pth.tar", out, "rednet26", ema=ema)
    assert report.used_ema == (ema and stored)
    actual = logits(timm.create_model("rednet26", checkpoint_path=out))
    torch.testing.assert_close(actual, expected_logits(average if report.used_ema else weights), rtol=0, atol=0)


def test_cotnet_training_checkpoint(out, tmp_path):
    published = published_state_dict("cotnet50", torch.float32)
    wrapped = {f"module.{name}": value for name, value in published.items()}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.25, "params": [0]}]}
    checkpoint = {
        "epoch": 350,
        "arch": "cotnet50",
        "state_dict": wrapped,
        "optimizer": optimizer,
        "version": 2,
    }
    torch.save(checkpoint, tmp_path / "cotnet50.pth.tar", _use_new_zipfile_serialization=False)
    convert(tmp_path / "cotnet50.pth.tar", out, "cotnet50")
    actual = logits(timm.create_model("cotnet50", checkpoint_path=out))
    torch.testing.assert_close(actual, expected_logits(published, "cotnet50"), rtol=0, atol=0)


def test_converts_its_own_output(published_file, out):
    convert(published_file, out, "rednet26")
    again = out.with_name("again.safetensors")
    convert(out, again, "rednet26")
    first, second = safetensors.torch.load_file(out), safetensors.torch.load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tensors_that_share_memory_or_are_not_contiguous(weights, out, tmp_path):
    odd = {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in weights.items()
    }
    odd["backbone.layer1.0.bn1.bias"] = odd["backbone.layer1.0.bn2.bias"]
    torch.save(odd, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", out, "rednet26")
    actual = logits(timm.create_model("rednet26", checkpoint_path=out))
    torch.testing.assert_close(actual, expected_logits(odd), rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["rednet38", "rednet50", "cotnet50"])
def test_wrong_model_is_guessed(published_file, out, name):
    assert_refused(published_file, out, f"not those of {name}: .*those of rednet26: name that model", name)


def test_names_that_are_no_model(published_file, out):
    assert_refused(published_file, out, "did you mean rednet26", "rednet_26")
    assert_refused(published_file, out, "no such network; there are .*cotnet50", "zzz")
    assert_refused(published_file, out, "no such network", "resnet50")  # timm's own
    assert_refused(published_file, out, "no weights were published", "contextual_resnet50")


def test_differences_are_named(weights, out, tmp_path):
    odd = {**weights, "head.fc.weight": torch.zeros(10, 2048), "head.fc.extra": torch.zeros(1)}
    del odd["backbone.bn1.weight" if "backbone.bn1.weight" in odd else "backbone.stem.4.bn.weight"]
    torch.save(odd, tmp_path / "a.pth")
    assert_refused(
        tmp_path / "a.pth",
        out,
        r"1 missing \(bn1.weight\); 1 unexpected \(fc.extra\); "
        r"1 of another shape \(fc.bias is 1000, not 10\)",
    )


@pytest.mark.parametrize("model_name", [None, "rednet26"])
def test_other_classes_and_channels(tmp_path, out, model_name):
    model = timm.create_model("rednet26", num_classes=7, in_chans=1)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    report = convert(tmp_path / "a.pth", out, model_name)
    assert (report.model, dict(report.arguments)) == ("rednet26", {"num_classes": 7, "in_chans": 1})
    assert "of rednet26, num_classes=7, in_chans=1, " in str(report)
    loaded = timm.create_model(report.model, **report.arguments, checkpoint_path=out)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.fixture
def detector(weights):
    """RedNet-26 under a detector of OpenMMLab's, with the 7 × 7 involution in the stem that those have."""
    span = "backbone.stem.1.conv2.conv"
    wide = {f"{span}.weight": torch.randn(49 * 2, 8, 1, 1), f"{span}.bias": torch.randn(49 * 2)}
    parts = {"neck.lateral_convs.0.conv.weight": 1, "rpn_head.rpn_cls.weight": 1, "rpn_head.rpn_cls.bias": 1}
    backbone = {k: v for k, v in weights.items() if "head" not in k}
    return backbone | wide | {name: torch.ones(size) for name, size in parts.items()}


def test_backbone_of_a_detector(detector, out, tmp_path):
    torch.save({"meta": {}, "state_dict": detector}, tmp_path / "a.pth")
    report = convert(tmp_path / "a.pth", out)
    assert (report.model, dict(report.arguments)) == ("rednet26", {"num_classes": 0, "stem_kernel_size": 7})
    assert dict(report.left_out) == {"neck": 1, "rpn_head": 2}
    assert report.tensors == len(detector) - 3
    assert str(report).endswith("; left out: neck (1 tensors), rpn_head (2 tensors)")
    loaded = timm.create_model("rednet26", **report.arguments, checkpoint_path=out)
    torch.testing.assert_close(loaded.conv1[3].span.weight, detector["backbone.stem.1.conv2.conv.weight"])
    started = timm.create_model("rednet26", num_classes=3, stem_kernel_size=7)
    report = warm_start(started, tmp_path / "a.pth")
    assert report.new == ("fc.weight", "fc.bias")
    tensors = started.state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in loaded.state_dict().items())
    again = convert(out, out.with_name("again.safetensors"), "rednet26")
    assert dict(again.arguments) == {"num_classes": 0, "stem_kernel_size": 7}
    assert not again.left_out


def test_what_is_no_part_of_a_detector(detector, out, tmp_path):
    torch.save(detector | {"teacher.fc.weight": torch.ones(1)}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", out, r"segmentation checkpoint: 1 more tensors \(teacher.fc.weight\)")
    del detector["backbone.layer1.0.bn1.bias"]
    torch.save(detector, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", out, r"not those of rednet26: 1 missing \(layer1.0.bn1.bias\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(weights, out, tmp_path, value):
    torch.save({**weights, "head.fc.bias": torch.full((1000,), value)}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", out, r"1 tensors hold NaN or infinity \(fc.bias\)")
    assert convert(tmp_path / "a.pth", out, "rednet26", allow_nonfinite=True).tensors == len(weights)


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.01, 0.5, 0.999999])
def test_truncated(published_file, out, tmp_path, share):
    data = published_file.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(share * len(data))])
    assert_refused(tmp_path / "cut.pth", out, "cut.pth: (is empty|truncated|not a checkpoint)")


class Payload:
    """Unpickling it with the standard unpickler creates a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_code_is_not_executed(weights, out, tmp_path, options):
    torch.save({"state_dict": weights, "args": Payload(tmp_path / "executed")}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", out, "refused: a pickle with code in it", **options)
    assert not (tmp_path / "executed").exists()


def test_destinations(published_file, out, tmp_path):
    assert_refused(published_file, out.with_suffix(".pth"), r"must end in \.safetensors")
    out.mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        convert(published_file, out, "rednet26", overwrite=True)
    out.rmdir()
    with pytest.raises(CheckpointError, match="there is no folder"):
        convert(published_file, tmp_path / "nowhere" / "a.safetensors", "rednet26")
    out.write_bytes(b"precious")
    assert_refused(published_file, out, "exists already")
    assert_refused(out, out.parent / "." / out.name, "same file", overwrite=True)
    convert(published_file, out, "rednet26", overwrite=True)
    assert out.stat().st_size > 1_000_000


@pytest.mark.parametrize("where", ["safetensors.torch.save", "os.fsync", "os.replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [None, b"precious"])
def test_failure_while_writing_leaves_nothing(published_file, out, monkeypatch, where, failure, existing):
    if existing:
        out.write_bytes(existing)

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(where, fail)
    expected = CheckpointError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=r"cannot be written \(No space" if expected is CheckpointError else None):
        convert(published_file, out, "rednet26", overwrite=True)
    assert [path.read_bytes() for path in out.parent.iterdir()] == ([existing] if existing else [])
