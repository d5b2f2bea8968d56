"""LibriSpeech: audio books at 16 kHz, in published subsets that share no speaker.

    root/train-clean-100/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac

Files are found here directly: torchaudio's LIBRISPEECH covers one subset and reads a transcript for every path.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.folders import list_files
from pipelines.files.errors import InputError

NAME = re.compile(r"(?P<speaker>\d+)/(?P<chapter>\d+)/(?P=speaker)-(?P=chapter)-\d+\.flac")


class LibriSpeech(AudioData):
    """Label speaker: the numbers of the speakers of all subsets, sorted as text.

    By default validation is held out of the training recordings, and there is no test split. The speakers of dev-clean
    and test-clean occur in no training subset, so for a decoder or prior conditioned on the speaker, results on them
    would be meaningless. For models without speaker labels, validation_subsets=[dev-clean] and
    test_subsets=[test-clean] use the published subsets.

    Raises an InputError that names the key for a subset that is missing or given twice.
    """

    name = "librispeech"

    def __init__(self, root: str, cache: str, train_subsets: Sequence[str] = ("train-clean-100",),
                 validation_subsets: Sequence[str] = (), test_subsets: Sequence[str] = (), sample_rate_hz: int = 16_000,
                 crop: int = 7680, length: int = 40_960, peak: float = 0.0, validation_fraction: float = 0.02,
                 workers: int = 0, seed: int = 0):
        self.subsets = {"train": train_subsets, "validation": validation_subsets, "test": test_subsets}
        super().__init__(root, cache, sample_rate_hz, crop, length, peak, validation_fraction, workers, seed)

    def _recordings(self, root: Path) -> Recordings:
        files, speakers, splits, seen = [], [], [], set()
        for split, subsets in self.subsets.items():
            for subset in subsets:
                key = f"data.{split}_subsets"
                if subset in seen:
                    raise InputError(f"{key}: expected each subset once, found {subset} twice")
                seen.add(subset)
                if "/" in subset or not (root / subset).is_dir():
                    raise InputError(f"{key}: expected a folder {root / subset}, found none")
                matches = [NAME.fullmatch(file.path) for file in list_files(root / subset, {".flac"})]
                matches = [match for match in matches if match]
                if not matches:
                    raise InputError(f"{key}: expected SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac in {root / subset}, "
                                     "found none")
                files += [f"{subset}/{match[0]}" for match in matches]
                speakers += [match["speaker"] for match in matches]
                splits += [split] * len(matches)
        self.label_names, self.classes, labels = labels_of({"speaker": speakers})
        return Recordings(files, labels, splits)
