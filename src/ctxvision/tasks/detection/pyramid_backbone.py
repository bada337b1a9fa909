"""A backbone and its feature pyramid, as torchvision's detectors want it."""

from torch import Tensor, nn

from ctxvision.tasks.features import FeatureBackbone


class PyramidBackbone(nn.Module):
    """A backbone with a feature pyramid on it, from images (B, C, H, W).

    Args:
        features: The backbone.
        fpn: The pyramid, which takes and returns feature maps by name.
        out_channels: The number of channels of every map of the pyramid.
    """

    def __init__(self, features: FeatureBackbone, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.features, self.fpn, self.out_channels = features, fpn, out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pyramid (B, out_channels, H_i, W_i) by names, finest map first."""
        maps = {str(i): feature for i, feature in enumerate(self.features(images))}
        pyramid: dict[str, Tensor] = self.fpn(maps)
        return pyramid
