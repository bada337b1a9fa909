"""What the matrix is made of: networks and their peers, forms, what each form computes in, and the targets."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.models.networks import PEERS
from benchmarks.settings import ROOT
from benchmarks.targets import Target

# ours: the plain network that it is measured against
PAIRS = {**PEERS, "contextual_resnet50": "resnet50"}
CACHE = ROOT / "runs" / "matrix"
BATCHES = (1, 8, 32)

EAGER, FUSED, COMPILED = "eager", "fused", "compiled"
PORTABLE, NATIVE, OPENVINO, AOT = "ort-portable", "ort-native", "openvino", "aot"
# forms, the quickest to prepare first: the data types that they compute in
FORMS: Mapping[str, tuple[str, ...]] = {
    EAGER: ("float32", "bfloat16"),
    FUSED: ("float32", "bfloat16"),
    PORTABLE: ("float32", "int8"),
    NATIVE: ("float32",),
    OPENVINO: ("float32", "bfloat16", "int8"),
    COMPILED: ("float32", "bfloat16"),
    AOT: ("float32",),
}
DTYPES = ("float32", "bfloat16", "int8")
# Largest difference to eager float32, as a share of the largest logit. For float32 it is what `ctxvision.export`
# and `ctxvision.inference.optimize` allow themselves; a rounding to 8 bits in each of a
# hundred layers leaves more.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.5}
# Largest difference of ONNX Runtime's integers to the same file computed in floats that are rounded where it says
# so: that leaves nothing of what a rounding to 8 bits costs, only what falls to the other side of one. Small
# networks agree to the bit, `resnet50` to 0.017, `rednet50` to 0.095.
INTEGERS = 0.15


class Foreign(NamedTuple):
    """The same network as another project has it.

    Attributes:
        of: Name of ours.
        runner: Name of the environment and of the file in ``runners/`` that computes it.
        network: Name of it there.
        forms: Ways to run it.
    """

    of: str
    runner: str
    network: str
    forms: tuple[str, ...]


FOREIGN = {
    "cotnet50 of kecam": Foreign("cotnet50", "kecam", "CotNet50", (EAGER, COMPILED)),
    "rednet50 of PaddleClas": Foreign("rednet50", "paddle", "RedNet50", (EAGER,)),
}


@dataclass(frozen=True)
class Plan:
    """What a run measures, and how.

    Attributes:
        pairs: Names of our networks and of their plain peers.
        forms: Ways to run them.
        dtypes: Data types, of which each form takes those that it has.
        batches: Numbers of images computed at a time.
        foreign: The same networks as others have them, by the name in the table.
        size: Height and width of the images in pixels.
        threads: Number of threads.
        repeats: Largest number of rounds of a group.
        seconds: Time in seconds after which a group starts no further round, once there are five.
        cache: Folder of the exported files.
        compiler: Backend of `torch.compile`; ``None`` is inductor with freezing, as
            `ctxvision.inference.optimize` has it.
    """

    pairs: Mapping[str, str] = field(default_factory=lambda: dict(PAIRS))
    forms: Sequence[str] = tuple(FORMS)
    dtypes: Sequence[str] = DTYPES
    batches: Sequence[int] = BATCHES
    foreign: Mapping[str, Foreign] = field(default_factory=dict)
    size: int = 224
    threads: int = 2
    repeats: int = 15
    seconds: float = 8.0
    cache: Path = CACHE
    compiler: str | None = None

    def groups(self) -> Iterator["Group"]:
        """Yield what takes turns together: float32 first, and batches of one form one after the other."""
        peers = dict.fromkeys(self.pairs.values())
        for dtype, form in itertools.product(self.dtypes, self.forms):
            if dtype not in FORMS[form]:
                continue
            for peer, batch in itertools.product(peers, self.batches):
                ours = [name for name, its in self.pairs.items() if its == peer]
                others = [
                    name for name, foreign in self.foreign.items()
                    if foreign.of in ours and form in foreign.forms and dtype == "float32"
                ]  # fmt: skip
                yield Group(form, dtype, batch, peer, (peer, *ours, *others))


class Group(NamedTuple):
    """Networks that take turns, run in the same way.

    Attributes:
        form: Way to run them.
        dtype: Data type.
        batch: Number of images computed at a time.
        peer: Name of the plain network.
        networks: Names of the networks, the peer first.
    """

    form: str
    dtype: str
    batch: int
    peer: str
    networks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.form} {self.dtype} batch {self.batch}: {', '.join(self.networks)}"


_FOUR = ("rednet50", "cotnet50", "se_cotnetd50", "contextual_convnext_tiny")


def _targets() -> dict[tuple[str, str, int, str], Target]:
    bounds: dict[tuple[str, str, int], tuple[tuple[float, float], ...]] = {
        (PORTABLE, "float32", 1): ((0.5, 0.8), (0.7, 0.9)),
        (NATIVE, "float32", 1): ((1.1, 1.3), (0.9, 1.0)),
        (OPENVINO, "float32", 1): ((0.5, 0.8), (0.6, 0.8)),
        (COMPILED, "float32", 8): ((1.2, 1.4), (1.0, 1.1), (1.0, 1.1), (0.95, 1.0)),
        (EAGER, "float32", 1): ((1.1, 1.3), (0.9, 1.0), (0.95, 1.0), (1.0, 1.2)),
        (EAGER, "bfloat16", 1): ((1.05, 1.2), (0.85, 1.0), (0.9, 1.0), (0.95, 1.0)),
        (EAGER, "bfloat16", 8): ((1.05, 1.2), (0.85, 1.0), (0.9, 1.0), (0.95, 1.0)),
    }
    return {
        (form, dtype, batch, name): Target(f"{name} ÷ {PAIRS[name]}, {form} {dtype}, batch {batch}", *bound)
        for (form, dtype, batch), of in bounds.items()
        for name, bound in zip(_FOUR, of, strict=False)
    }


# form, data type, batch, network: images/s over the peer's, at two threads and 224 px
TARGETS = _targets()
