"""The two stateless operators that carry every network of this package, and what computes them."""

from ._backend import Backend, backends, use_backend
from ._exporting import keep_operators
from .aggregation import local_aggregation
from .contextual_conv import contextual_conv2d

__all__ = ["Backend", "backends", "contextual_conv2d", "keep_operators", "local_aggregation", "use_backend"]
