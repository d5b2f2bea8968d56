"""A user's frames and actions: a folder of episodes, packed once into one memory-mapped file.

    root/EPISODE/frames.npy               uint8 (t, h, w, c), c = 1 or 3
    root/EPISODE/actions.npy              integers (t,), or (t, k): each distinct row is one action
    root/EPISODE/*.png                    or images instead of frames.npy, ordered by the numbers in their names
    root/EPISODE/actions.txt              or .csv, instead of actions.npy: one name or number per line and frame
    root/PLACE/EPISODE/...                episodes of several places: the label is the name of the place
    root/EPISODE/pose.npy, ...            further arrays with one row per frame, (t, ...)

An action belongs to the frame that it leads to. Recorders that store (frame, next action) must shift the actions by one
and drop the first frame. All frames must have the same size. Nothing is resized, repaired or left out.
"""

import re
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from pipelines.data.cache import cache_key, locked, made_whole, read_only
from pipelines.data.folders import FoundFile, Part, check_strays, class_folder, class_names, list_files
from pipelines.data.frames import EpisodeData
from pipelines.data.image_files import image_formats, open_image, read_image
from pipelines.files.arrays import read_array
from pipelines.files.errors import InputError

FRAMES = "frames.npy"
ACTIONS = ("actions.npy", "actions.txt", "actions.csv")
MAX_ACTIONS = 1024  # distinct actions: more than these are measurements, not choices
MAX_BYTES = 2**26  # size of a text file with actions


class Episode(NamedTuple):
    """A folder and its files with frames: frames.npy alone, or images in order."""

    folder: Path
    files: list[FoundFile]  # their paths are relative to the root


class FramesFolder(EpisodeData):
    """Single frames (c, h, w), or with `clip_length` clips (c, t, h, w) with actions; see pipelines/data/frames.py.

    The packed frames are stored in `cache` under a name that depends on every file's name, size and time.
    Raises an InputError that names the file: for a folder without episodes; for frames and actions that cannot be read,
    have another type or differ in number; for frames of different sizes.
    """

    def __init__(self, root: str, cache: str, name: str = "", clip_length: int = 0, validation_fraction: float = 0.1,
                 seed: int = 0):
        self.name = name or Path(root).resolve().name
        self._episodes = find_episodes(Path(root))
        shapes = [frames_shape(episode) for episode in self._episodes]
        for episode, shape in zip(self._episodes, shapes, strict=True):
            if shape[1:] != shapes[0][1:]:
                raise InputError(f"{episode.folder}: expected frames of {_size(shapes[0])} as in "
                                 f"{self._episodes[0].folder}, found {_size(shape)}")
        self._sizes = torch.tensor([shape[0] for shape in shapes])
        texts = [read_actions(episode.folder, shape[0]) for episode, shape in zip(self._episodes, shapes, strict=True)]
        names = sorted({text for own in texts for text in own}, key=_order)
        if len(names) > MAX_ACTIONS:
            raise InputError(f"{root}: expected at most {MAX_ACTIONS} different actions, found {len(names)}")
        numbers = {action: number for number, action in enumerate(names)}
        actions = torch.tensor([numbers[text] for own in texts for text in own])
        homes = [FoundFile(episode.folder.relative_to(root).as_posix(), 0, 0) for episode in self._episodes]
        check_strays(Part(Path(root), homes, {}, {}), "episodes", f"out of {root}")
        places = class_names(homes)
        self.label_names, self.classes = (("place",), (places,)) if places else ((), ())
        labels = torch.tensor([[places.index(class_folder(home))] if places else [] for home in homes],
                              dtype=torch.int64).reshape(len(homes), len(self.classes))
        frames = _packed(self._episodes, shapes, Path(cache), self.name)
        super().__init__(frames, self._sizes, actions, labels, tuple(names), clip_length, validation_fraction, seed)

    @property
    def recorded_names(self) -> tuple[str, ...]:
        """Names of the arrays that all episodes have besides frames and actions."""
        found = [{path.stem for path in episode.folder.glob("*.npy")} for episode in self._episodes]
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
    """Folders with frames below a root, sorted. Raises InputError for fewer than two: each split needs one."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of episodes, found {'a file' if root.exists() else 'nothing'}; "
                         "name it with data.root=FOLDER, or record one with make doom-data")
    files = [file for file in list_files(root, {".npy", *image_formats()})
             if not file.path.endswith(".npy") or Path(file.path).name == FRAMES]
    folders = {folder: list(own) for folder, own in groupby(sorted(files, key=_folder), _folder)}
    episodes = []
    for folder, own in folders.items():
        arrays = [file for file in own if file.path.endswith(".npy")]
        if arrays and len(own) > 1:
            raise InputError(f"{root / folder}: expected {FRAMES} or images, found both")
        episodes.append(Episode(root / folder, sorted(own, key=lambda file: _natural(file.path))))
    if len(episodes) < 2:
        raise InputError(f"{root}: expected at least two folders with {FRAMES} or images, found {len(episodes)}")
    return episodes


def frames_shape(episode: Episode) -> tuple[int, int, int, int]:
    """(t, h, w, c), read from file headers only."""
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
        if (found := _image_size(path)) != (width, height):
            raise InputError(f"{path}: expected {width}x{height} pixels as in {first}, found {found[0]}x{found[1]}")
    return len(episode.files), height, width, 3


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


def _packed(episodes: list[Episode], shapes: list[tuple[int, int, int, int]], cache: Path, name: str) -> Tensor:
    """All frames, uint8 (m, c, h, w), memory-mapped, read-only."""
    _, height, width, channels = shapes[0]
    shape = sum(shape[0] for shape in shapes), channels, height, width
    settings = [[str(episode.folder.resolve()), episode.files] for episode in episodes], PIL.__version__
    target = cache / f"{name}-{cache_key(settings)}.npy"
    with locked(cache):
        if not target.exists():
            _pack(episodes, shapes, target, shape)
    frames = read_array(target, mapped=True)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise InputError(f"{target}: expected uint8 {shape}, found {frames.dtype} {frames.shape}; remove it, it will "
                         "be created again")
    return read_only(frames)


def _pack(
    episodes: list[Episode], shapes: list[tuple[int, int, int, int]], target: Path, shape: tuple[int, ...]
) -> None:
    """Writes all frames, channels first, to the file `target`."""
    with made_whole(target) as temporary, open(temporary, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for episode, (_, height, width, channels) in zip(episodes, shapes, strict=True):
            for found in episode.files:
                path = episode.folder / Path(found.path).name
                if path.name == FRAMES:
                    file.write(np.ascontiguousarray(np.moveaxis(read_array(path, mapped=True), 3, 1)))
                else:
                    file.write(np.ascontiguousarray(_read_image(path, (channels, height, width))))


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
