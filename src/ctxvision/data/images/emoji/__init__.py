"""``DATA = emoji``: emoji as several artists drew them, fetched and rendered once."""

from .source import read_emoji

__all__ = ["read_emoji"]
