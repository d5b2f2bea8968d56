"""One line for a flag that a verb configured by Hydra refuses, with what to write instead."""

from pipelines.commands.help import EVERY_VERB, groups, settings
from pipelines.files.errors import InputError
from pipelines.files.places import configs
from pipelines.files.typed import nearest

# Hydra's own flags; not --run and --experimental-rerun, for which it takes `--run NAME` and `--experiment NAME`.
HYDRA_FLAGS = {
    *("-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-i", "--info", "-cd", "--config-dir"),
    *("-cn", "--config-name", "-sc", "--shell-completion", "--hydra-help", "--version"),
}


def refuse_flags(arguments: list[str]) -> None:
    """Raises InputError for a flag that Hydra has not: `--experiment mnist` -> expected experiment=mnist."""
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if not flag.startswith("-") or flag in HYDRA_FLAGS:
            continue
        following = arguments[number + 1 : number + 2]
        if not equals and following and "=" not in following[0] and not following[0].startswith("-"):
            value = following[0]
        key = nearest(flag.lstrip("-").replace("-", "_"), [*known_keys(), *groups(tuple(top_groups()))])
        expected = f"{key}={value or 'VALUE'}" if key else "KEY=VALUE (--help lists the keys)"
        raise InputError(f"{flag}: expected {expected}, found a flag")


def known_keys() -> list[str]:
    """Of configs/main.yaml and of a stage's training; without the names of the groups' own settings."""
    train = [f"train.{key}" for key in settings(configs() / "train" / "stage1.yaml")]
    return [*EVERY_VERB, *settings(configs() / "main.yaml"), *train]


def top_groups() -> list[str]:
    return [path.name for path in configs().iterdir() if path.is_dir()]
