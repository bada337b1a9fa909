"""Progress: lines off a terminal, a bar on one, silence by default; every loop that takes a function tells it."""

import io
import re

import pytest

from ctxvision.progress import Lines, counted, shown, silent


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_comes_after_thirty_seconds_with_rate_and_time_left():
    clock, lines = Clock(), []
    tell = Lines(lines.append, clock=clock)
    for done in range(0, 101, 10):
        tell("images", done, 100)
        clock.now += 10
    assert lines == [
        "images: 30 of 100, 1.0/s, 1:10 left",
        "images: 60 of 100, 1.0/s, 0:40 left",
        "images: 90 of 100, 1.0/s, 0:10 left",
    ]


def test_a_line_comes_after_so_many_steps_also_where_batches_step_over_it():
    lines, clock = [], Clock()
    tell = Lines(lines.append, every=50, clock=clock)
    for done in (0, 32, 64, 96, 128):
        tell("images", done, None)
        clock.now += 64
    assert lines == ["images: 64, 2.0 s each", "images: 128, 2.0 s each"]


def test_other_work_is_measured_anew():
    lines, clock = [], Clock()
    tell = Lines(lines.append, every=1, clock=clock)
    tell("slow", 0, 1)
    clock.now += 1000
    tell("fast", 0, 2)
    clock.now += 1
    tell("fast", 1, 2)
    assert lines == ["fast: 1 of 2, 1.0/s, 0:01 left"]


def test_nothing_is_said_of_what_is_short_or_wished_quiet():
    lines = []
    with shown(lines.append, stream=io.StringIO()) as tell:
        assert list(counted([1, 2], tell, "images", 2)) == [1, 2]
    terminal = Terminal()
    with shown(lines.append, quiet=True, stream=terminal) as tell:
        assert tell is silent
        list(counted([1, 2], tell, "images", 2))
    assert (lines, terminal.getvalue()) == ([], "")


@pytest.mark.parametrize("threaded", [True, False])
def test_a_terminal_has_a_bar_that_is_gone_after_it(threaded, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    terminal, lines = Terminal(), []
    with shown(lines.append, stream=terminal, threaded=threaded) as tell:
        tell("[images]", 0, None)  # not a style of rich's
        tell("[images]", 3, None)
        for _ in counted(range(4), tell, "frames", 4):
            pass
    assert lines == []
    text = terminal.getvalue()
    assert "frames" in text
    assert "4/4" in text or not threaded
    assert text.rstrip().endswith("\x1b[2K")  # the line is cleared


def test_counted_counts_when_the_next_is_asked_for():
    said = []
    items = counted([[1, 2], [3]], lambda *now: said.append(now), "numbers", 3, size=len)
    next(items)
    assert said == [("numbers", 0, 3)]
    assert list(items) == [[3]]
    assert said == [("numbers", 0, 3), ("numbers", 2, 3), ("numbers", 3, 3)]


@pytest.mark.parametrize("name", ["evaluate", "report", "explain", "predict", "export", "benchmark", "convert"])
def test_every_long_command_can_be_quiet(name):
    import argparse
    import importlib

    parser = argparse.ArgumentParser()
    importlib.import_module(f"ctxvision._cli.{name}").add_arguments(parser)
    assert re.search(r"--quiet\b", parser.format_help())
