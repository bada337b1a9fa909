"""A served network that is translated while it answers: when, by whom, and what happens where that fails."""

import io
import logging
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import torch

from _checkpoints import write_classifier
from ctxvision.inference import Predictor, open_predictor
from ctxvision.serve import ServedNetwork, compiling, explaining, open_networks, worker
from ctxvision.serve.worker import Worker, WorkerError, python, read_tensor, write_tensor

IMAGES = torch.zeros(4, 3, 32, 32)


class Translation:
    """What the other process would answer: the network's answers, plus something."""

    def __init__(self, network, plus=0.0):
        self.network, self.plus, self.closed = network, plus, False

    def __call__(self, images):
        if self.closed:
            raise WorkerError("the process has ended")
        return self.network(images) + self.plus

    def close(self):
        self.closed = True


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXVISION_CACHE", str(tmp_path / "cache"))
    write_classifier(tmp_path / "net.ckpt")
    return tmp_path / "net.ckpt"


@pytest.fixture
def translated(monkeypatch):
    """Count translations, which take no time; the file is empty, and its network is faster by decree."""
    made = []

    def translate(self, path):
        made.append(path)
        path.touch()

    network = []
    monkeypatch.setattr(compiling, "_require_possible", lambda: None)
    monkeypatch.setattr(compiling.Computing, "_translate", translate)
    monkeypatch.setattr(compiling, "Worker", lambda path: Translation(network[-1]))
    monkeypatch.setattr(compiling, "_gain", lambda plain, faster, images: 2.0)
    return made, network


def computing(checkpoint, network, **options):
    predictor = open_predictor(checkpoint)
    network.append(predictor.network)
    return compiling.Computing("net", str(checkpoint), predictor, **options)


def settled(compute):
    compute._thread.join(30)
    return compute._compute


def test_it_begins_after_many_answers_and_at_once_where_the_cache_has_it(checkpoint, translated, caplog):
    made, network = translated
    compute = computing(checkpoint, network)
    for _ in range(compiling._AFTER // len(IMAGES) - 1):
        compute._left -= len(IMAGES)
    compute(IMAGES[:3])
    assert not made
    assert isinstance(compute._compute.__self__, Predictor)
    expected = compute(IMAGES[:1])
    assert isinstance(settled(compute), Translation)
    torch.testing.assert_close(compute(IMAGES[:1]), expected)
    assert "net: compiled, 2 times as fast" in caplog.text
    again = computing(checkpoint, network)
    assert isinstance(settled(again), Translation)
    assert len(made) == 1
    assert (made[0].parent.stat().st_mode & 0o777) == 0o700


def test_other_weights_have_another_translation(checkpoint, translated, tmp_path):
    made, network = translated
    task = write_classifier(tmp_path / "other.ckpt")
    settled(computing(checkpoint, network, wait=True))
    next(task.model.parameters()).data.add_(1)
    size = (3, 32, 32)
    assert compiling._path_of(network[-1], size) == made[0]
    assert compiling._path_of(task.model, size) != made[0]
    assert compiling._path_of(network[-1], (3, 64, 64)) != made[0]
    network[-1].act1 = torch.nn.GELU()
    assert compiling._path_of(network[-1], size) != made[0]


@pytest.mark.parametrize(
    "why",
    [
        "differs",
        "slower",
        "broken",
        "folder",
        "file",
        "link",
        "compiler",
        "memory",
        pytest.param("process", marks=pytest.mark.process),
    ],
)
def test_where_there_is_no_translation_the_network_answers(checkpoint, translated, monkeypatch, caplog, why):
    made, network = translated
    if why == "differs":
        monkeypatch.setattr(compiling, "Worker", lambda path: Translation(network[-1], 1.0))
    if why == "slower":
        monkeypatch.setattr(compiling, "_gain", lambda plain, faster, images: 1.01)
    if why == "broken":
        monkeypatch.setattr(compiling, "_gain", lambda plain, faster, images: [][0])
    if why in ("file", "link"):
        size = (3, 32, 32)
        path = compiling._path_of(open_predictor(checkpoint).network, size)
        path.parent.mkdir(mode=0o700, parents=True)
        path.symlink_to(checkpoint) if why == "link" else path.touch()
        path.chmod(0o666)
    if why == "folder":
        folder = compiling.cache_folder() / "compiled"
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    if why in ("compiler", "memory"):
        monkeypatch.undo()
        monkeypatch.setenv("CTXVISION_CACHE", str(checkpoint.parent / "cache"))
        monkeypatch.setattr(compiling.shutil, "which", lambda name: None if why == "compiler" else name)
        monkeypatch.setattr(compiling, "_LEAST_MEMORY", 2**60)
    if why == "process":
        monkeypatch.undo()
        monkeypatch.setenv("CTXVISION_CACHE", str(checkpoint.parent / "cache"))
        monkeypatch.setattr(compiling, "_require_possible", lambda: None)
        monkeypatch.setattr(
            compiling.sys, "executable", "/bin/false" if sys.platform != "win32" else sys.executable
        )
    compute = computing(checkpoint, network, wait=True)
    said = {
        "differs": "its outputs differ by ",
        "slower": "which would be 1 times as fast",
        "broken": "not compiled, IndexError: ",
        "folder": "is one that others may write to",
        "file": ".pt2 is one that others may write to",
        "link": ".pt2 is a link",
        "compiler": "there is no C++ compiler",
        "memory": "GiB of memory, of which",
        "process": "the compiler's process ended with 1",
    }[why]
    assert said in caplog.text
    assert caplog.text.count("it answers as it did") == 1
    assert isinstance(compute._compute.__self__, Predictor)
    assert compute(IMAGES).shape == (4, 3)
    if why == "differs":
        assert not made[0].exists()


def test_a_server_that_stops_keeps_what_the_cache_has(checkpoint, translated, monkeypatch):
    made, network = translated
    settled(computing(checkpoint, network, wait=True))

    def dying(self, images):
        compute.close()
        raise WorkerError("the process has ended")

    monkeypatch.setattr(Translation, "__call__", dying)
    monkeypatch.setattr(compiling.Computing, "_begin", lambda self: None)
    compute = computing(checkpoint, network)
    compute._replace()
    assert made[0].exists()


@pytest.mark.process
def test_the_processes_end_with_the_server_and_find_its_modules_alone(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('a file of anybody')")
    monkeypatch.chdir(tmp_path)
    start = "from ctxvision.serve.compiling import _end_with_the_server as end; print('ready', flush=True); end()"
    with subprocess.Popen(
        python(start), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout.readline().strip() == b"ready"
        assert process.poll() is None
        process.stdin.close()  # as at the end of the process that holds the other end
        assert process.wait(20) == -signal.SIGTERM if hasattr(signal, "SIGKILL") else 1


@pytest.fixture
def slow(checkpoint, monkeypatch):
    """Let a process that sleeps stand for the compiler; it leaves a temporary file, and may not end when asked."""
    (checkpoint.parent / "tmp").mkdir()
    monkeypatch.setenv("CTXVISION_CACHE", str(checkpoint.parent / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(checkpoint.parent / "tmp"))
    monkeypatch.setattr(compiling, "_require_possible", lambda: None)
    popen = compiling.subprocess.Popen
    code = "import os, signal, tempfile, time; {}; "
    code += "open(os.path.join(tempfile.gettempdir(), 'left'), 'x').close(); time.sleep(600)"

    def let(first="pass"):
        monkeypatch.setattr(
            compiling.subprocess,
            "Popen",
            lambda words, **options: popen([sys.executable, "-c", code.format(first)], **options),
        )

    return let


@pytest.mark.process
@pytest.mark.parametrize("first", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_compiler_that_does_not_end_is_ended(checkpoint, slow, monkeypatch, caplog, first):
    slow(first)
    monkeypatch.setattr(compiling, "_PATIENCE", 1.0)
    monkeypatch.setattr(compiling, "_SECONDS_TO_TIDY", 0.1)
    compute = compiling.Computing("net", str(checkpoint), open_predictor(checkpoint), wait=True)
    assert "net: not compiled, the compiler has not ended within 0.0166667 minutes; it answers" in caplog.text
    assert compute._process.returncode is not None
    assert not list((checkpoint.parent / "tmp").iterdir())
    assert not compiling._ONE_COMPILER.locked()


def test_a_source_that_has_changed_is_not_translated(checkpoint, monkeypatch):
    network = open_predictor(checkpoint).network
    path, written = compiling._path_of(network, (3, 32, 32)), []
    monkeypatch.setattr("ctxvision.export.export_pt2", lambda network, path, **_: written.append(path))
    compiling._write(str(checkpoint), path, trust=False)
    assert written == [path]
    other = {name: tensor + 1 for name, tensor in write_classifier(checkpoint).state_dict().items()}
    write_classifier(checkpoint, state_dict=other)
    with pytest.raises(SystemExit, match=r"net\.ckpt is not what it was when the server opened it"):
        compiling._write(str(checkpoint), path, trust=False)
    assert written == [path]


@pytest.mark.process
def test_a_server_that_stops_ends_the_compiler(checkpoint, slow, caplog):
    slow()
    compute = compiling.Computing("net", str(checkpoint), open_predictor(checkpoint))
    compute._begin()
    end = time.monotonic() + 60
    while compute._process is None and time.monotonic() < end:
        time.sleep(0.01)
    compute.close()
    compute._thread.join(60)
    assert not compute._thread.is_alive()
    assert "not compiled" not in caplog.text


def test_when_the_other_process_dies_the_network_answers(checkpoint, translated, caplog):
    compute = computing(checkpoint, translated[1], wait=True)
    expected = compute(IMAGES)
    settled(compute).close()
    torch.testing.assert_close(compute(IMAGES), expected)
    torch.testing.assert_close(compute(IMAGES), expected)
    assert caplog.text.count("net: the process has ended; the network answers as it did") == 1


ANSWERS_ONCE = """
import struct, sys, time
sys.stdin.buffer.read(5 * 8 + 4 * 3 * 32 * 32 * 4)
sys.stdout.buffer.write(struct.pack("<5q12f", 2, 4, 3, 0, 0, *range(12)))
sys.stdout.flush()
"""  # without torch, which takes long to be imported


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Start a worker process that runs other code."""
    workers = []

    def start(code):
        (tmp_path / "worker.py").write_text(code)
        monkeypatch.setattr(worker, "__file__", str(tmp_path / "worker.py"))
        workers.append(Worker(tmp_path))
        return workers[-1]

    yield start
    for one in workers:
        one.close()
        assert one._process.poll() is not None


@pytest.mark.process
def test_a_process_that_hangs_is_killed_and_the_network_answers(
    checkpoint, translated, started, monkeypatch, caplog
):
    hanging = started(f"{ANSWERS_ONCE}time.sleep(600)")
    monkeypatch.setattr(worker, "_TIMES_AS_LONG", 0.0)
    monkeypatch.setattr(worker, "_SECONDS_TO_ANSWER", 0.2)
    compute = computing(checkpoint, translated[1])
    expected = compute(IMAGES)
    assert torch.equal(hanging(IMAGES), torch.arange(12.0).view(4, 3))
    compute._compute = hanging
    for _ in range(2):
        torch.testing.assert_close(compute(IMAGES), expected)
    said = (
        "net: the process of the compiled network did not answer within 0.2 seconds; the network answers as it did"
    )
    assert [record.getMessage() for record in caplog.records] == [said]
    assert hanging._process.returncode == -signal.SIGKILL if hasattr(signal, "SIGKILL") else 1


@pytest.mark.process
def test_a_process_that_does_not_read_or_answer_its_first_images_is_killed(started, monkeypatch):
    monkeypatch.setattr(worker, "_SECONDS_TO_START", 0.2)
    hanging = started("import time; time.sleep(600)")
    with pytest.raises(WorkerError, match=r"did not answer within 0\.2 seconds"):
        hanging(torch.zeros(8, 3, 224, 224))  # more than a pipe holds


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "how"),
    [
        (f"{ANSWERS_ONCE}sys.stdin.buffer.read(1); sys.exit(3)", "has ended with 3"),
        (f"{ANSWERS_ONCE}sys.stdout.buffer.write(b'\\xff' * 100)", "has ended"),
    ],
)
def test_a_process_that_ends_or_answers_nonsense_is_an_error_that_says_so(started, code, how):
    process = started(code)
    process(IMAGES)
    with pytest.raises(WorkerError, match=how):
        process(IMAGES)
    with pytest.raises(WorkerError):
        process(IMAGES)


def test_tensors_go_through_a_pipe():
    pipe = io.BytesIO()
    tensors = [
        torch.randn(2, 3, 4, 5).permute(0, 2, 3, 1),
        torch.randn(3, 7),
        torch.zeros(0, 7),
        torch.tensor(1.0),
        torch.randn(2, 3).double(),
        torch.randn(2, 3).bfloat16(),
    ]
    for tensor in tensors:
        write_tensor(pipe, tensor)
    pipe.seek(0)
    for tensor in tensors:
        assert torch.equal(read_tensor(pipe), tensor.float())
    with pytest.raises(EOFError):
        read_tensor(pipe)
    with pytest.raises(EOFError):
        read_tensor(io.BytesIO(pipe.getvalue()[:50]))


def test_networks_are_opened_as_asked(checkpoint, translated):
    made, network = translated
    network.append(open_predictor(checkpoint).network)
    (plain,) = open_networks([str(checkpoint)], optimize="none")
    (fused,) = open_networks([str(checkpoint)])
    (auto,) = open_networks([str(checkpoint)], optimize="auto")
    assert not made
    (compiled,) = open_networks([str(checkpoint)], optimize="compile")
    assert isinstance(settled(compiled.compute), Translation)
    assert plain.prepared == ""
    assert fused.prepared.startswith("BatchNorm folded into ")
    expected = torch.stack(plain.probabilities(IMAGES))
    for one in (fused, auto, compiled):
        torch.testing.assert_close(torch.stack(one.probabilities(IMAGES)), expected, rtol=1e-4, atol=1e-5)
        one.close()


def test_nobody_looks_into_a_network_during_its_trial(checkpoint, translated, monkeypatch):
    network, seen = translated[1], []
    monkeypatch.setattr(compiling, "_gain", lambda plain, faster, images: seen.append(plain) or 2.0)
    compute = computing(checkpoint, network, wait=True)
    task = open_predictor(checkpoint).module
    served = ServedNetwork("net", "net", task.spec, compute, task)
    compute._plain = lambda images: seen.append(compute.undisturbed.locked())
    monkeypatch.setattr(explaining, "_cam", lambda *_: seen.append(compute.undisturbed.locked()))
    explaining.explain(served, IMAGES[0], None, 1)
    seen.pop(0)(IMAGES)
    assert seen == [True, True]
    assert not compute.undisturbed.locked()


@pytest.mark.slow
@pytest.mark.process
def test_the_compiler_itself(checkpoint, caplog, monkeypatch):
    monkeypatch.setattr(compiling, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(worker, "_SECONDS_TO_START", 600.0)  # on a machine that does a lot else
    caplog.set_level(logging.WARNING)
    (network,) = open_networks([str(checkpoint)], optimize="compile")
    assert ": compiled, " in caplog.text
    (plain,) = open_networks([str(checkpoint)], optimize="none")
    for images in (IMAGES, IMAGES[:1], torch.randn(7, 3, 32, 32)):
        found, expected = (torch.stack(one.probabilities(images)) for one in (network, plain))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    network.close()
