"""Any folder of audio files.

    root/*.wav                        no labels; validation is held out
    root/SPEAKER/*.wav                the label is the name of the folder
    root/{train,validation,test}/...  either layout in each; validation (or `val`, `valid`) and test may be missing
"""

from collections import Counter
from pathlib import Path

import torch

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.audio_files import SUFFIXES
from pipelines.data.folders import check_strays, class_folder, class_names, find_parts, warn_left_out
from pipelines.files.errors import InputError


class AudioFolder(AudioData):
    """Label speaker if all training files lie in speaker folders, at least two; files may lie at any depth in these.

    Raises InputError for folders of splits without `train`, without audio files, or with a speaker unknown in training.
    """

    def __init__(self, root: str, cache: str, name: str = "", sample_rate_hz: int = 16_000, crop: int = 7680,
                 length: int = 65_536, peak: float = 0.0, validation_fraction: float = 0.1, workers: int = 0,
                 seed: int = 0, cache_bytes: int = 0):
        self.name = name or Path(root).resolve().name
        super().__init__(root, cache, sample_rate_hz, crop, length, peak, validation_fraction, workers, seed,
                         cache_bytes)

    def _recordings(self, root: Path) -> Recordings:
        parts = find_parts(root, SUFFIXES, "audio files")
        check_strays(parts["train"], "audio files", f"out of {root}")
        speakers = class_names(parts["train"].files)
        files, splits, labels = [], [], []
        left_out: Counter[str] = Counter()
        for split, part in parts.items():
            left_out += Counter(part.left_out)
            warn_left_out(part.folder, part.details)
            folder, found = part.folder, part.files
            prefix = "" if folder == root else f"{folder.name}/"
            files += [prefix + file.path for file in found]
            splits += [split] * len(found)
            for file in found if speakers else ():
                if class_folder(file) not in speakers:
                    raise InputError(f"{folder / file.path}: expected a file in the folder of one of {len(speakers)} "
                                     f"training speakers, found {class_folder(file) or 'no such folder'!r}")
                labels.append(class_folder(file))
        if not speakers:
            return Recordings(files, torch.zeros(len(files), 0, dtype=torch.int64), splits, left_out)
        self.label_names, self.classes, numbers = labels_of({"speaker": labels})
        return Recordings(files, numbers, splits, left_out)
