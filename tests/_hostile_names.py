"""Names that attack what they are shown in, and readers of each medium that notice."""

import csv
import html.parser
import io
import os
import re
import unicodedata
import xml.etree.ElementTree as ET

# folders on Linux take anything but "/" and NUL
CLASSES = (
    "\x1b[31mred\x1b[0m\x07",
    'a\nb\rc\bd"; rm -rf',
    "\u202egnp.exe\u2066",
    '=HYPERLINK("evil.com","x")',
    "x|y`z`<b>&amp;\"'<script>",
    "$\\alpha_1^{2$ {{7*7}} [red]",
    os.fsdecode(b"caf\xe9\x9b"),
    "猫 قطة 👩‍👩‍👧 ña",
    "@SUM(1)\t\u200b",
)
FILES = (
    "\x1b]0;title\x07",
    "=1+1",
    "-rf",
    "line\nend\r",
    os.fsdecode(b"\xff\xfe"),
    "\u202etxt",
    "[x](javascript:1)|<i>",
    "長" * 78,
)
READABLE = ("猫 قطة 👩‍👩‍👧 ña", "gnp.exe", "[31mred", "caf\\xe9")


def hidden(text):
    """What a reader cannot see, or steers a terminal: Unicode's own classes, but joiners and selectors."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return [c for c in text if unicodedata.category(c) in kinds and c not in "\n\u200c\u200d"]


def assert_plain(text):
    """A terminal gets nothing but lines of what can be seen."""
    assert not hidden(text), ascii(hidden(text))


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            self.text += f"\n{value}"

    def handle_data(self, data):
        self.text += data


def assert_page(page):
    """HTML without an element of a name, whose pictures are XML."""
    assert_plain(page)
    read = _Page()
    read.feed(page)
    assert not {"b", "i", "script", "a"} & set(read.tags)
    assert read.tags.count("title") - len(re.findall("<svg", page)) <= 1
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(picture)
    return read.text


def assert_svg(data):
    assert_plain("".join(ET.fromstring(data).itertext()))
    assert_plain(data.decode())


def cells(text):
    """Rows of a CSV file, as a spreadsheet sees them; none is a formula."""
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        assert not re.match(r"[=+\-@\t\r](?!\d*\.?\d+$)", cell), cell
    return rows


def name_in(cell):
    """The name that a cell stands for."""
    return cell.removeprefix("'")
