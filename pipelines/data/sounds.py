"""Sound files to 16-bit samples at one rate: any rate, stereo, 8 to 32 bits and floats, thousands with several
processes.

All sounds of a data set lie one after another in one file of raw samples that is mapped into memory, beside notes in
JSON on where each begins and on those that could not be read.
"""

import fcntl
import hashlib
import json
import os
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample
from tqdm import tqdm

from pipelines.data.folders import list_files, warn_unreadable
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError, naming

SUFFIXES = {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"}
VERSION = 1  # of what decoding makes of a file: part of the cache's name
MAX_SECONDS = 7200.0  # of one file: half a GB when decoded; a small file can claim more
MAX_FRAMES = 2**29  # of one file at its own rate: 2 GB; three hours at 48 kHz
BLOCK = 2**22  # values read at a time, so that channels are averaged before the next ones take memory
MIN_RATE_HZ = 1000  # below it is no sound, and resampling to the usual rates is no matter of a few gigabytes
MAX_DENOMINATOR = 1000  # of the ratio of two rates: 441/160 is exact, 44,101 to 16,000 Hz is less than a cent off
UNKNOWN_BYTES = 2**31 - 2**16  # lengths from here on are put in headers by programs that write into a pipe
FULL_SCALE = 32768  # 16-bit samples are x * 32768, so that silence is 0 and -1 exact
CHUNK = 64  # files that a process takes at a time


def find_sounds(path: Path) -> list[Path]:
    """A sound file itself, or all sound files below a folder, sorted. Raises InputError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: expected a sound file or a folder of them, found nothing")
    found = [path / file.path for file in list_files(path, SUFFIXES)]
    if not found:
        raise InputError(f"{path}: expected sound files ({', '.join(sorted(SUFFIXES))}), found none")
    return found


def read_sound(path: Path | str, sample_rate_hz: int, peak: float = 0.0) -> np.ndarray:
    """A sound file as float32 (samples,) at the rate asked for, its channels averaged, without a constant offset.

    peak > 0 scales it so that its largest magnitude is this, but by no more than 100 * peak; 0 leaves it as it is, cut
    off at 1. Resampling is torchaudio's (windowed sinc). Raises what soundfile raises, and ValueError for a file that
    ends before it says it does, is empty, too long, or holds numbers that are none.
    """
    with soundfile.SoundFile(path) as file:
        rate, promised = file.samplerate, file.frames
        if rate < MIN_RATE_HZ:
            raise ValueError(f"its rate is {rate} Hz")
        if promised == np.iinfo(np.int64).max:
            raise ValueError("its header does not say how long it is")
        if promised > min(MAX_SECONDS * rate, MAX_FRAMES):
            raise ValueError(f"it is too long: {promised} samples, {promised / rate:.0f} seconds")
        if _is_cut_off(file.extra_info):
            raise ValueError("it ends before the length that its header gives")
        if not promised:
            raise ValueError("it holds no samples")
        blocks, size = [], max(BLOCK // file.channels, 1)
        while len(block := file.read(size, dtype="float32", always_2d=True)):  # file.blocks() hides an early end
            blocks.append(block.mean(1))
    sound = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(sound) < promised:
        raise ValueError(f"it ends after {len(sound)} of {promised} samples")
    if not np.isfinite(sound).all():
        raise ValueError("it holds NaN or infinity")
    sound = sound - sound.mean()  # before resampling, to which an offset is a step at either end
    if rate != sample_rate_hz:
        ratio = Fraction(rate, sample_rate_hz).limit_denominator(MAX_DENOMINATOR)  # its terms set the filters' size
        sound = resample(torch.from_numpy(sound), ratio.numerator, ratio.denominator).numpy()
    if peak:
        sound = sound * (peak / max(np.abs(sound).max(), 0.01))  # a hiss is not raised to a roar
    return np.clip(sound, -1.0, 1.0)


def _is_cut_off(log: str) -> bool:
    """Whether libsndfile, which reads such files to their end in silence, noted less sound than the header promises."""
    notes = re.findall(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    slack = 64  # bytes: padding, and lengths that are off by a header
    return any(int(found) + slack < int(promised) < UNKNOWN_BYTES for promised, found in notes)


def load_sounds(paths: list[Path], sample_rate_hz: int, peak: float = 0.0) -> tuple[list[Path], list[Tensor]]:
    """Those files that can be read, and their samples, float32 (samples,); the others are warned of.

    Raises InputError where none can be read."""
    arrays, reasons = _read_all([str(path) for path in paths], sample_rate_hz, peak)
    unreadable = {str(path): reason for path, reason in zip(paths, reasons, strict=True) if reason}
    _refuse_if_all(paths, unreadable)
    warn_unreadable("sounds", len(paths), unreadable)
    readable = [place for place, reason in enumerate(reasons) if not reason]
    sounds = [torch.from_numpy(arrays[place].astype(np.float32) / FULL_SCALE) for place in readable]
    return [paths[place] for place in readable], sounds


def decoded_sounds(
    root: Path, files: list[str], cache: Path, name: str, sample_rate_hz: int, peak: float, workers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All sounds `files` below `root`: int16 (samples in all,), memory-mapped; starts and lengths (n,) int64.

    A sound that cannot be read has the length 0; they are warned of. In the cache lie NAME-KEY.i16 and NAME-KEY.json,
    KEY a hash of the files' names, sizes and times and of the settings. What is not there is decoded first; of several
    processes one does so. Raises InputError where none can be read, and for a cache that is damaged.
    """
    status = [os.stat(root / file) for file in files]
    facts = [[file, found.st_size, found.st_mtime_ns] for file, found in zip(files, status, strict=True)]
    settings = VERSION, facts, sample_rate_hz, peak, soundfile.__libsndfile_version__
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    samples, notes = (cache / f"{name}-{key}{suffix}" for suffix in (".i16", ".json"))
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not notes.exists():
            told = _decode(root, files, samples, sample_rate_hz, peak, workers)
            write_atomically(notes, json.dumps(told).encode())
    try:
        told = json.loads(notes.read_text())
        lengths, unreadable = torch.tensor(told["lengths"], dtype=torch.int64), dict(told["unreadable"])
        accepted = lengths.shape == (len(files),) and lengths.min() >= 0 and lengths.sum() > 0
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise InputError(f"{notes}: expected notes on decoded sounds, found none; remove it") from error
    if not accepted:
        raise InputError(f"{notes}: expected the lengths of {len(files)} sounds, found others; remove it")
    warn_unreadable("sounds", len(files), {str(root / file): reason for file, reason in unreadable.items()})
    expected, size = 2 * int(lengths.sum()), samples.stat().st_size if samples.exists() else 0
    if size != expected:
        raise InputError(f"{samples}: expected {expected} bytes, found {size}; remove it and {notes.name}, "
                         "they will be made again")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        mapped = torch.from_numpy(np.memmap(samples, np.int16, "r"))
    return mapped, lengths.cumsum(0) - lengths, lengths


def _decode(root: Path, files: list[str], target: Path, sample_rate_hz: int, peak: float, workers: int) -> dict:
    """Decodes into a file that appears when it is whole. Returns the notes: lengths, and the unreadable with
    reasons."""
    temporary = target.with_suffix(".tmp")
    lengths: list[int] = []
    unreadable: dict[str, str] = {}
    workers = workers or len(os.sched_getaffinity(0))
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    paths = [[str(root / file) for file in chunk] for chunk in chunks]
    rates, peaks = [sample_rate_hz] * len(chunks), [peak] * len(chunks)
    pool = ProcessPoolExecutor(min(workers, len(chunks)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        with (naming(temporary), open(temporary, "wb") as file, pool,
              tqdm(total=len(files), desc="decode", unit="sound", disable=None, dynamic_ncols=True) as bar):
            # the results have no name here: where an error ends the loop they go with it, and what waits is not begun
            for chunk, (arrays, reasons) in zip(chunks, pool.map(_read_all, paths, rates, peaks), strict=True):
                for name, array, reason in zip(chunk, arrays, reasons, strict=True):
                    file.write(array.tobytes())
                    lengths.append(len(array))
                    unreadable |= {name: reason} if reason else {}
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        _refuse_if_all(files, unreadable, root)
        os.replace(temporary, target)
    except BrokenProcessPool as error:
        raise InputError(f"data.workers: expected memory for {workers} decoding processes, found one killed") from error
    finally:
        temporary.unlink(missing_ok=True)
    return {"lengths": lengths, "unreadable": unreadable}


def _read_all(paths: list[str], sample_rate_hz: int, peak: float) -> tuple[list[np.ndarray], list[str]]:
    """Of each path int16 (samples,) and ""; where it cannot be read none, and the reason."""
    arrays, reasons = [], []
    for path in paths:
        try:
            sound = read_sound(path, sample_rate_hz, peak)
            arrays.append(np.clip(np.rint(sound * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16))
            reasons.append("")
        except Exception as error:  # whatever a decoder raises, it is this file that is at fault: it is reported
            arrays.append(np.empty(0, np.int16))
            reason = str(error).removeprefix(f"Error opening {path!r}: ").removeprefix("Error : ")  # it is named anyway
            reasons.append(" ".join(reason.split()) or type(error).__name__)
    return arrays, reasons


def _refuse_if_all(files: list, unreadable: dict[str, str], root: Path = Path()) -> None:
    if len(unreadable) == len(files):
        raise InputError(f"{root / files[0]}: expected a sound, found {unreadable[str(files[0])]}; "
                         f"none of {len(files)} can be read")
