"""Read the tensors of a checkpoint that nobody vouches for: data only, never code."""

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ctxvision.files import near_path
from ctxvision.runs import checkpoint_of

from . import keras_file
from .archive import ArchiveError, load_pickled
from .error import CheckpointError, name_some
from .kecam import from_kecam
from .keras_file import read_layers
from .paddle_file import read_paddle

_EMA_SECTIONS = ("state_dict_ema", "model_ema")
_RAW_SECTIONS = ("state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and its kin; torch.compile
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_TORCH_PICKLE = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # how torch.save began before 1.6


class _Ignored:
    """Takes the place of a bookkeeping object (options, a NumPy scalar): drops what it is given."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# Published training checkpoints hold more than tensors: timm's an argparse.Namespace, CoTNet's a yacs
# configuration and the accuracy as a NumPy scalar. torch's restricted unpickler replaces these names by the
# objects given here, so nothing that a file names is imported, built or called; every other name is refused.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, "argparse.Namespace"),
    (_Ignored, "numpy.dtype"),
    (_Ignored, "numpy.core.multiarray.scalar"),
    (_Ignored, "numpy._core.multiarray.scalar"),
    (OrderedDict, "yacs.config.CfgNode"),  # a dict subclass: torch lets only dicts receive items
]


class Contents(NamedTuple):
    """What a checkpoint holds.

    ``tensors`` are the weights, ``is_ema`` tells whether they are the exponential moving average, ``class_names``
    are the classes that a checkpoint of ``ctxvision train`` names, in the order of the outputs, and
    ``model_args`` the arguments that its network was built with.
    """

    tensors: dict[str, Tensor]
    is_ema: bool
    class_names: tuple[str, ...] | None = None
    model_args: Mapping[str, object] = MappingProxyType({})


def read_state_dict(path: str | PathLike[str], *, ema: bool = True) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint file without running anything that the file may contain.

    Understands safetensors; files of ``torch.save`` in either of its formats, with the sections of timm, CoTNet
    and OpenMMLab (``state_dict``, ``state_dict_ema``, ``model``, ``model_ema``, or a bare state dict), and
    names prefixed by ``module.`` or ``_orig_mod.``; Keras' ``.h5`` files of keras_cv_attention_models' CoTNets,
    whose names become ours; and Paddle's ``.pdparams``.

    Args:
        path: Path of the file; its contents decide how it is read, not its name.
        ema: Whether to prefer the moving average where the file has one.

    Returns:
        Tensors on the CPU by name, in the file's order.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, holds code, or holds no such weights.
    """
    return read_contents(path, ema=ema).tensors


def read_contents(path: str | PathLike[str], *, ema: bool = True) -> Contents:
    """Like `read_state_dict`, and say which weights were taken."""
    path = Path(checkpoint_of(path))
    if path.is_dir():
        raise CheckpointError(path, "is a folder; name the checkpoint file inside it")
    if not path.is_file():
        raise CheckpointError(path, f"no such file{near_path(path) or '; check the path'}")
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(path, "is empty; download it again")
        tensors = _read_other(path)
        if tensors is not None:
            return Contents(_clean(path, tensors), is_ema=False)
        checkpoint = _load_pickled(path)
        section, is_ema = _choose_section(path, checkpoint, ema)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})") from error
    return Contents(_clean(path, section), is_ema, _class_names(checkpoint), _model_args(checkpoint))


def _class_names(checkpoint: object) -> tuple[str, ...] | None:
    """Return the classes that a checkpoint of ``ctxvision train`` names; of any other file, nothing."""
    for key in ("hyper_parameters", "data_spec", "class_names"):
        checkpoint = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    names = checkpoint if isinstance(checkpoint, list | tuple) else ()
    return tuple(names) if names and all(isinstance(name, str) for name in names) else None


def _model_args(checkpoint: object) -> Mapping[str, object]:
    for key in ("hyper_parameters", "model_args"):
        checkpoint = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    return checkpoint if isinstance(checkpoint, Mapping) else {}


def _read_other(path: Path) -> Mapping[str, Tensor] | None:
    """Read a file that ``torch.save`` did not write; None for others."""
    with path.open("rb") as file:
        start = file.read(len(_TORCH_PICKLE))
    if start.startswith(keras_file.MAGIC):
        return from_kecam(read_layers(path), path)
    if start.startswith(_PICKLE_MAGIC) and start != _TORCH_PICKLE[: len(start)]:
        return read_paddle(path)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _load_safetensors(path)
    return None


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            path, f"truncated, damaged or not safetensors ({error}); download it again"
        ) from error
    return tensors


def _load_pickled(path: Path) -> object:
    with path.open("rb") as file:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
                warnings.simplefilter("ignore")  # what torch would warn about ends in the error below
                return load_pickled(file)
        except OSError:
            raise
        except ArchiveError as error:
            advice = "; download it again" if "damaged" in str(error) else ""
            raise CheckpointError(path, f"{error}{advice}") from error
        except Exception as error:  # hostile or damaged bytes may raise anything
            raise CheckpointError(path, _diagnose(file, error)) from error


def _diagnose(file: BinaryIO, error: Exception) -> str:
    """Say why `torch.load` refused a file."""
    stopped_at = file.tell()
    size = file.seek(0, 2)
    file.seek(0)
    magic = file.read(4)
    is_zip, is_pickle = magic == _ZIP_MAGIC, magic[:1] == _PICKLE_MAGIC
    reached_end = not is_zip and stopped_at >= size
    summary = (str(error).strip() or type(error).__name__).splitlines()[0]

    wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
    if wanted and not reached_end:
        return (
            f"refused: a pickle with code in it (it asks for {wanted[1]}); none of it was executed; "
            "get a file of plain tensors, such as torch.save(model.state_dict(), …) writes"
        )
    if "TorchScript" in str(error):
        return "refused: it is a TorchScript program, not a state dict; save its state_dict() instead"
    looks_whole = is_pickle and isinstance(error, pickle.UnpicklingError) and not reached_end
    if is_zip or reached_end or (is_pickle and not looks_whole):
        return f"truncated or damaged ({summary}); download it again"
    if looks_whole:
        return f"refused: a pickle, but not of plain tensors ({_reason(str(error))}); none of it was executed"
    return "not a checkpoint: neither safetensors nor a file of torch.save"


def _reason(message: str) -> str:
    """Pick torch's own reason out of its advice on how to load unsafe files."""
    found = re.search(r"WeightsUnpickler error: ([^\n]+)", message)
    return found[1] if found else (message.strip() or "it ends early").splitlines()[0]


def _choose_section(path: Path, checkpoint: object, ema: bool) -> tuple[Mapping[Any, Any], bool]:
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(path, f"holds a {type(checkpoint).__name__}, not a state dict")
    for name in (*(_EMA_SECTIONS if ema else ()), *_RAW_SECTIONS):
        section = checkpoint.get(name)
        if isinstance(section, Mapping):
            return section, name in _EMA_SECTIONS
    if not ema and any(isinstance(checkpoint.get(name), Mapping) for name in _EMA_SECTIONS):
        raise CheckpointError(path, "holds only the moving average; allow it (ema=True)")
    return checkpoint, False


def _clean(path: Path, section: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Check that a section is a state dict, and drop the prefixes that wrappers leave in its names."""
    strange = [str(name) for name, value in section.items() if not _is_plain_tensor(value)]
    if strange:
        raise CheckpointError(
            path, f"not a state dict: {len(strange)} entries are not dense tensors ({name_some(strange)})"
        )
    if not section:
        raise CheckpointError(path, "holds no tensors")
    tensors: dict[str, Tensor] = {}
    for name, value in section.items():
        clean = str(name)
        while clean.startswith(_WRAPPERS):
            clean = clean.split(".", 1)[1]
        if clean in tensors:
            raise CheckpointError(path, f"holds {clean} twice, with and without a wrapper's prefix")
        tensors[clean] = value.detach().clone()  # it may be mapped from the file
    return tensors


def _is_plain_tensor(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
