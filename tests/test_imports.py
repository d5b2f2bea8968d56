"""The import laws: what stages may import, the order of the rooms, no circles, one source of random numbers."""

import ast
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("stage1_vqvae", "stage2_prior")
WITH_TORCH = {"triton"}  # comes with PyTorch for CUDA, and is imported on CUDA alone
# Files, clocks, processes and the command line are the pipelines' business.
FORBIDDEN_STANDARD = {"os", "pathlib", "sys", "time", "datetime", "subprocess", "multiprocessing", "shutil", "argparse",
                      "json", "pickle", "tempfile", "io", "importlib"}
# The folders of pipelines/, from the highest to the lowest: a file imports only its own room and rooms below. Verbs and
# the door, api.py, stand above all of them, and only a room of ABOVE imports the door.
ROOMS = ["commands", "reporting", "kinds", "evaluation", "codec", "generation", "media", "metrics", "data", "runs",
         "training", "health", "splits", "tokens", "ranks", "files"]
ABOVE = ["explorer"]  # rooms above the door: verbs alone import them
DOOR = ("pipelines", "pipelines.api")  # pipelines/__init__.py hands on what api.py defines


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in (*STAGES, "pipelines") for path in (ROOT / package).rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported(name: str) -> set[str]:
    """Dotted names of all that a module imports, wherever in it: modules, and `a.b` of `from a import b`."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[name]}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_modules(name: str) -> set[str]:
    """The project's own modules among them. `from a import b` is a module b, or something that the module a holds."""
    found = imported(name) & MODULES.keys()
    for node in ast.walk(TREES[name]):  # `from package import module` runs, but does not use, the package's __init__
        if isinstance(node, ast.ImportFrom) and all(f"{node.module}.{alias.name}" in MODULES for alias in node.names):
            found.discard(node.module)
    return found - {name}


def packages(name: str) -> set[str]:
    return {other.partition(".")[0] for other in imported(name)}


def room(name: str) -> str:
    """"data" of pipelines.data.codes, "verb", "door", or the package of a stage."""
    if not name.startswith("pipelines"):
        return name.partition(".")[0]
    if name in DOOR:
        return "door"
    parts = name.split(".")
    return parts[1] if (ROOT / "pipelines" / parts[1]).is_dir() else "verb"


def folder(name: str) -> str:
    """The folder of a module; at the root of a package a module stands for itself."""
    return ".".join(name.split(".")[:2])


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that can all be reached from one another. No node points to itself."""
    reached = {node: set(targets) for node, targets in arrows.items()}
    for over, node in product(reached, reached):
        if over in reached[node]:
            reached[node] |= reached[over]
    found = {frozenset(other for other in targets if node in reached[other]) for node, targets in reached.items()}
    return [set(circle) for circle in found if circle]


@pytest.mark.parametrize("package", STAGES)
def test_a_stage_imports_nothing_of_the_project_but_itself(package):
    names = [name for name in MODULES if name.startswith(f"{package}.")]
    assert len(names) > 3, "the package is there"
    for name in names:
        standard = packages(name) & sys.stdlib_module_names
        assert not standard & FORBIDDEN_STANDARD, f"{name}: {standard & FORBIDDEN_STANDARD}"
        foreign = packages(name) - standard - {package, "torch", "einops", "numpy", "numba", *WITH_TORCH}
        assert not foreign, f"{name}: {foreign}"


def test_every_folder_of_pipelines_is_a_room_of_the_list():
    folders = {path.parent.relative_to(ROOT / "pipelines").parts[0]
               for path in (ROOT / "pipelines").rglob("*.py") if path.parent != ROOT / "pipelines"}
    assert folders == {*ROOMS, *ABOVE}


def test_the_root_of_pipelines_holds_verbs_and_the_door_only():
    for path in (ROOT / "pipelines").glob("*.py"):
        name = module_name(path)
        if name not in DOOR:
            body = TREES[name].body
            assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body), f"{path}: no main()"
            guards = [node for node in body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
            assert len(guards) == 1 and guards[0] is body[-1], f"{path}: does not end with its `if __name__` guard"
    assert set(DOOR) <= MODULES.keys()


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pipelines")])
def test_a_file_imports_its_own_room_and_lower_ones_only(name):
    own = room(name)
    for other in imported_modules(name):
        target = room(other)
        if target in STAGES:
            continue
        if own in ROOMS:
            assert target in ROOMS, f"{name} imports {other}, which stands above all rooms"
            assert ROOMS.index(own) <= ROOMS.index(target), f"{name} imports {other}, which is not below it"
        else:
            assert target != "verb", f"{name} imports the verb {other}"
            assert own in (target, "verb") or target not in ABOVE, f"{name} imports {other}, which stands above it"
            assert own not in ABOVE or target != "commands", f"{name} imports {other}, which belongs to the verbs"


def test_no_circle_between_files():
    """Imports inside functions and under TYPE_CHECKING count too. What a package's __init__ hands on is its own."""
    assert circles({name: imported_modules(name) for name in MODULES}) == []


def test_no_circle_between_folders():
    arrows: dict[str, set[str]] = {}
    for name in MODULES:
        own = folder(name)
        arrows.setdefault(own, set()).update({folder(other) for other in imported_modules(name)} - {own})
    assert circles(arrows) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"c"}}) == [{"a", "b", "c", "d"}]


TORCH_RANDOM = {"manual_seed", "seed", "rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli",
                "rand_like", "randn_like", "randint_like", "Generator"}
IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_"}  # of a tensor


def random_calls(name: str) -> list[str]:
    """The calls of a module that make or seed random numbers. Draws from a generator that it is given do not count."""
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            function = ast.unparse(node.func)
            if (function.startswith(("np.random.", "numpy.random.", "random.", "secrets."))
                    or function.startswith("torch.") and node.func.attr in TORCH_RANDOM or node.func.attr in IN_PLACE):
                found.append(function)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pipelines")])
def test_random_numbers_come_from_splits_alone(name):
    if room(name) != "splits":
        assert random_calls(name) == []
        assert not imported(name) & {"random", "secrets"} and not any("random." in other for other in imported(name))


def test_metrics_touch_no_files():
    for name in MODULES:
        if room(name) == "metrics":
            touched = packages(name) & {"os", "pathlib", "io", "shutil", "tempfile", "PIL", "soundfile", "safetensors",
                                        "torchvision"}
            assert not touched, f"{name}: {touched}"
            calls = {node.func.id for node in ast.walk(TREES[name])
                     if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            assert "open" not in calls, name


def test_only_declared_packages_are_imported():
    """Each third-party import of the product stands in pyproject.toml."""
    declared = (ROOT / "pyproject.toml").read_text()
    names = {"sklearn": "scikit-learn", "PIL": "pillow", "hydra": "hydra-core", "yaml": "pyyaml",
             "espeakng_loader": "espeakng-loader", "pillow_heif": "pillow-heif"}
    for name in MODULES:
        for package in packages(name) - set(sys.stdlib_module_names) - {*STAGES, "pipelines", *WITH_TORCH}:
            assert f'"{names.get(package, package)}' in declared, f"{name}: {package}"
