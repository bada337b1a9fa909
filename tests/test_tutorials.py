"""The tutorials work: each page is followed from top to bottom in an empty folder, commands included."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ctxvision.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# a page trains until something is learnt; the test sees that it runs
EPOCHS, SCENES = re.compile(r"(--epochs |\bepochs=)\d+"), re.compile(r"\b(train|val)=\d+")
SCRIPT = re.compile(r"# (\w+\.py)\n")  # a block that begins so is a file, to be run by a command
# what a script of a deployed network may not import
HEAVY = ("torch", "timm", "ctxvision", "torchvision", "lightning")


def follow(page):
    """Do what a page says, in the current folder, for one epoch each; return what was printed, block by block."""
    text, names, said = page.read_text(encoding="utf-8"), {"__name__": "__tutorial__"}, []
    text = SCENES.sub(r"\1=8", EPOCHS.sub(r"\g<1>1", text))
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(2))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            if match[1] == "python":
                script = SCRIPT.match(match[2])
                if script:
                    Path(script[1]).write_text(match[2], encoding="utf-8")
                else:
                    exec(compile("\n" * line + match[2], str(page), "exec"), names)
            elif match[1] == "bash":
                for command in match[2].replace("\\\n", " ").splitlines():
                    type_in(shlex.split(command, comments=True))
        said.append(output.getvalue())
    return "\n".join(said)


def type_in(words):
    """Run a command of a page."""
    if words[0] == "pip":
        assert words[1] == "install"
        return
    if words[0] == "ctxvision":
        assert main(words[1:]) == 0, words
        return
    assert words[0] == "python", words
    check = f"import sys; assert not set(sys.modules) & {set(HEAVY)}, 'more than onnxruntime'"
    code = f"import sys, runpy; sys.argv = {words[1:]}; runpy.run_path({words[1]!r}, run_name='__main__'); {check}"
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert script.returncode == 0, script.stderr
    print(script.stdout)


@pytest.mark.process
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_can_be_followed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    said = follow(page)
    for expected in re.findall(r"^<!-- prints: (.*) -->$", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(expected, said), f"{page.name} does not print {expected}"
    for name in re.findall(r"^<!-- makes: (.*) -->$", page.read_text(encoding="utf-8"), re.MULTILINE):
        assert Path(name).stat().st_size > 0


def test_there_are_tutorials_and_each_does_something():
    assert len(TUTORIALS) >= 5
    for page in TUTORIALS:
        text = page.read_text(encoding="utf-8")
        assert {match[1] for match in BLOCK.finditer(text)} & {"python", "bash"}
        assert "<!-- makes: " in text or "<!-- prints: " in text


@pytest.mark.process
def test_a_wrong_page_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    for wrong in (
        "```bash\nctxvision evaluate nowhere.ckpt digits\n```\n",
        "```python\nassert 1 == 2\n```\n",
    ):
        page.write_text(wrong)
        with pytest.raises(AssertionError):
            follow(page)
    page.write_text("```python\n# job.py\nimport torch\n```\n```bash\npython job.py\n```\n")
    with pytest.raises(AssertionError, match="more than onnxruntime"):
        follow(page)
