"""Check that a tag may become a release: `python tools/check_release.py v1.2.3 https://host/owner/name`."""

import re
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]


def faults(tag: str, repository: str, root: Path = ROOT) -> list[str]:
    """Say what must be put right before this tag is released; an empty list where nothing is."""
    read = {
        name: (root / name).read_text(encoding="utf-8")
        for name in ("src/ctxvision/_version.py", "CITATION.cff", "CHANGELOG.md", "pyproject.toml")
    }
    version = re.search(r'__version__ = "(.+)"', read["src/ctxvision/_version.py"])
    if version is None:
        return ["src/ctxvision/_version.py names no version"]
    found = []
    if tag != f"v{version[1]}":
        found.append(f"the tag is {tag}, the version in src/ctxvision/_version.py {version[1]}")
    if f"\nversion: {version[1]}\n" not in read["CITATION.cff"]:
        found.append(f"CITATION.cff names another version than {version[1]}")
    if not re.search(rf"^## \[{re.escape(version[1])}\] - \d{{4}}-\d\d-\d\d$", read["CHANGELOG.md"], re.MULTILINE):
        found.append(f"CHANGELOG.md has no section with the date of {version[1]}")
    named = tomllib.loads(read["pyproject.toml"])["project"]["urls"].get("Repository")
    if named != repository:
        found.append(f'[project.urls] in pyproject.toml: "Repository" is {named!r}, released is {repository!r}')
    return found


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    wrong = faults(*sys.argv[1:])
    print(*wrong or ["nothing is wrong"], sep="\n")
    sys.exit(bool(wrong))
