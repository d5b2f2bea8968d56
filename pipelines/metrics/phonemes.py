"""What discrete codes of speech know of phonemes, without having been told of any.

The experiment of arXiv 1711.00937, section 4.3: every code is taken for the phoneme that it most often goes with, and
the phonemes that clips are then read as are compared with the true ones. The paper's codes (128 of them, 25 a second)
reach 49.3 %, where always guessing the most likely of its 41 phonemes reaches 7.2 %.

The map from codes to phonemes is counted on one half of the clips and measured on the other, one way: a map that was
measured on what it was counted on would be the better the more codes there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

SILENCE = "_"


@dataclass(frozen=True)
class PhonemeAccuracy:
    """Of the frames of the second half of the clips that are not silent."""

    accuracy: float  # share of frames whose code stands for their phoneme
    baseline: float  # share of frames that have the most frequent phoneme of the first half
    normalised: float  # (accuracy - baseline) / (1 - baseline): 0 the guess, 1 all right; NaN if the guess is that
    frames: int  # how many were measured
    classes: int  # phonemes that occur in either half


def frame_labels(intervals: Sequence[tuple[str, float, float]], codes: int, hop_length: int,
                 silence: str = SILENCE) -> list[str]:
    """The phoneme of each of the first `codes` codes of a clip: that at the centre of the code's span.

    Code i stands for samples [i * hop_length, (i + 1) * hop_length), centre i * hop_length + hop_length // 2.
    intervals: (symbol, start, end) in samples of the wave that was encoded, end exclusive, in order, none overlapping
    another. What lies in no interval, such as a last code's centre past the end of the sound, is silence.
    Raises ValueError where they overlap or are out of order.

    With hop_length 64, [("a", 0, 100), ("b", 100, 200)] and 4 codes, whose centres are 32, 96, 160 and 224, the labels
    are a, a, b and silence.
    """
    starts, ends = (np.array([interval[column] for interval in intervals], dtype=np.float64) for column in (1, 2))
    if (starts > ends).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError(f"intervals: expected them in order and apart, found {list(intervals)}")
    centres = np.arange(codes) * hop_length + hop_length // 2
    places = np.searchsorted(starts, centres, side="right") - 1  # the last that has begun
    return [intervals[place][0] if place >= 0 and centre < ends[place] else silence
            for place, centre in zip(places.tolist(), centres.tolist(), strict=True)]


def phoneme_accuracy(codes: Tensor, labels: Sequence[Sequence[str]], num_codes: int,
                     silence: str = SILENCE) -> PhonemeAccuracy:
    """How well codes int64 (n, t) name the phonemes of their frames.

    labels: of each clip those of its real codes, so as many as it has of them, as `frame_labels` gives them. Clips 0,
    2, 4 ... are counted: each code stands for its most frequent phoneme there, a code that does not occur there for the
    most frequent of all. Clips 1, 3, 5 ... are measured. Silent frames are in neither. Of phonemes that are equally
    frequent the first of the alphabet is taken. The order of the clips is to have nothing to do with what is in them.

    Raises ValueError where labels do not fit the codes, a code is out of range, or a half has no phonemes.
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
