"""A user's video: a folder of episodes, files or frames with actions, packed once into one memory-mapped file.

    root/*.mp4                            each video file (MP4, MOV, WebM, GIF, ...) is an episode without actions
    root/PLACE/*.mp4                      videos of several places: the label is the name of the place

    root/EPISODE/frames.npy               uint8 (t, h, w, c), c = 1 or 3
    root/EPISODE/actions.npy              integers (t,), or (t, k): each distinct row is one action
    root/EPISODE/*.png                    or images instead of frames.npy, ordered by the numbers in their names
    root/EPISODE/actions.txt              or .csv, instead of actions.npy: one name or number per line and frame;
                                          either all episodes have actions or none
    root/PLACE/EPISODE/...                episodes of several places: the label is the name of the place
    root/EPISODE/pose.npy, ...            further arrays with one row per frame, (t, ...)

An action belongs to the frame that it leads to. Recorders that store (frame, next action) must shift the actions by one
and drop the first frame. Without `size` all frames must have the same size. A video file that cannot be read is left
out, counted and named; of frames with actions nothing is.
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipelines.data import containers, video_files
from pipelines.data.cache import cache_key, cached, made_whole, read_only
from pipelines.data.folders import (
    FoundFile,
    Part,
    check_strays,
    class_folder,
    class_names,
    list_files,
    warn_unreadable,
)
from pipelines.data.frames import EpisodeData
from pipelines.data.image_files import fit_image, image_formats, open_image, read_image
from pipelines.data.video_files import read_video
from pipelines.files.arrays import read_array
from pipelines.files.errors import InputError

FRAMES = "frames.npy"
ACTIONS = ("actions.npy", "actions.txt", "actions.csv")
MAX_ACTIONS = 1024  # distinct actions: more than these are measurements, not choices
MAX_BYTES = 2**26  # size of a text file with actions
VERSION = 1  # of the packing: part of the cache's name


class Episode(NamedTuple):
    """A folder and its files with frames: frames.npy alone, or images in order. Or a video file, its own only file."""

    folder: Path
    files: list[FoundFile]  # their paths are relative to the root

    @property
    def is_video(self) -> bool:
        """Whether it is a video file."""
        return self.folder.suffix.lower() in video_files.SUFFIXES and Path(self.files[0].path).name == self.folder.name


class FramesFolder(EpisodeData):
    """Single frames (c, h, w), or with `clip_length` clips (c, t, h, w), with actions where there are some; see
    pipelines/data/frames.py.

    size: frames are cropped to this size's aspect ratio and resized, (height, width) or one number for both; None: as
    they are. frame_rate_hz: frames per second taken from video files; None: all.
    The packed frames are stored in `cache` under a name that depends on every file's name, size and time.
    Raises an InputError that names the file: for a folder without episodes; for frames and actions that cannot be read,
    have another type or differ in number; for frames of different sizes without `size`.
    """

    def __init__(self, root: str, cache: str, name: str = "", size: int | Sequence[int] | None = None,
                 frame_rate_hz: float | None = None, clip_length: int = 0, validation_fraction: float = 0.1,
                 seed: int = 0):
        if frame_rate_hz is not None and not 0 < frame_rate_hz <= 1000:
            raise InputError(f"data.frame_rate_hz: expected a number > 0, at most 1000, found {frame_rate_hz}")
        self.name = name or Path(root).resolve().name
        self._episodes = find_episodes(Path(root))
        recorded = [episode for episode in self._episodes if not episode.is_video]
        height_width = _height_width(size)
        shapes = {episode.folder: frames_shape(episode, height_width is not None) for episode in recorded}
        shape = _common_shape(shapes, height_width)
        actions, names = _numbered_actions(Path(root), self._episodes, shapes)
        frames, counts, self.unreadable = _packed(self._episodes, shape, height_width, frame_rate_hz, Path(cache),
                                                   self.name)
        self._sizes = torch.tensor(counts)
        homes = [FoundFile(episode.folder.relative_to(root).as_posix(), 0, 0) for episode in self._episodes]
        check_strays(Part(Path(root), homes, {}, {}), "episodes", f"out of {root}")
        places = class_names(homes)
        self.label_names, self.classes = (("place",), (places,)) if places else ((), ())
        labels = torch.tensor([[places.index(class_folder(home))] if places else [] for home in homes],
                              dtype=torch.int64).reshape(len(homes), len(self.classes))
        super().__init__(frames, self._sizes, actions, labels, names, clip_length, validation_fraction, seed)

    @property
    def recorded_names(self) -> tuple[str, ...]:
        """Names of the arrays that all episodes have besides frames and actions."""
        found = [set() if episode.is_video else {path.stem for path in episode.folder.glob("*.npy")}
                 for episode in self._episodes]
        return tuple(sorted(set.intersection(*found) - {"frames", "actions"}))

    def _recorded(self, name: str) -> Tensor:
        parts = []
        for episode, size in zip(self._episodes, self._sizes.tolist(), strict=True):
            path = episode.folder / f"{name}.npy"
            part = read_array(path, mapped=True)
            if part.shape[:1] != (size,) or part.dtype.kind not in "iuf":
                raise InputError(f"{path}: expected numbers for each of {size} frames, found {part.dtype} {part.shape}")
            parts.append(torch.from_numpy(np.array(part)))
        return torch.cat(parts)


def find_episodes(root: Path) -> list[Episode]:
    """Video files, and folders with frames, below a root, sorted. Raises InputError for fewer than two: each split
    needs one."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of episodes, found {'a file' if root.exists() else 'nothing'}; "
                         "name it with data.root=FOLDER, or record one with make doom-data")
    files = [file for file in list_files(root, {".npy", *image_formats(), *video_files.SUFFIXES})
             if not file.path.endswith(".npy") or Path(file.path).name == FRAMES]
    folders = {folder: list(own) for folder, own in groupby(sorted(files, key=_folder), _folder)}
    episodes = []
    for folder, own in folders.items():
        videos = [file for file in own if Path(file.path).suffix.lower() in video_files.SUFFIXES]
        arrays = [file for file in own if file.path.endswith(".npy")]
        if videos and len(videos) < len(own):
            other = next(file for file in own if file not in videos)
            raise InputError(f"{root / folder}: expected video files or frames, found both: "
                             f"{Path(videos[0].path).name} and {Path(other.path).name}")
        if arrays and len(own) > 1:
            raise InputError(f"{root / folder}: expected {FRAMES} or images, found both")
        episodes += [Episode(root / file.path, [file]) for file in sorted(videos)]
        if not videos:
            episodes.append(Episode(root / folder, sorted(own, key=lambda file: _natural(file.path))))
    if len(episodes) < 2:
        raise InputError(f"{root}: expected at least two folders with {FRAMES} or images, or two video files, found "
                         f"{len(episodes)}")
    return episodes


def frames_shape(episode: Episode, any_size: bool = False) -> tuple[int, int, int, int]:
    """(t, h, w, c) of a folder, read from file headers only. any_size: images may differ in height and width."""
    first = episode.folder / Path(episode.files[0].path).name
    if first.name == FRAMES:
        frames = read_array(first, mapped=True)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3) or 0 in frames.shape:
            raise InputError(f"{first}: expected uint8 (frames, height, width, 1 or 3), found {frames.dtype} "
                             f"{frames.shape}")
        return frames.shape
    width, height = _image_size(first)
    for file in episode.files[1:]:
        path = episode.folder / Path(file.path).name
        if (found := _image_size(path)) != (width, height) and not any_size:
            raise InputError(f"{path}: expected {width}x{height} pixels as in {first}, found {found[0]}x{found[1]}")
    return len(episode.files), height, width, 3


def has_actions(episode: Episode) -> bool:
    """Whether actions were recorded with an episode."""
    return not episode.is_video and any((episode.folder / name).is_file() for name in ACTIONS)


def read_actions(folder: Path, count: int) -> list[str]:
    """Names of the `count` actions of an episode; an integer is its own name."""
    found = [folder / name for name in ACTIONS if (folder / name).is_file()]
    if len(found) != 1:
        raise InputError(f"{folder}: expected one of {', '.join(ACTIONS)}, found "
                         f"{' and '.join(path.name for path in found) or 'none'}")
    path = found[0]
    if path.suffix == ".npy":
        actions = read_array(path, mapped=True)
        if actions.dtype.kind not in "iu" or actions.ndim not in (1, 2):
            raise InputError(f"{path}: expected integers (frames,) or (frames, k), found {actions.dtype} "
                             f"{actions.shape}")
        names = [",".join(map(str, np.atleast_1d(row))) for row in actions]
    else:
        names = action_lines(path)
    if len(names) != count:
        raise InputError(f"{path}: expected {count} actions, one for each frame, found {len(names)}")
    return names


def action_lines(path: Path) -> list[str]:
    """The lines of a text file of actions. Raises InputError for a file that is not text, and for an empty line."""
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: expected at most {MAX_BYTES} bytes, found {path.stat().st_size}")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text, found {error}") from None
    if "" in names:
        raise InputError(f"{path}: expected an action in each line, found none in line {names.index('') + 1}")
    return names


def _numbered_actions(root: Path, episodes: list[Episode], shapes: dict[Path, tuple[int, int, int, int]]
                      ) -> tuple[Tensor | None, tuple[str, ...]]:
    """Actions of all frames, int64 (m,), and their sorted names; None and () where no episode has actions.

    shapes: (t, h, w, c) of the folders."""
    if not any(map(has_actions, episodes)):
        return None, ()
    for episode in episodes:
        if episode.is_video:
            known = next(other for other in episodes if has_actions(other))
            raise InputError(f"{episode.folder}: expected frames and actions as in {known.folder}, found a video file; "
                             "either all episodes have actions or none")
    texts = [read_actions(episode.folder, shapes[episode.folder][0]) for episode in episodes]
    names = sorted({text for own in texts for text in own}, key=_order)
    if len(names) > MAX_ACTIONS:
        raise InputError(f"{root}: expected at most {MAX_ACTIONS} different actions, found {len(names)}")
    numbers = {action: number for number, action in enumerate(names)}
    return torch.tensor([numbers[text] for own in texts for text in own]), tuple(names)


def _height_width(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sizes = [size, size] if isinstance(size, int) else list(size)
    if len(sizes) != 2 or not all(isinstance(one, int) and 1 <= one <= 4096 for one in sizes):
        raise InputError(f"data.size: expected a number from 1 to 4096 or [height, width], found {size}")
    return sizes[0], sizes[1]


def _common_shape(shapes: dict[Path, tuple[int, ...]], size: tuple[int, int] | None) -> tuple[int, int, int] | None:
    """(c, h, w) of the frames of all folders, given (t, h, w, c) of each; None where there is none to tell."""
    first = next(iter(shapes), None)
    for folder, shape in shapes.items():
        if shape[3] != shapes[first][3] or (size is None and shape != (shape[0], *shapes[first][1:])):
            raise InputError(f"{folder}: expected frames of {_size(shapes[first])} as in {first}, found {_size(shape)}")
    channels = shapes[first][3] if shapes else 3
    if size is not None:
        return channels, *size
    return None if first is None else (channels, *shapes[first][1:3])


def _packed(episodes: list[Episode], shape: tuple[int, int, int] | None, size: tuple[int, int] | None,
            frame_rate_hz: float | None, cache: Path, name: str) -> tuple[Tensor, list[int], dict[str, str]]:
    """All frames, uint8 (m, c, h, w), memory-mapped, read-only; how many each episode has; unreadable video files with
    reasons. shape (c, h, w); None: that of the first frame of the first video file.

    The cache holds NAME-KEY.npy and NAME-KEY.json, its checksum and these numbers."""
    sources = [[str(episode.folder.resolve()), episode.files] for episode in episodes]
    settings = [VERSION, sources, PIL.__version__, size, frame_rate_hz, video_files.VERSION,
                containers.version() if any(episode.is_video for episode in episodes) else None]
    target = cache / f"{name}-{cache_key(settings)}.npy"
    notes = cached(target, lambda: _pack(episodes, shape, size is not None, frame_rate_hz, target))
    counts, unreadable = notes["frames"], notes["unreadable"]
    warn_unreadable("videos", len(episodes), unreadable)
    return read_only(read_array(target, mapped=True)), counts, unreadable


def _pack(episodes: list[Episode], shape: tuple[int, int, int] | None, resized: bool, frame_rate_hz: float | None,
          target: Path) -> dict:
    """Writes all frames, channels first, to the file `target`. Returns the number of frames of each episode, and the
    unreadable video files with reasons. Resized: frames may have other sizes than `shape`."""
    counts, unreadable = [], {}
    with (made_whole(target) as temporary, open(temporary, "w+b") as file,
          tqdm(total=len(episodes), desc="pack", unit="episode", disable=None, dynamic_ncols=True) as bar):
        _write_header(file, (0, *(shape or (3, 1, 1))))
        for episode in episodes:
            if episode.is_video:
                begin = file.tell()
                try:
                    shape, count = _pack_video(episode.folder, shape, resized, frame_rate_hz, file.write)
                except (InputError, OSError):
                    raise
                except Exception as error:  # any error of a decoder means that this video is unreadable
                    file.seek(begin)
                    file.truncate()
                    unreadable[str(episode.folder)] = " ".join(str(error).split()) or type(error).__name__
                    count = 0
            else:
                assert shape is not None
                count = _pack_folder(episode, shape, resized, file.write)
            counts.append(count)
            bar.update()
        if not sum(counts):
            path, reason = next(iter(unreadable.items()))
            raise InputError(f"{path}: expected a video, found {reason}; none of {len(episodes)} can be read")
        end = file.tell()
        file.seek(0)
        _write_header(file, (sum(counts), *(shape or ())))
        file.seek(end)
    return {"frames": counts, "unreadable": unreadable}


def _pack_video(path: Path, shape: tuple[int, int, int] | None, resized: bool, frame_rate_hz: float | None,
                write: Callable[[bytes], object]) -> tuple[tuple[int, int, int], int]:
    """Writes the frames of a video file; returns their shape (c, h, w) and number."""
    count = 0
    for image in read_video(path, frame_rate_hz):
        count += 1
        shape = shape or (3, image.height, image.width)
        if not resized and (image.height, image.width) != shape[1:]:
            raise InputError(f"{path}: expected frames of {shape[1]}x{shape[2]} pixels as in the files before, found "
                             f"{image.height}x{image.width}; data.size=[{shape[1]},{shape[2]}] resizes them")
        write(fit_image(image, shape).tobytes())
    assert shape is not None
    return shape, count


def _pack_folder(episode: Episode, shape: tuple[int, int, int], resized: bool, write: Callable[[bytes], object]) -> int:
    """Writes the frames of a folder; returns their number."""
    if Path(episode.files[0].path).name != FRAMES:
        for found in episode.files:
            write(_read_image(episode.folder / Path(found.path).name, shape).tobytes())
        return len(episode.files)
    frames = read_array(episode.folder / FRAMES, mapped=True)
    if not resized:
        write(np.ascontiguousarray(np.moveaxis(frames, 3, 1)).data)
    for frame in frames if resized else ():
        image = Image.fromarray(frame[..., 0] if shape[0] == 1 else frame)
        write(fit_image(image, shape).tobytes())
    return len(frames)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """The header of a .npy file; NumPy leaves room for any number of frames, so that it can be written again."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with open_image(path) as image:
            return image.size
    except Exception as error:  # any error of a decoder means that this image is unreadable
        raise InputError(f"{path}: expected an image, found a file that cannot be read ({error})") from None


def _read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        return read_image(path, shape)
    except Exception as error:  # as above
        raise InputError(f"{path}: expected an image, found a file that cannot be read ({error})") from None


def _folder(file: FoundFile) -> str:
    return file.path.rpartition("/")[0]


def _natural(path: str) -> list:
    """Sort key that puts frame_2 before frame_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def _order(action: str) -> tuple:
    """Sort key: integers by value, before names."""
    return (0, int(action), "") if re.fullmatch(r"-?\d{1,18}", action) else (1, 0, action)


def _size(shape: tuple[int, int, int, int]) -> str:
    return "x".join(map(str, shape[1:]))
