"""``pretrained=True``: weights from a server on this machine, and the cable pulled at each step."""

import hashlib
import http.client
import os
import runpy
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch

import ctxvision.models._weights as weights
from _mirror import mirror
from ctxvision.checkpoints import CheckpointError, pretrained, warm_start

FOLDER = Path(__file__).parent / "foreign"
ROOT = Path(__file__).parents[2]
REDNET, COTNET = "paddle_rednet.pdparams", "kecam_se_cotnetd.h5"
SMALL = {  # the networks that the other packages wrote
    REDNET: ("rednet26", {"depths": (1, 2, 1, 1), "planes": (64, 16, 32, 16)}),
    COTNET: ("se_cotnetd50", {"depths": (1, 1, 2, 1), "planes": (8, 8, 16, 16), "stem_width": 8}),
}
HDF5 = pytest.mark.process  # it is read by a process of its own


@pytest.fixture
def server():
    with mirror() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub/checkpoints"


def create(server, name=REDNET, **options):
    model, design = SMALL[name]
    overlay = {"url": server.url(name), "num_classes": 10}
    return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **{**design, **options})


def refused(server, cache, name=REDNET, left=()):
    """The one line, which names the address and the place for a file that is put there by hand."""
    with pytest.raises(CheckpointError) as caught:
        create(server, name)
    assert sorted(path.name for path in cache.iterdir()) == sorted(left)
    line = str(caught.value)
    assert "\n" not in line
    assert str(cache / name) in line
    return line


@pytest.mark.parametrize("name", [REDNET, pytest.param(COTNET, marks=HDF5)])
def test_downloaded_and_converted_once(server, cache, name, caplog):
    server.content = (FOLDER / name).read_bytes()
    model = create(server, name)
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        [name, f"{name}.sha256", f"{Path(name).stem}.safetensors"]
    )
    assert hashlib.sha256(server.content).hexdigest() in caplog.text
    assert "file" not in model.pretrained_cfg
    expected = timm.create_model(SMALL[name][0], num_classes=10, **SMALL[name][1])
    warm_start(expected, FOLDER / name)
    (cache / name).unlink()  # not needed any more
    again = create(server, name)
    assert server.asked == 1
    for ours in (model, again):
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=0)


def test_all_of_timms_protocol(server, cache):
    server.content = (FOLDER / REDNET).read_bytes()
    images = torch.randn(2, 3, 64, 64)
    full = create(server).eval()
    assert create(server, num_classes=3)(images).shape == (2, 3)
    assert create(server, in_chans=1)(images[:, :1]).shape == (2, 10)
    pyramid = create(server, features_only=True).eval()
    with torch.no_grad():
        for one, other in zip(pyramid(images), full.forward_intermediates(images)[1], strict=True):
            torch.testing.assert_close(one, other)
    config = {**full.pretrained_cfg, "mean": (0.5, 0.5, 0.5)}
    other = timm.create_model("rednet26", pretrained=True, pretrained_cfg=config, **SMALL[REDNET][1])
    assert other.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert timm.create_model(
        "rednet26", pretrained=True, pretrained_cfg=config, cache_dir=str(cache / "other"), **SMALL[REDNET][1]
    )
    assert (cache / "other" / REDNET).is_file()
    assert server.asked == 2


def test_all_of_timms_arguments_at_once(server, cache):
    server.content = (FOLDER / REDNET).read_bytes()
    config = timm.get_pretrained_cfg("rednet26").to_dict()
    pyramid = create(
        server,
        num_classes=10,
        in_chans=1,
        features_only=True,
        out_indices=(2, 4),
        pretrained_cfg=config,
        cache_dir=str(cache / "other"),
    ).eval()
    one, other = pyramid(torch.zeros(1, 1, 64, 64))
    assert (one.shape[2], other.shape[2]) == (8, 2)
    assert [path.name for path in cache.iterdir()] == ["other"]
    assert (cache / "other" / REDNET).is_file()
    full = create(server).eval()
    summed = full.conv1[0].weight.sum(1, keepdim=True)  # as timm makes kernels for one channel
    torch.testing.assert_close(pyramid.state_dict()["conv1.0.weight"], summed)


def test_weights_of_the_user_are_taken_instead(server, cache, tmp_path):
    model, design = SMALL[REDNET]
    tensors = timm.create_model(model, num_classes=10, **design).state_dict()
    torch.save(tensors, tmp_path / "mine.pth")
    for place in ({"file": str(tmp_path / "mine.pth")}, {"state_dict": tensors}):
        made = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay={**place, "num_classes": 10}, **design
        )
        torch.testing.assert_close(made.state_dict(), tensors, rtol=0, atol=0)
    assert server.asked == 0
    assert not cache.exists()


def test_what_timm_lists():
    listed = timm.list_models("*", pretrained=True)
    ours = [f"{name}.in1k" for name in weights.WEIGHTS]
    assert set(ours) <= set(listed)
    assert not any(name.startswith(("contextual_", "cotnet", "cotnext", "se_cotnetd152")) for name in listed)
    for name in ours:
        config = timm.get_pretrained_cfg(name)
        assert config.interpolation == ("bilinear" if name.startswith("rednet") else "bicubic")
        assert config.input_size == (3, 224, 224)
        assert config.crop_pct == 0.875
    large = timm.get_pretrained_cfg("se_cotnetd152.in1k_320")
    assert (large.input_size, large.crop_pct) == ((3, 320, 320), 0.909)


@pytest.mark.parametrize(
    "name", ["contextual_convnext_tiny", "cotnet50", "se_cotnetd152.in1k_320", "rednet_micro"]
)
def test_no_weights_is_said_in_one_line(name):
    with pytest.raises(RuntimeError) as caught:
        timm.create_model(name, pretrained=True)
    line = str(caught.value)
    assert "\n" not in line
    assert ("warm_start(model, " in line) == name.startswith("contextual")
    assert "are offered" in line or "there are no" in line or "nobody" in line
    architecture = name.partition(".")[0]
    model = timm.create_model(architecture, num_classes=10)
    with pytest.raises(CheckpointError, match=architecture):
        warm_start(model, name)


def test_the_table_of_readme_and_docs_equals_the_code():
    table = runpy.run_path(str(ROOT / "tools/weights_table.py"))["table"]()
    for page in ("README.md", "docs/weights.md"):
        assert table in (ROOT / page).read_text("utf-8"), f"put the output of tools/weights_table.py in {page}"


def test_the_plain_networks_of_the_contextual_ones_have_weights():
    assert set(weights.PLAIN.values()) <= set(timm.list_pretrained())


# -------------------------------------------------------------------------------- the cable is pulled


def test_no_connection(server, cache):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server.url = lambda name: f"http://127.0.0.1:{closed.getsockname()[1]}/{name}"
        assert "check the connection" in refused(server, cache)


def test_a_silent_server(server, cache, monkeypatch):
    monkeypatch.setattr(pretrained, "_SILENCE", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        server.url = lambda name: f"http://127.0.0.1:{silent.getsockname()[1]}/{name}"
        assert "timed out" in refused(server, cache)


def test_a_name_that_no_server_of_names_knows(server, cache, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    line = refused(server, cache)
    assert "Name or service not known" in line
    assert "check the connection" in line


def test_a_server_that_falls_silent(server, cache, monkeypatch):
    monkeypatch.setattr(pretrained, "_SILENCE", 0.2)
    server.content = (FOLDER / REDNET).read_bytes()
    server.gate.clear()
    assert "timed out" in refused(server, cache)
    server.gate.set()
    assert create(server)


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_the_server_has_no_such_file(server, cache, status):
    server.status = status
    line = refused(server, cache)
    assert f"answers {status} {http.client.responses[status]}" in line
    assert server.url(REDNET) in line


@pytest.mark.parametrize("step", ["_check", "_convert", "write_converted"])
def test_stopped_on_the_way(server, cache, monkeypatch, step):
    server.content = (FOLDER / REDNET).read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, step, stop)
        with pytest.raises(KeyboardInterrupt):
            create(server)
    assert list(cache.iterdir()) == []
    assert create(server)


def test_killed_between_download_and_conversion(server, cache):
    cache.mkdir(parents=True)
    server.content = (FOLDER / REDNET).read_bytes()
    parts = [cache / f".{Path(REDNET).stem}.{number}.part.pdparams" for number in (1, 2)]
    for part in parts:  # of a process that was killed, and of one that is at work
        part.write_bytes(server.content)
    os.utime(parts[0], (0, 0))
    assert create(server)
    assert [part.exists() for part in parts] == [False, True]
    (cache / f"{Path(REDNET).stem}.safetensors").unlink()
    assert create(server)
    assert server.asked == 1


def test_two_at_once(server, cache):
    server.content = (FOLDER / REDNET).read_bytes()
    server.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(create, server) for _ in range(2)]
        while server.asked < 2 and not any(future.done() for future in made):
            pass
        server.gate.set()
        one, other = (future.result().state_dict() for future in made)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.suffix for path in cache.iterdir()) == [".pdparams", ".safetensors", ".sha256"]


def test_a_web_page_of_a_proxy(server, cache):
    server.content = b"\n<!DOCTYPE html><html>Please log in</html>"
    assert "web page" in refused(server, cache)


@pytest.mark.parametrize("name", [REDNET, pytest.param(COTNET, marks=HDF5)])
def test_half_a_file(server, cache, name):
    whole = (FOLDER / name).read_bytes()
    server.content, server.claims = whole[: len(whole) // 2], len(whole)
    line = refused(server, cache, name)
    assert "truncated" in line
    server.content, server.claims = whole, None
    assert create(server, name)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_no_space(server, cache):
    import resource

    server.content = (FOLDER / REDNET).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        line = refused(server, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written (file too large)" in line
    assert server.url(REDNET) in line
    assert create(server)


def test_no_space_for_the_converted_file(server, cache, monkeypatch):
    server.content = (FOLDER / REDNET).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ctxvision.checkpoints.conversion.write_whole", full)
        with pytest.raises(CheckpointError) as caught:
            create(server)
    assert str(caught.value) == (
        f"{(cache / REDNET).with_suffix('.safetensors')}: cannot be written (No space left on device); make room, "
        f"or set TORCH_HOME to a folder that can be written, for the file from {server.url(REDNET)}"
    )
    assert list(cache.iterdir()) == []
    assert create(server)


def test_a_folder_that_may_only_be_read(server, cache, monkeypatch):
    """Root may write everywhere, so that permissions alone would not show it."""
    cache.mkdir(parents=True)
    (cache / REDNET).write_bytes((FOLDER / REDNET).read_bytes())

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ctxvision.files._part", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*; make room, or set TORCH_HOME") as caught:
        create(server)
    assert "delete" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(cache.parents[1]))
    create(server)
    monkeypatch.setattr("ctxvision.files._part", refuse)
    assert create(server)  # what is there is read
    (cache / f"{REDNET}.sha256").unlink()
    assert create(server)
    assert server.asked == 0


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set TORCH_HOME"):
        create(server)


# -------------------------------------------------------------------------------- checksums


def published_with(monkeypatch, server, md5, name=REDNET):
    row = weights.WEIGHTS["se_cotnetd50"]._replace(url=server.url(name), md5=md5)
    monkeypatch.setitem(weights.WEIGHTS, "se_cotnetd50", row)


def test_the_published_checksum_must_be_met(server, cache, monkeypatch):
    server.content = (FOLDER / REDNET).read_bytes()
    published_with(monkeypatch, server, "0" * 32)
    assert "its MD5 is" in refused(server, cache)
    published_with(monkeypatch, server, hashlib.md5(server.content).hexdigest())
    create(server)
    assert not (cache / f"{REDNET}.sha256").exists()


def test_a_file_put_there_by_hand(server, cache, monkeypatch):
    cache.mkdir(parents=True)
    content = (FOLDER / REDNET).read_bytes()
    published_with(monkeypatch, server, hashlib.md5(content).hexdigest())
    (cache / REDNET).write_bytes(content[:-1])
    assert f"delete {cache / REDNET}" in refused(server, cache, left=[REDNET])
    (cache / REDNET).write_bytes(content)
    create(server)
    assert server.asked == 0


def test_another_file_than_the_first_is_refused(server, cache):
    server.content = (FOLDER / REDNET).read_bytes()
    create(server)
    converted = f"{Path(REDNET).stem}.safetensors"
    (cache / REDNET).unlink()
    (cache / converted).write_bytes((cache / converted).read_bytes()[:-1])  # cut: it is made again
    server.content = server.content.replace(b"conv1.weight", b"conv1.weighs")
    assert "of the first file" in refused(server, cache, left=[f"{REDNET}.sha256", converted])


def test_the_mirror_of_a_company(server, cache, monkeypatch):
    server.content = (FOLDER / REDNET).read_bytes()
    monkeypatch.setenv(pretrained.MIRROR, server.url(""))
    model, design = SMALL[REDNET]
    overlay = {"url": f"https://example.invalid/a/{REDNET}", "num_classes": 10}
    assert timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **design)


def test_a_file_of_another_network(server, cache, monkeypatch):
    server.content = (FOLDER / REDNET).read_bytes()
    monkeypatch.setenv(pretrained.MIRROR, server.url(""))
    with pytest.raises(CheckpointError, match="not those of rednet26"):
        timm.create_model("rednet26", pretrained=True)
    assert list(cache.iterdir()) == []
