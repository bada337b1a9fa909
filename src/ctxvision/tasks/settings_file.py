"""Settings in YAML, which travel with runs: read without trusting them."""

import os
from typing import Any

import yaml

from ctxvision.data.files import in_words, read_regular

_MOST_BYTES = 1_000_000
_MOST_VALUES = 100_000  # with every alias counted as what it stands for


class SettingsFileError(ValueError):
    """A file is no YAML that can be used; the message is one line without its path."""


def read_settings_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read names and values. No tag of Python's is followed.

    Args:
        path: The path of a file in YAML, up to 1 MB.

    Raises:
        OSError: The file cannot be opened, or is no regular file.
        SettingsFileError: The file is too large, not text, not YAML, holds no names, or its aliases stand for more
            than 100,000 values.
    """
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _values(node, {}) > _MOST_VALUES:
            raise SettingsFileError(f"its aliases (*) stand for more than {_MOST_VALUES} values")
        content = loader.construct_document(node) if node is not None else {}
    except SettingsFileError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsFileError(f"not YAML ({' '.join(str(error.problem).split())}{where})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsFileError(f"not YAML ({in_words(error)})") from error
    except RecursionError as error:
        raise SettingsFileError("not settings, but lists within lists") from error
    if not isinstance(content, dict):
        raise SettingsFileError(f"not settings: expected names and values, got a {type(content).__name__}")
    return content


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, each alias as what it stands for, without walking through it again.

    Raises:
        SettingsFileError: A value contains itself.
    """
    if id(node) not in known:
        known[id(node)] = 0  # while it is being counted
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in pairs)
    elif not known[id(node)]:
        raise SettingsFileError("a value of it contains itself (&, *)")
    return known[id(node)]
