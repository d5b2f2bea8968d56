"""A simulated square room, seen by somebody who walks in it: frames with actions that need no download.

Each column of a frame is one direction, and a quarter turn is `size` columns. A turn therefore shifts the image by
whole columns: "right" shifts it by exactly size / 4 to the left. Walking enlarges what is near.
"""

import numpy as np
import torch
from torch import Tensor

from pipelines.data.frames import EpisodeData
from pipelines.files.errors import InputError
from pipelines.splits.counters import below, words

ACTIONS = ("forward", "left", "right")
STEP, REACH = 0.15, 0.6  # step length and largest coordinate; the walls are at -1 and 1
WALLS = np.array([[230, 80, 60], [70, 170, 90], [70, 110, 220], [220, 190, 80]])  # east, north, west, south
CEILING, FLOOR = (150, 150, 160), (70, 60, 50)


class Room(EpisodeData):
    """uint8 (3, size, size), or clips (3, t, size, size). `recorded("pose", ...)` is x, y and heading.

    A walk starts at a random place, mostly goes forward, and turns in front of a wall. `seed` determines everything.
    Raises InputError for settings out of range.
    """

    name = "room"
    recorded_names = ("pose",)

    def __init__(self, episodes: int = 64, frames: int = 64, size: int = 16, clip_length: int = 0,
                 validation_fraction: float = 0.125, seed: int = 0):
        for key, found, accepted, expected in (
            ("episodes", episodes, episodes >= 2, "a number >= 2"),
            ("frames", frames, frames >= 1, "a number >= 1"),
            ("size", size, size >= 4 and size % 4 == 0, "a multiple of 4"),
        ):
            if not accepted:
                raise InputError(f"data.{key}: expected {expected}, found {found}")
        actions, places, headings = walk(episodes, frames, size, seed)
        drawn = np.concatenate([draw(*walked, size) for walked in zip(places, headings, strict=True)])
        degrees = headings[..., None] * (90 / size)
        self._pose = torch.from_numpy(np.concatenate([places, degrees], 2).reshape(-1, 3).astype(np.float32))
        super().__init__(torch.from_numpy(drawn), torch.full((episodes,), frames), torch.from_numpy(actions).flatten(),
                         torch.zeros(episodes, 0, dtype=torch.int64), ACTIONS, clip_length, validation_fraction, seed)

    def _recorded(self, name: str) -> Tensor:
        if name != "pose":
            raise InputError(f"room: expected pose, found {name!r}")
        return self._pose


def walk(episodes: int, frames: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions (episodes, frames) int64; places (episodes, frames, 2); headings (episodes, frames), counter-clockwise in
    columns, 4 * size per full turn."""
    start = words(seed, np.arange(episodes)[:, None], np.arange(3))
    place = (below(start[:, :2], 1001) / 500 - 1) * REACH
    heading = below(start[:, 2], 4 * size)
    draws = words(seed, np.arange(episodes)[:, None], 1, np.arange(frames))
    wish, walked = np.zeros(episodes, np.int64), []
    for draw_now in draws.T:
        # with probability 1/2 as before; otherwise forward, or left or right with 1/6 each
        wish = np.where(below(draw_now, 2), wish, np.array([0, 0, 0, 0, 1, 2])[below(draw_now << np.uint64(8), 6)])
        angle = heading * (np.pi / 2 / size)
        ahead = place + STEP * np.stack([np.cos(angle), np.sin(angle)], 1)
        action = np.where((wish == 0) & (np.abs(ahead) > REACH).any(1), 1, wish)
        place = np.where((action == 0)[:, None], ahead, place)
        heading = (heading + np.array([0, 1, -1])[action] * (size // 4)) % (4 * size)
        walked.append((action, place, heading))
    return tuple(np.stack(column, 1) for column in zip(*walked, strict=True))


def draw(places: np.ndarray, headings: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 (t, 3, size, size); each pixel is a line of sight to a striped wall, the floor or the ceiling.

    places: (t, 2) in [-1, 1]; headings: (t,), see `walk`."""
    directions = (headings[:, None] + size // 2 - 1 - np.arange(size)) % (4 * size)  # (t, w), decreasing to the right
    angles = (directions + 0.5) * (np.pi / 2 / size)
    toward = np.stack([np.cos(angles), np.sin(angles)])  # (2, t, w), never 0
    x, y = places.T[..., None]
    to_walls = (np.sign(toward) - np.stack([x, y])) / toward  # distances to the east or west wall, north or south wall
    far = to_walls.min(0)
    across = to_walls[0] > to_walls[1]  # the north or the south wall is hit
    wall = np.where(across, np.where(toward[1] > 0, 1, 3), np.where(toward[0] > 0, 0, 2))
    along = np.where(across, x + far * toward[0], y + far * toward[1])
    light = (0.7 + 0.3 * (np.floor(3 * along) % 2)) / (1 + 0.3 * far)
    columns = WALLS[wall] * light[..., None]  # (t, w, 3)
    rows = 4 * (0.5 - (np.arange(size) + 0.5) / size)[:, None]
    heights = rows * far[:, None]  # (t, h, w): height at the wall; a wall is half as high as the room is wide
    frames = np.where((np.abs(heights) < 1)[..., None], columns[:, None],
                      np.where((heights > 0)[..., None], np.array(CEILING), np.array(FLOOR)))
    return frames.round().astype(np.uint8).transpose(0, 3, 1, 2)
