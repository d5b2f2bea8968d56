"""The entry point of verbs that are configured by Hydra: `experiment=NAME key=value`."""

import functools
import sys
from typing import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipelines.files.errors import one_line_errors
from pipelines.runs import plugins
from pipelines.runs.config import CONFIGS, settle_bottleneck
from pipelines.training.loop import Interrupted


def hydra_main(stage: str) -> Callable:
    """Decorates `main(cfg)` of a script; `stage` ("stage1", "stage2") is what `train.` abbreviates there.

    Errors of the user's are one line and exit status 2; an interrupted training exits with 128 + its signal."""

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> None:
            with one_line_errors():
                try:
                    main(settle_bottleneck(cfg, HydraConfig.get()))
                except Interrupted as interrupted:
                    print(interrupted, file=sys.stderr)
                    sys.exit(128 + interrupted.signal_number)

        @functools.wraps(main)
        def run() -> None:
            with one_line_errors():
                search_path = plugins.config_search_path()
            sys.argv[1:] = [*search_path, *(expand_train(argument, stage) for argument in sys.argv[1:])]
            hydra.main(version_base="1.3", config_path=CONFIGS, config_name="main")(guarded)()

        return run

    return decorate


def expand_train(override: str, stage: str) -> str:
    """`train.lr=1` -> `stage1.lr=1`, `train=long` -> `train@stage1=long`; all else stays."""
    marks = override[: len(override) - len(override.lstrip("+~"))]
    rest = override[len(marks) :]
    if rest.startswith("train."):
        return f"{marks}{stage}.{rest.removeprefix('train.')}"
    if rest.startswith("train="):
        return f"{marks}train@{rest.replace('train=', stage + '=', 1)}"
    return override
