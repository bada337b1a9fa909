"""Published checkpoint in, safetensors for ``timm.create_model(NAME, checkpoint_path=OUT)`` out."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ctxvision.files import write_whole

from .error import CheckpointError
from .finite import require_finite
from .kecam import withheld_weights
from .layout import advice_on, arguments_of, fitting_models, require_fit, skeleton
from .published import from_published, parts_on_backbone
from .reading import Contents, read_contents

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` wrote.

    Attributes:
        destination: Path of the file written.
        model: Name of the network that loads the file.
        tensors: Number of tensors that the file holds, buffers included.
        parameters: Number of parameters of the network (numbers, not tensors).
        used_ema: Whether the weights are the exponential moving average.
        arguments: Arguments that the network needs beside its name: ``num_classes`` and ``in_chans`` where they
            are not ImageNet's (0 classes for a backbone alone), and ``stem_kernel_size`` where it is not 3.
        left_out: Number of tensors that were left out of a detector or a segmentation network, by part, such as
            ``{"neck": 16}``.
    """

    destination: Path
    model: str
    tensors: int
    parameters: int
    used_ema: bool
    arguments: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        weights = "moving-average weights" if self.used_ema else "weights"
        given = "".join(f", {name}={value}" for name, value in self.arguments.items())
        parts = ", ".join(f"{part} ({count} tensors)" for part, count in self.left_out.items())
        return (
            f"{self.destination}: {weights} of {self.model}{given}, {self.tensors} tensors, "
            f"{self.parameters / 1e6:.2f} M parameters" + (f"; left out: {parts}" if parts else "")
        )


def convert(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    model_name: str | None = None,
    *,
    ema: bool = True,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
) -> ConversionReport:
    """Convert a published checkpoint to safetensors that timm loads into our network.

    The tensors are compared with the network, name by name and shape by shape, before anything is written;
    the file appears whole or not at all. Of a detector or a segmentation network the backbone is converted; the
    report lists what was left out.

    Args:
        source: Checkpoint of CoTNet (``.pth.tar``), RedNet (OpenMMLab), keras_cv_attention_models' CoTNet
            (``.h5``) or PaddleClas' RedNet (``.pdparams``), or one in our layout; see `read_state_dict`.
        destination: Path of the file to write, ``*.safetensors``, in an existing folder.
        model_name: Name of one of our networks with published weights, e.g. ``cotnet50``; ``None`` takes the
            network whose tensors these are.
        ema: Whether to prefer the moving average where the source has one.
        overwrite: Whether to replace an existing destination.
        allow_nonfinite: Whether to accept NaN and infinities.

    Returns:
        The report of the conversion.

    Raises:
        CheckpointError: The source is unusable or of another network, or the destination cannot be written.
    """
    source, destination = Path(source), Path(destination)
    _check_destination(source, destination, overwrite)
    if model_name is not None:
        skeleton(model_name)  # a wrong name is told before a large file is read
    contents = _read(source, ema)
    try:
        tensors = from_published(contents.tensors, model_name or "the network")
    except CheckpointError as error:
        raise CheckpointError(source, str(error)) from error
    model_name = model_name or _model_of(tensors, source)
    arguments = arguments_of(tensors, model_name)
    model = skeleton(model_name, **arguments)
    require_fit(tensors, model, model_name, source)
    if not allow_nonfinite:
        require_finite(tensors, source)
    write_converted(tensors, destination, model_name, source.name)
    return ConversionReport(
        destination=destination,
        model=model_name,
        tensors=len(tensors),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        used_ema=contents.is_ema,
        arguments=arguments,
        left_out=parts_on_backbone(contents.tensors),
    )


def _read(source: Path, ema: bool) -> Contents:
    try:
        withheld = withheld_weights(source)
    except OSError:
        withheld = None  # `read_contents` says why
    if withheld:
        _log.warning("%s", withheld.caution)
        return Contents(withheld.tensors, is_ema=False)
    return read_contents(source, ema=ema)


def _model_of(tensors: Mapping[str, Tensor], source: Path) -> str:
    fitting = fitting_models(tensors)
    if not fitting:
        raise CheckpointError(source, f"no network of ours has such tensors{advice_on(tensors)}")
    if len(fitting) > 1:
        raise CheckpointError(source, f"several networks fit ({', '.join(fitting)}); name one of them")
    return fitting[0]


def write_converted(tensors: Mapping[str, Tensor], destination: Path, model_name: str, source_name: str) -> None:
    """Write tensors by our names as safetensors, whole or not at all.

    Args:
        tensors: Tensors by the names that the network gives them.
        destination: Path of the file to write.
        model_name: Name of the network, for the file's metadata.
        source_name: Name of the file that the tensors come from, for the metadata.

    Raises:
        CheckpointError: The file cannot be written.
    """
    # clones: safetensors refuses tensors that share memory
    own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", "model": model_name, "source": source_name}
    try:
        write_whole(destination, safetensors.torch.save(own, metadata))
    except OSError as error:
        raise CheckpointError(destination, f"cannot be written ({error.strerror or error})") from error


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    if destination.suffix != ".safetensors":
        raise CheckpointError(destination, "the output's name must end in .safetensors")
    if destination.is_dir():
        raise CheckpointError(destination, "is a folder; name a file")
    if not destination.parent.is_dir():
        raise CheckpointError(destination, f"there is no folder {destination.parent}; create it first")
    if source.resolve() == destination.resolve():
        raise CheckpointError(destination, "input and output are the same file")
    if destination.exists() and not overwrite:
        raise CheckpointError(destination, "exists already; choose another name or allow overwriting")
