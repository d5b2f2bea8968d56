"""First-person walks through two places of Doom: frames, actions, depth and poses, rendered on this machine by ViZDoom.

M. Kempka et al., "ViZDoom: A Doom-based AI Research Platform for Visual Reinforcement Learning", CIG 2016; it stands in
for the DeepMind Lab of section 4.4 of arXiv 1711.00937. The engine comes in the extra [video], with free maps and
textures, runs without a screen in a process of its own, and needs no download.

    folder/my_way_home/0000/frames.npy    uint8 (t, 84, 84, 3): a folder of episodes, as pipelines/data/frames_folder.py
    folder/my_way_home/0000/actions.txt   reads anyone's; a line a frame: what was done on the way to it
    folder/my_way_home/0000/pose.npy      float32 (t, 3): x and y in map units, heading in degrees, counter-clockwise
    folder/my_way_home/0000/depth.npy     uint8 (t, 21, 21): distance along the axis of view; 1 is about 7 map units
    folder/manifest.json                  settings, and a checksum of each file

An episode is a function of (seed, number) alone, bit for bit. All of them are made in a folder beside the one asked for
that takes its name when it is whole.
"""

import contextlib
import hashlib
import importlib
import json
import os
import shutil
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
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError, naming
from pipelines.splits.counters import below, words

VERSION = 1  # of all that decides a byte of the files
PLACES = ("health_gathering_supreme", "my_way_home")  # ViZDoom's: a labyrinth under the sky; rooms and corridors
SIZE, DEPTH_SIZE = 84, 21  # of frames, as in the paper; of depth, as of the codes
TICS = 4  # of the game's 35 a second, for each frame
# name -> (walks forward?, degrees a tic, clockwise)
ACTIONS = {"forward": (1, 0), "forward_left": (1, -2), "forward_right": (1, 2), "left": (0, -4), "right": (0, 4)}
START_TICS = 20  # until the player stands on the ground
# Of the walker, in units of depth, about 7 map units each:
SLOPES = 0.75 * np.linspace(-1, 1, DEPTH_SIZE)  # of the lines of sight: 74 of the screen's 90 degrees are kept
BODY = 2.5  # half the width of the way that is to be free; a player's is 2.3
NEAR, LONG = 10.0, 20.0  # turns away from what is nearer on its way than the first, at first until it sees the second
TOUCH = 4.0  # the least that NEAR is lowered to where the way found is short: a wall at 2.3 stops it
FARTHER, AIM = 1.3, 0.1  # bears to what is so many times farther than its way is long, until it is so close ahead
LONGEST_WHIM = 8  # steps
MAX_EPISODES, MAX_FRAMES, MAX_SEED = 10_000, 100_000, 2**31 - 1


class View(NamedTuple):
    """What the player sees."""

    frame: np.ndarray  # uint8 (84, 84, 3)
    depth: np.ndarray  # uint8 (21, 21)
    pose: tuple[float, float, float]


def generate_doom(folder: Path, episodes: int, frames: int, seed: int) -> Path:
    """Makes `episodes` episodes of `frames` frames, as many in one place as in the other; returns their folder.

    A walk that finds my_way_home's vest, where the game ends, is begun anew elsewhere. If the folder is there with
    these settings it is left as it is.
    Raises InputError for settings out of range, for a folder of others, and where the extra is missing.
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
        raise InputError("doom: expected the extra that renders it, found it not installed; "
                         "pip install 'neural-discrete-representations[video]', or here pip install -e '.[video]'")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    try:
        sums = {}
        with tqdm(total=episodes * frames, desc="walk", unit="frame", disable=None, dynamic_ncols=True) as bar, \
                contextlib.closing(_episodes(episodes, frames, seed)) as walks:
            for name, files in walks:
                sums[name] = _write(temporary / name, files)
                bar.update(frames)
        write_atomically(temporary / MANIFEST, (json.dumps(settings | {"sha256": sums}, indent=1) + "\n").encode())
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check_same(manifest: Path, settings: dict[str, int]) -> None:
    try:
        found = {key: value for key, value in json.loads(manifest.read_text()).items() if key in settings}
    except (OSError, ValueError, AttributeError):
        raise InputError(f"{manifest.parent}: expected a folder of this generator's or none, found another; "
                         "name a new one") from None
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
    """The name of each episode and its files, place by place: one engine for each."""
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
    """The engine, a `vizdoom.DoomGame`, without what would lie over the view."""
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
    """An episode's files, from random words (3 + 2 * frames,); None where the game ends before it."""
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
    """The central square of the screen and of its depth, reduced by averaging."""
    height, width = state.depth_buffer.shape
    box = ((width - height) // 2, 0, (width + height) // 2, height)
    frame, depth = (np.asarray(Image.fromarray(buffer).resize((size, size), Image.Resampling.BOX, box))
                    for buffer, size in ((state.screen_buffer, SIZE), (state.depth_buffer, DEPTH_SIZE)))
    return View(frame, depth, tuple(state.game_variables))


def walker(draws: np.ndarray) -> Callable[[np.ndarray], str]:
    """A policy from random words (2 + 2 * steps,): maps depth (21, 21) to one of ACTIONS, call by call.

    It walks to what is farthest in view while the way that its body takes is free. Before a wall it turns until it sees
    a longer way, and is content with a shorter one the longer it has turned. Now and then, how often differs from
    episode to episode, it turns for no reason, in some episodes mostly while it walks, in others where it stands.
    """
    restless = 0.02 + 0.06 * below(draws[0], 1000) / 1000  # chance of a turn in a step
    walking = below(draws[1], 1000) / 1000  # of these, the share that are taken while walking
    steps = iter(draws[2:].reshape(-1, 2))
    away, turned = "", 0  # the turn away from a wall, if one is under way, and its steps so far
    near = NEAR  # what is too near, after such a turn by how long a way it ended with
    whim, left = "", 0  # the turn for no reason, and its steps to go

    def choose(depth: np.ndarray) -> str:
        nonlocal away, turned, near, whim, left
        chance, form = next(steps)
        row = depth[8:13].min(0).astype(np.float64)  # around the horizon: neither floor nor ceiling
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
