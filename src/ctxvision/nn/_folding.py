"""What becomes of our layers where a tool folds the BatchNorm behind them, as it does behind convolutions.

`torch.nn.utils.fuse_conv_bn_eval` and ultralytics' ``model.fuse()`` multiply ``weight`` per output channel and
set ``bias``, whatever the layer is. That is right for convolutions alone. Here the two become a scale and a shift
of the layer's output, which is what a BatchNorm in evaluation mode is.
"""

from typing import Any

import torch
from torch import Tensor, nn

_ASK = "use ctxvision.nn.fuse, which leaves such a norm where it is"


class FoldsNorm(nn.Module):
    """A layer whose output is scaled and shifted per channel once a norm was folded into it."""

    folded_scale: Tensor | None
    folded_shift: Tensor | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("folded_scale", None)
        self.register_buffer("folded_shift", None)

    def with_norm(self, y: Tensor) -> Tensor:
        """Return the layer's output ``(B, C, H, W)`` as the folded norm makes it; without one it stays."""
        if self.folded_scale is None or self.folded_shift is None:
            return y
        return torch.addcmul(self.folded_shift[:, None, None], y, self.folded_scale[:, None, None])

    def _fold(self, scale: Tensor, shift: Tensor) -> None:
        """Apply ``y * scale + shift`` to the output, after what was folded before."""
        if self.folded_scale is not None and self.folded_shift is not None:
            scale, shift = self.folded_scale * scale, self.folded_shift * scale + shift
        self.folded_scale, self.folded_shift = scale.detach(), shift.detach()


class FoldsNormByUnits(FoldsNorm):
    """A layer without a kernel of its own; to such tools it is followed by a depthwise 1x1 convolution of ones."""

    out_channels: int

    @property
    def weight(self) -> Tensor:
        """Return ones, ``(C, 1, 1, 1)``: the kernel of a convolution that changes nothing."""
        parameter = next(self.parameters())
        return torch.ones(self.out_channels, 1, 1, 1, device=parameter.device, dtype=parameter.dtype)

    @property
    def bias(self) -> None:
        """Return ``None``, the bias of that convolution."""
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        """Fold what a tool makes of `weight` and then of `bias`."""
        if name == "weight":
            self.__dict__["_scale"] = value.detach().flatten()
        elif name == "bias":
            if "_scale" not in self.__dict__:
                raise _cannot_fold(self)
            self._fold(self.__dict__.pop("_scale"), value)
        else:
            super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter as torch does; a bias behind the layer's back is refused."""
        if name == "bias":
            raise _cannot_fold(self)
        super().register_parameter(name, param)


class FoldsNormByKernel(FoldsNorm):
    """A layer with a kernel ``weight`` that is not all of its kernel: the rest has to be scaled as well."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a kernel that is the old one, scaled per channel, and then a new bias are a norm."""
        old = self.__dict__.get("_parameters", {}).get(name)
        if name == "weight" and isinstance(value, nn.Parameter) and old is not None:
            super().__setattr__(name, value)
            self.__dict__["_before"] = old
            return
        before = self.__dict__.pop("_before", None) if name == "bias" else None
        if before is not None and isinstance(value, nn.Parameter):
            scale = _scale(before, self._parameters["weight"])
            if scale is not None:
                self._parameters.update(weight=before, bias=None)
                self._fold(scale, value)
                return
            if old is None:
                raise _cannot_fold(self)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter as torch does; a bias behind the layer's back is refused."""
        if name == "bias" and param is not None and self._parameters.get("bias", param) is None:
            raise _cannot_fold(self)
        super().register_parameter(name, param)


def _scale(old: Tensor, new: Tensor | None) -> Tensor | None:
    """Return by which factor per output channel a kernel was multiplied; ``None`` if that is not what happened."""
    if new is None or old.shape != new.shape or old.is_meta or new.is_meta:
        return None
    rows, scaled = old.detach().flatten(1).double(), new.detach().flatten(1).double().to(old.device)
    length = rows.square().sum(1)
    factor = (rows * scaled).sum(1) / length
    rest = (scaled - factor[:, None] * rows).abs().amax(1)
    close = rest <= 100 * torch.finfo(old.dtype).eps * scaled.abs().amax(1)
    if not bool((close & (length > 0)).all()) or bool((factor == 1).all()):
        return None
    return factor.to(old.dtype)


def _cannot_fold(layer: nn.Module) -> RuntimeError:
    name = type(layer).__name__
    return RuntimeError(
        f"{name}: a bias cannot be set, nor a BatchNorm be folded into its kernel, in this way; {_ASK}"
    )
