"""What a warm start reads: names of timm's pretrained networks, published layouts, checkpoints of a run."""

import http.server
import socketserver
import threading
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from torch import nn

import ctxvision.models  # noqa: F401 - registers the networks
from _oracle import assert_close
from _published import our_name, published_logits, published_state_dict, reference_input
from ctxvision.checkpoints import CheckpointError, sources, warm_start
from ctxvision.nn import replace_convs


def small_resnet(num_classes=7):
    return timm.create_model("resnet26", layers=(1, 1, 2, 1), num_classes=num_classes)


@pytest.mark.parametrize("published_name", ["cotnet50", "rednet38"])
@pytest.mark.parametrize("classes", [1000, 4])
def test_published_layouts(tmp_path, published_name, classes):
    weights = published_state_dict(published_name)
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "a.pth")
    model = timm.create_model(our_name(published_name), num_classes=classes).double().eval()
    report = warm_start(model, tmp_path / "a.pth")
    head = () if classes == 1000 else ("fc.weight", "fc.bias")
    assert set(report.new) == set(report.unused) == set(head)
    assert len(report.loaded) == len(model.state_dict()) - len(head)
    if not head:
        with torch.no_grad():
            logits = model(reference_input(2, 3, 96, 96))
        expected = published_logits(published_name)
        assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_the_checkpoint_of_a_run(tmp_path):
    weights = small_resnet().state_dict()
    torch.save({"state_dict": {f"model.{name}": value for name, value in weights.items()}, "epoch": 3},
               tmp_path / "last.ckpt")  # fmt: skip
    report = warm_start(small_resnet(), tmp_path / "last.ckpt")
    assert set(report.loaded) == set(weights)


def test_name_of_a_pretrained_network(monkeypatch):
    pretrained = timm.create_model("resnet18").state_dict()
    asked = []

    def download(repository, **_):
        asked.append(repository)
        return pretrained

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    monkeypatch.setattr(sources, "why_not_asked", lambda path: "")
    model = replace_convs(timm.create_model("resnet18", num_classes=3), "contextual")
    report = warm_start(model, "resnet18.a1_in1k")
    assert asked == ["timm/resnet18.a1_in1k"]
    assert report.source == "resnet18.a1_in1k"
    assert all("_offsets." in name or name.startswith("fc.") for name in report.new)
    assert report.reasons["fc.weight"] == "1000 classes there, 3 here"
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], pretrained["layer1.0.conv1.weight"])

    grey = timm.create_model("resnet18", in_chans=1, num_classes=3)
    warm_start(grey, "resnet18")  # timm sums the kernels over the colours
    assert_close(grey.conv1.weight, pretrained["conv1.weight"].sum(1, keepdim=True), torch.float32)


def test_a_hub_that_fails_is_one_line(monkeypatch):
    def download(*_, **__):
        raise OSError("The hub cannot be reached. Try again.\nSecond line")

    monkeypatch.setattr(sources, "why_not_asked", lambda path: "")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    with pytest.raises(CheckpointError) as caught:
        warm_start(small_resnet(), "resnet26")
    assert str(caught.value) == (
        "resnet26: timm cannot get its pretrained weights (The hub cannot be reached.); "
        "check the connection, or give a file"
    )


class Hub(http.server.BaseHTTPRequestHandler):
    """A mirror of the hub under a path, with the weights of one network."""

    weights = b""
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self):
        self.asked.append((self.command, self.path))
        found = self.path == "/mirror/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        for name, value in {
            "ETag": '"1"',
            "X-Repo-Commit": "a" * 40,
            "Content-Length": str(len(self.weights)),
        }.items():
            self.send_header(name, value if found or name != "Content-Length" else "0")
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(self.weights)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """Sets what HF_ENDPOINT sets; the cache is empty and no proxy is asked."""

    def use(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return use


def test_a_mirror_of_the_hub_is_asked_where_it_is(endpoint, monkeypatch):
    plain = timm.create_model("test_resnet")
    weights = safetensors.torch.save({name: torch.full_like(t, 2) for name, t in plain.state_dict().items()})
    monkeypatch.setattr(Hub, "weights", weights)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint(f"http://127.0.0.1:{server.server_port}/mirror")
            model = timm.create_model("test_resnet")
            warm_start(model, "test_resnet.r160_in1k")
        finally:
            server.shutdown()
            thread.join()
    assert Hub.asked[0] == ("HEAD", "/mirror/timm/test_resnet.r160_in1k/resolve/main/config.json")
    assert all((p == 2).all() for p in model.parameters())


def test_without_a_connection_the_hub_is_asked_once(endpoint):
    """The hub's client would try for most of a minute."""
    asked = []

    class HangsUp(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangsUp) as server:
        port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint(f"http://127.0.0.1:{port}")
            with pytest.raises(CheckpointError) as caught:
                warm_start(small_resnet(), "resnet26")
        finally:
            server.shutdown()
            thread.join()
    assert str(caught.value) == (
        f"resnet26: timm cannot get its pretrained weights (127.0.0.1:{port} cannot be reached, and they are not "
        "in the cache); check the connection, or give a file"
    )
    assert len(asked) == 1
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("resnett26", "resnett26: neither a file nor a network of timm; did you mean resnet26"),
        ("resnet26.nonsense", "timm has no such weights; it has resnet26.bt_in1k"),
        ("resnet26.pth", "resnet26.pth: no such file"),
        ("folder/resnet26", "no such file"),
        ("contextual_resnet50", "nobody published weights of contextual_resnet50; start from the plain network"),
        (7, "int: weights come from a file, a timm name, a state dict or a network"),
    ],
)
def test_sources_that_there_are_not(source, reason):
    with pytest.raises(CheckpointError, match=reason):
        warm_start(small_resnet(), source)


def test_a_file_or_folder_of_a_networks_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(small_resnet().state_dict(), "resnet26")
    assert warm_start(small_resnet(), "resnet26").source == "resnet26"
    (tmp_path / "weights").mkdir()
    with pytest.raises(CheckpointError, match="weights: is a folder"):
        warm_start(small_resnet(), "weights")


def test_wrong_kinds_of_file(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name, reason in (("image.png", "not a checkpoint"), ("module.pt", "refused: a pickle with code in it")):
        with pytest.raises(CheckpointError, match=reason):
            warm_start(small_resnet(), tmp_path / name)
