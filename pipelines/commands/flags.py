"""The flags that several commands share, each with one meaning and one check."""

import argparse
import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from pipelines.commands.processes import refuse_ranks
from pipelines.files.errors import InputError
from pipelines.splits.seeds import check_seed

LEAST = {"n": 1, "context": 1, "frames": 1, "batch_size": 1, "example": 0}


class VerbParser(argparse.ArgumentParser):
    """--help shows the command's docstring; what it refuses takes one line, the nearest flag, and exit status 2."""

    def __init__(self, docstring: str | None):
        super().__init__(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        flags = list(self._option_string_actions)
        for argument in sys.argv[1:]:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and not any(known.startswith(flag) for known in flags):
                nearest = difflib.get_close_matches(flag, flags, n=1, cutoff=0.7) or ["one of those that --help lists"]
                message = f"{flag}: expected {nearest[0]}, found an unknown flag"
                break
        self.exit(2, f"error: {message}\n")


def add_run_flags(parser: argparse.ArgumentParser, out: str, batch_size: int = 64) -> None:
    """Which run a command works on, where its files go (`out`, in words), and how it computes."""
    parser.add_argument("--run", help="a run's folder, a name under runs/, or a pretrained name, tried in this order "
                        "(default: the run whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--seed", type=int, default=0,
                        help="random seed; random numbers of output i depend on the seed and i alone (default: 0)")
    parser.add_argument("--out", type=Path, help=f"folder for the files (default: {out})")
    parser.add_argument("--batch-size", type=int, default=batch_size,
                        help=f"examples or samples per batch (default: {batch_size})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def add_data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, help="folder of the run's data, if it has moved since training")


def add_truncation_flags(parser: argparse.ArgumentParser) -> None:
    """How the prior's distributions are truncated; `truncation` reads them."""
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest code (default: 1)")
    parser.add_argument("--top-k", type=int, help="sample from the k likeliest codes")
    parser.add_argument("--top-p", type=float, help="sample from the likeliest codes whose probabilities add up to p")


def truncation(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Keyword arguments of `stage2_prior.sampling.sample`."""
    return {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}


def check_flags(arguments: argparse.Namespace) -> None:
    """Raises InputError for a count that is too small, a seed out of range, and several ranks."""
    refuse_ranks()
    for name, least in LEAST.items():
        if (found := getattr(arguments, name, least)) < least:
            raise InputError(f"--{name.replace('_', '-')}: expected a number >= {least}, found {found}")
    check_seed("--seed", getattr(arguments, "seed", 0))


@contextmanager
def naming_flags(arguments: argparse.Namespace) -> Iterator[None]:
    """An error about an argument, `keep: ...` or `label digit: ...`, names its flag, `--keep` or `--label digit`."""
    try:
        yield
    except InputError as error:
        words, colon, _ = str(error).partition(":")
        name = words.split(" ")[0]
        if colon and name in vars(arguments):
            raise InputError(f"--{name.replace('_', '-')}{str(error).removeprefix(name)}") from None
        raise
