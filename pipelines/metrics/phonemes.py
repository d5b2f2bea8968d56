"""Phoneme accuracy of discrete codes of speech that were learned without phoneme labels.

The experiment of arXiv 1711.00937, section 4.3: every code is mapped to the phoneme that it most often coincides with,
and the phonemes predicted in this way are compared with the ground truth. The paper's codes (K = 128, 25 per second)
reach 49.3 %; always guessing the most frequent of its 41 phonemes reaches 7.2 %.

The map is counted on one half of the clips and measured on the other half. Measured on its own half, a map would
improve with the number of codes alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

SILENCE = "_"


@dataclass(frozen=True)
class PhonemeAccuracy:
    """Results on the frames of the second half of the clips, silence excluded."""

    accuracy: float  # fraction of frames whose code is mapped to their phoneme
    baseline: float  # fraction of frames with the most frequent phoneme of the first half
    normalised: float  # (accuracy - baseline) / (1 - baseline): 0: the guess, 1: all right; NaN if baseline is 1
    frames: int  # number of frames measured
    classes: int  # number of phonemes that occur in either half


def frame_labels(intervals: Sequence[tuple[str, float, float]], codes: int, hop_length: int,
                 silence: str = SILENCE) -> list[str]:
    """The phoneme at the centre of the span of each of the first `codes` codes of a clip.

    Code i covers samples [i * hop_length, (i + 1) * hop_length), centre i * hop_length + hop_length // 2.
    intervals: (symbol, start, end) in samples of the encoded wave, end exclusive, in order, without overlap. A centre
    outside all intervals, such as that of a last code past the end of the clip, is silence.
    Raises ValueError for intervals that overlap or are out of order.

    With hop_length 64, [("a", 0, 100), ("b", 100, 200)] and 4 codes, whose centres are 32, 96, 160 and 224, the labels
    are a, a, b and silence.
    """
    starts, ends = (np.array([interval[column] for interval in intervals], dtype=np.float64) for column in (1, 2))
    if (starts > ends).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError(f"intervals: expected them in order and without overlap, found {list(intervals)}")
    centres = np.arange(codes) * hop_length + hop_length // 2
    places = np.searchsorted(starts, centres, side="right") - 1  # the last interval that has started
    return [intervals[place][0] if place >= 0 and centre < ends[place] else silence
            for place, centre in zip(places.tolist(), centres.tolist(), strict=True)]


def phoneme_accuracy(codes: Tensor, labels: Sequence[Sequence[str]], num_codes: int,
                     silence: str = SILENCE) -> PhonemeAccuracy:
    """How well codes int64 (n, t) predict the phonemes of their frames.

    labels: for each clip, one per real code, as from `frame_labels`. Clips 0, 2, 4, ... are counted: a code is mapped
    to its most frequent phoneme there; a code that does not occur there, to the most frequent phoneme of all. Clips
    1, 3, 5, ... are measured. Silent frames are excluded from both. Ties go to the first phoneme in alphabetical
    order. The order of the clips must be independent of their content.

    Raises ValueError for labels that do not fit the codes, codes out of range, and a half without phonemes.
    """
    if len(codes) != len(labels) or any(len(own) > codes.shape[1] for own in labels):
        raise ValueError(f"labels: expected {len(codes)} clips of up to {codes.shape[1]} codes, "
                         f"found {[len(own) for own in labels]}")
    symbols = sorted({symbol for own in labels for symbol in own} - {silence})
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    halves = []
    for half in (0, 1):
        clips = range(half, len(labels), 2)
        found = np.concatenate([np.array([numbers.get(symbol, -1) for symbol in labels[clip]], dtype=np.int64)
                                for clip in clips] or [np.empty(0, np.int64)])
        own = np.concatenate([codes[clip, : len(labels[clip])].cpu().numpy() for clip in clips] or [found])
        if len(own) and not 0 <= own.min() <= own.max() < num_codes:
            raise ValueError(f"codes: expected 0 to {num_codes - 1}, found {own.min()} to {own.max()}")
        if not (found >= 0).any():
            raise ValueError(f"labels: expected phonemes in both halves of the clips, found none in half {half + 1}")
        halves.append((own[found >= 0], found[found >= 0]))
    (counted, phonemes), (measured, true) = halves
    counts = np.zeros((num_codes, len(symbols)), np.int64)
    np.add.at(counts, (counted, phonemes), 1)
    guess = counts.sum(0).argmax()
    meaning = np.where(counts.any(1), counts.argmax(1), guess)
    accuracy, baseline = float((meaning[measured] == true).mean()), float((guess == true).mean())
    normalised = (accuracy - baseline) / (1 - baseline) if baseline < 1 else float("nan")
    return PhonemeAccuracy(accuracy, baseline, normalised, len(true), len(symbols))
