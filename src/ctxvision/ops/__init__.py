"""The two stateless operators that carry every network of this package."""

from ctxvision.ops.contextual_conv import contextual_conv2d
from ctxvision.ops.local_aggregation import local_aggregation

__all__ = ["contextual_conv2d", "local_aggregation"]
