"""The entry point of the verbs that Hydra configures: `experiment=NAME key=value`, or `run=NAME` of a run there is.

Help and refused flags are answered here, before Hydra and torch are imported.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.commands.help import verb_help
from pipelines.commands.processes import refuse_ranks
from pipelines.commands.refusals import refuse_flags
from pipelines.files.errors import InputError, one_line_errors

if TYPE_CHECKING:
    from omegaconf import DictConfig

MULTIRUN = {"-m", "--multirun"}
SHOWING = {"-c", "--cfg"}  # Hydra's flags that show a configuration instead of working with it


def hydra_main(stage: str, *concerns: str, shares: bool = False
               ) -> Callable[[Callable[["DictConfig"], None]], Callable[[], None]]:
    """Decorates `main(cfg)` of a verb; `stage` ("stage1", "stage2") is what `train.` abbreviates there.

    `concerns` are the keys of configs/main.yaml that --help lists besides those of every verb; `train` stands for the
    stage's training. `main` imports torch, and all that does, in its body. The user's errors become one line and exit
    status 2; a command that a signal stops exits with 128 + its number. `shares`: several ranks share its work
    (pipelines/ranks); training has a way of its own, and other commands refuse to be several."""

    def decorate(main: Callable[["DictConfig"], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            given = sys.argv[1:]
            with one_line_errors():
                if "--help" in given or "-h" in given:
                    print(verb_help(main.__globals__["__doc__"], stage, concerns))
                    return
                refuse_flags(given)
                if "train" not in concerns and not shares:
                    refuse_ranks()
                compose_and_call(shared_main(main) if shares else main, stage, given)

        return run

    return decorate


def shared_main(main: Callable[["DictConfig"], None]) -> Callable[["DictConfig"], None]:
    @functools.wraps(main)
    def run(cfg: "DictConfig") -> None:
        from pipelines.ranks.shares import sharing

        with sharing():
            main(cfg)

    return run


def compose_and_call(main: Callable[["DictConfig"], None], stage: str, given: list[str]) -> None:
    """Raises InputError where the overrides do not fit the configuration."""
    import hydra
    import yaml
    from hydra.core.hydra_config import HydraConfig

    from pipelines.runs import plugins
    from pipelines.runs.composition import one_line, run_to_continue, settled, spelled
    from pipelines.runs.config import CONFIGS
    from pipelines.runs.refused import in_users_terms

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them over many lines
    multirun = bool(MULTIRUN & set(given))
    given = [spelled(expand_train(argument, stage), multirun) for argument in given]
    continued = run_to_continue(given, multirun)
    own, later = None, None
    if continued is not None:
        from pipelines.runs.continued import own_settings
        from pipelines.runs.store import Run

        if SHOWING & set(given):
            raise InputError(f"{next(flag for flag in given if flag in SHOWING)}: expected experiment=NAME beside it, "
                             f"found run={continued.name}, whose configuration is in {continued}")
        own = own_settings(Run(continued))
        given, later = apart(given)

    @functools.wraps(main)
    def guarded(cfg: "DictConfig") -> None:
        with one_line_errors():
            try:
                settled(cfg, HydraConfig.get(), own, later)
            except InputError as error:
                raise InputError(in_users_terms(str(error), stage)) from None
            main(cfg)

    sys.argv[1:] = [*plugins.config_search_path(), *given]
    with one_line(stage):
        try:
            hydra.main(version_base="1.3", config_path=CONFIGS, config_name="main")(guarded)()
        except yaml.YAMLError as error:
            raise InputError(f"configuration: expected YAML, found {' '.join(str(error).split())}") from error


def apart(given: list[str]) -> tuple[list[str], list[str]]:
    """What Hydra is to compose with, choices of groups and flags, and what changes the configuration of a run that is
    there: `data.root=FOLDER` does not fit that of the default data set."""
    from pipelines.runs.refused import known_groups

    groups = set(known_groups())
    hydras: list[str] = []
    later: list[str] = []
    for argument in given:
        key = argument.lstrip("+~").partition("=")[0]
        is_value = "=" in argument and not argument.startswith("-") and key.partition("@")[0] not in groups
        (later if is_value and key not in ("run", "runs_dir") and not key.startswith("hydra") else hydras
         ).append(argument)
    return hydras, later


def expand_train(override: str, stage: str) -> str:
    """`train.lr=1` -> `stage1.lr=1`, `train=long` -> `train@stage1=long`; all else stays."""
    marks = override[: len(override) - len(override.lstrip("+~"))]
    rest = override[len(marks) :]
    if rest.startswith("train."):
        return f"{marks}{stage}.{rest.removeprefix('train.')}"
    if rest.startswith("train="):
        return f"{marks}train@{rest.replace('train=', stage + '=', 1)}"
    return override
