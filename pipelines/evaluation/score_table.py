"""scores.csv: the scores of a user's own items, one row for each, the most surprising first."""

import csv
import io
from pathlib import Path

import torch
from torch import Tensor

from pipelines.evaluation.held_out import HeldOut, percentiles
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.generation.scores import Scores

RANKS = {"codes": "bits per code", "bits": "bits per dimension",
         "codec": "bits per dimension minus those of a lossless file"}


def rank_values(scores: Scores, by: str) -> Tensor:
    """What a ranking goes by, float64 (n,): a key of RANKS. Raises InputError for another, and for `codec` where there
    is no lossless codec."""
    if by not in RANKS:
        raise InputError(f"rank: expected one of {', '.join(RANKS)}, found {by!r}")
    if by == "codec" and scores.codec_bits is None:
        raise InputError("rank: expected codes or bits for a run on codes, found codec")
    values = {"codes": scores.bits_per_code, "bits": scores.bits_per_dim}
    return values[by] if by in values else scores.bits_minus_codec / scores.dimensions


def shares(scores: Scores, held_out: HeldOut | None) -> dict[str, Tensor | None]:
    """The percentile of each item among held-out ones, (n,) for each key of RANKS; None where there is none."""
    found: dict[str, Tensor | None] = dict.fromkeys(RANKS)
    references = {} if held_out is None else {"codes": held_out.code, "bits": held_out.total,
                                              "codec": held_out.corrected}
    for by, reference in references.items():
        if reference is not None:
            found[by] = percentiles(rank_values(scores, by), reference)
    return found


def write_scores(path: Path, names: list[str], scores: Scores, held_out: HeldOut | None,
                 nearest: tuple[Tensor, Tensor] | None, order: Tensor) -> list[str]:
    """Writes the rows of the items at `order`; returns a caption for each, in this order."""
    write_atomically(path, score_table(names, scores, held_out, nearest, order))
    words = captions(names, scores, shares(scores, held_out)["codes"])
    return [words[row] for row in order.tolist()]


def score_table(names: list[str], scores: Scores, held_out: HeldOut | None, nearest: tuple[Tensor, Tensor] | None,
                order: Tensor) -> bytes:
    """The rows of the items at `order`, as CSV. Cells of figures that cannot be had are empty."""
    percent = shares(scores, held_out)
    columns = {
        "code_bits": scores.code_bits, "data_bits": scores.data_bits, "bits": scores.bits,
        "bits_per_dim": scores.bits_per_dim, "bits_per_code": scores.bits_per_code, "codec_bits": scores.codec_bits,
        "bits_minus_codec": scores.bits_minus_codec, "percentile_codes": percent["codes"],
        "percentile_bits": percent["bits"], "percentile_codec": percent["codec"],
        "nearest_training_item": None if nearest is None else nearest[0],
        "code_distance": None if nearest is None else nearest[1],
    }
    cells = {name: [""] * len(names) if values is None else
             [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values.tolist()]
             for name, values in columns.items()}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", *cells])
    for row in order.tolist():
        writer.writerow([names[row], *(own[row] for own in cells.values())])
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def captions(names: list[str], scores: Scores, percent: Tensor | None) -> list[str]:
    """A line for each item's figure."""
    shown = [f"{name}: {bits:.2f} bits/code" for name, bits in zip(names, scores.bits_per_code.tolist(), strict=True)]
    return shown if percent is None else [f"{words}, percentile {share:.1f}" for words, share in
                                          zip(shown, percent.tolist(), strict=True)]


def in_order(scores: Scores, order: Tensor) -> Scores:
    """The same scores, item by item in another order."""
    return Scores(**{name: value[order] if isinstance(value, torch.Tensor) else value
                     for name, value in vars(scores).items()})
