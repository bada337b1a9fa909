"""The command: what it prints, what it refuses, and how it ends."""

import signal
import socket
import threading

import httpx
import pytest

from _serving import encoded, start_server, stop_server, write_checkpoint
from ctxvision.cli import main
from ctxvision.serve import ServeError, bind


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network."""
    return write_checkpoint(tmp_path_factory.mktemp("network") / "net.ckpt", "test_resnet")


def post_in_a_thread(address, answers):
    def post():
        try:
            answers.append(httpx.post(f"{address}predict", files={"image": encoded()}, timeout=120).status_code)
        except httpx.TransportError as error:
            answers.append(type(error).__name__)

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def wait_until_queued(address):
    with httpx.Client(base_url=address, timeout=120) as client:
        for _ in range(2000):
            # the other one is this request
            if "ctxvision_requests_in_flight 2" in client.get("/metrics").text:
                return
    raise AssertionError("it was never in flight")


@pytest.mark.process
def test_sigterm_finishes_what_is_in_flight(checkpoint):
    process, address = start_server(f"first={checkpoint}", "--port", 0, "--max-wait-ms", 3000)
    answers = []
    thread = post_in_a_thread(address, answers)
    wait_until_queued(address)
    process.send_signal(signal.SIGTERM)
    with httpx.Client(base_url=address, timeout=120) as client:
        late = client.get("/healthz")
        while late.status_code == 200:  # the signal is on its way
            late = client.get("/healthz")
    assert late.status_code == 503
    assert late.json()["error"] == "stopping"
    thread.join(120)
    assert answers == [200]
    assert process.wait(120) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}healthz")
    process.stdout.close()


@pytest.mark.process
def test_sigkill_leaves_nothing_behind(checkpoint, tmp_path):
    words = [f"first={checkpoint}", "--port", 0, "--max-wait-ms", 9000]
    process, address = start_server(*words, TMPDIR=str(tmp_path))
    answers = []
    thread = post_in_a_thread(address, answers)
    wait_until_queued(address)
    code, _ = stop_server(process, signal.SIGKILL)
    thread.join(120)
    assert code == -signal.SIGKILL
    assert answers in (["RemoteProtocolError"], ["ReadError"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    bind("127.0.0.1", int(address.rstrip("/").rpartition(":")[2])).close()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--host 0.0.0.0", 1, "other machines could use this server"),
        ("--token short", 1, "at least 16 characters"),
        ("--port 65536", 2, "--port must be at most 65535, got 65536"),
        ("--batch 0", 2, "--batch: must be a whole number of at least 1, got '0'"),
        ("--timeout 0", 1, "timeout must lie between"),
        ("--host 203.0.113.7 --without-token", 1, "choose another --port or --host"),
        ("--examples nowhere --port 0", 1, "no such folder"),
        ("--device nonsense --port 0", 1, "device 'nonsense' cannot be used"),
    ],
)
def test_mistakes_are_one_line(checkpoint, capsys, words, code, says):
    assert main(["serve", str(checkpoint), *words.split()]) == code
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_missing_checkpoint_is_one_line(capsys):
    assert main(["serve", "nowhere.ckpt", "--port", "0"]) == 1
    assert "nowhere.ckpt: no such file" in capsys.readouterr().err


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ServeError, match="in use"):
            bind("127.0.0.1", other.getsockname()[1])
