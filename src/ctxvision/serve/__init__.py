"""A page and an HTTP API in front of trained classifiers."""

from .app import create_app
from .batcher import Batcher
from .network import ServedNetwork, open_networks
from .server import bind, serve, url_of
from .settings import Access, Limits, ServeError, access_for

__all__ = [
    "Access",
    "Batcher",
    "Limits",
    "ServeError",
    "ServedNetwork",
    "access_for",
    "bind",
    "create_app",
    "open_networks",
    "serve",
    "url_of",
]
