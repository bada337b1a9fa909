"""What is imported is declared: no package is there only because another brings it."""

import ast
import re
import sys
from pathlib import Path

import ctxvision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {"onnx_ir": "onnx-ir",   # where a distribution is not called like its package
    "PIL": "pillow", "av": "av", "faster_coco_eval": "faster-coco-eval", "google": "protobuf",
    "huggingface_hub": "huggingface-hub", "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart", "resvg_py": "resvg-py", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
# extras of another format, not ours: used where they are installed; parts of what is declared
OPTIONAL = {"pillow-heif", "pillow-jxl", "pillow_heif", "pillow_jxl"}
# what a module of `ctxvision.integrations` is about: whoever imports that has the package
OPTIONAL |= {"optimum", "thop", "ultralytics"}
BROUGHT = {
    "h11": "uvicorn",
    "markupsafe": "jinja2",
    "pydantic": "fastapi",
    "starlette": "fastapi",
    "triton": "torch",
}
"""Packages that their owner is made of: whatever version it brings is the one that it works with."""


def imported():
    """Map every package of others to the first file that imports it."""
    found = {}
    for file in sorted(Path(ctxvision.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], file.name)
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "ctxvision"}}


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name, lines in extras.items() if name != "dev" for line in lines),
    ]
    return {re.match(r"[\w.-]+", line)[0].lower(): line for line in lines}


def test_every_package_that_is_imported_is_declared_with_a_lower_bound():
    known = declared()
    for package, file in imported().items():
        name = DISTRIBUTIONS.get(package, package).lower()
        name = BROUGHT.get(name, name)
        assert name in known or name in OPTIONAL, f"{file} imports {package}"
    assert [line for name, line in known.items() if name != "ctxvision" and ">=" not in line] == []


def test_the_malicious_releases_of_lightning_are_excluded():
    assert "!=2.6.2" in declared()["lightning"]
    assert "!=2.6.3" in declared()["lightning"]
