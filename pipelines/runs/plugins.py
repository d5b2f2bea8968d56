"""Folders of a user's own components, which the environment variable NDR_PLUGINS names."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def folders() -> list[Path]:
    """The folders in NDR_PLUGINS, separated as paths in PATH are."""
    return [Path(name).resolve() for name in os.environ.get("NDR_PLUGINS", "").split(os.pathsep) if name]


def found_modules(package: ModuleType, name: str) -> list[ModuleType]:
    """All modules of a package, and all files in the folder `name` of each plugin folder, in alphabetical order."""
    own = [importlib.import_module(f"{package.__name__}.{path.stem}")
           for path in sorted(Path(package.__file__).parent.glob("[a-z]*.py"))]
    return own + [_load(path, f"ndr_plugin_{name}_{path.stem}")
                  for folder in folders() for path in sorted((folder / name).glob("[a-z]*.py"))]


def subclasses(modules: list[ModuleType], base: type) -> list[type]:
    """The concrete classes deriving from `base` that these modules define."""
    return [value for module in modules for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
            and not getattr(value, "__abstractmethods__", None)]


def _load(path: Path, name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
