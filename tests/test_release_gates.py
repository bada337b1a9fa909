"""The last gates of a release: what a wheel must hold, and what must agree with the tag."""

import runpy
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHEEL = runpy.run_path(str(ROOT / "tools" / "check_wheel.py"))
NAME = "ctxvision-0.1.0-py3-none-manylinux_2_17_x86_64.whl"
LIBRARIES = "ctxvision/ops/_native/lib/"
WHOLE = {
    **{f"{LIBRARIES}ctxvision_{level}.so": b"\x7fELF libc.so.6" for level in ("baseline", "avx2", "avx512")},
    **dict.fromkeys(
        ("ctxvision/py.typed", "ctxvision/ops/_native/__init__.py", "ctxvision/recipes/small.yaml"), b""
    ),
    "ctxvision-0.1.0.dist-info/METADATA": b"Name: ctxvision\nLicense-Expression: Apache-2.0\n",
    "ctxvision-0.1.0.dist-info/licenses/LICENSE": b"",
    "ctxvision-0.1.0.dist-info/licenses/NOTICE": b"",
}


def faults(folder, content, name=NAME):
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, data in content.items():
            wheel.writestr(path, data)
    return WHEEL["faults_of"](str(folder / name))


def test_a_whole_wheel_has_no_fault(tmp_path):
    assert faults(tmp_path, WHOLE) == []


@pytest.mark.parametrize("missing", [*WHOLE])
def test_what_is_missing_is_named(missing, tmp_path):
    content = {path: data for path, data in WHOLE.items() if path != missing}
    [fault] = faults(tmp_path, content)
    assert missing.rpartition("/")[2] in fault


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"ctxvision.libs/libgomp-1a2b3c.so.1.0.0": b""}, "does not belong"),
        ({f"{LIBRARIES}ctxvision_avx2.so": b"\x7fELF libgomp.so.1"}, "an OpenMP runtime beside torch's"),
        ({"ctxvision/ops/_native/vector.hpp": b""}, "is a source"),
        ({"ctxvision-0.1.0.dist-info/METADATA": b"License-Expression: MIT\n"}, "'MIT'"),
    ],
)
def test_what_should_not_be_there_is_named(more, word, tmp_path):
    [fault] = faults(tmp_path, WHOLE | more)
    assert word in fault


@pytest.mark.parametrize(
    "tag", ["py3-none-any", "py3-none-linux_x86_64", "cp312-cp312-win_amd64", "py3-none-win_arm"]
)
def test_another_kind_of_wheel_is_refused(tag, tmp_path):
    assert len(faults(tmp_path, WHOLE, f"ctxvision-0.1.0-{tag}.whl")) == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the release runs on a later Python, which has tomllib")
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"src/ctxvision/_version.py": '__version__ = "1.2.4"\n'}, ["the tag is v1.2.3", "CITATION", "CHANGELOG"]),
        ({"CITATION.cff": "\nversion: 1.2.2\n"}, ["CITATION.cff"]),
        ({"CHANGELOG.md": "## [1.2.3] - Unreleased\n"}, ["CHANGELOG.md has no section with the date"]),
        ({"pyproject.toml": "[project.urls]\n"}, ['"Repository" is None']),
    ],
)
def test_a_tag_is_released_when_everything_names_it(changed, told, tmp_path):
    whole = {
        "src/ctxvision/_version.py": '__version__ = "1.2.3"\n',
        "CITATION.cff": "title: ctxvision\nversion: 1.2.3\n",
        "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2030-01-31\n",
        "pyproject.toml": '[project.urls]\nRepository = "https://h/o/n"\n',
    }
    for name, text in (whole | changed).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    check = runpy.run_path(str(ROOT / "tools" / "check_release.py"))
    found = check["faults"]("v1.2.3", "https://h/o/n", tmp_path)
    assert len(found) == len(told), found
    assert all(word in fault for word, fault in zip(told, found, strict=True))
