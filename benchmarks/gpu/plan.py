"""What a run on a GPU does, the most important first, and how much of its time each stage may take."""

import pickle
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from benchmarks.gpu.problems import PROBLEMS, TINY, Problem
from benchmarks.models.networks import PEERS
from benchmarks.ops.cases import CASES, PASSES, Case, tiny
from benchmarks.settings import DTYPES, Settings, default_threads


@dataclass(frozen=True)
class Verify:
    """Compare one operator with its oracle in one dtype, in all layouts."""

    problem: Problem
    dtype: str


@dataclass(frozen=True)
class Operator:
    """Time one operator and its peers."""

    case: Case
    dtype: str


@dataclass(frozen=True)
class Network:
    """Time one network and its plain peer.

    Attributes:
        name: Name of ours.
        peer: Name of the plain network.
        which: ``inference`` or ``training step``.
        compiled: Whether `torch.compile` has compiled both.
        dtype: Data type; bfloat16 means autocast.
    """

    name: str
    peer: str
    which: str
    compiled: bool
    dtype: str


@dataclass(frozen=True)
class Tiles:
    """Try other tiles for one operator and pass."""

    case: Case
    which: str
    dtype: str


Item = Verify | Operator | Network | Tiles


class Stage(NamedTuple):
    """Items of one kind.

    Attributes:
        name: Name of the stage, as in the rows.
        items: Its work, the most important first.
        until: Share of the run's time after which no item of it is started and what runs is stopped.
        processes: How many processes share it: comparing waits for the compiler, timing wants the GPU alone.
    """

    name: str
    items: tuple[Item, ...]
    until: float
    processes: int


@dataclass(frozen=True)
class Plan:
    """How a run measures, and what.

    Attributes:
        device: ``cuda``; or ``cpu``, where Triton's interpreter computes and times mean nothing.
        threads: Threads of torch on the CPU.
        batch: Images of what is timed.
        resolution: Height and width of the networks' images in pixels.
        repeats: Samples of every candidate, at most.
        seconds: No further round is started after this long, once there are five.
        shrink: Divisor of the yardsticks' sizes.
        compiler: Backend of `torch.compile`.
        verified_layouts: Strides behind which operators are compared.
        tile_steps: How often a tile's side is halved and doubled.
        stages: The work.
    """

    device: str
    threads: int
    batch: int
    resolution: int
    repeats: int
    seconds: float
    shrink: int
    compiler: str
    verified_layouts: tuple[str, ...]
    tile_steps: int
    stages: tuple[Stage, ...]

    def settings(self, dtype: str) -> Settings:
        """Return what the other benchmarks measure with."""
        return Settings(
            torch.device(self.device), DTYPES[dtype], self.threads, self.batch, self.repeats, self.seconds,
            self.resolution,
        )  # fmt: skip

    def packed(self) -> str:
        """Return the plan as text, for a process of our own."""
        return b64encode(pickle.dumps(self)).decode()

    @staticmethod
    def unpacked(text: str) -> "Plan":
        """Return the plan that `packed` wrote; never call it with anybody else's text."""
        plan = pickle.loads(b64decode(text))
        assert isinstance(plan, Plan)
        return plan


def full() -> Plan:
    """Return the run for a GPU."""
    verify = tuple(Verify(p, dtype) for dtype in ("bfloat16", "float32", "float16") for p in PROBLEMS)
    named_first = sorted(CASES, key=lambda case: not case.named)
    operators = tuple(Operator(case, dtype) for dtype in ("bfloat16", "float32") for case in named_first)
    kinds = (("inference", False), ("training step", False), ("inference", True), ("training step", True))
    networks = tuple(
        Network(name, peer, which, compiled, "bfloat16")
        for which, compiled in kinds
        for name, peer in PEERS.items()
    )
    tiles = tuple(Tiles(case, which, "bfloat16") for which in PASSES for case in named_first)
    stages = (
        Stage("correctness", verify, 0.35, 8),
        Stage("operators", operators, 0.6, 1),
        Stage("networks", networks, 0.85, 1),
        Stage("tiles", tiles, 1.0, 1),
    )
    layouts = ("channels_last", "contiguous", "sliced", "transposed", "reversed")
    return Plan("cuda", default_threads(), 128, 224, 20, 1.5, 1, "inductor", layouts, 2, stages)


def smoke() -> Plan:
    """Return the same run at toy sizes on the CPU: every line of it, in Triton's interpreter."""
    plan = full()
    cases = [replace(tiny(case), kernel=3, size=3) for case in (CASES[0], CASES[7])]
    verify = [Verify(problem, "bfloat16") for problem in TINY] + [Verify(TINY[0], "float16")]
    networks = [
        Network("rednet_micro", "resnet18", "inference", True, "float32"),
        Network("cotnet_micro", "resnet18", "training step", False, "float32"),
        Network("contextual_convnext_micro", "convnext_atto", "training step", True, "float32"),
    ]
    stages = (
        Stage("correctness", tuple(verify), 1.0, 2),
        Stage("operators", tuple(Operator(case, "float32") for case in cases), 1.0, 1),
        Stage("networks", tuple(networks), 1.0, 1),
        Stage("tiles", tuple(Tiles(case, "forward", "float32") for case in cases), 1.0, 1),
    )
    return replace(
        plan, device="cpu", threads=1, batch=2, resolution=32, repeats=2, seconds=0.0, shrink=64, compiler="eager",
        verified_layouts=("channels_last", "sliced"), tile_steps=1, stages=stages,
    )  # fmt: skip
