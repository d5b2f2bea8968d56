"""What `evaluate.py` measures of imported codes beyond what all runs have: nothing, since there are no data to compare
them with. The shared figures are the bits of the codes: under a uniform, a unigram, a bigram and the learned prior."""

from pathlib import Path

from pipelines.evaluation.measured import Measured, Subject


def check(subject: Subject) -> None:
    """Every run on imported codes can be measured."""


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """None beside the shared ones."""
    return {}


def rows(result: dict) -> list[tuple[str, float | None, str]]:
    """None beside the shared ones."""
    return []


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """None beside the shared ones."""
    return {}
