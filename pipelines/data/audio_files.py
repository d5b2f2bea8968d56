"""Audio files to 16-bit mono samples at one rate: any rate, channels and bit depth; several processes for thousands.

soundfile reads what it can; PyAV (the extra `video`) reads the sound of M4A, MP4, WebM and others.

All recordings of a data set lie one after another in one memory-mapped file of raw samples. A JSON file beside it gives
the length of each, and the files that could not be read.
"""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample
from tqdm import tqdm

from pipelines.data import containers
from pipelines.data.cache import cache_key, cached, made_whole, map_values
from pipelines.data.containers import opened, promised_seconds
from pipelines.data.folders import list_files, warn_unreadable
from pipelines.data.members import Member, Source, nameless, readable
from pipelines.data.workers import worker_pool
from pipelines.files.errors import InputError
from pipelines.files.platforms import usable_cores

BY_SOUNDFILE = {  # all of soundfile.available_formats() but RAW, which has no header, and MAT4, MAT5, SD2: other things
    ".8svx", ".aif", ".aifc", ".aiff", ".au", ".avr", ".caf", ".flac", ".htk", ".iff", ".ircam", ".mp3", ".mpc",
    ".nist", ".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sds", ".sf", ".snd", ".sph", ".svx", ".voc", ".w64",
    ".wav", ".wave", ".wve", ".xi"}
BY_PYAV = {".3gp", ".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp2", ".mp4", ".tta",
           ".webm", ".wma", ".wv"}
SUFFIXES = BY_SOUNDFILE | BY_PYAV
VERSION = 2  # version of the decoding: part of the cache's name
MAX_SECONDS = 7200.0  # per file: half a GB decoded; a small file can claim more
MAX_FRAMES = 2**29  # per file at its own rate: 2 GB, three hours at 48 kHz
BLOCK = 2**22  # values read at once, so that channels are averaged before more memory is used
MIN_RATE_HZ = 1000  # below, it is not audio, and resampling to usual rates would take many gigabytes
MAX_FILTER = 2**21  # numerator times denominator of a ratio of rates, about the size of the resampling filter: any rate
#                     takes bounded time. 441/160 is exact; odd rates, as 44,101 to 16,000 Hz, are off by under a cent
UNRECOGNISED = 1  # libsndfile's error of a file of a format that it does not know
UNKNOWN_BYTES = 2**31 - 2**16  # programs that write into a pipe put lengths from here on into the header
FULL_SCALE = 32768  # 16-bit samples are x * 32768, so that silence is 0 and -1 is exact
CHUNK = 64  # files that a process takes at once
RECENT = 4  # recordings that are not stored and were decoded last stay in memory


def find_audio_files(path: Path) -> list[Path]:
    """The file itself, or all audio files below a folder, sorted. Raises InputError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: expected an audio file or a folder of them, found nothing")
    found = [path / file.path for file in list_files(path, SUFFIXES)]
    if not found:
        raise InputError(f"{path}: expected audio files ({', '.join(sorted(SUFFIXES))}), found none")
    return found


def read_audio_file(path: Source | str, sample_rate_hz: int, peak: float = 0.0) -> np.ndarray:
    """An audio file as float32 (samples,) at the given rate: channels averaged, DC offset removed.

    peak > 0 scales the largest magnitude to this value, but by no more than a factor of 100 * peak; 0 only clips to
    [-1, 1]. Resampling is torchaudio's (windowed sinc). Raises the decoders' exceptions, and ValueError for a file that
    is truncated, empty, too long, or contains NaN or infinity, and for one that requires PyAV where that is missing.
    """
    sound, rate = _mono(path)
    if not np.isfinite(sound).all():
        raise ValueError("it contains NaN or infinity")
    sound -= sound.mean()  # before resampling, for which an offset is a step at both ends
    if rate != sample_rate_hz:
        ratio = rate_ratio(rate, sample_rate_hz)
        sound = resample(torch.from_numpy(sound), ratio.numerator, ratio.denominator).numpy()
    if peak:
        sound *= peak / max(sound.max(), -sound.min(), 0.01)  # background noise is not amplified to full scale
    return np.clip(sound, -1.0, 1.0, out=sound)


def rate_ratio(rate: int, wanted: int) -> Fraction:
    """rate / wanted, or a fraction near it that makes a filter of bounded size."""
    ratio = Fraction(rate, wanted)
    return ratio.limit_denominator(max(1, int((MAX_FILTER / ratio) ** 0.5)))


def _mono(path: Source | str) -> tuple[np.ndarray, int]:
    """float32 (samples,), channels averaged, and the file's rate in Hz; decoded by soundfile or, where that does not
    know the format, by PyAV. A file's content says what it is, not its name."""
    suffix = os.path.splitext(str(path))[1].lower()
    try:
        return _read_by_soundfile(path)
    except soundfile.LibsndfileError as error:
        if error.code != UNRECOGNISED or not (path.read() if isinstance(path, Member) else os.path.getsize(path)):
            raise
        try:
            return _read_by_pyav(path)
        except ValueError as other:
            # a damaged file of soundfile's own formats is named as such
            raise (other if suffix in BY_PYAV else error) from None


def _read_by_soundfile(path: Source | str) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(readable(path)) as file:
        rate, promised = file.samplerate, file.frames
        if rate < MIN_RATE_HZ:
            raise ValueError(f"its sample rate is {rate} Hz")
        if promised == np.iinfo(np.int64).max:
            raise ValueError("its header gives no length")
        if promised > min(MAX_SECONDS * rate, MAX_FRAMES):
            raise ValueError(f"it is too long: {promised} samples, {promised / rate:.0f} seconds")
        if _is_cut_off(file.extra_info):
            raise ValueError("it ends before the length that its header gives")
        if not promised:
            raise ValueError("it contains no samples")
        sound, done, size = np.empty(promised, np.float32), 0, max(BLOCK // file.channels, 1)
        while len(block := file.read(size, dtype="float32", always_2d=True)):  # file.blocks() hides an early end
            if done + len(block) > len(sound):  # of some formats the header gives an estimate
                sound = np.concatenate([sound[:done], np.empty_like(block[:, 0])])
            sound[done : done + len(block)] = block.mean(1)
            done += len(block)
    if done < promised:
        raise ValueError(f"it ends after {done} of {promised} samples")
    return sound[:done], rate


def _read_by_pyav(path: Source | str) -> tuple[np.ndarray, int]:
    with opened(path, "audio") as (container, stream):
        import av

        rate, found, count = stream.rate, [], 0
        if rate < MIN_RATE_HZ:
            raise ValueError(f"its sample rate is {rate} Hz")
        floats = av.AudioResampler(format="fltp")  # of the samples' type alone
        for frame in _frames(container, stream):
            for part in floats.resample(frame):
                if part.sample_rate != rate:
                    raise ValueError(f"its sample rate changes from {rate} to {part.sample_rate} Hz")
                found.append(part.to_ndarray().mean(0, dtype=np.float32))
                count += len(found[-1])
            if count > min(MAX_SECONDS * rate, MAX_FRAMES):
                raise ValueError(f"it is too long: more than {count} samples, {count / rate:.0f} seconds")
        promised = promised_seconds(container, stream)
    if not count:
        raise ValueError("it contains no samples")
    if promised is not None and count / rate < promised - max(0.2, promised / 100):
        raise ValueError(f"it ends after {count / rate:.2f} of {promised:.2f} seconds")
    return np.concatenate(found), rate


def _frames(container, stream) -> Iterable:
    """The decoded frames of a stream, and None, which asks a resampler for its rest."""
    yield from container.decode(stream)
    yield None


def _is_cut_off(log: str) -> bool:
    """Whether libsndfile's log says that the file is shorter than its header: it reads such files without an error."""
    notes = re.findall(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    slack = 64  # bytes: padding, and lengths that include a header
    return any(int(found) + slack < int(promised) < UNKNOWN_BYTES for promised, found in notes)


def load_audio_files(paths: list[Path], sample_rate_hz: int, peak: float = 0.0) -> tuple[list[Path], list[Tensor]]:
    """The readable files and their samples, float32 (samples,); warns about the others.

    Raises InputError if no file can be read."""
    arrays, reasons = _read_all([str(path) for path in paths], sample_rate_hz, peak)
    unreadable = {str(path): reason for path, reason in zip(paths, reasons, strict=True) if reason}
    _refuse_if_all(paths, unreadable)
    warn_unreadable("audio files", len(paths), unreadable)
    readable = [place for place, reason in enumerate(reasons) if not reason]
    sounds = [torch.from_numpy(arrays[place].astype(np.float32) / FULL_SCALE) for place in readable]
    return [paths[place] for place in readable], sounds


class DecodedSamples:
    """int16 samples (total,) of recordings one after another, the first of them in a file, the others decoded when they
    are asked for: each of these takes the decoding of its whole recording."""

    device, dtype = torch.device("cpu"), torch.int16

    def __init__(self, kept: Tensor, sources: Sequence[Source], lengths: Tensor, sample_rate_hz: int, peak: float,
                 workers: int):
        self.kept, self.sources, self.settings = kept, sources, (sample_rate_hz, peak)
        self._lengths, self._ends = lengths, lengths.cumsum(0)
        # of one thread each, as when the recordings were decoded first: a resampler's sums may depend on it
        self._pool = ThreadPoolExecutor(workers, "decode", torch.set_num_threads, (1,))
        self._recent = lru_cache(max(RECENT, workers))(self._decode)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def element_size(self) -> int:
        return 2

    def __getitem__(self, key: slice) -> Tensor:
        """Consecutive samples."""
        start, stop, _ = key.indices(len(self))
        return self._pool.submit(self._between, start, stop).result()

    def windows(self, starts: Tensor, lengths: Tensor) -> list[Tensor]:
        """samples[start : start + length] of each, decoded beside one another."""
        return list(self._pool.map(self._between, starts.tolist(), (starts + lengths).tolist()))

    def _between(self, start: int, stop: int) -> Tensor:
        parts = [self.kept[start:stop]]
        start = max(start, len(self.kept))
        while start < stop:
            number = int(torch.searchsorted(self._ends, start, right=True))
            first, end = int(self._ends[number] - self._lengths[number]), int(self._ends[number])
            parts.append(self._recent(number)[start - first : min(stop, end) - first])
            start = end
        return torch.cat(parts)

    def _decode(self, number: int) -> Tensor:
        source, length = self.sources[number], int(self._lengths[number])
        (samples,), (reason,) = _read_all([source], *self.settings)
        if reason or len(samples) != length:
            raise InputError(f"{source}: expected the recording of {length} samples that was there at first, found "
                             f"{reason or f'{len(samples)} samples'}")
        return torch.from_numpy(samples)


def decoded_audio(
    root: Path, files: list[str], cache: Path, name: str, sample_rate_hz: int, peak: float, workers: int,
    members: Sequence[Member] | None = None, facts: Sequence = (), most_bytes: int = 0
) -> tuple[Tensor | DecodedSamples, Tensor, Tensor, dict[str, str]]:
    """All audio `files` below `root`: int16 (total samples,), memory-mapped; starts and lengths (n,) int64; the
    unreadable files with reasons.

    An unreadable file has length 0 and is named in a warning. The cache holds NAME-KEY.i16 and NAME-KEY.json; KEY is a
    hash of the files' names, sizes and times and of the settings. Missing and damaged caches are created first, by one
    of several processes. members: the files, where they lie inside others; `files` are then their names, and `facts`
    names, sizes and times of these others. most_bytes: of the samples that are stored; recordings beyond are decoded
    when they are asked for; 0: all are stored. Raises InputError if no file can be read.
    """
    if members is None:
        status = [os.stat(root / file) for file in files]
        facts = [[file, found.st_size, found.st_mtime_ns] for file, found in zip(files, status, strict=True)]
    else:
        facts = [*facts, files]
    sources: Sequence[Source] = [root / file for file in files] if members is None else members
    by_pyav = containers.version() if any(os.path.splitext(file)[1].lower() in BY_PYAV for file in files) else None
    settings = [VERSION, facts, sample_rate_hz, peak, soundfile.__libsndfile_version__, by_pyav]
    samples = cache / f"{name}-{cache_key(settings + ([most_bytes] if most_bytes else []))}.i16"
    notes = cached(samples, lambda: _decode(sources, files, samples, sample_rate_hz, peak, workers, most_bytes))
    lengths = torch.tensor(notes["lengths"], dtype=torch.int64)
    unreadable = {str(root / file) if members is None else file: reason for file, reason in notes["unreadable"].items()}
    warn_unreadable("audio files", len(files), unreadable)
    kept = notes.get("kept", len(files))
    stored = int(lengths[:kept].sum())
    mapped = map_values(samples, np.int16, (stored,)) if stored else torch.empty(0, dtype=torch.int16)
    starts = lengths.cumsum(0) - lengths
    if kept == len(files):
        return mapped, starts, lengths, unreadable
    found = DecodedSamples(mapped, sources, lengths, sample_rate_hz, peak, workers or usable_cores())
    return found, starts, lengths, unreadable


def _decode(sources: Sequence[Source], files: list[str], target: Path, sample_rate_hz: int, peak: float, workers: int,
            most_bytes: int) -> dict:
    """Decodes into the file `target`, whole recordings up to `most_bytes`; 0: all. Returns lengths, and unreadable
    files with reasons; and with `most_bytes` how many recordings were kept."""
    lengths: list[int] = []
    unreadable: dict[str, str] = {}
    workers = workers or usable_cores()
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    paths = [sources[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    written, kept = 0, None
    rates, peaks = [sample_rate_hz] * len(chunks), [peak] * len(chunks)
    pool = worker_pool(min(workers, len(chunks)), torch.set_num_threads, (1,))
    try:
        with (made_whole(target) as temporary, open(temporary, "wb") as file, pool,
              tqdm(total=len(files), desc="decode", unit="file", disable=None, dynamic_ncols=True) as bar):
            # results are not bound to a name, so that an error frees them and cancels waiting tasks
            for chunk, (arrays, reasons) in zip(chunks, pool.map(_read_all, paths, rates, peaks), strict=True):
                for name, array, reason in zip(chunk, arrays, reasons, strict=True):
                    if most_bytes and kept is None and written + array.nbytes > most_bytes:
                        kept = len(lengths)
                    if kept is None:
                        file.write(array.tobytes())
                        written += array.nbytes
                    lengths.append(len(array))
                    unreadable |= {name: reason} if reason else {}
                bar.update(len(chunk))
            named = dict(zip(files, map(str, sources), strict=True))
            _refuse_if_all([*named.values()], {named[file]: reason for file, reason in unreadable.items()})
    except BrokenProcessPool as error:
        raise InputError(f"data.workers: expected memory for {workers} decoding processes, found one killed") from error
    return {"lengths": lengths, "unreadable": unreadable} | ({} if kept is None else {"kept": kept})


def _read_all(paths: Sequence[Source | str], sample_rate_hz: int, peak: float) -> tuple[list[np.ndarray], list[str]]:
    """For each path int16 (samples,) and ""; for an unreadable file an empty array and the reason."""
    arrays, reasons = [], []
    for path in paths:
        try:
            sound = read_audio_file(path, sample_rate_hz, peak)
            np.rint(np.multiply(sound, FULL_SCALE, out=sound), out=sound)
            arrays.append(np.clip(sound, -FULL_SCALE, FULL_SCALE - 1, out=sound).astype(np.int16))
            reasons.append("")
        except Exception as error:  # any error of a decoder means that this file is unreadable; it is reported
            arrays.append(np.empty(0, np.int16))
            # the path is named anyway
            reason = nameless(str(error)).removeprefix(f"Error opening {str(path)!r}: ").removeprefix("Error : ")
            reasons.append(" ".join(reason.split()) or type(error).__name__)
    return arrays, reasons


def _refuse_if_all(files: list, unreadable: dict[str, str]) -> None:
    if len(unreadable) == len(files):
        raise InputError(f"{files[0]}: expected an audio file, found {unreadable[str(files[0])]}; "
                         f"none of {len(files)} can be read")
