"""The four feature maps, strides 4 to 32, of any backbone that timm can cut open."""

import difflib
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

import ctxvision  # noqa: F401 - registers our networks with timm

from ..error import TaskError

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A network without its classifier: images (B, C, H, W) to features of strides 4, 8, 16 and 32.

    The weights' names are those of timm's network under ``body.``, so that `ctxvision.checkpoints.warm_start` of
    ``backbone.body`` takes what a classifier was trained to.

    Args:
        name: any name that timm knows, ours included.
        in_chans: channels of the image.
        drop_path_rate: stochastic depth; 0 is not passed on, for networks that have none.
        model_args: more arguments of the network's constructor.

    Attributes:
        channels: of the four features.

    Raises:
        TaskError: unknown name, arguments that the network does not take, or no features of these strides.
    """

    def __init__(
        self,
        name: str,
        *,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`ctxvision models` lists them"
            raise TaskError(f"unknown model {name!r}; {hint}")
        options = dict(model_args or {}) | ({"drop_path_rate": drop_path_rate} if drop_path_rate else {})
        try:
            self.body = timm.create_model(
                name,
                # named here, so that the arguments of an untrusted checkpoint cannot set them
                pretrained=False,
                pretrained_cfg=None,
                pretrained_cfg_overlay=None,
                checkpoint_path=None,
                cache_dir=None,
                features_only=True,
                in_chans=in_chans,
                **options,
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise TaskError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error
        strides = self.body.feature_info.reduction()
        missing = [stride for stride in STRIDES if stride not in strides]
        if missing:
            raise TaskError(
                f"{name} has features of strides {', '.join(map(str, strides))}; a pyramid needs 4, 8, 16 and 32, "
                "as ResNet, ConvNeXt and their relatives have them"
            )
        # of several of one stride the last, which is the deepest
        self._places = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
        self.channels = tuple(self.body.feature_info.channels()[place] for place in self._places)
        self._channels_are_last = getattr(self.body, "output_fmt", None) in ("NHWC",)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return (B, channels, H / stride, W / stride) for strides 4, 8, 16 and 32, rounded up."""
        features = self.body(images)
        chosen = [features[place] for place in self._places]
        return [feature.permute(0, 3, 1, 2) for feature in chosen] if self._channels_are_last else chosen
