r"""Names that others have chosen, of files, classes, data sets and models: one way to show them for each medium.

Letters of every script and emoji stay as they are. What a reader cannot see or what steers a terminal is written
out, as ``\x1b`` or ``\u202e``: control characters, line ends, marks that turn the direction of writing, spaces
without width, halves of surrogate pairs (bytes of a file name that are not UTF-8).
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

# what joins letters (U+200C, U+200D) has a meaning between those of some scripts and inside emoji, nowhere else;
# selectors of variants (U+FE00 to FE0F, U+E0100 to E01EF) have one behind every letter
_HIDDEN = (
    "\\x00-\\x1f\\x7f-\\x9f\\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_FLAG = "\U0001f3f4[\U000e0061-\U000e007a]+\U000e007f"  # of a region, such as Scotland's
_JOINER = "(?<![^\\x00-\\x7f])[\u200c\u200d]"
_TO_WRITE_OUT = re.compile(f"{_FLAG}|{_JOINER}|[{_HIDDEN}]")
_UNWRITABLE = re.compile("[\\x00\ud800-\udc7f\udd00-\udfff]")  # no encoding and no reader of CSV has them
_FORMULA = re.compile(r"[=+\-@\t\r'＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_NAME_BYTES = 150


def visible(text: object, *, lines: bool = False) -> str:
    r"""Show a text of others on a terminal, in a log, in a picture or on a page, where it takes one line.

    Args:
        text: The text; what is not a string is shown as ``str`` has it.
        lines: Whether the text is made of lines, whose ends stay.

    Examples:
        >>> visible("猫 \x1b[2J\n")
        '猫 \\x1b[2J\\n'
    """
    return _TO_WRITE_OUT.sub(lambda found: _written_out(found[0], lines), str(text))


def _written_out(found: str, lines: bool) -> str:
    if len(found) > 1 or (lines and found == "\n"):
        return found
    if "\udc80" <= found <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(found) - 0xDC00:02x}"
    if "\ud800" <= found <= "\udfff":
        return f"\\u{ord(found):04x}"
    return found.encode("unicode_escape").decode()


def finite_values(value: Any) -> Any:
    """Replace NaN and infinity, for which JSON has no words, by null, however deep they lie."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite_values(one) for one in value]
    return value


def json_text(value: Any, **options: Any) -> str:
    """Write JSON that says exactly what the value does, and can be shown on a terminal.

    Args:
        value: The value, as ``json.dumps`` takes it.
        options: The options of ``json.dumps``.
    """

    def escape(found: re.Match[str]) -> str:
        if found[0] == "\n" or len(found[0]) > 1:  # between values: inside strings there are none
            return found[0]
        units = found[0].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))

    return _TO_WRITE_OUT.sub(escape, json.dumps(value, **options))


def csv_text(rows: Iterable[Iterable[object]], *, line_end: str = "\n") -> str:
    """Write rows as CSV in which no cell is a formula for a spreadsheet.

    A text that begins with ``= + - @``, a tab, a carriage return or ``'``, and is no number, gets a ``'`` in
    front; taking one away gives back every name. NUL, and halves of surrogate pairs that are no bytes of a file
    name, cannot be part of a file and are written out.
    """
    text = io.StringIO(newline="")
    usual = csv.writer(text, lineterminator=line_end)
    quoting = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [_cell(value) if isinstance(value, str) else value for value in row]
        # before Python 3.13 a lone carriage return or line feed is not always quoted
        breaks = any(isinstance(cell, str) and ("\r" in cell or "\n" in cell) for cell in cells)
        (quoting if breaks else usual).writerow(cells)
    return text.getvalue()


def _cell(text: str) -> str:
    text = _UNWRITABLE.sub(lambda found: visible(found[0]), text)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def markdown(text: object) -> str:
    """Show a text of others as plain words in Markdown (GitHub's), also inside a table."""
    words = re.sub(r"([\\`*_{}\[\]&~$#@])", r"\\\1", " ".join(visible(text).split()))
    # entities, so that not even a careless reader sees a tag or the end of a cell
    words = words.replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    words = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)", r"\1\\", words)
    words = re.sub(r"(?i)\bwww(?=\.)", r"www\\", words)
    return re.sub(r"^([-+=]|\d+(?=[.)]))", lambda m: f"\\{m[0]}" if not m[0].isdigit() else f"{m[0]}\\", words)


def markdown_code(text: object) -> str:
    """Show a text of others as code inside a line of Markdown; a table keeps its columns."""
    words = " ".join(visible(text).split()).replace("|", "¦")
    fence = "`" * (max(map(len, re.findall("`+", words)), default=0) + 1)
    space = " " if words[:1] in ("`", "") or words[-1:] == "`" else ""
    return f"{fence}{space}{words}{space}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """Show lines of others as a block of code in Markdown, which they cannot end."""
    text = visible(text, lines=True)
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def file_name(text: object) -> str:
    """Make the name of a file or folder of a text: in one piece on every system, and never empty.

    Letters of every script stay, and so does what names are usually made of; all else becomes ``-``.
    """
    name = re.sub(r"[^\w.,+=@()# -]+", "-", str(text)).strip(". -") or "unnamed"
    name = name.encode("utf-8", "ignore")[:_NAME_BYTES].decode("utf-8", "ignore").strip(". ")
    return f"_{name}" if _RESERVED.fullmatch(name) else name
