"""Run a plan within so many minutes; write rows and failures as they come, so that a cut run is useful too."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from benchmarks import machine, rows
from benchmarks.gpu.plan import Item, Plan, Stage
from benchmarks.gpu.report import report
from benchmarks.settings import ROOT

COLUMNS = (
    *machine.COLUMNS,
    "stage", "what", "layout", "pass", "candidate", "batch", "p10_ms", "p50_ms", "p90_ms", "repeats", "images_s",
    "gb_s", "copy_share", "ratio", "peer", "peak_mib", "outcome",
)  # fmt: skip
Row = dict[str, Any]
GRACE = 5.0  # seconds that a process has to end after it was asked to


@dataclass
class Record:
    """What was found so far, in memory and on disk.

    Attributes:
        out: CSV file of rows.
        shared: Columns that all rows of the run have.
        found: All rows.
        failures: What failed: stage, item, error.
    """

    out: Path
    shared: Row
    found: list[Row] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    def row(self, stage: str, row: Row) -> None:
        """Append a row at once."""
        whole = dict.fromkeys(COLUMNS, "") | self.shared | {"stage": stage} | row
        rows.append(self.out, COLUMNS, [whole])
        self.found.append(whole)

    def failure(self, stage: str, item: Item, error: str) -> None:
        """Append a failure to ``<out>.failures.txt`` and print its first line."""
        self.failures.append((stage, str(item), error))
        with self.out.with_suffix(".failures.txt").open("a", encoding="utf-8") as file:
            file.write(f"{self.shared['date']} {self.shared['commit']} {stage}: {item}\n{error}\n\n")
        print(f"FAILED {stage}: {item}: {error.splitlines()[0] if error else ''}", flush=True)


def run(plan: Plan, minutes: float, out: Path) -> int:
    """Do the stages in order until the time is up; return how many items failed.

    Args:
        plan: What to do.
        minutes: Time for all of it in minutes; stages end at their share of it.
        out: CSV file to append to; failures go beside it.

    Raises:
        SchemaError: If ``out`` holds other columns.
    """
    rows.check(out, COLUMNS)
    begin = time.monotonic()
    record = Record(out, machine.describe(plan.settings("bfloat16" if plan.device == "cuda" else "float32")))
    for stage in plan.stages:
        deadline = begin + minutes * 60 * stage.until
        done = _run_stage(plan, stage, deadline, record)
        print(
            f"{stage.name}: {done} of {len(stage.items)} items, {time.monotonic() - begin:.0f} s gone", flush=True
        )
    print(report(record.found, record.failures), flush=True)
    return len(record.failures)


def _command(plan: Plan, stage: Stage, numbers: Sequence[int]) -> list[str]:
    """Return the command that does some items of a stage and says so on its output."""
    chosen = ",".join(map(str, numbers))
    return [sys.executable, "-m", "benchmarks.gpu.worker", plan.packed(), stage.name, chosen]


class _Worker:
    """A process, its items, and what it says."""

    def __init__(
        self, plan: Plan, stage: Stage, numbers: Sequence[int], said: "Queue[tuple[_Worker, str | None]]"
    ) -> None:
        self.left = list(numbers)
        self.running: int | None = None
        self.began = False
        environment = os.environ | ({"TRITON_INTERPRET": "1"} if plan.device == "cpu" else {})
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(_command(plan, stage, numbers), cwd=ROOT, env=environment, **pipes)
        self._errors: list[str] = []
        self._threads = (Thread(target=self._listen, args=(said,)), Thread(target=self._keep_errors))
        for thread in self._threads:
            thread.start()

    def _listen(self, said: "Queue[tuple[_Worker, str | None]]") -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                said.put((self, line))
        said.put((self, None))

    def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._errors = [*self._errors, line.rstrip()][-20:]

    def end(self) -> str:
        """Wait for the process, or stop it; return the last lines that it wrote to its error stream."""
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        return "\n".join(self._errors[-5:])

    def stop(self) -> None:
        """Stop the process at once."""
        self._process.kill()
        self.end()


def _run_stage(plan: Plan, stage: Stage, deadline: float, record: Record) -> int:
    """Share the items among processes; a process that ends early is followed by another for what is left."""
    said: Queue[tuple[_Worker, str | None]] = Queue()
    numbers = range(len(stage.items))
    shares = [list(numbers[n :: stage.processes]) for n in range(min(stage.processes, len(numbers)))]
    workers = {_Worker(plan, stage, share, said) for share in shares if time.monotonic() < deadline}
    done = 0
    while workers:
        try:
            worker, line = said.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            for late in workers:
                late.stop()
                if late.running is not None:
                    record.failure(stage.name, stage.items[late.running], "stopped: the stage's time was up")
            return done
        if line is not None:
            done += _hear(worker, line, stage, record)
            continue
        workers.discard(worker)
        error = worker.end()
        if worker.running is not None:  # it ended in the middle of an item: a signal, or a device that is gone
            record.failure(stage.name, stage.items[worker.running], f"its process ended: {error}")
            worker.left.remove(worker.running)
        elif not worker.began:
            record.failure(stage.name, stage.items[worker.left[0]], f"its process did not start: {error}")
            continue
        if worker.left and time.monotonic() < deadline:
            workers.add(_Worker(plan, stage, worker.left, said))
    return done


def _hear(worker: _Worker, line: str, stage: Stage, record: Record) -> int:
    """Take one line of a worker; return 1 if an item ended."""
    try:
        words = json.loads(line)
        event, number = words["event"], words["item"]
    except (ValueError, TypeError, KeyError):  # a library that prints
        return 0
    if event == "start":
        worker.running, worker.began = number, True
    elif event == "row":
        record.row(stage.name, words["row"])
    elif event == "failure":
        record.failure(stage.name, stage.items[number], words["error"])
        worker.left.remove(number)
        worker.running = None
    elif event == "end":
        if number in worker.left:
            worker.left.remove(number)
        worker.running = None
        return 1
    return 0
