"""Names and registrations that wait until they are needed: torch alone takes seconds to import."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
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


def when_imported(package: str, module: str) -> None:
    """Import a module as soon as a package of others has been imported, which may be now.

    Args:
        package: Name of the package, such as ``"timm"``.
        module: Name of the module of ours that registers something with it.
    """
    if package in sys.modules:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _After(package, module))


class _After(MetaPathFinder):
    """Finds one package as others do, and has a module imported after it."""

    def __init__(self, package: str, module: str) -> None:
        self.package, self.module = package, module

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.package:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def then(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(self.module)

        spec.loader.exec_module = then  # type: ignore[method-assign]
        return spec
