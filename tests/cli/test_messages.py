"""What commands show of others' names: on a terminal, in a pipe, in tables, as names of pictures."""

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from _hostile_names import CLASSES, FILES
from ctxvision import wording
from ctxvision._cli import messages, models, streams
from ctxvision._cli.answer_pictures import save_pictures
from ctxvision._cli.messages import explain_error, write_rows
from ctxvision.cli import main
from ctxvision.inference import Clip


def test_tables_hold_no_formula_and_show_nothing_hidden():
    rows = [{"a": "=x", "b": -1}]
    assert write_rows(rows, {"a": "A", "b": "B"}, "csv") == "a,b\n'=x,-1\n"
    assert json.loads(write_rows(rows, {}, "json")) == rows
    assert write_rows([{"a": "\x1b"}], {"a": "A"}, "table") == "A\n\\x1b\n"


def test_pictures_of_files_with_long_names(tmp_path):
    predictor = SimpleNamespace(data_spec=SimpleNamespace(class_names=("a", "b")))
    seen = {"pixels": np.zeros((1, 8, 8, 3), np.uint8), "indices": (0,), "by_frame": np.full((1, 2), 0.5)}
    for stem in ("長" * 82, "长" * 82, "a" * 250, "猫"):
        answer = Clip(f"{stem}.png", probabilities=np.full(2, 0.5), **seen)
        (path,) = save_pictures(tmp_path, answer, predictor, taken := set())
        assert stem.startswith(*taken)
        assert Path(path).is_file()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_and_pipe(monkeypatch):
    for kind, steers in ((Terminal, False), (io.StringIO, True)):
        monkeypatch.setattr(sys, "stdout", kind())
        messages.say_all("a,\x1b[2J\n")
        assert ("\x1b" in sys.stdout.getvalue()) is steers
    messages.say("\x1b\n")
    assert sys.stdout.getvalue().endswith("\\x1b\\n\n")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    messages.note("x\r\x1b[1A")
    assert sys.stderr.getvalue() == "ctxvision: x\\r\\x1b[1A\n"


def test_a_long_name_does_not_widen_a_column():
    assert wording.column(["a" * 10_000]) == 60
    assert wording.column([]) == 0
    assert wording.column(["猫", "cat"]) == 3  # cells of a terminal: the character takes two
    assert [wording.padded(name, 4) for name in ("猫", "cat", "rabbit")] == ["猫  ", "cat ", "rabbit"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_of_a_terminal(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with streams.lasting():
        for name in (*CLASSES, *FILES):
            messages.say(name)
        messages.say_all("caf\udce9,猫\n")
        sys.stdout.flush()
    written = raw.getvalue()
    assert len(written.splitlines()) == len(CLASSES) + len(FILES) + 1
    assert b"caf\xe9," in written
    if encoding == "ascii":
        assert b"\\u732b" in written


def unread():
    """A pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


PLACES = {
    "pipe": (unread, 1, ""),
    "closed": (lambda: None, 0, ""),
    "full": (Path("/dev/full").open, 1, "the output cannot be written (no space left on device)"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_reader_that_has_gone_costs_nothing_else(place, stream, tmp_path, monkeypatch, capsys):
    make, code, said = PLACES[place]

    def work(args):
        for number in range(5000):
            messages.say(f"line {number}")
            messages.note(f"line {number}")
        (tmp_path / "done").touch()
        return 0

    monkeypatch.setattr(models, "run", work)
    broken = make("w") if place == "full" else make()
    with monkeypatch.context() as context:
        context.setattr(sys, stream, broken)
        assert main(["models"]) == (code if stream == "stdout" else 0)
        assert getattr(sys, stream) is broken
    assert (tmp_path / "done").exists()
    captured = capsys.readouterr()
    if stream == "stdout":
        assert said in captured.err
        assert captured.err.count("line") == 5000
    if broken is not None:
        broken.close()  # as Python does when it ends; nothing is left that could fail


def test_memory_that_a_cpu_does_not_have_is_no_bug():
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
    )
    assert explain_error(error).startswith("out of memory; lower --micro-batch")
