"""The Free Spoken Digit Dataset: files <digit>_<speaker>_<index>.{wav,flac} of six speakers at 8 kHz.

The published split: indices 0 to 4 of each digit and speaker are test data, all others training data.
"""

import re
from pathlib import Path

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.folders import list_files

NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.(wav|flac)")
TEST_INDICES = 5


class FSDD(AudioData):
    """Labels digit and speaker. Other files in the folder are ignored."""

    name = "fsdd"

    def __init__(self, root: str, cache: str, sample_rate_hz: int = 8000, crop: int = 3072, length: int = 8192,
                 peak: float = 0.9, validation_fraction: float = 0.05, workers: int = 0, seed: int = 0):
        super().__init__(root, cache, sample_rate_hz, crop, length, peak, validation_fraction, workers, seed)

    def _recordings(self, root: Path) -> Recordings:
        paths = [file.path for file in list_files(root, {".wav", ".flac"})]
        named = [(path, NAME.fullmatch(path.rpartition("/")[2])) for path in paths]
        found = [(path, match) for path, match in named if match]
        columns = {label: [match[label] for _, match in found] for label in ("digit", "speaker")}
        self.label_names, self.classes, labels = labels_of(columns)
        splits = ["test" if int(match["index"]) < TEST_INDICES else "train" for _, match in found]
        return Recordings([path for path, _ in found], labels, splits)
