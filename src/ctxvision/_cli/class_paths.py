"""``--callbacks`` and ``--logger`` with class paths, as Lightning's command line takes them."""

import re
from typing import Any

from ctxvision.training.error import OptionError


def take_out(options: list[str]) -> tuple[dict[str, list[Any] | None], list[str]]:
    """Take the parts of a training that are named by class path out of its options.

    ``--callbacks my.Callback --callbacks.patience 3`` is one callback with one argument; the option again is
    another one. ``+`` behind the name, as Lightning's users write it, changes nothing, and a list in JSON is taken
    as it is.

    Args:
        options: Options with their values, ``--name=value``, or as two words.

    Returns:
        What each of the two options names, ``None`` where that is null, and the other options.
    """
    found: dict[str, list[Any] | None] = {}
    others: list[str] = []
    words = list(options)
    while words:
        word = words.pop(0)
        match = re.fullmatch(r"--(callbacks|logger)(?:\+|\.([\w.]+))?(?:=(.*))?", word, re.DOTALL)
        if match is None:
            others.append(word)
            continue
        name, argument, value = match.groups()
        if value is None:
            value = words.pop(0) if words and not words[0].startswith("--") else ""
        if argument is None and value in ("", "null", "[null]"):
            found[name] = None
            continue
        parts = found[name] = found.get(name) or []
        if argument in (None, "class_path"):
            parts += _listed(name, value)
            continue
        if not parts or not isinstance(parts[-1], dict):
            raise OptionError(f"--{name}.{argument} is an argument of a class; name the class before it")
        place = parts[-1].setdefault("init_args", {})
        *above, last = argument.removeprefix("init_args.").split(".")
        for inner in above:
            place = place.setdefault(inner, {})
        place[last] = _plain(value)
    return found, others


def _listed(name: str, value: str) -> list[Any]:
    content = _plain(value)
    if isinstance(content, str):
        content = [word for word in content.split(",") if word]
    entries = content if isinstance(content, list) else [content]
    # trackers have names without dots
    return [{"class_path": e} if isinstance(e, str) and ("." in e or name == "callbacks") else e for e in entries]


def _plain(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
