"""The flags that several commands share, each with one meaning and one check."""

import argparse
import difflib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from pipelines.commands.processes import refuse_ranks
from pipelines.files.errors import InputError
from pipelines.files.places import expanded
from pipelines.files.typed import LARGEST
from pipelines.splits.seeds import check_seed


class Run(Protocol):
    """What a verb opens."""

    @property
    def folder(self) -> Path: ...


R = TypeVar("R", bound=Run)
MOST_SAMPLES = 1_000_000  # files of one call, which is kept in memory until they are written
# The least and the largest value of each flag that is a count.
LIMITS = {"n": (1, MOST_SAMPLES), "context": (1, LARGEST), "frames": (1, LARGEST), "batch_size": (1, LARGEST),
          "example": (0, LARGEST), "top_k": (1, LARGEST), "held_out": (1, LARGEST), "items": (1, LARGEST),
          "minutes": (1e-3, LARGEST)}


class VerbParser(argparse.ArgumentParser):
    """--help shows the command's docstring; what it refuses takes one line, the nearest flag, and exit status 2."""

    def __init__(self, docstring: str | None):
        super().__init__(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_known_args(self, args=None, namespace=None):
        given = sys.argv[1:] if args is None else list(args)
        for argument in given:
            if argument.startswith("--") and argument.endswith("=--"):  # of which argparse makes an empty list
                self.error(f"{argument.removesuffix('=--')}: expected a value, found --")
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        flags = list(self._option_string_actions)
        for argument in sys.argv[1:]:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and not any(known.startswith(flag) for known in flags):
                nearest = difflib.get_close_matches(flag, flags, n=1, cutoff=0.7) or ["one of those that --help lists"]
                message = f"{flag}: expected {nearest[0]}, found an unknown flag"
                break
        self.exit(2, f"error: {' '.join(message.split())}\n")


def add_run_flags(parser: argparse.ArgumentParser, out: str, batch_size: int = 64, seeded: bool = True) -> None:
    """Which run a command works on, where its files go (`out`, in words), and how it computes.

    seeded: whether it draws random numbers."""
    parser.add_argument("--run", type=expanded, help="a run's folder, a name under runs/, or a pretrained name, tried "
                        "in this order, or hf://OWNER/NAME (default: the run whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    if seeded:
        parser.add_argument("--seed", type=int, default=0,
                            help="random seed; random numbers of output i depend on the seed and i alone (default: 0)")
    parser.add_argument("--out", type=folder, help=f"folder for the files (default: {out})")
    parser.add_argument("--batch-size", type=int, default=batch_size,
                        help=f"examples or samples per batch (default: {batch_size})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def add_data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=folder, help="folder of the run's data, if it has moved since training")


def add_truncation_flags(parser: argparse.ArgumentParser) -> None:
    """How the prior's distributions are truncated; `truncation` reads them."""
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest code (default: 1)")
    parser.add_argument("--top-k", type=int, help="sample from the k likeliest codes")
    parser.add_argument("--top-p", type=float, help="sample from the likeliest codes whose probabilities add up to p")


def add_completion_flags(parser: argparse._ArgumentGroup) -> None:
    """The flags `pipelines.kinds.base.COMPLETION`: an item, the part of it to fill, and how."""
    parser.add_argument("--complete", type=expanded, metavar="FILE", help="an image, a recording or a clip to complete")
    parser.add_argument("--mask", type=expanded, metavar="PART", help="fill this part: of an image what is white in "
                        "this image; of audio seconds, 0.2-0.35 or 0.1-0.2,0.4-0.5; of video frames, 4-8, or an image")
    parser.add_argument("--particles", type=int, help="with --mask: grids that are tried side by side for each "
                        "candidate (default: 32)")
    parser.add_argument("--sweeps", type=int, help="with --mask: rounds in which the codes of a candidate are "
                        "redrawn box by box, given all others (default: 0: more particles do more)")
    parser.add_argument("--no-paste", action="store_const", const=False, dest="paste", help="with --mask: show the "
                        "visible part as decoded, in place of its own pixels or samples")


def truncation(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Keyword arguments of `stage2_prior.sampling.sample`."""
    return {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}


def check_flags(arguments: argparse.Namespace, shares: bool = False) -> None:
    """Raises InputError for a count or a seed out of range, for a number that is none (nan, inf), and, unless they
    share the work, for several ranks."""
    if not shares:
        refuse_ranks()
    for name, (least, most) in LIMITS.items():
        found = getattr(arguments, name, None)
        if found is not None and not least <= found <= most:
            raise InputError(f"{flag(name)}: expected a number {f'>= {least}' if found < least else f'<= {most}'}, "
                             f"found {found}")
    for name, found in vars(arguments).items():
        if isinstance(found, float) and not math.isfinite(found):
            raise InputError(f"{flag(name)}: expected a finite number, found {found}")
    check_seed("--seed", getattr(arguments, "seed", 0))


def flag(name: str) -> str:
    """batch_size -> --batch-size"""
    return f"--{name.replace('_', '-')}"


def folder(path: str) -> Path:
    """A path as it was typed, expanded."""
    if not path:
        raise argparse.ArgumentTypeError("expected a path, found an empty one")
    return Path(expanded(path))


def say_which(arguments: argparse.Namespace, run: Path) -> None:
    """Where no run was named, prints which one was taken, and why."""
    if arguments.run is None:
        trained = run.parent.resolve() == arguments.runs_dir.resolve()
        why = "the run whose stage 2 was trained last" if trained else (
            f"a pretrained run, since none in {arguments.runs_dir} has a trained stage 2; train one: make demo")
        print(f"--run not given: {run}, {why}")


@contextmanager
def opened_run(arguments: argparse.Namespace, load: Callable[[str | None, str, Path], R], shares: bool = False
               ) -> Iterator[R]:
    """The run that the flags name, by `pipelines.load`; around all that a verb does with it.

    Flags are checked first, an error about an argument names its flag, and where no run was named, a line says which
    one was taken. `shares`: several ranks share the work (pipelines/ranks)."""
    from pipelines.ranks.shares import sharing

    check_flags(arguments, shares)
    with sharing(), naming_flags(arguments):
        run = load(arguments.run, getattr(arguments, "device", "cpu"), arguments.runs_dir)
        say_which(arguments, run.folder)
        yield run


@contextmanager
def naming_flags(arguments: argparse.Namespace) -> Iterator[None]:
    """An error about an argument, `keep: ...` or `label digit: ...`, names its flag, `--keep` or `--label digit`."""
    try:
        yield
    except InputError as error:
        words, colon, _ = str(error).partition(":")
        name = words.split(" ")[0]
        if colon and name in vars(arguments):
            raise InputError(f"{flag(name)}{str(error).removeprefix(name)}") from None
        raise
