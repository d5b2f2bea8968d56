"""Synthetic speech as a data set: words in many voices, with the times of their phonemes (pipelines/data/speech.py)."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.speech import Clip, Phoneme, generate_speech, read_speech
from pipelines.files.errors import InputError
from pipelines.splits.base import checked_hold_out_size
from pipelines.splits.counters import permutation


class SpokenWords(AudioData):
    """Labels word (if a clip is one word) and voice. Clips that do not exist below `root` are generated on first use.

    `validation_fraction` and `test_fraction` of the clips are held out; see `place_clips`. `seed` determines them and
    everything that is spoken. Raises InputError for settings out of range and if the extra [speech] is missing.
    """

    name = "spoken-words"

    def __init__(self, root: str, cache: str, clips: int = 6000, words_per_clip: int = 1, voices: int = 24,
                 sample_rate_hz: int = 8000, crop: int = 3072, length: int = 8192, peak: float = 0.0,
                 validation_fraction: float = 0.05, test_fraction: float = 0.05, workers: int = 0, seed: int = 0):
        held_out = round(validation_fraction * clips), round(test_fraction * clips)
        checked_hold_out_size("data.validation_fraction", held_out[0], clips)
        if not 0 <= held_out[1] < clips - held_out[0]:
            raise InputError(f"data.test_fraction: expected 0 to {clips - held_out[0] - 1} of {clips} clips, "
                             f"found {held_out[1]}")
        self.spoken, self.held_out = (clips, words_per_clip, voices, seed, workers), held_out
        if not Path(root).exists():
            Path(root).mkdir(parents=True)
        super().__init__(root, cache, sample_rate_hz, crop, length, peak, validation_fraction, workers, seed)

    def phonemes(self, split: str) -> list[list[Phoneme]]:
        """The phonemes of each item of a split: intervals that tile it, in samples of the item.

        A sample belongs to the interval that contains its time; resampling moves nothing."""
        recordings, starts, lengths, bounds = self._items[split]
        result = []
        for recording, offset, size in zip(recordings.tolist(), (starts - bounds[:, 0]).tolist(), lengths.tolist()):
            places = [(phoneme.symbol, self._at(phoneme.start) - offset, self._at(phoneme.end) - offset)
                      for phoneme in self.clips[recording].phonemes]
            cut = [Phoneme(symbol, max(start, 0), min(end, size)) for symbol, start, end in places]
            result.append([phoneme for phoneme in cut if phoneme.start < phoneme.end])
        return result

    def _at(self, sample: int) -> int:
        """The first sample at the data's rate at or after the time of a sample at the speech's rate."""
        return -(-sample * self.sample_rate_hz // self.speech_rate_hz)

    def _recordings(self, root: Path) -> Recordings:
        folder = generate_speech(root, *self.spoken)
        speech = read_speech(folder)
        self.clips, self.speech_rate_hz = speech.clips, speech.sample_rate_hz
        _, words_per_clip, _, seed, _ = self.spoken
        columns = {"word": [clip.words[0] for clip in self.clips]} if words_per_clip == 1 else {}
        columns |= {"voice": [clip.voice for clip in self.clips]}
        self.label_names, self.classes, labels = labels_of(columns)
        files = [f"{folder.name}/{clip.file}" for clip in self.clips]
        return Recordings(files, labels, place_clips(self.clips, *self.held_out, seed))


def place_clips(clips: Sequence[Clip], validation: int, test: int, seed: int) -> list[str]:
    """The split of each clip; the seed chooses which are held out.

    One clip of each combination of words and voice stays in training as long as there are others to hold out, so that
    with enough clips every word is trained in every voice.
    """
    order, seen = permutation(len(clips), seed).tolist(), set()
    spare: list[int] = []
    last: list[int] = []
    for number in order:
        said = clips[number].words, clips[number].voice
        (spare if said in seen else last).append(number)
        seen.add(said)
    places = ["train"] * len(clips)
    for rank, number in enumerate((spare + last)[: validation + test]):
        places[number] = "validation" if rank < validation else "test"
    return places
