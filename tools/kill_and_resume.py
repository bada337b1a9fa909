"""Kill training runs at random moments, resume them, and compare the weights with those of an undisturbed run.

A small network learns the embedded digits with augmentation, mixup, stochastic depth and a moving average of the
weights. A run is killed by SIGKILL (every fourth time while it writes a checkpoint), continued by ``--resume``,
killed again and so on until it comes to its end; then another begins, until all kills are spent. Weights, averaged
weights, state of the optimiser and ``metrics.csv`` must equal those of a run that nobody disturbed, bit for bit.

    python tools/kill_and_resume.py                       # 20 kills
    python tools/kill_and_resume.py --kills 3 --devices 2 # kills one of two processes
    python tools/kill_and_resume.py --kills 3 --torchrun  # likewise, and torchrun starts them again by itself
"""

import argparse
import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

_WORDS = ["--device=cpu", "--mixup=0.4", "--cutmix=1", "--ema=0.95", "--drop-path-rate=0.1", "--clip-grad=1"]
_WORDS += ["--pictures=false"]
_PARTS = ("state_dict", "current_model_state", "optimizer_states", "averaging_state", "global_step", "epoch")


def main(words: list[str] | None = None) -> int:
    """Run the trials and return 1 if anything differs."""
    args = _arguments(words)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        began = time.monotonic()
        if _wait(_start(folder / "whole", args)):
            print("the undisturbed run failed")
            return 1
        seconds = time.monotonic() - began
        print(f"undisturbed run: {seconds:.1f} s\n\n{'run':>3} {'kill':>4} {'after':>8}  where")
        differences, kills, run, ended = [], 0, 1, False
        while kills < args.kills or not ended:
            parts = folder / f"parts-{run}"
            if args.torchrun and kills < args.kills:
                # one start of torchrun sees several kills to the end
                kills += _kill_workers(parts, args, draw, seconds, run, args.kills - kills)
                ended = True
            elif kills < args.kills:
                ended = not _start_and_kill(parts, args, draw, seconds, f"{run:>3} {kills + 1:>4}", kills % 4 == 3)
                kills += not ended
            else:
                ended = not _wait(_start(parts, args)) or _failed(parts)
            if ended:
                found = compare(folder / "whole", parts)
                print(f"{run:>3}  ended: {'; '.join(found) or 'equal bit for bit'}\n", flush=True)
                differences += found
                run, ended = run + 1, kills >= args.kills
    print(f"{kills} kills, {run - 1} resumed to the end, {len(differences)} differences")
    return 1 if differences else 0


def compare(one: Path, other: Path) -> list[str]:
    """Name what differs between two finished runs."""
    found = []
    for name in ("last", "best"):
        a, b = (_state(folder / "checkpoints" / f"{name}.ckpt") for folder in (one, other))
        found += [f"{name}.ckpt: {part}" for part in _PARTS if not _same(a.get(part), b.get(part))]
    if _rows(one) != _rows(other):
        found.append("metrics.csv")
    return found


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all (default 20)")
    parser.add_argument("--network", default="test_resnet")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--devices", type=int, default=1, help="processes; with several, one of them is killed")
    parser.add_argument("--torchrun", action="store_true", help="two processes of torchrun, which begins again")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", help="where the runs go; by default the system's place for such")
    args = parser.parse_args(words)
    if args.torchrun:
        args.devices = 2
    return args


def _start(folder: Path, args: argparse.Namespace) -> subprocess.Popen[bytes]:
    if (folder / "config.yaml").is_file():
        words = [f"--resume={folder}"]
    else:
        # killed before there was anything to resume
        shutil.rmtree(folder, ignore_errors=True)
        words = [args.network, "digits", "--image-size=16", f"--epochs={args.epochs}", f"--out={folder}", *_WORDS]
        words += [f"--batch-size={args.batch_size}", f"--devices={args.devices}", "--save-minutes=0.01"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("CTXVISION_RUN_FOLDER", None)
    by = (
        ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--max-restarts={args.kills}"]
        if args.torchrun
        else []
    )
    log = folder.with_suffix(".log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, *by, "-m", "ctxvision", "train", *words],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _start_and_kill(
    folder: Path, args: argparse.Namespace, draw: random.Random, seconds: float, label: str, in_write: bool
) -> bool:
    """Start or resume a run and kill it; returns False if it came to its end before."""
    before = _newest(folder)
    process = _start(folder, args)
    delay = draw.uniform(0.2, 1.0) * seconds
    where = _wait_for_moment(process, folder, delay, in_write)
    if process.poll() is not None:
        return bool(process.returncode) and _failed(folder)
    _kill(process, args.devices)
    moved = "newer checkpoint" if _newest(folder) != before else "no new checkpoint"
    print(f"{label} {delay:>6.2f} s  {where}, {moved}", flush=True)
    return True


def _kill_workers(
    folder: Path, args: argparse.Namespace, draw: random.Random, seconds: float, run: int, most: int
) -> int:
    """Start torchrun and kill one of its processes now and then until it has ended; returns how often."""
    process, kills = _start(folder, args), 0
    while process.poll() is None:
        delay, before = draw.uniform(0.2, 1.0) * seconds, _newest(folder)
        where = _wait_for_moment(process, folder, delay, in_write=kills % 4 == 3)
        workers = _children(process.pid)
        if kills < most and process.poll() is None and len(workers) == 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
            kills += 1
            moved = "newer checkpoint" if _newest(folder) != before else "no new checkpoint"
            print(f"{run:>3} {kills:>4} {delay:>6.2f} s  {where}, {moved}", flush=True)
        elif kills >= most:
            process.wait()
    if process.returncode:
        _failed(folder)
    return kills


def _failed(folder: Path) -> bool:
    raise SystemExit(f"the run failed by itself:\n{folder.with_suffix('.log').read_text()[-2000:]}")


def _wait_for_moment(process: subprocess.Popen[bytes], folder: Path, delay: float, in_write: bool) -> str:
    """Wait, and then on for a half-written checkpoint if that is asked for."""
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    end = time.monotonic() + 5 * delay + 5
    while in_write and process.poll() is None and time.monotonic() < end:
        if any((folder / "checkpoints").glob(".*.part*")):
            return "while a checkpoint was written"
    return "at random"


def _kill(process: subprocess.Popen[bytes], devices: int) -> None:
    """Kill the process, or with several one of those that it has started; then wait for all of them."""
    children = _children(process.pid) if devices > 1 else []
    victim = children[0] if children else process.pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _wait(process: subprocess.Popen[bytes]) -> int:
    return process.wait()


def _newest(folder: Path) -> int:
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.is_file() else 0


def _state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


if __name__ == "__main__":
    raise SystemExit(main())
