"""What is timed: a name of timm's, a checkpoint, a published folder, an exported file."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from ctxvision.files import near_path
from ctxvision.inference import open_predictor
from ctxvision.inference.classification import ClassificationPredictor
from ctxvision.inference.exported import SUFFIXES, Exported, open_exported
from ctxvision.inference.optimizing import what_was_folded
from ctxvision.models import count_macs
from ctxvision.nn import fuse
from ctxvision.nn.layouts import LAYOUTS, Layout, to_layout
from ctxvision.tasks.networks import require_model

from .preparation import fill_zero_weights, set_batch_norm_statistics


class TimingError(ValueError):
    """A network cannot be timed as asked; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZE = 224
_SOURCES = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class TimedNetwork:
    """A network that is ready for images of one size.

    Attributes:
        model: Name or path of the network, as the user gave it.
        compute: Function from images (B, C, H, W) to the network's output.
        input_size: Number of channels, height and width of an image, (C, H, W), the latter two in pixels.
        device: Device on which the network computes.
        dtype: Data type of the weights and the images.
        network: The module, or ``None`` where there is only a graph.
        params: Number of parameters of the network, or ``None`` where there is only a graph.
        macs: Number of multiply-adds for one image, or ``None`` where they were not counted.
        prepared: What was done to the network for speed; empty if nothing was.
    """

    model: str
    compute: Callable[[Tensor], Any]
    input_size: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    network: nn.Module | None
    params: int | None
    macs: int | None
    prepared: str = ""

    def inference(
        self, batch: int, layout: str, compute: Callable[[Tensor], Any] | None = None
    ) -> Callable[[], Any]:
        """Return a function that runs a batch of random images through the network, and waits for nothing.

        Args:
            batch: Number of images, B.
            layout: Memory layout of the weights and the images, ``channels_last`` or ``nchw``.
            compute: Function from images (B, C, H, W), compiled from the network, that is called instead of it; by
                default the network itself is called.
        """
        images = torch.randn(
            batch, *self.input_size, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
        )
        images = images.to(self.device, self.dtype)
        if self.network is not None:
            to_layout(self.network, cast(Layout, layout))
            images = images.contiguous(memory_format=LAYOUTS[cast(Layout, layout)])
        function = self.compute if compute is None else compute

        def call() -> Any:
            with torch.inference_mode():
                return function(images)

        return call


def check_name(model: str) -> None:
    """Find out before the work whether there is such a network.

    Raises:
        TimingError: There is no such file.
        TaskError: There is no network of this name; the message suggests others.
    """
    if Path(model).suffix.lower() in (".ckpt", *SUFFIXES):
        if not Path(model).is_file():
            raise TimingError(f"{model}: no such file{near_path(model)}")
    elif not model.startswith(_SOURCES):
        require_model(model)


def open_subject(
    model: str,
    size: int | None,
    device: torch.device,
    dtype: str,
    *,
    settled: bool = True,
    fused: bool = False,
    trust: bool = False,
) -> TimedNetwork:
    """Open a network for inference.

    Args:
        model: Name of a network of timm's, ours included, which gets random weights; ``local-dir:`` or ``hf-hub:``
            and a place; or path of a ``.ckpt``, ``.onnx`` or ``.pt2`` file of this library.
        size: Height and width of the images in pixels; by default 224, or the size that a file names.
        device: Device on which the network computes.
        dtype: Data type of the weights and the images.
        settled: Whether to give random weights values with which every branch works, and to count multiply-adds;
            both need memory of their own.
        fused: Whether BatchNorm is folded into other layers, where it can be.
        trust: Whether the maker of the file is trusted, see `ctxvision.inference.open_predictor`.

    Raises:
        TimingError: The network does not compute on this device, with this data type or at this size.
        CheckpointError: The checkpoint cannot be used.
        ExportError: The exported file cannot be used.
    """
    if Path(model).suffix.lower() in SUFFIXES:  # of which no more is asked than the size of its images
        return _of_exported(model, open_exported(model, trust=trust), size, device, dtype)
    if not _is_file(model):
        network, input_size = _create(model, size)
    else:
        predictor = open_predictor(model, trust=trust, optimize="none")
        if not isinstance(predictor, ClassificationPredictor):
            raise TimingError(f"{model}: its task is {predictor.task}; only classifiers can be timed")
        network = cast(nn.Module, predictor.network)
        input_size = _sized(predictor.data_spec.input_size, size)
    channels, height, _ = input_size
    macs = count_macs(network, input_size) if settled else None
    if settled and not _is_file(model):
        fill_zero_weights(network)
        set_batch_norm_statistics(network, height, channels)
    network = network.eval().requires_grad_(False).to(device, DTYPES[dtype])
    params = sum(parameter.numel() for parameter in network.parameters())
    prepared = ""
    if fused:
        with contextlib.suppress(ValueError):  # it takes more than images
            original = network
            network = fuse(original, torch.empty(1, *input_size, dtype=torch.float32, device="meta"))
            prepared = what_was_folded(original, network)
    return TimedNetwork(model, network, input_size, device, DTYPES[dtype], network, params, macs, prepared)


def _is_file(model: str) -> bool:
    """Tell whether weights come from a file, instead of by chance for a name."""
    return model.startswith(_SOURCES) or Path(model).suffix.lower() in (".ckpt", *SUFFIXES)


def _sized(input_size: tuple[int, int, int], size: int | None) -> tuple[int, int, int]:
    return (input_size[0], size, size) if size else input_size


def _create(model: str, size: int | None) -> tuple[nn.Module, tuple[int, int, int]]:
    config = timm.get_pretrained_cfg(model)
    height = size or SIZE
    resized = config and config.fixed_input_size and tuple(config.input_size[1:]) != (height, height)
    network = timm.create_model(model, **({"img_size": height} if resized else {}))
    return network, (network.pretrained_cfg["input_size"][0], height, height)


def _of_exported(
    path: str, exported: Exported, size: int | None, device: torch.device, dtype: str
) -> TimedNetwork:
    if device.type != "cpu" or dtype != "float32":
        raise TimingError(f"{path}: exported networks run on the CPU in float32 here, not on {device} in {dtype}")
    input_size: tuple[int, int, int] = tuple(exported.metadata.data_spec["input_size"])
    if size and input_size[1:] != (size, size) and not exported.metadata.dynamic_size:
        height, width = input_size[1:]
        raise TimingError(f"{path}: takes images of {height} × {width} only, not of {size}")
    return TimedNetwork(path, exported, _sized(input_size, size), device, torch.float32, None, None, None)
