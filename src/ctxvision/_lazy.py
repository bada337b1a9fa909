"""Names and registrations that wait until they are needed: torch alone takes seconds to import."""

import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def names_of(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package (PEP 562), whose names are imported when they are first asked for.

    Args:
        package: Name of the package.
        modules: Names by the module that has them, relative to the package, such as ``{".run": ["train"]}``; a
            module that is a name of its package has the empty list.
    """
    homes = {name: module for module, names in modules.items() for name in names or [module.lstrip(".")]}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(homes[name], package)
        value = getattr(module, name) if modules[homes[name]] else module
        setattr(sys.modules[package], name, value)
        return value

    return find


def register_when_possible() -> None:
    """Import what registers itself with torch and timm, once these are imported: now, or later by whomever.

    Our operators then are there for files of torch.export, and our networks for ``timm.create_model``. While a
    module of this package is being imported it waits for that to end: networks need layers, layers need timm.
    """
    waiting = _Waiting()
    sys.meta_path.insert(0, waiting)
    waiting.ended()


class _Waiting(MetaPathFinder):
    """Finds modules as others do, and notices when the import of torch, timm or one of ours has ended."""

    def __init__(self) -> None:
        self._depth = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in ("torch", "timm") and not name.startswith("ctxvision."):
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in finders)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Noticed(spec.loader, self)
        return spec

    def began(self) -> None:
        self._depth.value = getattr(self._depth, "value", 0) + 1

    def left(self) -> None:
        self._depth.value -= 1

    def ended(self) -> None:
        depth = self._depth.value = max(0, getattr(self._depth, "value", 0) - 1)
        if depth or self not in sys.meta_path:
            return
        if "timm" in sys.modules:
            sys.meta_path.remove(self)
            importlib.import_module("ctxvision.models")
        elif "torch" in sys.modules:
            importlib.import_module("ctxvision.ops")


class _Noticed(Loader):
    """Loads a module as another loader does, and says when it began and ended; the module has the other loader."""

    def __init__(self, loader: Loader, waiting: _Waiting) -> None:
        self._loader, self._waiting = loader, waiting

    def __getattr__(self, name: str) -> Any:  # what runpy and importlib.resources ask a loader for
        if name == "_loader":  # of a copy that is not made yet
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._waiting.began()
        try:
            self._loader.exec_module(module)
        except BaseException:
            self._waiting.left()
            raise
        self._waiting.ended()
