"""Start of every verb: --help, a refused flag; how long until the verbs that compute begin to; one sample, whole."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.work import Contender, Sizes, Work
from pipelines.commands.console import verbs
from pipelines.files.places import pretrained

ROOT = Path(__file__).resolve().parents[2]
BEGUN = 42  # exit status of a process that came to the beginning of its work

# Runs a verb up to its call of `function`, which begins its work, and ends there: the module that defines it is given
# another one as soon as it is imported.
UNTIL = """
import importlib.util, os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            setattr(module, {function!r}, lambda *_, **__: os._exit({begun}))
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Watch())
sys.argv = ["verb", *{arguments!r}]
runpy.run_module({verb!r}, run_name="__main__")
"""
BEGINNINGS = {  # verb -> module and function that begin its work: the first step, the first batch that is measured
    "train-stage1": ("pipelines.training.loop", "train"),
    "train-stage2": ("pipelines.training.loop", "train"),
    "evaluate": ("pipelines.evaluation.shared", "measure_shared"),
}
# A run of all stages, a step each.
TRAINED = ("train_stage1", "extract_codes", "train_stage2")


@dataclass(frozen=True, kw_only=True)
class StartUp(Work):
    title = "start"
    devices = ("cpu",)
    verb: str
    what: str
    compiles: bool = True  # `sample` starts with an empty cache of machine code

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        shown = ["sample"] if quick else list(verbs())
        begun = ["train-stage1"] if quick else list(BEGINNINGS)
        return [*({"verb": verb, "what": "help"} for verb in shown), {"verb": "import pipelines", "what": "import"},
                *({"verb": verb, "what": "begin"} for verb in begun),
                {"verb": "sample", "what": "sample", "compiles": not quick}]

    def label(self) -> str:
        return {"help": f"{self.verb} --help", "import": self.verb, "sample": "sample --run mnist --n 1, whole",
                "begin": f"{self.verb} of digits, until it begins to compute"}[self.what]

    def contenders(self) -> list[Contender]:
        python, torch = (Contender(name, lambda code=code: process("-c", code))
                         for name, code in (("python alone", "pass"), ("python, import torch", "import torch")))
        module = f"pipelines.{self.verb.replace('-', '_')}"
        if self.what == "help":
            return [Contender("--help", lambda: process("-m", module, "--help")),
                    Contender("a refused flag", lambda: process("-m", module, "--refused", status=2)), python]
        if self.what == "import":
            return [Contender("import pipelines", lambda: process("-c", "import pipelines")), python]
        if self.what == "begin":
            return [Contender("until it begins", lambda: beginning(self.verb)), torch]
        return [Contender("sample --n 1", lambda: one_sample(self.compiles)), torch]

    def floor(self) -> str:
        return "python alone" if self.what in ("help", "import") else "python, import torch"


def process(*arguments: str, status: int = 0, environment: dict[str, str] | None = None) -> Callable[[], None]:
    """A process `python arguments`, from its start to its end. Raises RuntimeError for another exit status."""

    def run() -> None:
        result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}))
        if result.returncode != status:
            raise RuntimeError(f"python {' '.join(arguments)[:200]}: expected exit status {status}, found "
                               f"{result.returncode}: {result.stderr[-2000:]}")

    return run


def beginning(verb: str) -> Callable[[], None]:
    folder = tempfile.mkdtemp()
    settings = ["experiment=digits", f"runs_dir={folder}", "stage1.steps=1", "stage2.steps=1"]
    before = {"train-stage1": (), "train-stage2": TRAINED[:2], "evaluate": TRAINED}
    for name in before[verb]:
        process("-m", f"pipelines.{name}", *settings)()
    module, function = BEGINNINGS[verb]
    code = UNTIL.format(module=module, function=function, arguments=settings, begun=BEGUN,
                        verb=f"pipelines.{verb.replace('-', '_')}")
    return process("-c", code, status=BEGUN)


def one_sample(compiles: bool) -> Callable[[], None]:
    """compiles: with an empty cache of machine code at first, so that the first run compiles."""
    folder = tempfile.mkdtemp()
    return process("-m", "pipelines.sample", "--run", str(pretrained() / "mnist"), "--n", "1", "--out",
                   f"{folder}/samples", environment={"NUMBA_CACHE_DIR": f"{folder}/cache"} if compiles else {})
