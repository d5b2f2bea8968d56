"""First-person walks through two places of Doom: frames, actions, depth and poses, rendered locally by ViZDoom.

M. Kempka et al., "ViZDoom: A Doom-based AI Research Platform for Visual Reinforcement Learning", CIG 2016. It replaces
DeepMind Lab in section 4.4 of arXiv 1711.00937. The extra [video] installs the engine with free maps and textures; it
runs without a screen, in a process of its own, and downloads nothing.

    folder/my_way_home/0000/frames.npy    uint8 (t, 84, 84, 3): a folder of episodes as frames_folder.py reads them
    folder/my_way_home/0000/actions.txt   one line per frame: the action that led to it
    folder/my_way_home/0000/pose.npy      float32 (t, 3): x and y in map units, heading in degrees, counter-clockwise
    folder/my_way_home/0000/depth.npy     uint8 (t, 21, 21): distance along the viewing axis; 1 is about 7 map units
    folder/manifest.json                  settings, and a checksum of each file

An episode is a function of (seed, number) alone, bit for bit. Episodes are written to a temporary folder, which is
renamed when it is complete.
"""

import contextlib
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Generator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipelines.data.manifest import MANIFEST
from pipelines.files.atomic import folder_made_whole, write_atomically
from pipelines.files.errors import InputError, naming
from pipelines.files.reading import read_json
from pipelines.splits.counters import below, words

VERSION = 1  # covers everything that determines the bytes of the files
PLACES = ("health_gathering_supreme", "my_way_home")  # ViZDoom scenarios: an open-air labyrinth; rooms and corridors
SIZE, DEPTH_SIZE = 84, 21  # pixels of a frame, as in the paper; of a depth map, as the grid of codes
TICS = 4  # game tics per frame; the game has 35 per second
# name -> (walks forward?, degrees per tic, clockwise)
ACTIONS = {"forward": (1, 0), "forward_left": (1, -2), "forward_right": (1, 2), "left": (0, -4), "right": (0, 4)}
START_TICS = 20  # until the player stands on the ground
# The walker's constants, in units of depth (about 7 map units):
SLOPES = 0.75 * np.linspace(-1, 1, DEPTH_SIZE)  # slopes of the lines of sight: 74 of the screen's 90 degrees are kept
BODY = 2.5  # half the width of the path that must be free; the player's own is 2.3
NEAR, LONG = 10.0, 20.0  # an obstacle closer than NEAR starts a turn; a path longer than LONG ends it
TOUCH = 4.0  # NEAR is lowered no further than this after a turn to a short path; a wall at 2.3 stops the player
FARTHER, AIM = 1.3, 0.1  # steers to a point FARTHER times as far as the path ahead, until its bearing is below AIM
LONGEST_WHIM = 8  # steps of a random turn
MAX_EPISODES, MAX_FRAMES, MAX_SEED = 10_000, 100_000, 2**31 - 1


class View(NamedTuple):
    """The player's view and position."""

    frame: np.ndarray  # uint8 (84, 84, 3)
    depth: np.ndarray  # uint8 (21, 21)
    pose: tuple[float, float, float]


def generate_doom(folder: Path, episodes: int, frames: int, seed: int) -> Path:
    """Records `episodes` episodes of `frames` frames, equally many in each place; returns their folder.

    A walk that reaches the vest in my_way_home, which ends the game, is started again elsewhere. An existing folder
    with the same settings is left unchanged.
    Raises InputError for settings out of range, for a folder with other content, and if the extra is not installed.
    """
    for key, found, lowest, highest in (("episodes", episodes, 2, MAX_EPISODES), ("frames", frames, 1, MAX_FRAMES),
                                        ("seed", seed, 0, MAX_SEED)):
        if not lowest <= found <= highest:
            raise InputError(f"--{key}: expected {lowest} to {highest}, found {found}")
    settings = {"version": VERSION, "episodes": episodes, "frames": frames, "seed": seed}
    if folder.exists():
        _check_same(folder / MANIFEST, settings)
        return folder
    if find_spec("vizdoom") is None:
        raise InputError("doom: expected the extra [video], which renders it, found it not installed; "
                         "pip install 'neural-discrete-representations[video]', or here pip install -e '.[video]'")
    with folder_made_whole(folder.absolute(), "make_doom_data") as temporary:
        sums = {}
        with tqdm(total=episodes * frames, desc="walk", unit="frame", disable=None, dynamic_ncols=True) as bar, \
                contextlib.closing(_episodes(episodes, frames, seed)) as walks:
            for name, files in walks:
                sums[name] = _write(temporary / name, files)
                bar.update(frames)
        write_atomically(temporary / MANIFEST, (json.dumps(settings | {"sha256": sums}, indent=1) + "\n").encode())
    return folder


def _check_same(manifest: Path, settings: dict[str, int]) -> None:
    try:
        found = {key: value for key, value in read_json(manifest, "a manifest").items() if key in settings}
    except InputError:
        raise InputError(f"{manifest.parent}: expected a folder written by make_doom_data.py, or none, found "
                         "another folder; choose a new one") from None
    if found != settings:
        raise InputError(f"{manifest}: expected {settings}, found {found}; name another folder or remove this one")


def _write(folder: Path, files: dict[str, np.ndarray | str]) -> dict[str, str]:
    """Writes an episode; returns the checksum of each of its files."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        with naming(folder / name), open(folder / name, "wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                np.save(file, content)
            file.flush()
            os.fsync(file.fileno())
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def _episodes(episodes: int, frames: int, seed: int) -> Generator[tuple[str, dict[str, np.ndarray | str]], None, None]:
    """The name and the files of each episode, place by place, with one engine per place."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # the engine leaves _vizdoom* behind
        for place, name in enumerate(PLACES):
            game = _start(name)
            try:
                for number in range(place, episodes, len(PLACES)):
                    walks = (_walk(game, frames, words(seed, number, trial, np.arange(2 * frames + 3)))
                             for trial in count())
                    yield f"{name}/{number:04d}", next(files for files in walks if files)
            finally:
                game.close()


def _start(place: str) -> Any:
    """The engine, a `vizdoom.DoomGame`, without overlays on the view."""
    vizdoom = importlib.import_module("vizdoom")
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{place}.cfg"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    for what in ("hud", "weapon", "crosshair", "messages", "screen_flashes", "particles", "effects_sprites"):
        getattr(game, f"set_render_{what}")(False)
    game.set_window_visible(False)
    game.set_available_buttons([vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    variable = vizdoom.GameVariable
    game.set_available_game_variables([variable.POSITION_X, variable.POSITION_Y, variable.ANGLE])
    game.set_episode_start_time(START_TICS)
    game.set_episode_timeout(0)  # none
    game.init()
    return game


def _walk(game: Any, frames: int, draws: np.ndarray) -> dict[str, np.ndarray | str] | None:
    """The files of an episode, from random words (3 + 2 * frames,); None if the game ends earlier."""
    game.set_seed(int(below(draws[0], MAX_SEED)))
    game.new_episode()
    game.send_game_command("iddqd")  # the labyrinth's floor is acid
    choose, view = walker(draws[1:]), _view(game.get_state())
    views, actions = [], []
    for _ in range(frames):
        action = choose(view.depth)
        game.make_action(list(ACTIONS[action]), TICS)
        if game.is_episode_finished():
            return None
        view = _view(game.get_state())
        views.append(view)
        actions.append(action)
    frames, depth, pose = map(np.stack, zip(*views, strict=True))
    return {"frames.npy": frames, "actions.txt": "".join(f"{action}\n" for action in actions),
            "pose.npy": pose.astype(np.float32), "depth.npy": depth}


def _view(state: Any) -> View:
    """The central square of the screen and of its depth map, downsampled by averaging."""
    height, width = state.depth_buffer.shape
    box = ((width - height) // 2, 0, (width + height) // 2, height)
    frame, depth = (np.asarray(Image.fromarray(buffer).resize((size, size), Image.Resampling.BOX, box))
                    for buffer, size in ((state.screen_buffer, SIZE), (state.depth_buffer, DEPTH_SIZE)))
    return View(frame, depth, tuple(state.game_variables))


def walker(draws: np.ndarray) -> Callable[[np.ndarray], str]:
    """A policy from random words (2 + 2 * steps,): each call maps depth (21, 21) to one of ACTIONS.

    It walks towards the farthest visible point while the path is free for its body. In front of a wall it turns until
    it sees a longer path; the longer it has turned, the shorter a path it accepts. At random times it turns without
    reason. Their frequency, and whether it mostly walks or stands meanwhile, differ between episodes.
    """
    restless = 0.02 + 0.06 * below(draws[0], 1000) / 1000  # probability of starting a random turn in a step
    walking = below(draws[1], 1000) / 1000  # fraction of these turns that are made while walking
    steps = iter(draws[2:].reshape(-1, 2))
    away, turned = "", 0  # current turn away from a wall, if any, and its steps so far
    near = NEAR  # distance that starts a turn; after a turn it depends on the path found
    whim, left = "", 0  # the random turn, and its remaining steps

    def choose(depth: np.ndarray) -> str:
        nonlocal away, turned, near, whim, left
        chance, form = next(steps)
        row = depth[8:13].min(0).astype(np.float64)  # rows around the horizon: neither floor nor ceiling
        way = row[np.abs(row * SLOPES) < BODY].min()
        if away and way > LONG - turned:
            away, near = "", min(NEAR, max(way / 2, TOUCH))
        elif not away and way < near:
            away, turned, left = "left" if row[:7].mean() > row[14:].mean() else "right", 0, 0
        if away:
            turned += 1
            return away
        if not left and below(chance, 1000) < 1000 * restless:
            whim, left = ("left", "right")[below(form, 2)], 1 + int(below(form << np.uint64(8), LONGEST_WHIM))
            whim = f"forward_{whim}" if below(form << np.uint64(20), 1000) < 1000 * walking else whim
        if left:
            left -= 1
            return whim
        wide = np.minimum(np.minimum(row[:-2], row[1:-1]), row[2:])
        bearing = SLOPES[1 + wide.argmax()]
        if wide.max() < FARTHER * way or abs(bearing) < AIM:
            return "forward"
        return "forward_left" if bearing < 0 else "forward_right"

    return choose
