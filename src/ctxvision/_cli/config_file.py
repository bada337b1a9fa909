"""``--config FILE``: options of a command from a YAML file; words of the command line change them."""

from argparse import SUPPRESS, Action, ArgumentParser
from typing import Any

from ctxvision.wording import did_you_mean

from .messages import UserError


def add_argument(parser: ArgumentParser) -> None:
    """Declare the option."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="YAML file with any of these options by name, such as batch_size: 8; what is said here counts more",
    )


def expand(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Put the options of ``--config`` in front of the words of a command line, which change them.

    What a command takes without a name, such as CHECKPOINT, may stand in the file too, and is then left out of the
    command line or said again.

    Args:
        parser: Parser of the command; positional arguments that a file names are no longer required.
        words: Words of the command line behind the command.

    Raises:
        UserError: The file cannot be read, or names what the command does not have.
    """
    finding = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finding.add_argument("--config", action="append", default=[])
    end = words.index("--") if "--" in words else len(words)
    named = [word for word in words[:end] if word.partition("=")[0] == "--config"]
    if not named or words[:end][-1] == "--config":
        return words
    found, others = finding.parse_known_args(words[:end])
    expanded: list[str] = []
    for path in found.config:
        for name, value in _read(path).items():
            expanded += _as_words(parser, path, str(name), value)
    return [*expanded, *others, *words[end:]]


def _read(path: str) -> dict[str, Any]:
    from ctxvision.data.files import in_words
    from ctxvision.training.settings import SettingsFileError, read_settings_file

    try:
        return read_settings_file(path)
    except (OSError, SettingsFileError) as error:
        raise UserError(f"--config {path}: {in_words(error)}", 2) from error


def _as_words(parser: ArgumentParser, path: str, name: str, value: Any) -> list[str]:
    """Return the words that say what an entry of the file says; argparse checks them as any others."""
    actions = {_name(action): action for action in parser._actions if action.dest not in ("help", "config")}
    action = actions.get(name.replace("-", "_"))
    if action is None:
        hint = did_you_mean(name, actions)
        raise UserError(f"--config {path}: `{parser.prog}` has no option {name}{hint}", 2)
    values = value if isinstance(value, list) else [value]
    if not action.option_strings:
        several = action.nargs in ("+", "*")
        action.nargs, action.required = "*" if several else "?", False
        action.default = list(map(str, values)) if several else str(value)
        return []
    flag = action.option_strings[0]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"--config {path}: {name} must be true or false, got {value!r}", 2)
        return [flag] if value else []
    if value is None:
        return []
    if action.default not in (None, SUPPRESS) and isinstance(value, list) and not isinstance(action.default, list):
        return [f"{flag}={','.join(map(str, values))}"]
    return [f"{flag}={one}" for one in values]


def _name(action: Action) -> str:
    """Return the name of an option without its dashes, which is not always that of its value."""
    return action.option_strings[0].lstrip("-").replace("-", "_") if action.option_strings else action.dest
