"""The documentation says what is true: examples run, commands parse, links resolve, numbers equal the code."""

import doctest
import importlib
import inspect
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "src/ctxvision/**/README.md")
    for path in ROOT.glob(pattern)
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
SOURCES = ROOT / "src" / "ctxvision"
PACKAGES = (
    "ctxvision.ops",
    "ctxvision.nn",
    "ctxvision.models",
    "ctxvision.checkpoints",
    "ctxvision.explain",
    "ctxvision.evaluation",
    "ctxvision.training",
    "ctxvision.training.callbacks",
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def blocks(language):
    """Every fenced block of a language, as (text, line of its first line), named by page and line.

    Those of the tutorials need each other; `test_tutorials` runs them in their order.
    """
    found = []
    for page in PAGES:
        if page.parent.name == "tutorials":
            continue
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start(2)) + 1
                name = page.relative_to(ROOT).as_posix()
                found.append(pytest.param(match[2], page, line, id=f"{name}:{line}"))
    return found


def commands():
    """Every command that a reader is told to type, as one line."""
    found = []
    for block in blocks("bash"):
        lines, _, first = block.values
        name, line = block.id.rpartition(":")[0], first
        for command in re.split(r"(?<!\\)\n", lines.rstrip("\n")):
            if not command.startswith("#"):
                found.append(pytest.param(command.replace("\\\n", " "), id=f"{name}:{line}"))
            line += command.count("\n") + 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("code", "page", "line"), blocks("python"))
def test_python_block_runs_by_itself(code, page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    padded = "\n" * (line - 1) + code  # a traceback then names the line of the page
    exec(compile(padded, str(page), "exec"), {"__name__": "__example__"})  # raises where the example is wrong
    assert "import" in code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_can_be_copied(page):
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        assert match[1] != "console", "a block of commands is ```bash, what they print is ```text"
        if match[1] == "bash":
            wrong = [line for line in match[2].splitlines() if line.startswith("$") or len(line) > 115]
            assert not wrong, "commands stand without $, and long ones are broken with \\"


@pytest.mark.parametrize("line", commands())
def test_command_is_understood(line, tmp_path, monkeypatch):
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    program, arguments = Path(words[0]).name, words[1:]
    if program == "ctxvision":
        understood_by_ctxvision(arguments, tmp_path, monkeypatch)
    elif program == "make":
        assert re.search(rf"^{re.escape(arguments[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        assert arguments[0] == "install"
        extra = re.fullmatch(r"\.(?:\[(\w+)\])?|ctxvision\[\w+\] @ file:///\S+\.whl", arguments[1])
        assert extra, arguments
        assert extra[1] is None or f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text()
    elif program == "pre-commit":
        assert arguments == ["install"]
        assert (ROOT / ".pre-commit-config.yaml").is_file()
    else:
        pytest.fail(f"no rule for {words[0]}")


def understood_by_ctxvision(arguments, folder, monkeypatch):
    """Parse a command line of ctxvision in a folder that has the files it names, without doing the work."""
    from ctxvision import cli
    from ctxvision._cli import train
    from ctxvision.training import run

    monkeypatch.chdir(folder)
    Path("runs/first").mkdir(parents=True)
    for settings in ("settings.yaml", "runs/first/config.yaml"):
        Path(settings).write_text("model: cotnet_micro\n")
    calls = []
    monkeypatch.setattr(run, "train_with", calls.append)
    monkeypatch.setattr(train, "_write_report", lambda *args: None)
    for module, _ in cli._COMMANDS.values():
        monkeypatch.setattr(module, "run", lambda args: calls.append(args) or 0)
    if "--print-config" in arguments:
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code in (None, 0)
    else:
        assert cli.main(arguments) == 0
        assert len(calls) == 1


def test_options_are_written_with_dashes():
    files = [
        *(page for page in PAGES if page.name != "CHANGELOG.md"),
        *SOURCES.rglob("*.py"),
        *SOURCES.rglob("*.yaml"),
    ]
    written = re.compile(r"(?<![\w/-])--[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w(])")
    assert {
        file.name: found for file in files if (found := written.findall(file.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{target} in {page.name}"
        assert path.is_relative_to(ROOT)
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in map(slug, headings), f"{target} in {page.name}"


def slug(heading):
    """The anchor that a heading gets."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.slow
def test_tables_of_networks_equal_the_code():
    tool = runpy.run_path(str(ROOT / "tools" / "models_table.py"))
    rows = tool["counted"]()
    assert len(rows) > 15
    advice = "run tools/models_table.py --write, and put what it prints into the README"
    assert tool["as_csv"](rows) == tool["FILE"].read_text(encoding="utf-8"), advice
    assert tool["as_markdown"](rows) in (ROOT / "README.md").read_text(encoding="utf-8"), advice


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_docstrings(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        thing = getattr(module, name)
        # not inherited: a NamedTuple or a dataclass without one gets its signature
        text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
        assert text, f"{package}.{name}"
        assert not text.startswith(f"{name}("), f"{package}.{name}"


def modules_with_doctests():
    """Return the names of all modules of the package whose docstrings hold examples."""
    sources = [path for path in sorted(SOURCES.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    parts = [path.relative_to(SOURCES.parent).with_suffix("").parts for path in sources]
    return [".".join(part for part in names if part != "__init__") for names in parts]


def test_every_layer_of_the_package_has_examples():
    rooms = {name.split(".")[1] for name in modules_with_doctests()}
    assert {"ops", "nn", "data", "tasks", "evaluation", "explain", "serve"} <= rooms


def test_examples_are_a_section_of_their_docstring():
    # "Example:" is a remark to the site's parser: its output would be read as text with links
    remarks = [
        path.name for path in SOURCES.rglob("*.py") if re.search(r"^\s*Example:$", path.read_text("utf-8"), re.M)
    ]
    assert not remarks


@pytest.mark.parametrize("name", modules_with_doctests())
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


@pytest.mark.slow
@pytest.mark.process
def test_site_builds_and_documents_every_public_name(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    pages = [page.read_text(encoding="utf-8") for page in (tmp_path / "site" / "api").glob("*.html")]
    assert max(map(len, pages)) < 600_000, "a page that nobody scrolls through; make two of it"
    anchors = re.findall(r'id="(ctxvision\.[\w.]+)"', "".join(pages))
    documented = {anchor.rpartition(".")[2] for anchor in anchors}
    public = {name for package in PACKAGES for name in importlib.import_module(package).__all__}
    assert public <= documented


def test_version_is_the_changelog_s_and_the_citation_s():
    from ctxvision import __version__

    assert __version__ in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
