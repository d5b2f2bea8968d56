"""The entry point of the verbs that Hydra configures: `experiment=NAME key=value`.

Help and refused flags are answered here, before Hydra and torch are imported.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.commands.help import verb_help
from pipelines.commands.processes import refuse_ranks
from pipelines.commands.refusals import refuse_flags, refused_override
from pipelines.files.errors import InputError, one_line_errors

if TYPE_CHECKING:
    from omegaconf import DictConfig


def hydra_main(stage: str, *concerns: str) -> Callable[[Callable[["DictConfig"], None]], Callable[[], None]]:
    """Decorates `main(cfg)` of a verb; `stage` ("stage1", "stage2") is what `train.` abbreviates there.

    `concerns` are the keys of configs/main.yaml that --help lists besides those of every verb; `train` stands for the
    stage's training. `main` imports torch, and all that does, in its body. The user's errors become one line and exit
    status 2; a command that a signal stops exits with 128 + its number. Only training runs in several ranks."""

    def decorate(main: Callable[["DictConfig"], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def guarded(cfg: "DictConfig") -> None:
            from hydra.core.hydra_config import HydraConfig

            from pipelines.runs.config import settle_bottleneck

            with one_line_errors():
                main(settle_bottleneck(cfg, HydraConfig.get()))

        @functools.wraps(main)
        def run() -> None:
            given = sys.argv[1:]
            with one_line_errors():
                if "--help" in given or "-h" in given:
                    print(verb_help(main.__globals__["__doc__"], stage, concerns))
                    return
                refuse_flags(given)
                if "train" not in concerns:
                    refuse_ranks()
                compose_and_call(guarded, stage, given)

        return run

    return decorate


def compose_and_call(main: Callable[["DictConfig"], None], stage: str, given: list[str]) -> None:
    """Raises InputError where the overrides do not fit the configuration."""
    import hydra
    import yaml
    from hydra.errors import HydraException

    from pipelines.runs import plugins
    from pipelines.runs.config import CONFIGS

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them over many lines
    sys.argv[1:] = [*plugins.config_search_path(), *(expand_train(argument, stage) for argument in given)]
    try:
        hydra.main(version_base="1.3", config_path=CONFIGS, config_name="main")(main)()
    except HydraException as error:
        raise InputError(refused_override(error, stage)) from error
    except yaml.YAMLError as error:
        raise InputError(f"configuration: expected YAML, found {' '.join(str(error).split())}") from error


def expand_train(override: str, stage: str) -> str:
    """`train.lr=1` -> `stage1.lr=1`, `train=long` -> `train@stage1=long`; all else stays."""
    marks = override[: len(override) - len(override.lstrip("+~"))]
    rest = override[len(marks) :]
    if rest.startswith("train."):
        return f"{marks}{stage}.{rest.removeprefix('train.')}"
    if rest.startswith("train="):
        return f"{marks}train@{rest.replace('train=', stage + '=', 1)}"
    return override
