"""One way to show a name of others, for each medium."""

import io
import json
import os
import string
import sys
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from _hostile_names import CLASSES, FILES, assert_plain, cells, hidden, name_in
from ctxvision._cli import messages, models, streams
from ctxvision._cli.kinds import save_pictures
from ctxvision._cli.table import write_rows
from ctxvision.cli import main
from ctxvision.foreign import csv_text, file_name, json_text, markdown, markdown_block, markdown_code, visible

ANY = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from(
        "\x00\x1b\n\r\t\x7f\x9b\u200d\u202e\u2028\ufeff\udcff\ud800\ue000\uffff=+-@'|`<>&*_[]()$#~\\/.猫ع a1"
    )
)


@given(ANY)
def test_nothing_hidden_is_left(text):
    assert_plain(visible(text))
    assert "\n" not in visible(text)
    assert visible(text, lines=True).count("\n") == text.count("\n")
    visible(text).encode()  # no half of a pair


@pytest.mark.parametrize(
    "name",
    [
        "naïve café",
        "猫と犬",
        "قطة",
        "حیوان می‌خواهم",
        "כלב",
        "👩‍👩‍👧‍👦 ❤️‍🔥 🇩🇪 1️⃣",
        "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
        "क्‍ष",
        "葛󠄀",
        "ａ",
        "C:\\new",
    ],
)
def test_letters_of_every_script_stay(name):
    assert visible(name) == name
    assert json.loads(json_text(name, ensure_ascii=False)) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("\u202eexe\u2069", "\\u202eexe\\u2069"),
        ("ad\u200bm\u200din\u00ad", "ad\\u200bm\\u200din\\xad"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800\x9b\U000e0041", "\\ud800\\x9b\\U000e0041"),
    ],
)
def test_what_is_not_seen_is_written_out(name, shown):
    assert visible(name) == shown


@given(st.recursive(ANY, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner), max_leaves=5), st.booleans())
def test_json_says_the_same_and_shows_nothing_hidden(value, readable):
    text = json_text(value, ensure_ascii=not readable, indent=1)
    assert_plain(text)
    text.encode()
    assert json.loads(text) == json.loads(json.dumps(value))


@given(st.lists(st.lists(ANY, min_size=2, max_size=2), min_size=1))
def test_csv_gives_back_names_and_holds_no_formula(rows):
    for line_end in ("\n", "\r\n"):
        text = csv_text(rows, line_end=line_end)
        text.encode(errors="surrogateescape")
        for row, read in zip(rows, cells(text), strict=True):
            for name, cell in zip(row, read, strict=True):
                if not set(name) & {"\x00", *map(chr, range(0xD800, 0xDC80)), *map(chr, range(0xDD00, 0xE000))}:
                    assert name_in(cell) == name


def test_numbers_in_csv_stay_numbers():
    assert csv_text([["-1", "+2.5e-3", -0.5, None, "-", "-1+1"]]) == "-1,+2.5e-3,-0.5,,'-,'-1+1\n"
    rows = [{"a": "=x", "b": -1}]
    assert write_rows(rows, {"a": "A", "b": "B"}, "csv") == "a,b\n'=x,-1\n"
    assert json.loads(write_rows(rows, {}, "json")) == rows
    assert write_rows([{"a": "\x1b"}], {"a": "A"}, "table") == "A\n\\x1b\n"


@pytest.fixture(scope="module")
def parser():
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shown_by(parser, text):
    """What a reader sees of one line, and which elements it made."""
    tokens = parser.parse(text)
    inside = [child for token in tokens for child in token.children or ()]
    seen = "".join(child.content for child in inside if child.type in ("text", "code_inline", "text_special"))
    return seen, {token.type for token in [*tokens, *inside]}


@given(ANY.filter(str.strip) | st.text(string.punctuation + " a1\n", min_size=1).filter(str.strip))
def test_markdown_shows_a_name_as_it_is(parser, name):
    wanted = " ".join(visible(name).split())
    seen, kinds = shown_by(parser, markdown(name))
    assert seen == wanted
    assert kinds <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}
    table = f"| a | b |\n|---|---|\n| {markdown(name)} | {markdown_code(name)} |\n"
    tokens = parser.parse(table)
    assert [token.type for token in tokens].count("td_open") == 2
    assert not {"html_inline", "html_block", "link_open", "image"} & shown_by(parser, table)[1]
    assert shown_by(parser, markdown_code(name))[1] >= {"code_inline"}


def test_addresses_do_not_become_links():
    for text in ("http://evil", "https://evil", "www.evil.com", "mail@evil.com", "mailto:x@y"):
        assert "\\" in markdown(text)


@given(ANY)
def test_a_block_of_code_cannot_be_ended(parser, text):
    block = markdown_block(yaml.safe_dump({"a": text, "b": "x\n```\n# h"}, allow_unicode=True), "yaml")
    (token,) = parser.parse(block)
    assert token.type == "fence"
    assert yaml.safe_load(token.content)["b"] == "x\n```\n# h"
    assert_plain(token.content)


@given(ANY)
def test_names_of_files_stay_in_their_folder(text):
    name = file_name(text)
    assert name == Path(name).name == PureWindowsPath(name).name
    assert name not in ("", ".", "..")
    assert len(name.encode()) <= 151
    assert not hidden(name)
    assert not set(name) & set('<>:"/\\|?*')
    assert name[-1] not in ". "
    assert not PureWindowsPath(name).is_reserved() if sys.version_info < (3, 13) else not os.path.isreserved(name)


def test_pictures_of_files_with_long_names(tmp_path):
    for stem in ("長" * 82, "长" * 82, "a" * 250, "猫"):
        (path,) = save_pictures(
            tmp_path, f"{stem}.png", {".overlay.png": Image.new("L", (1, 1)).save}, taken := set()
        )
        assert stem.startswith(*taken)
        assert Path(path).is_file()


def test_names_of_files_are_those_of_people():
    kept = ("cotnet50-digits", "猫 1.5", "a=b,c")
    assert [file_name(name) for name in kept] == list(kept)
    assert file_name("../../etc/passwd") == "etc-passwd"
    assert file_name("CON") == "_CON"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminal_and_pipe(monkeypatch):
    for kind, steers in ((Terminal, False), (io.StringIO, True)):
        monkeypatch.setattr(sys, "stdout", kind())
        messages.say_all("a,\x1b[2J\n")
        assert ("\x1b" in sys.stdout.getvalue()) is steers
    messages.say("\x1b\n")
    assert sys.stdout.getvalue().endswith("\\x1b\\n\n")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    messages.note("x\r\x1b[1A")
    assert sys.stderr.getvalue() == "ctxvision: x\\r\\x1b[1A\n"


def test_a_long_name_does_not_widen_a_column():
    assert messages.column(["a" * 10_000]) == 60
    assert messages.column([]) == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_of_a_terminal(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with streams.lasting():
        for name in (*CLASSES, *FILES):
            messages.say(name)
        messages.say_all("caf\udce9,猫\n")
        sys.stdout.flush()
    written = raw.getvalue()
    assert len(written.splitlines()) == len(CLASSES) + len(FILES) + 1
    assert b"caf\xe9," in written
    if encoding == "ascii":
        assert b"\\u732b" in written


def unread():
    """A pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


PLACES = {
    "pipe": (unread, 1, ""),
    "closed": (lambda: None, 0, ""),
    "full": (Path("/dev/full").open, 1, "the output cannot be written (no space left on device)"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_reader_that_has_gone_costs_nothing_else(place, stream, tmp_path, monkeypatch, capsys):
    make, code, said = PLACES[place]

    def work(args):
        for number in range(5000):
            messages.say(f"line {number}")
            messages.note(f"line {number}")
        (tmp_path / "done").touch()
        return 0

    monkeypatch.setattr(models, "run", work)
    broken = make("w") if place == "full" else make()
    with monkeypatch.context() as context:
        context.setattr(sys, stream, broken)
        assert main(["models"]) == (code if stream == "stdout" else 0)
        assert getattr(sys, stream) is broken
    assert (tmp_path / "done").exists()
    captured = capsys.readouterr()
    if stream == "stdout":
        assert said in captured.err
        assert captured.err.count("line") == 5000
    if broken is not None:
        broken.close()  # as Python does when it ends; nothing is left that could fail


def test_only_one_place_writes_to_the_terminal():
    """Whatever is printed elsewhere would show names as they are."""
    import re

    import ctxvision

    root = Path(ctxvision.__file__).parent
    writers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(
            r"^\s*print\(|sys\.std(out|err)\.write|csv\.(writer|DictWriter)", path.read_text("utf-8"), re.M
        )
    }
    assert writers == {"_cli/messages.py", "foreign.py", "timing/memory.py"}  # the last prints one number


def test_categories_are_those_of_unicode():
    kept = {"\u200c", "\u200d"}
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
            assert visible(letter) != letter
        if unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
            assert visible(letter) != letter
        if unicodedata.category(letter)[0] in "LMNPS" and not letter.isspace() and letter not in kept:
            assert visible(letter) == letter or unicodedata.name(letter).endswith(
                ("FILLER", "INHERENT AQ", "JOINER", "INHERENT AA")
            )
