"""Tables of paths and labels, as people write them."""

import random

import pytest
from _sources import write_table

from _pictures import make_folder
from ctxvision.data import DataError, SplitRule, find_images
from ctxvision.data.table import read_table


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path, {"cat": 6, "dog": 6})


def rows(kind="cat", count=6, *more):
    return [(f"{kind}/{i:03d}.png", kind, *more) for i in range(count)]


def names(samples, root):
    return sorted(path.removeprefix(f"{root}/") for path, _ in samples)


def test_split_column_decides(root):
    write_table(root / "a.csv", [("path", "label", "split"), *rows("cat", 6, "train"), *rows("dog", 4, "Training"),
                                 ("dog/004.png", "dog", "valid"), ("dog/005.png", "dog", "test")])  # fmt: skip
    found = read_table(root / "a.csv")
    assert found.class_names == ("cat", "dog")
    assert len(found.train) == 10
    assert names(found.val, root) == ["dog/004.png"]
    assert found.fingerprint == ""
    assert any("1 rows for testing are left out" in note for note in found.notes)
    assert any("no images of 'cat', so their accuracy" in note for note in found.notes)


def test_test_rows_validate_where_there_are_no_others(root):
    write_table(root / "a.csv", [("path", "label", "split"), *rows("cat", 6, "train"), *rows("dog", 4, "train"),
                                 ("dog/005.png", "dog", "test")])  # fmt: skip
    found = read_table(root / "a.csv")
    assert names(found.val, root) == ["dog/005.png"]
    assert any("validating on those for testing" in note for note in found.notes)


def test_order_of_the_rows_does_not_matter_without_a_split_column(root):
    listed = rows("cat") + rows("dog")
    one = read_table(write_table(root / "a.csv", [("path", "label"), *listed]))
    random.Random(0).shuffle(listed)
    other = read_table(write_table(root / "b.csv", [("path", "label"), *listed]))
    assert (one.val, one.train, one.fingerprint) == (other.val, other.train, other.fingerprint)
    assert [label for _, label in one.val] == [0, 1]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.csv", "path,label\n{a},cat\n{b},dog\n"),
        ("a.csv", "\ufeffpath,label\r\n{a},cat\r\n{b},dog\r\n"),
        ("a.csv", " Filename , Class\n{a}, cat \n{b},dog\n"),
        ("a.csv", "id;image_path;category\n1;{a};cat\n2;{b};dog\n"),
        ("a.csv", '"label","file"\n"cat","{a}"\n"dog","{b}"\n'),
        ("a.CSV", "path,label\n./{a},cat\n./{b},dog\n"),
        ("a.tsv", "image\ttarget\n{a}\tcat\n{b}\tdog\n"),
    ],
)
def test_usual_variants_are_understood(root, file, text):
    (root / file).write_text(text.format(a="cat/000.png", b="dog/000.png"), encoding="utf-8")
    found = find_images(root / file)
    assert found.class_names == ("cat", "dog")
    assert [label for _, label in found.train] == [0, 1]


def test_quoted_commas_and_absolute_paths(root):
    (root / "cat" / "000.png").rename(root / "cat" / "a, b.png")
    write_table(root / "a.csv", [("path", "label"), ("cat/a, b.png", "cat, small"),
                                 (root / "dog" / "000.png", 'the "dog"')])  # fmt: skip
    found = read_table(root / "a.csv")
    assert found.class_names == ("cat, small", 'the "dog"')
    assert names(found.train, root) == ["cat/a, b.png", "dog/000.png"]


def test_columns_can_be_named(root):
    write_table(root / "a.csv", [("where", "label", "breed"), ("cat/000.png", "1", "tabby"),
                                 ("dog/000.png", "2", "pug")])  # fmt: skip
    assert find_images(f"{root}/a.csv#path=where,label=breed").class_names == ("pug", "tabby")
    with pytest.raises(DataError, match="no column 'colour'; it has where, label, breed"):
        find_images(f"{root}/a.csv#path=where,label=colour")


def test_bad_rows_are_counted_and_fatal_if_strict(root):
    write_table(root / "a.csv", [("path", "label"), *rows("cat"), *rows("dog"), ("cat/000.png", "cat"),
                                 ("cat/001.png", ""), ("", "dog"), ("cat/999.png", "cat"), ("cat/998.png", "cat"),
                                 ("dog/001.png",)])  # fmt: skip
    found = read_table(root / "a.csv")
    assert len(found.train) + len(found.val) == 12
    assert found.notes == [
        f"{root}/a.csv: 1 rows that repeat an earlier one are left out (line 14)",
        f"{root}/a.csv: 2 rows without a label are left out (line 15, 19)",
        f"{root}/a.csv: 1 rows without a path are left out (line 16)",
        f"{root}/a.csv: 2 rows whose file does not exist are left out (line 17, 18)",
    ]
    with pytest.raises(DataError, match="line 14: rows that repeat an earlier one are not allowed"):
        read_table(root / "a.csv", strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column called path or file among none"),
        ("path,label\n", "no usable rows$"),
        ("path,label\nnone.png,cat\n", "no usable rows: 1 rows whose file does not exist"),
        ("cat/000.png,cat\ncat/001.png,cat\n", "no column called path or file among cat/000.png, cat; name"),
        (
            "path,breed\ncat/000.png,cat\n",
            "no column called label or labels among path, breed; name .* #label=COLUMN",
        ),
        ("path,label\ncat/000.png,cat\n./cat/000.png,dog\n", "line 3: .* label 'dog', but 'cat' in line 2"),
        (
            "path,label,split\ncat/0.png,cat,train\ncat/0.png,cat,val\n",
            "line 3: .* part 'val', but 'train' in line 2",
        ),
        ("path,label,split\ncat/000.png,cat,rest\n", "line 2: split must be train, val or test, got 'rest'"),
        ("path,label,split\ncat/000.png,cat,val\ndog/000.png,dog,test\n", "no row is for training"),
        (
            "path,label,split\ncat/000.png,cat,train\ncat/001.png,cat,train\ndog/000.png,dog,val\n",
            "no class 'dog'",
        ),
    ],
)
def test_errors_are_one_line(root, text, message):
    (root / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_table(root / "a.csv")
    assert "\n" not in str(error.value)
    assert str(root / "a.csv") in str(error.value)


def test_not_text(root):
    (root / "a.csv").write_bytes(b"path,label\ncat/000.png,\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_table(root / "a.csv")
    with pytest.raises(DataError, match="no such file"):
        read_table(root / "none.csv")


def test_one_part_only_is_the_whole_set(root):
    write_table(root / "a.csv", [("path", "label", "split"), *rows("cat", 6, "test"), *rows("dog", 6, "test")])
    found = read_table(root / "a.csv", split=SplitRule(class_names=("dog", "cat")))
    assert len(found.train) + len(found.val) == 12
    assert found.fingerprint
