"""One line for a flag that a verb configured by Hydra refuses, with what to write instead."""

from pipelines.commands.help import EVERY_VERB, groups, settings
from pipelines.files.errors import InputError
from pipelines.files.places import configs
from pipelines.files.typed import nearest

# Hydra's own flags, without those that explain Hydra itself; nor --run and --experimental-rerun, for which it takes
# `--run NAME` and `--experiment NAME`.
HYDRA_FLAGS = {
    *("-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-cd", "--config-dir", "-cn", "--config-name"),
    "--version",
}
# Those of them that take a value, and the values where they are few.
WITH_VALUE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(("-p", "--package", "-cd", "--config-dir", "-cn", "--config-name"), ()),
}


def refuse_flags(arguments: list[str]) -> None:
    """Raises InputError for a flag that Hydra has not: `--experiment mnist` -> expected experiment=mnist."""
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        following = arguments[number + 1 : number + 2]
        if flag in WITH_VALUE:
            given = value if equals else "".join(following)
            if given not in WITH_VALUE[flag] if WITH_VALUE[flag] else not given or given.startswith("-"):
                expected = f"one of {', '.join(WITH_VALUE[flag])}" if WITH_VALUE[flag] else "a value"
                raise InputError(f"{flag}: expected {expected} after it, found {given or 'none'}")
        if flag == "--resolve" and not {"-c", "--cfg"} & {word.partition("=")[0] for word in arguments}:
            raise InputError("--resolve: expected --cfg job beside it, found none")
        if not flag.startswith("-") or flag in HYDRA_FLAGS:
            continue
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
