"""Inputs made beforehand, with the standard library alone: recordings of tones, as files <digit>_<speaker>_<index>."""

import array
import math
import wave
from pathlib import Path

MARKER = ".gpu_check"  # stands in the work folder, which is emptied at the next check
RATE_HZ = 8000
SPEAKERS = {"ann": 150.0, "bob": 230.0}  # fundamental, Hz
DIGITS = {0: 2, 7: 9}  # number of harmonics


def write(work: Path) -> None:
    folder = work / "inputs" / "fsdd"
    folder.mkdir(parents=True)
    (work / MARKER).write_text("")
    for digit, harmonics in DIGITS.items():
        for speaker, pitch_hz in SPEAKERS.items():
            for index in range(12):
                write_tone(folder / f"{digit}_{speaker}_{index}.wav", pitch_hz * (1 + 0.01 * index), harmonics,
                           length=480 + 45 * index)


def write_tone(path: Path, pitch_hz: float, harmonics: int, length: int) -> None:
    """`length` samples of 16 bits: a tone whose k-th harmonic has amplitude 0.2 / k, decaying."""
    samples = (math.exp(-3 * t / length) * sum(0.2 / k * math.sin(2 * math.pi * pitch_hz * k * t / RATE_HZ)
                                               for k in range(1, harmonics + 1)) for t in range(length))
    values = array.array("h", (round(32767 * sample) for sample in samples))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(values.tobytes())
