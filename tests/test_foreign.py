"""One way to show a name of others, for each medium."""

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

from _hostile_names import assert_plain, cells, hidden, name_in
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


def test_names_of_files_are_those_of_people():
    kept = ("cotnet50-digits", "猫 1.5", "a=b,c")
    assert [file_name(name) for name in kept] == list(kept)
    assert file_name("../../etc/passwd") == "etc-passwd"
    assert file_name("CON") == "_CON"


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
    # the last two answer the process that started them
    assert writers == {"_cli/messages.py", "foreign.py", "timing/memory.py", "checkpoints/_hdf5_child.py"}


@pytest.mark.slow
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
