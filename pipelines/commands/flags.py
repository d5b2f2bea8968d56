"""The flags that several scripts have, each with one meaning and one check."""

import argparse
from pathlib import Path

from pipelines.files.errors import InputError

LEAST = {"n": 1, "context": 1, "frames": 1, "batch_size": 1, "seed": 0}


def add_run_flags(parser: argparse.ArgumentParser, out: str, seed: str, batch_size: int = 64) -> None:
    """The run that a script works on, where its files go (`out`, in words), and how it computes."""
    parser.add_argument("--run", type=Path, help="a run's folder (default: the one whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where to look without --run")
    parser.add_argument("--seed", type=int, default=0, help=seed)
    parser.add_argument("--out", type=Path, help=f"folder for the files (default: {out})")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"at a time (default: {batch_size})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def add_data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, help="where the run's data lie, if not where they did in training")


def add_truncation_flags(parser: argparse.ArgumentParser) -> None:
    """How the prior's distributions are cut, `truncation` reads them."""
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the most likely code")
    parser.add_argument("--top-k", type=int, help="draw among the k most likely codes")
    parser.add_argument("--top-p", type=float, help="draw among the most likely codes of this total probability")


def truncation(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Keyword arguments of `stage2_prior.sampling.sample`."""
    return {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}


def check_flags(arguments: argparse.Namespace) -> None:
    """Raises InputError for a count or a seed that is too small."""
    for name, least in LEAST.items():
        if (found := getattr(arguments, name, least)) < least:
            raise InputError(f"--{name.replace('_', '-')}: expected {least} or more, found {found}")
