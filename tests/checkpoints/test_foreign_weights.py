"""Files that two other projects wrote: read, converted, and the same logits and features as their code gave."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from ctxvision.checkpoints import (
    CheckpointError,
    conversion,
    convert,
    from_published,
    read_state_dict,
    warm_start,
)
from ctxvision.models import CoTNet, RedNet
from ctxvision.models._weights import WITHHELD

pytestmark = pytest.mark.process  # HDF5 is read by one
FOLDER = Path(__file__).parent / "foreign"
SE_COTNETD = {
    "depths": (1, 1, 2, 1),
    "planes": (8, 8, 16, 16),
    "stem_width": 8,
    "stem_pool": False,
    "avg_down": True,
    "cot_stages": (3, 4),
    "alternate_stage": 3,
    "plain": "se",
}
COTNET = {"depths": (1, 2, 1, 1), "planes": (8, 8, 16, 16)}
NETWORKS = {  # as `tools/verify_weights.py --small` asks for them
    "kecam_cotnet.h5": lambda: CoTNet(num_classes=10, **COTNET),
    "kecam_cotnet_average.h5": lambda: CoTNet(num_classes=10, avg_down=True, **COTNET),
    "kecam_se_cotnetd.h5": lambda: CoTNet(num_classes=10, **SE_COTNETD),
    "kecam_se_cotnetd_torch.h5": lambda: CoTNet(num_classes=10, **SE_COTNETD),
    "paddle_rednet.pdparams": lambda: RedNet((1, 2, 1, 1), planes=(64, 16, 32, 16), num_classes=10),
}


def images(size):
    return torch.from_numpy(np.random.default_rng(size).normal(size=(1, 3, size, size)).astype("float32"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("road", ["from_published", "warm_start"])
def test_logits_and_features_are_theirs(name, road, tmp_path):
    source = tmp_path / "any.bin"  # what it is decides, not its name
    source.write_bytes((FOLDER / name).read_bytes())
    model = NETWORKS[name]()
    if road == "warm_start":
        report = warm_start(model, source)
        assert not report.new
        assert not report.unused
    else:
        model.load_state_dict(from_published(read_state_dict(source), "a network"))
    model.eval()
    with np.load(FOLDER / f"{name}.npz") as answers, torch.no_grad():
        for key in answers:
            what, _, size = key.partition("_")
            last, levels = model.forward_intermediates(images(int(size)))  # the last four are stages
            ours = model.forward_head(last) if what == "logits" else levels[int(what[-1]) - 5]
            theirs = torch.from_numpy(answers[key])
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_a_network_of_theirs_that_is_not_the_authors_does_not_load_as_that():
    model = CoTNet(num_classes=10, **COTNET)
    with pytest.raises(CheckpointError, match=r"no place in the model|another shape|absent"):
        warm_start(model, FOLDER / "kecam_cotnet_average.h5")


@pytest.fixture
def published(monkeypatch):
    """The small file with average pools as the one that kecam publishes under the name of CoTNet-50."""
    digest = hashlib.md5((FOLDER / "kecam_cotnet_average.h5").read_bytes()).hexdigest()
    files, reason = WITHHELD["cotnet50"]
    monkeypatch.setitem(WITHHELD, "cotnet50", ((files[0]._replace(md5=digest),), reason))


def test_a_published_file_of_another_network_is_converted_for_the_authors_with_a_caution(
    published, monkeypatch, tmp_path, caplog
):
    with torch.device("meta"):
        small = CoTNet(num_classes=10, **COTNET)
    monkeypatch.setattr(conversion, "fitting_models", lambda tensors: ["cotnet50"])
    monkeypatch.setattr(conversion, "skeleton", lambda name, **_: small)
    source = FOLDER / "kecam_cotnet_average.h5"
    assert convert(source, tmp_path / "out.safetensors").model == "cotnet50"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "nobody has proved" in record.getMessage()
    assert "\n" not in record.getMessage()
    ours, theirs = CoTNet(num_classes=10, **COTNET), CoTNet(num_classes=10, avg_down=True, **COTNET)
    ours.load_state_dict(safetensors.torch.load_file(tmp_path / "out.safetensors"))
    theirs.load_state_dict(read_state_dict(source))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_any_other_file_of_that_network_is_not(tmp_path):
    with pytest.raises(CheckpointError, match="no network of ours has such tensors"):
        convert(FOLDER / "kecam_cotnet_average.h5", tmp_path / "out.safetensors")
