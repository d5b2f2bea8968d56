"""Synthetic speech, generated locally: English words in many voices, each clip with the times of its phonemes.

The synthesiser is eSpeak-NG 1.52 from the wheel `espeakng-loader`, an optional extra. It is GPL, so it is loaded only
in a separate process, `python -m pipelines.data.speech`, which `generate_speech` starts:

    folder/speech-c2000-w1-v24-s0-KEY/00000.flac ...   22,050 Hz, mono, 16 bit
    folder/speech-c2000-w1-v24-s0-KEY/clips.json       written last: a folder without it is incomplete

The bytes are reproducible, although the synthesiser has two sources of variation: its random numbers, which breathy
voices use, are seeded by the clock unless a seed is set; and each chosen voice or spoken utterance leaves state behind
that changes the next one. Therefore each clip has a seed, and is spoken by a fork of a process that has only
initialised the library.

The times of phonemes are the synthesiser's own, exact to the sample; a stop starts with its closure. Known flaw: an l
before a stop, as in "cold", may be timed as late as the stop's closure, about 25 ms of silence.
"""

import argparse
import ctypes
import importlib
import json
import multiprocessing
import os
import re
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import count, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from pipelines.data.cache import cache_key, locked
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.platforms import usable_cores
from pipelines.files.reading import read_json
from pipelines.splits.counters import below, permutation
from pipelines.splits.counters import words as random_words

VERSION = 1  # covers clips.json and everything that determines the clips: part of the folder's name
SAMPLE_RATE_HZ = 22_050
MAX_CLIPS, MAX_WORDS_PER_CLIP, MAX_SEED = 99_999, 16, 2**31 - 1
SPEEDS_WPM, PITCHES = (150, 190), (40, 60)  # inclusive; eSpeak's own defaults are 175 and 50
VOLUME = 80  # the louder voices clip at eSpeak's default of 100

# accent + voice variant, 9 women and 15 men, ordered so that the first n differ as much as possible: each voice is
# about the furthest from those before it in pitch, tempo and mean spectrum. Robots, whispers, voices that clip and
# voices with an echo, which outlasts its phonemes, are left out.
VOICES = (
    "en-us+f1", "en-us+m3", "en-gb+anika", "en-gb-scotland+david", "en-us+belinda", "en-gb-x-rp+Lee",
    "en-gb-scotland+steph2", "en-gb+Nguyen", "en-us+Annie", "en-us+ian", "en-gb-x-rp+grandma", "en-us-nyc+Henrique",
    "en-us+shelby", "en-gb-x-gbclan+travis", "en-us+mike2", "en-gb-scotland+kaukovalta", "en-us-nyc+aunty",
    "en-us+michel", "en-gb+boris", "en-gb-x-gbclan+linda", "en-us+Michael", "en-gb+victor", "en-us+m8",
    "en-gb-x-rp+marcelo",
)
LANGUAGES = {"en-gb": "en"}  # the library's name of an accent where it differs

WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "air", "apple", "arm", "ball", "bath", "bird", "blue", "boat", "book", "boy", "bread", "bridge", "brother",
    "brown", "button", "chair", "cheese", "child", "church", "city", "clear", "cloud", "coffee", "cold", "day",
    "deep", "dog", "door", "ear", "earth", "evening", "eye", "face", "father", "fire", "fish", "flower", "food",
    "foot", "friend", "garden", "girl", "glass", "gold", "good", "green", "hair", "hand", "happy", "head", "heart",
    "here", "horse", "house", "ice", "join", "joy", "judge", "jump", "key", "kitchen", "language", "laugh", "leaf",
    "letter", "light", "lion", "long", "machine", "measure", "milk", "money", "moon", "morning", "mother", "mountain",
    "mouth", "music", "name", "near", "night", "noise", "north", "nurse", "ocean", "oil", "orange", "paper", "people",
    "picture", "pleasure", "point", "poor", "pull", "pure", "queen", "question", "red", "river", "road", "rose",
    "school", "shadow", "shoe", "silver", "sing", "sister", "sky", "smooth", "snow", "song", "south", "spring",
    "star", "stone", "street", "sun", "sure", "table", "thank", "there", "thing", "thumb", "tour", "toy", "tree",
    "under", "usual", "vision", "voice", "water", "wave", "weather", "white", "window", "woman", "world", "year",
    "yellow", "young",
)

SILENCE = "_"
# Phoneme -> the library's names for it, without stress marks: all that WORDS need, in any order, in these accents.
# The phonemes are the 44 of British English, 24 consonants and 20 vowels, in the notation of the BEEP dictionary. One
# phoneme includes: full and reduced, plain and r-coloured vowels; t, flap and glottal stop; plain and syllabic n and l
# (with the schwa before it); w and wh; y and the glide that joins "key" to "ear".
SPELLINGS = {
    SILENCE: "_ _:",
    "aa": "A: A@", "ae": "a aa", "ah": "V", "ao": "O: O@ o@ O2", "aw": "aU", "ax": "@ a# 3", "ay": "aI aI2 aI3 aI@",
    "b": "b", "ch": "tS", "d": "d", "dh": "D", "ea": "e@", "eh": "E", "er": "3: VR IR", "ey": "eI", "f": "f",
    "g": "g", "hh": "h", "ia": "i@ i@3", "ih": "I I2", "iy": "i: i", "jh": "dZ", "k": "k", "l": "l @L", "m": "m",
    "n": "n n-", "ng": "N", "oh": "0", "ow": "oU", "oy": "OI", "p": "p", "r": "r r-", "s": "s", "sh": "S",
    "t": "t t# ?", "th": "T", "ua": "U@", "uh": "U", "uw": "u:", "v": "v", "w": "w w#", "y": "j ;", "z": "z",
    "zh": "Z",
}
PHONEMES = tuple(SPELLINGS)
# Vowels that an accent pronounces as another phoneme: American lot and letter, southern British bath and cure.
ACCENTS = {"en-us": {"0": "aa", "3": "er"}, "en-gb-x-rp": {"aa": "aa", "U@": "ao"}}
STRESS_MARKS = "',%="
SHORTEST_CLOSURE = 110  # samples, 5 ms


class Phoneme(NamedTuple):
    """An interval of a clip, in samples, the end exclusive."""

    symbol: str  # one of PHONEMES
    start: int
    end: int


@dataclass(frozen=True)
class Clip:
    """An audio file, the words spoken in it, and the times of their phonemes."""

    file: str  # relative to the folder of clips.json
    voice: str
    words: tuple[str, ...]
    samples: int
    phonemes: tuple[Phoneme, ...]  # they tile [0, samples)


@dataclass(frozen=True)
class Speech:
    """The content of clips.json."""

    sample_rate_hz: int
    voices: tuple[str, ...]  # sorted; all voices of the clips
    words: tuple[str, ...]  # sorted; all words of the clips
    clips: tuple[Clip, ...]


class Utterance(NamedTuple):
    """A request to the library."""

    voice: str  # one of VOICES
    words: tuple[str, ...]
    speed_wpm: int
    pitch: int  # 0 to 99
    noise_seed: int


def generate_speech(folder: Path, clips: int, words_per_clip: int, voices: int, seed: int, workers: int = 0) -> Path:
    """Speaks `clips` clips of `words_per_clip` words in the first `voices` of VOICES; returns their subfolder.

    A complete folder is returned at once. Words and voices are balanced: each of WORDS occurs once before any occurs
    again, and so do the voices, in orders drawn from `seed`, as are the speed and pitch of each clip. `workers` clips
    are spoken in parallel, 0 meaning one per core; this changes no byte. Among several processes, one generates and
    the others wait. An interrupted generation starts again from the beginning.

    Raises InputError for settings out of range, a missing extra and a failing synthesiser.
    """
    for key, found, lowest, highest in (
        ("clips", clips, 1, MAX_CLIPS),
        ("words_per_clip", words_per_clip, 1, MAX_WORDS_PER_CLIP),
        ("voices", voices, 1, len(VOICES)),
        ("seed", seed, 0, MAX_SEED),
        ("workers", workers, 0, 1024),
    ):
        if not lowest <= found <= highest:
            raise InputError(f"data.{key}: expected {lowest} to {highest}, found {found}")
    utterances = plan(clips, words_per_clip, voices, seed)
    settings = VERSION, SPELLINGS, ACCENTS, LANGUAGES, VOLUME, utterances
    target = folder / f"speech-c{clips}-w{words_per_clip}-v{voices}-s{seed}-{cache_key(settings, 8)}"
    if (target / "clips.json").exists():
        return target
    if find_spec("espeakng_loader") is None:
        raise InputError("data: expected the extra [speech], which generates it, found it not installed; "
                         "pip install 'neural-discrete-representations[speech]', or here pip install -e '.[speech]'")
    with locked(target) as lock:
        if not (target / "clips.json").exists():
            _generate(target, utterances, voices, workers or usable_cores(), lock)
    return target


def read_speech(folder: Path) -> Speech:
    """The content of a folder that `generate_speech` returned; the audio files themselves are not opened.

    Raises an InputError that names clips.json if it is missing or invalid.
    """
    path = folder / "clips.json"
    try:
        content = read_json(path, "a description of clips")
        version = content["version"]
        if version != VERSION:
            raise InputError(f"{path}: expected version {VERSION}, found {version!r}")
        clips = tuple(
            Clip(**clip | {"words": tuple(clip["words"]), "phonemes": tuple(Phoneme(*of) for of in clip["phonemes"])})
            for clip in content["clips"]
        )
        rate, voices, names = content["sample_rate_hz"], tuple(content["voices"]), tuple(content["words"])
    except KeyError as error:
        raise InputError(f"{path}: expected the key {error.args[0]!r}, found none") from error
    except TypeError as error:
        raise InputError(f"{path}: expected a description of clips, found other content: {error}") from error

    def check(accepted: bool, what: str, found: object) -> None:
        if not accepted:
            raise InputError(f"{path}: expected {what}, found {found!r}")

    check(_is_number(rate, 1, 10**6), "a sample_rate_hz from 1 to 1000000", rate)
    for what, found in (("voices", voices), ("words", names)):
        check(all(isinstance(name, str) for name in found) and list(found) == sorted(set(found)) and len(found) > 0,
              f"{what} as sorted distinct names", found)
    check(len(clips) > 0, "clips", clips)
    for number, clip in enumerate(clips):
        check(isinstance(clip.file, str) and re.fullmatch(r"[0-9]{5}\.flac", clip.file),
              f"a file name NNNNN.flac for clip {number}", clip.file)
        check(clip.voice in voices, f"one of the voices for clip {number}", clip.voice)
        check(len(clip.words) > 0 and all(word in names for word in clip.words),
              f"some of the words for clip {number}", clip.words)
        # a minute per word is far longer than any speech
        most = 60 * rate * len(clip.words)
        check(_is_number(clip.samples, 1, most), f"1 to {most} samples for clip {number}", clip.samples)
        end = 0
        for phoneme in clip.phonemes:
            check(phoneme.symbol in PHONEMES and _is_number(phoneme.start, end, end)
                  and _is_number(phoneme.end, end + 1, clip.samples),
                  f"a known phoneme from {end} to at most {clip.samples} in clip {number}", tuple(phoneme))
            end = phoneme.end
        check(end == clip.samples, f"phonemes up to {clip.samples} in clip {number}", end)
    return Speech(rate, voices, names, clips)


def plan(clips: int, words_per_clip: int, voices: int, seed: int) -> list[Utterance]:
    """The request for each clip: a function of the settings alone."""
    said = _balanced(clips * words_per_clip, len(WORDS), seed, 0)
    speakers = _balanced(clips, voices, seed, 1)
    draws = random_words(seed, 2, np.arange(clips)[:, None], np.arange(3))
    speeds, pitches = (low + below(draws[:, column], high - low + 1)
                       for column, (low, high) in enumerate((SPEEDS_WPM, PITCHES)))
    return [
        Utterance(
            VOICES[speakers[clip]],
            tuple(WORDS[word] for word in said[clip * words_per_clip : (clip + 1) * words_per_clip]),
            int(speeds[clip]),
            int(pitches[clip]),
            int(below(draws[clip, 2], MAX_SEED)),
        )
        for clip in range(clips)
    ]


def intervals(events: list[tuple[str, int]], samples: int, voice: str) -> list[Phoneme]:
    """The library's (name, start) events as intervals that tile [0, samples); adjacent silences are merged.

    Raises InputError for a name that is not in SPELLINGS, or times out of order: the library has another version.
    """
    known = {name: symbol for symbol, names in SPELLINGS.items() for name in names.split()}
    known |= ACCENTS.get(voice.split("+")[0], {})
    result: list[Phoneme] = []
    names, starts = ["_", *(name for name, _ in events)], [0, *(min(start, samples) for _, start in events)]
    for name, start, end in zip(names, starts, [*starts[1:], samples], strict=True):
        symbol = known.get(name.lstrip(STRESS_MARKS))
        if symbol is None or end < start:
            raise InputError("espeakng-loader: expected phonemes of pipelines/data/speech.py, in order, found "
                             f"{name!r} from {start} to {end}; install the version in constraints.txt")
        if end == start:
            continue
        if result and symbol == result[-1].symbol == SILENCE:
            result[-1] = result[-1]._replace(end=end)
        else:
            result.append(Phoneme(symbol, start, end))
    return result


def _is_number(found: object, lowest: int, highest: int) -> bool:
    return type(found) is int and lowest <= found <= highest


def _balanced(count: int, choices: int, *counters: int) -> np.ndarray:
    """`count` numbers (int64) below `choices`: consecutive permutations."""
    rounds = -(-count // choices)
    return np.concatenate([permutation(choices, *counters, number) for number in range(rounds)])[:count]


def _generate(target: Path, utterances: list[Utterance], voices: int, workers: int, lock: int) -> None:
    """Writes all files of a folder. The speaking processes hold `lock` too: later calls wait for leftover ones."""
    found: list[Clip | None] = [None] * len(utterances)
    command = [sys.executable, "-m", "pipelines.data.speech", str(target.resolve()), "--workers", str(workers)]
    with tempfile.TemporaryFile("w+") as request, tempfile.TemporaryFile("w+", errors="replace") as complaints:
        json.dump(utterances, request)
        request.seek(0)
        options = {"stdin": request, "stdout": subprocess.PIPE, "stderr": complaints}
        if os.name != "nt":
            options["pass_fds"] = (lock,)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process that forks
        root = Path(__file__).resolve().parents[2]
        with subprocess.Popen(command, text=True, cwd=root, env=environment, **options) as process:
            try:
                bar = tqdm(process.stdout, "speak", len(utterances), unit="clip", disable=None, dynamic_ncols=True)
                for line in bar:
                    number, samples, events = json.loads(line)
                    utterance = utterances[number]
                    phonemes = tuple(intervals(events, samples, utterance.voice))
                    found[number] = Clip(_file_name(number), utterance.voice, utterance.words, samples, phonemes)
            except BaseException:
                process.kill()
                raise
        complaints.seek(0)
        last = ([line.strip() for line in complaints if line.strip()] or ["no message"])[-1]
    if process.returncode != 0 or None in found:
        raise InputError(f"{target}: expected {len(found)} clips, found that the synthesiser ended after "
                         f"{len(found) - found.count(None)} with status {process.returncode}: {last}")
    content = {
        "version": VERSION,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "voices": sorted(VOICES[:voices]),
        "words": sorted({word for utterance in utterances for word in utterance.words}),
        "clips": [asdict(clip) for clip in found],
    }
    write_atomically(target / "clips.json", (json.dumps(content) + "\n").encode())


def _file_name(number: int) -> str:
    return f"{number:05d}.flac"


# The rest of this file runs only in the speaking processes.


class _Name(ctypes.Union):
    """espeak_EVENT.id of speak_lib.h: for a phoneme its name in `string`, perhaps without a final 0."""

    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


# int callback(short *wave, int samples, espeak_EVENT *events): wave may be null; 0 means continue
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_LIST_TERMINATED, _PHONEME = 0, 7  # espeak_EVENT_TYPE
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: no thread, no sound device
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000  # options of espeak_Initialize
_RATE, _VOLUME, _PITCH = 1, 2, 3  # espeak_PARAMETER
_CHARS_UTF8 = 1


def _initialise() -> ctypes.CDLL:
    """The loaded and initialised library. Changes the working directory to the folder of the library's data."""
    loader = importlib.import_module("espeakng_loader")
    library = ctypes.CDLL(loader.get_library_path())
    os.chdir(Path(loader.get_data_path()).parent)  # eSpeak truncates paths of 160 characters or more
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, b".", _PHONEME_EVENTS | _DONT_EXIT)
    if rate != SAMPLE_RATE_HZ:
        raise RuntimeError(f"espeak_Initialize: expected {SAMPLE_RATE_HZ} Hz, found {rate}")
    return library


def _speak(library: ctypes.CDLL, utterance: Utterance) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """The wave (samples,) int16 and the phonemes' names and first samples. Call it once per process."""
    chunks, events = [], []

    def receive(samples, count, event) -> int:
        place = 0
        while event[place].type != _LIST_TERMINATED:
            if event[place].type == _PHONEME:
                events.append((event[place].id.string.decode(), event[place].sample))
            place += 1
        if samples and count:
            chunks.append(ctypes.string_at(samples, count * 2))
        return 0

    def call(function: Callable, *arguments) -> None:
        status = function(*arguments)
        if status != 0:
            raise RuntimeError(f"{function.__name__}: expected status 0 for {utterance}, found {status}")

    callback = _CALLBACK(receive)
    accent, variant = utterance.voice.split("+")
    if not Path("espeak-ng-data", "voices", "!v", variant).is_file():  # the library would use the accent's own voice
        raise RuntimeError(f"expected the voice variant {variant}, found none in {os.getcwd()}")
    text = " ".join(utterance.words).encode() + b"\0"
    library.espeak_SetSynthCallback(callback)
    call(library.espeak_ng_SetRandSeed, ctypes.c_long(utterance.noise_seed))
    call(library.espeak_SetVoiceByName, f"{LANGUAGES.get(accent, accent)}+{variant}".encode())
    for parameter, value in ((_RATE, utterance.speed_wpm), (_VOLUME, VOLUME), (_PITCH, utterance.pitch)):
        call(library.espeak_SetParameter, parameter, value, 0)
    call(library.espeak_Synth, text, ctypes.c_size_t(len(text)), 0, 0, 0, _CHARS_UTF8, None, None)
    wave = np.frombuffer(b"".join(chunks), "<i2")
    return wave, _from_closures(wave, events)


def _from_closures(wave: np.ndarray, events: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The events, with starts moved back over digital silence within speech.

    The library times a stop from its release; the closure before it, about 40 ms of zeros, would otherwise belong to
    the preceding phoneme.
    """
    moved = events[:1]
    for (before, begin), (name, start) in zip(events, events[1:]):
        sound = np.flatnonzero(wave[begin:start])
        if not before.startswith("_") and len(sound) and start - (begin + sound[-1] + 1) >= SHORTEST_CLOSURE:
            start = int(begin + sound[-1] + 1)
        moved.append((name, start))
    return moved


def _speak_and_write(library: ctypes.CDLL, folder: Path, number: int, utterance: Utterance) -> bytes:
    """Writes the audio file; returns one line [number, samples, events]."""
    wave, events = _speak(library, utterance)
    with open(folder / _file_name(number), "wb") as file:
        soundfile.write(file, wave, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        file.flush()
        os.fsync(file.fileno())
    return (json.dumps([number, len(wave), events]) + "\n").encode()


def _speak_forked(folder: Path, workers: int, utterances: list[Utterance]) -> None:
    """Each utterance in its own fork of this process."""
    library = _initialise()
    for number, utterance in enumerate(utterances):
        if number >= workers:
            _wait_for_one()
        if os.fork() == 0:
            status = 1
            try:
                line = _speak_and_write(library, folder, number, utterance)
                assert len(line) <= select.PIPE_BUF, len(line)  # so that lines of several processes do not mix
                os.write(sys.stdout.fileno(), line)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
    for _ in range(min(workers, len(utterances))):
        _wait_for_one()


def _wait_for_one() -> None:
    _, status = os.wait()
    if status < 0x100 and status:
        print(f"a speaking process was ended by signal {status & 0x7F}", file=sys.stderr)
    if status:
        raise SystemExit(1)


def _speak_spawned(folder: Path, workers: int, utterances: list[Utterance]) -> None:
    """Each utterance in a new process, where a system has no forks: the same bytes, more slowly."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        for line in pool.map(_speak_alone, repeat(folder), count(), utterances):
            os.write(sys.stdout.fileno(), line)


def _speak_alone(folder: Path, number: int, utterance: Utterance) -> bytes:
    return _speak_and_write(_initialise(), folder, number, utterance)


def main() -> None:
    """Reads utterances as JSON from stdin and speaks each in its own process, `--workers` of them in parallel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    utterances = [Utterance(*fields) for fields in json.load(sys.stdin)]
    if hasattr(os, "fork"):
        _speak_forked(arguments.folder, arguments.workers, utterances)
    else:
        _speak_spawned(arguments.folder, arguments.workers, utterances)


if __name__ == "__main__":
    main()
