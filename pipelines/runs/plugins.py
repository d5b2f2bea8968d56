"""The user's own components: folders outside this repository that the environment variable NDR_PLUGINS names.

    NDR_PLUGINS=FOLDER python pipelines/train_stage1.py autoencoder/bottleneck=mine

In each folder (several are separated as in PATH) Python files can be imported, and FOLDER/configs has the groups of
`configs/`: a bottleneck is FOLDER/mine.py and FOLDER/configs/autoencoder/bottleneck/mine.yaml. Saved configurations may
name what is defined in these folders: whoever sets the variable trusts them. Kinds of data and metrics are found by
looking into FOLDER/kinds and FOLDER/metrics.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from pipelines.files.errors import InputError

VARIABLE = "NDR_PLUGINS"


def folders() -> list[Path]:
    """The named folders, absolute. Raises InputError for one that does not exist."""
    found = [Path(name).resolve() for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for folder in found:
        if not folder.is_dir():
            raise InputError(f"{VARIABLE}: expected a folder, found {folder}")
    return found


def activate() -> None:
    """Makes the Python files of the folders importable; names that are taken keep their meaning."""
    sys.path.extend(str(folder) for folder in folders() if str(folder) not in sys.path)


def config_folders() -> list[Path]:
    """The folders' own configuration groups."""
    return [folder / "configs" for folder in folders() if (folder / "configs").is_dir()]


def config_search_path() -> list[str]:
    """Overrides that make Hydra search these groups too, after the project's own."""
    places = ["'file://{}'".format(folder.as_posix().replace("'", "\\'")) for folder in config_folders()]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def is_trusted(module: str) -> bool:
    """Whether a module, by its dotted name, lies in one of the folders. Nothing is imported to find out."""
    if not (own := folders()):
        return False
    activate()
    try:
        spec = importlib.util.find_spec(module.split(".")[0])
    except (ImportError, ValueError):
        return False
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
    return any(Path(place).resolve().is_relative_to(folder) for place in places if place for folder in own)


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
