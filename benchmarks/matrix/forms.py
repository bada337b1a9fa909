"""Networks made ready to run in every form, and compared with themselves in eager float32."""

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from benchmarks.gate import RedGate
from benchmarks.matrix.comparing import compare, lowest_kept, require_rounded
from benchmarks.matrix.files import exported
from benchmarks.matrix.plan import (
    AOT,
    COMPILED,
    EAGER,
    FUSED,
    NATIVE,
    OPENVINO,
    PORTABLE,
    Foreign,
    Group,
    Plan,
)  # fmt: skip
from benchmarks.matrix.remote import CellError, Remote
from benchmarks.models.networks import build
from ctxvision.checkpoints import convert
from ctxvision.checkpoints.kecam import renamed
from ctxvision.checkpoints.keras_file import read_layers
from ctxvision.inference import optimize
from ctxvision.inference.exported.onnx_reading import open_session
from ctxvision.inference.exported.opening import open_exported
from ctxvision.nn.layouts import LAYOUTS, to_layout
from ctxvision.ops import use_backend
from ctxvision.timing.clock import Candidate, quantiles, take_turns
from ctxvision.timing.preparation import set_batch_norm_statistics

CPU = torch.device("cpu")
_TRIALS = 3


class Ready(NamedTuple):
    """A network that can be called, and has been compared.

    Attributes:
        call: Function that computes the batch.
        detail: What computes it, and how it was prepared.
        difference: Largest difference to eager float32, as a share of the largest logit.
    """

    call: Callable[[], object]
    detail: str
    difference: float


class Forms:
    """The networks of a run, built once, and the processes that run some of them.

    Args:
        plan: What is measured.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._built: dict[str, nn.Module] = {}
        self._expected: dict[tuple[str, int], Tensor] = {}
        self._remotes: dict[str, Remote] = {}
        self._sessions: dict[Path, Any] = {}
        self._opened: list[tuple[Remote, str]] = []
        self._folder = TemporaryDirectory(prefix="ctxvision-")

    def ready(self, name: str, group: Group) -> Ready:
        """Make a network ready to run as its group does.

        Raises:
            CellError: If it cannot be run so.
            RedGate: If it computes something else than in eager float32.
        """
        images = self.images(group.batch)
        foreign = self._plan.foreign.get(name)
        if foreign is not None:
            return self._foreign(name, foreign, group, images)
        try:
            call, found, detail = self._open(name, group, images)
        except (CellError, RedGate):
            raise
        except Exception as error:  # of exporters, compilers, runtimes: whatever they raise is the cell's
            raise CellError(f"{type(error).__name__}: {error}") from error
        expected, lowest = self.expected(name, group.batch), lowest_kept(self.network(name))
        difference = compare(
            str(group), name, found, expected, group.dtype,
            lowest=lowest, of_torch=lambda: self._of_torch(name, group.dtype, group.batch),
        )  # fmt: skip
        return Ready(call, detail, difference)

    def images(self, batch: int) -> Tensor:
        """Return a batch of two different images, again and again, (B, 3, H, W)."""
        generator = torch.Generator().manual_seed(0)
        two = torch.randn(2, 3, self._plan.size, self._plan.size, generator=generator)
        return two.repeat((batch + 1) // 2, 1, 1, 1)[:batch].contiguous()

    def network(self, name: str) -> nn.Module:
        """Return a network with random weights, the same in every run."""
        if name not in self._built:
            torch.manual_seed(0)
            model = build(name)
            set_batch_norm_statistics(model, self._plan.size)
            self._built[name] = model.eval().requires_grad_(False)
        return self._built[name]

    def expected(self, name: str, batch: int) -> Tensor:
        """Return the logits in eager float32, NCHW, computed by torch's operators alone."""
        if (name, 2) not in self._expected:
            network = self.network(name)
            with torch.inference_mode(), use_backend("torch"):
                self._expected[name, 2] = network(self.images(2))
        logits = self._expected[name, 2]
        return logits.repeat((batch + 1) // 2, 1)[:batch]

    def _of_torch(self, name: str, dtype: str, batch: int) -> Tensor:
        """Return the logits that torch's operators alone compute in a data type."""
        kind = getattr(torch, dtype)
        with torch.inference_mode(), use_backend("torch"):
            logits: Tensor = _copy(self.network(name), kind)(self.images(2).to(kind)).float()
        return logits.repeat((batch + 1) // 2, 1)[:batch]

    def close(self) -> None:
        """Let go of what the last group has opened in other processes."""
        for remote, key in self._opened:
            try:
                remote.forget(key)
            except CellError:  # its process is gone, and with it the network
                self._remotes = {name: its for name, its in self._remotes.items() if its is not remote}
                remote.end()
        self._opened = []

    def forget_sessions(self) -> None:
        """Let go of the sessions of ONNX Runtime, which take any number of images."""
        self._sessions.clear()

    def end(self) -> None:
        """End all processes."""
        self._opened = []
        for remote in self._remotes.values():
            remote.end()
        self._remotes = {}
        self._folder.cleanup()

    def _open(self, name: str, group: Group, images: Tensor) -> tuple[Callable[[], object], Tensor, str]:
        network = self.network(name)
        if group.form in (EAGER, FUSED, COMPILED):
            return self._in_torch(network, group, images)
        form = PORTABLE if group.form == OPENVINO else group.form
        dtype = "int8" if group.dtype == "int8" else "float32"
        path = exported(network, name, form, dtype, self._plan.size, self._plan.cache)
        if group.form == OPENVINO:
            remote = self._remote("openvino")
            found, detail = remote.open(name, images, file=str(path), dtype=group.dtype)
            self._opened.append((remote, name))
            return lambda: remote.call(name), found, detail
        if group.form == AOT:
            run = open_exported(path, trust=True).run
            return lambda: run(images), run(images)[0], "AOTInductor"
        assert group.form in (PORTABLE, NATIVE)
        if path not in self._sessions:
            self._sessions[path] = open_session(path)
        session, feed = self._sessions[path], {"images": images.numpy()}
        import onnxruntime

        found = torch.from_numpy(session.run(None, feed)[0])
        if dtype == "int8":
            require_rounded(path, feed, found)
        return lambda: session.run(None, feed), found, f"onnxruntime {onnxruntime.__version__}"

    def _in_torch(
        self, network: nn.Module, group: Group, images: Tensor
    ) -> tuple[Callable[[], object], Tensor, str]:
        dtype = getattr(torch, group.dtype)
        images = images.to(dtype)
        # weights of a data type of its own; the network stays as it is
        if group.form == EAGER:
            call, detail = _in_faster_format(_copy(network, dtype), images)
        else:
            copied = _copy(network, dtype)
            if group.form == COMPILED:
                torch._dynamo.reset()  # the size of another network's batch is nothing to learn from
            if group.form == COMPILED and self._plan.compiler:
                compiled = torch.compile(copied, backend=self._plan.compiler)
                call, detail = _calling(compiled, images), f"torch.compile, {self._plan.compiler}"
            else:
                prepared = optimize(copied, images, compile=group.form == COMPILED)
                call, detail = _calling(prepared, images), prepared.description
        return call, call().float(), f"{detail}, torch {torch.__version__.split('+')[0]}"

    def _foreign(self, name: str, foreign: Foreign, group: Group, images: Tensor) -> Ready:
        """Open another project's network, and compare it with ours that has its weights."""
        remote = self._remote(foreign.runner)
        weights = Path(self._folder.name) / f"theirs.{'h5' if foreign.runner == 'kecam' else 'pdparams'}"
        found, detail = remote.open(
            name, images, network=foreign.network, weights=str(weights), form=group.form,
            compiler=self._plan.compiler,
        )  # fmt: skip
        self._opened.append((remote, name))
        ours = with_weights_of(foreign, weights)
        with torch.inference_mode():
            expected = ours(images)
        return Ready(lambda: remote.call(name), detail, compare(str(group), name, found, expected, group.dtype))

    def _remote(self, runner: str) -> Remote:
        if runner not in self._remotes:
            self._remotes[runner] = Remote(runner, self._plan.threads)
        return self._remotes[runner]


def with_weights_of(foreign: Foreign, weights: Path) -> nn.Module:
    """Return our network with the weights that another project's has written; other layers are an error."""
    if foreign.runner == "paddle":
        converted = weights.with_suffix(".safetensors")
        convert(weights, converted, overwrite=True)
        model = timm.create_model(foreign.of, checkpoint_path=str(converted))
    else:
        tensors, _ = renamed(read_layers(weights))
        # its shortcuts are those of ResNet-D: average pools
        model = timm.create_model(foreign.of, avg_down=True)
        model.load_state_dict(tensors)
    network: nn.Module = model.eval()
    return network


def _copy(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(network).to(dtype)


def _calling(network: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return network(images)

    return call


def _in_faster_format(network: nn.Module, images: Tensor) -> tuple[Callable[[], Tensor], str]:
    """Return a call in the memory format that is faster in a short trial, and its name."""
    calls = {name: _calling(network, images.contiguous(memory_format=LAYOUTS[name])) for name in LAYOUTS}
    trial = {
        str(name): Candidate(call, lambda name=name: to_layout(network, name))  # type: ignore[misc]
        for name, call in calls.items()
    }
    samples = take_turns(trial, CPU, _TRIALS, 0)
    best = min(LAYOUTS, key=lambda name: quantiles(samples[name]).p50)
    to_layout(network, best)
    return calls[best], best
