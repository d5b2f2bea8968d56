"""Speech Commands (Warden, arXiv 1804.03209): single words, one second at 16 kHz; 35 words in version 0.02.

    root/WORD/SPEAKER_nohash_N.wav
    root/validation_list.txt, root/testing_list.txt    one WORD/SPEAKER_nohash_N.wav per line; the rest is training

Files are found here directly: torchaudio's SPEECHCOMMANDS finds the same ones, but assumes that listed files exist.
"""

import re
from pathlib import Path

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.folders import list_files
from pipelines.files.errors import InputError

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
NAME = re.compile(r"(?P<word>[^/]+)/[0-9a-f]+_nohash_\d+\.wav")  # excludes _background_noise_


class SpeechCommands(AudioData):
    """Label word. The published splits; they share no speaker.

    Raises InputError for a list that is missing or names no existing recording.
    """

    name = "speechcommands"

    def __init__(self, root: str, cache: str, sample_rate_hz: int = 16_000, crop: int = 7680, length: int = 16_384,
                 peak: float = 0.9, workers: int = 0):
        super().__init__(root, cache, sample_rate_hz, crop, length, peak, 0.0, workers, seed=0)

    def _recordings(self, root: Path) -> Recordings:
        found = [match for file in list_files(root, {".wav"}) if (match := NAME.fullmatch(file.path))]
        files = [match[0] for match in found]
        places = dict.fromkeys(files, "train")
        for split, name in LISTS.items():
            if not (root / name).is_file():
                raise InputError(f"{root / name}: expected the published list of recordings for {split}, found nothing")
            listed = {line.strip() for line in (root / name).read_text(errors="replace").splitlines()} & places.keys()
            if files and not listed:
                raise InputError(f"{root / name}: expected names of recordings in this folder, found none")
            places |= dict.fromkeys(listed, split)
        self.label_names, self.classes, labels = labels_of({"word": [match["word"] for match in found]})
        return Recordings(files, labels, [places[file] for file in files])
