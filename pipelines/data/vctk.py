"""The VCTK corpus: about 110 English speakers, each reading about 400 sentences from newspapers, at 48 kHz.

    root/wav48_silence_trimmed/p225/p225_001_mic2.flac    release 0.92, two microphones
    root/wav48/p225/p225_001.wav                          release 0.80

Files are found here directly: torchaudio's VCTK_092 relies on transcripts and therefore lacks p315, who has none.
"""

import re
from pathlib import Path

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.folders import list_files
from pipelines.files.errors import InputError

MICROPHONES = ("mic1", "mic2")
LAYOUTS = (  # the first layout found is used
    r"wav48_silence_trimmed/(?P<speaker>[^/]+)/(?P=speaker)_\d+_{microphone}\.flac",
    r"wav48/(?P<speaker>[^/]+)/(?P=speaker)_\d+\.wav",
)


class VCTK(AudioData):
    """Label speaker. There is no published split: validation is held out of all recordings, with the same speakers.

    `microphone` is mic1 or mic2; p280 has no recordings with mic2. Release 0.80 has one microphone and ignores it.
    """

    name = "vctk"

    def __init__(self, root: str, cache: str, microphone: str = "mic2", sample_rate_hz: int = 16_000, crop: int = 7680,
                 length: int = 65_536, peak: float = 0.0, validation_fraction: float = 0.02, workers: int = 0,
                 seed: int = 0):
        if microphone not in MICROPHONES:
            raise InputError(f"data.microphone: expected {' or '.join(MICROPHONES)}, found {microphone!r}")
        self.microphone = microphone
        super().__init__(root, cache, sample_rate_hz, crop, length, peak, validation_fraction, workers, seed)

    def _recordings(self, root: Path) -> Recordings:
        paths = [file.path for file in list_files(root, {".flac", ".wav"})]
        found: list[re.Match] = []
        for layout in LAYOUTS:
            pattern = re.compile(layout.format(microphone=self.microphone))
            found = found or [match for match in map(pattern.fullmatch, paths) if match]
        self.label_names, self.classes, labels = labels_of({"speaker": [match["speaker"] for match in found]})
        return Recordings([match[0] for match in found], labels, ["train"] * len(found))
