"""Frames and actions: clips, folders as anyone brings them and broken ones, the embedded room, walks through Doom."""

import dataclasses
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data import doom
from pipelines.data.doom import ACTIONS, DEPTH_SIZE, PLACES, SIZE, generate_doom, walker
from pipelines.data.frames_folder import FramesFolder
from pipelines.data.room import CEILING, FLOOR, REACH, STEP, Room, draw
from pipelines.files.errors import InputError
from pipelines.splits.describe import describe

ROOT = Path(__file__).resolve().parents[3]
LENGTHS = (7, 12, 5, 9)  # frames of the episodes of `folder`


def frames_of(episode: int, length: int) -> np.ndarray:
    """Every frame tells where it is from: its first pixel is (episode, place, 0)."""
    frames = np.zeros((length, 4, 6, 3), np.uint8)
    frames[..., 0], frames[..., 1] = episode, np.arange(length)[:, None, None]
    frames[:, 1, 2, 2] = 255  # so that axes that are exchanged are seen
    return frames


def actions_of(episode: int, length: int) -> list[int]:
    return [(episode + place) % 3 for place in range(length)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four episodes of 4x6 pixels; actions as integers, as text, as a comma-separated file and as text in images."""
    root = tmp_path / "walks"
    for episode, length in enumerate(LENGTHS):
        own = root / f"episode_{episode}"
        own.mkdir(parents=True)
        frames, actions = frames_of(episode, length), actions_of(episode, length)
        if episode == 3:
            for place, frame in enumerate(frames):
                Image.fromarray(frame).save(own / f"{place + 2}.png")  # 10.png comes after 9.png
        else:
            np.save(own / "frames.npy", frames)
        if episode == 0:
            np.save(own / "actions.npy", np.array(actions, np.int16))
        else:
            (own / f"actions.{('', 'txt', 'csv', 'txt')[episode]}").write_text("".join(f"{a}\n" for a in actions))
        np.save(own / "pose.npy", np.stack([np.full(length, episode), np.arange(length)], 1) / 4)
    return root


@pytest.fixture
def load(tmp_path):
    """load(root, ...) -> FramesFolder, a quarter of it held out."""
    defaults = {"cache": str(tmp_path / "cache"), "validation_fraction": 0.25}
    return lambda root, **options: FramesFolder(str(root), **defaults | options)


def everything(data, split: str, **options):
    part = data.split(split)
    return part.batch(torch.arange(len(part)), **options)


def origins(x: torch.Tensor) -> list:
    """Of each frame of (b, c, h, w) or (b, c, t, h, w) its episode and place."""
    return x[:, :2, ..., 0, 0].movedim(1, -1).tolist()


def test_single_frames_are_images_of_whole_episodes(folder, load):
    data = load(folder)
    assert (data.kind, data.shape, data.name, data.label_names) == ("image", (3, 4, 6), "walks", ())
    seen = {split: origins(everything(data, split).x) for split in data.splits}
    everywhere = [[episode, place] for episode, length in enumerate(LENGTHS) for place in range(length)]
    assert sorted(seen["train"] + seen["validation"]) == everywhere
    episodes = {split: {episode for episode, _ in places} for split, places in seen.items()}
    assert not episodes["train"] & episodes["validation"] and len(episodes["validation"]) == 1
    x = everything(data, "train").x
    assert x.dtype == torch.uint8 and (x[:, 2, 1, 2] == 255).all() and x[:, 2].sum() == 255 * len(x)
    held_out = {tuple(sorted(map(tuple, origins(everything(load(folder, seed=seed), "validation").x))))
                for seed in range(8)}
    assert len(held_out) > 1  # all the same by chance: 4^-7


@pytest.mark.parametrize("split", ["train", "validation"])
def test_clips_lie_one_after_another_in_evaluation(folder, load, split):
    data = load(folder, clip_length=3)
    assert data.kind == "video" and data.shape == (3, 3, 4, 6) and data.action_names == ("0", "1", "2")
    batch = everything(data, split)
    episodes = {origins(batch.x)[item][0][0] for item in range(len(batch.x))}
    expected = [[[e, start + t] for t in range(3)] for e in sorted(episodes) for start in range(0, LENGTHS[e] - 2, 3)]
    assert origins(batch.x) == expected and batch.x.shape[1:] == data.shape
    assert batch.actions.tolist() == [[(e + t) % 3 for e, t in clip] for clip in origins(batch.x)]
    assert data.recorded("pose", split).tolist() == [[[e / 4, t / 4] for e, t in clip] for clip in expected]


def test_training_clips_begin_anywhere_in_their_episode(folder, load):
    data = load(folder, clip_length=3)
    split = data.split("train")
    plain, seen = origins(everything(data, "train").x), set()
    for epoch in range(40):
        batch = everything(data, "train", epoch=epoch)
        for clip, before, actions in zip(origins(batch.x), plain, batch.actions.tolist(), strict=True):
            (episode, start), *_ = clip
            assert clip == [[episode, start + t] for t in range(3)] and episode == before[0][0]
            assert actions == [(episode + start + t) % 3 for t in range(3)]
            seen.add((episode, start))
    episodes = {clip[0][0] for clip in plain}
    # an episode's items draw 40 times or more: of at most 10 starts one is missing with 10 * 0.9^120 = 3e-5 at the most
    assert seen == {(e, start) for e in episodes for start in range(LENGTHS[e] - 2)}
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    whole = split.batch(torch.arange(len(split)), seed=3, epoch=5)
    shuffled = split.batch(order, seed=3, epoch=torch.full((len(order),), 5))
    assert torch.equal(shuffled.x, whole.x[order]) and torch.equal(shuffled.actions, whole.actions[order])
    mixed = split.batch(torch.arange(len(split)), seed=3, epoch=torch.where(torch.arange(len(split)) == 1, 5, -1))
    assert torch.equal(mixed.x[1], whole.x[1]) and torch.equal(mixed.x[2:], everything(data, "train").x[2:])


def test_clips_resident_elsewhere_are_the_same(folder, load):
    """The copy that a GPU would get: the split's own frames alone, in its own order."""
    split = load(folder, clip_length=3).split("validation")
    moved = dataclasses.replace(split, x=split._copy(torch.device("cpu")), rows=None)
    assert len(moved.x) == len(split.rows) < len(split.x)
    for epoch in (None, 3):
        here, there = (part.batch(torch.arange(len(split)), epoch=epoch) for part in (split, moved))
        assert torch.equal(here.x, there.x) and torch.equal(here.actions, there.actions)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_clips_on_a_gpu_are_the_same(folder, load, share, monkeypatch):
    monkeypatch.setattr("pipelines.splits.base.RESIDENT_SHARE", share)
    split = load(folder, clip_length=3).split("train")
    moved = split.to("cuda")
    assert moved.x.is_cuda == (share > 0)
    for epoch in (None, 3):
        here, there = (part.batch(torch.arange(len(split)), epoch=epoch) for part in (split, moved))
        assert there.x.is_cuda and there.actions.is_cuda and there.labels.is_cuda
        assert torch.equal(here.x, there.x.cpu()) and torch.equal(here.actions, there.actions.cpu())


@pytest.mark.parametrize("clip_length", [0, 3])
def test_variance_is_that_of_all_training_frames(folder, load, clip_length):
    data = load(folder, clip_length=clip_length)
    values = everything(load(folder), "train").x.numpy().astype(np.float64)
    assert data.variance == pytest.approx(values.var(), rel=1e-12)


def test_folders_of_places_are_labels_and_names_are_actions(tmp_path, load):
    for place, own in (("maze", "a"), ("hall", "a"), ("maze", "b"), ("hall", "b")):
        folder = tmp_path / "worlds" / place / own
        folder.mkdir(parents=True)
        np.save(folder / "frames.npy", np.full((4, 4, 4, 1), place == "maze", np.uint8))
        (folder / "actions.txt").write_text("left\nforward\nleft\nright" if own == "a" else "left\n" * 4)
    data = load(tmp_path / "worlds", clip_length=2, validation_fraction=0.5)
    assert data.label_names == ("place",) and data.classes == (("hall", "maze"),)
    assert data.action_names == ("forward", "left", "right")
    for split in data.splits:
        batch = everything(data, split)
        assert batch.labels[:, 0].tolist() == batch.x[:, 0, 0, 0, 0].tolist()
    shutil.move(tmp_path / "worlds" / "maze" / "b", tmp_path / "worlds" / "c")
    with pytest.raises(InputError, match="worlds: expected all episodes in folders of classes, or none; found 1 of 4 "
                                         "beside 2 folders, such as c: move them into a folder, or out of"):
        load(tmp_path / "worlds", clip_length=2)


def test_numbers_are_sorted_as_such_and_rows_of_numbers_are_actions(folder, load):
    np.save(folder / "episode_0" / "actions.npy", np.array([10, 9, -1, 0, 1, 2, 10]))
    assert load(folder).action_names == ("-1", "0", "1", "2", "9", "10")
    np.save(folder / "episode_0" / "actions.npy", np.array([[0, 20], [0, -20]] * 3 + [[0, 20]]))
    assert load(folder).action_names == ("0", "1", "2", "0,-20", "0,20")


def test_frames_are_packed_once_and_again_when_a_file_changes(folder, load, tmp_path, monkeypatch):
    load(folder)
    (packed,) = (tmp_path / "cache").glob("walks-*.npy")
    assert not list((tmp_path / "cache").glob("*.tmp"))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.data.frames_folder._pack", None)  # so that it could not be
        load(folder, clip_length=2)
    np.save(folder / "episode_0" / "frames.npy", frames_of(9, LENGTHS[0] + 1)[1:])
    assert {episode for split in ("train", "validation")
            for episode, _ in origins(everything(load(folder), split).x)} == {9, 1, 2, 3}
    (changed,) = set((tmp_path / "cache").glob("walks-*.npy")) - {packed}
    expected = changed.read_bytes()
    changed.write_bytes(expected[:-1])
    load(folder)
    assert changed.read_bytes() == expected


def replace_frames(array):
    return lambda root: np.save(root / "episode_1" / "frames.npy", array)


def replace_text(text, name="episode_1/actions.txt"):
    return lambda root: (root / name).write_bytes(text)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda root: (root / "episode_1/actions.txt").unlink(),
     "episode_1: expected one of actions.npy, actions.txt, actions.csv, found none"),
    (replace_text(b"1\n", "episode_1/actions.csv"), "episode_1: .* found actions.txt and actions.csv"),
    (replace_text(b"1\n" * 11), "episode_1/actions.txt: expected 12 actions, one for each frame, found 11"),
    (replace_text(b"1\n" * 11 + b"\n"), "actions.txt: expected an action in each line, found none in line 12"),
    (replace_text(b"\xff\xfe" * 12), "actions.txt: expected text, found"),
    (replace_text(b"", "episode_0/actions.npy"),
     "actions.npy: expected a NumPy array, found a file that cannot be read"),
    (lambda root: np.save(root / "episode_0/actions.npy", np.zeros(7)),
     r"actions.npy: expected integers \(frames,\) or \(frames, k\), found float64 \(7,\)"),
    (lambda root: np.save(root / "episode_0/actions.npy", np.zeros(8, int)), "actions.npy: expected 7 actions"),
    (lambda root: np.save(root / "episode_0/actions.npy", np.array([None] * 7), allow_pickle=True),
     "actions.npy: expected a NumPy array, found a file"),
    (replace_frames(np.zeros((12, 4, 6, 3), np.float32)),
     r"frames.npy: expected uint8 \(frames, height, width, 1 or 3\), found float32 \(12, 4, 6, 3\)"),
    (replace_frames(np.zeros((12, 3, 4, 6), np.uint8)), r"frames.npy: expected uint8 .*, found uint8 \(12, 3, 4, 6\)"),
    (replace_frames(np.zeros((0, 4, 6, 3), np.uint8)), "frames.npy: expected uint8"),
    (replace_frames(np.zeros((12, 6, 4, 3), np.uint8)),
     "episode_1: expected frames of 4x6x3 as in .*episode_0, found 6x4x3"),
    (replace_text(b"not an array", "episode_1/frames.npy"), "frames.npy: expected a NumPy array"),
    (lambda root: Image.new("RGB", (6, 5)).save(root / "episode_3/4.png"),
     "episode_3/4.png: expected 6x4 pixels as in .*2.png, found 6x5"),
    (replace_text(b"not a picture", "episode_3/4.png"), "episode_3/4.png: expected an image, found a file"),
    (lambda root: (root / "episode_3/4.png").write_bytes((root / "episode_3/4.png").read_bytes()[:45]),
     "episode_3/4.png: expected an image, found a file"),
    (lambda root: (root / "episode_3/4.png").unlink(), "episode_3/actions.txt: expected 8 actions"),
    (lambda root: np.save(root / "episode_3/frames.npy", frames_of(3, 9)),
     "episode_3: expected frames.npy or images, found both"),
    (lambda root: [shutil.rmtree(root / f"episode_{episode}") for episode in (1, 2, 3)],
     "walks: expected at least two folders with frames.npy or images, or two video files, found 1"),
    (lambda root: (root / "episode_3/a.mp4").touch(),
     "episode_3: expected video files or frames, found both: a.mp4 and 10.png"),
    (lambda root: (root / "a.gif").touch(),
     "a.gif: expected frames and actions as in .*episode_0, found a video file; either all episodes have actions"),
    (lambda root: shutil.rmtree(root), "walks: expected a folder of episodes, found nothing"),
])
def test_a_broken_folder_gets_one_line_and_leaves_nothing(folder, load, tmp_path, damage, message):
    load(folder)
    shutil.rmtree(tmp_path / "cache")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not [path for path in tmp_path.glob("cache/*") if path.name != ".lock"]


@pytest.mark.parametrize(("options", "message"), [
    ({"clip_length": -1}, "data.clip_length: expected a number >= 0, found -1"),
    ({"clip_length": 13}, "data.clip_length: expected at most "),
    ({"validation_fraction": 0.0}, "data.validation_fraction: expected a number above 0 and below 1, found 0.0"),
    ({"size": [4]}, r"data.size: expected a number from 1 to 4096 or \[height, width\], found \[4\]"),
    ({"frame_rate_hz": 0}, "data.frame_rate_hz: expected a number > 0, at most 1000, found 0"),
])
def test_wrong_settings_are_named(folder, load, options, message):
    with pytest.raises(InputError, match=message):
        load(folder, **options)


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("speed", lambda path: None, "speed.npy: expected a NumPy array, found nothing"),
    ("pose", lambda path: np.save(path, np.zeros((6, 2))), r"pose.npy: expected numbers for each of 7 frames, found"),
])
def test_what_was_not_recorded_is_named(folder, load, name, damage, message):
    damage(folder / "episode_0" / f"{name}.npy")
    with pytest.raises(InputError, match=message):
        load(folder).recorded(name, "train")


# The embedded room.


def test_a_room_repeats_from_its_seed_and_no_walk_is_in_both_splits():
    options = {"episodes": 8, "frames": 10, "clip_length": 5, "validation_fraction": 0.25}
    data, again, other = (Room(seed=seed, **options) for seed in (4, 4, 5))
    for split in data.splits:
        first, second, third = (everything(room, split) for room in (data, again, other))
        assert torch.equal(first.x, second.x) and torch.equal(first.actions, second.actions)
        assert not torch.equal(first.x, third.x)
    assert everything(data, "train").x.shape == (12, 3, 5, 16, 16) and len(data.split("validation")) == 4
    walks = [{tuple(clip.flatten().tolist()) for clip in everything(data, split).x} for split in data.splits]
    assert len(walks[0]) == 12 and not walks[0] & walks[1]
    single = Room(seed=4, **options | {"clip_length": 0})
    assert torch.equal(everything(single, "train").x, everything(data, "train").x.movedim(1, 2).flatten(0, 1))


@pytest.mark.parametrize("size", [16, 28])
def test_frames_of_a_room_move_as_the_action_says(size):
    data = Room(episodes=16, frames=32, size=size, clip_length=32)
    quarter, seen = size // 4, torch.zeros(3)
    for split in data.splits:
        batch, poses = everything(data, split), data.recorded("pose", split)
        for clip, actions, pose in zip(batch.x, batch.actions, poses, strict=True):
            for t in range(1, 32):
                before, after, action = clip[:, t - 1], clip[:, t], data.action_names[actions[t]]
                seen[actions[t]] += 1
                if action == "right":
                    assert torch.equal(after[..., :-quarter], before[..., quarter:])
                elif action == "left":
                    assert torch.equal(after[..., quarter:], before[..., :-quarter])
                else:
                    angle = torch.deg2rad(pose[t, 2])
                    step = STEP * torch.stack([angle.cos(), angle.sin()])
                    assert torch.allclose(pose[t, :2] - pose[t - 1, :2], step, atol=1e-6)
                    assert pose[t, 2] == pose[t - 1, 2] and not torch.equal(before, after)
        assert poses[..., :2].abs().max() <= REACH + 1e-6
    assert (seen / seen.sum() > 0.1).all(), seen  # each action is taken: measured 0.38, 0.43, 0.19


def test_a_room_looks_like_one():
    """From its middle, facing the red east wall: walls as high as half the room is wide, ceiling above, floor below."""
    (frame,) = draw(np.zeros((1, 2)), np.array([0]), 64)
    assert (frame[:, 0] == np.array(CEILING)[:, None]).all() and (frame[:, -1] == np.array(FLOOR)[:, None]).all()
    ahead = frame[:, :, 32].T
    wall = (ahead != CEILING).any(1) & (ahead != FLOOR).any(1)
    assert wall.sum() == 32  # half the height at a distance of 1: rows reach from -2 to 2
    assert frame[0, 32].min() > frame[1:, 32].max()
    near = draw(np.array([[0.5, 0.0]]), np.array([0]), 64)[0, :, :, 32].T
    assert ((near != CEILING).any(1) & (near != FLOOR).any(1)).sum() == 64
    turned = draw(np.zeros((1, 2)), np.array([64]), 64)[0]
    assert turned[1, 32].min() > turned[[0, 2], 32].max()  # a quarter to the left: the green north wall


@pytest.mark.parametrize(("options", "message"), [
    ({"size": 18}, "data.size: expected a multiple of 4, found 18"),
    ({"frames": 0}, "data.frames: expected a number >= 1"),
    ({"episodes": 1}, "data.episodes: expected a number >= 2, found 1"), ({"clip_length": 65}, "data.clip_length"),
])
def test_wrong_settings_of_a_room_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Room(**options)


# Doom. The walks are tested without the engine; rendering requires the extra.


def walk_of(depth: np.ndarray, steps: int = 40, seed: int = 0) -> list[str]:
    choose = walker(doom.words(seed, np.arange(2 * steps + 2)))
    return [choose(depth) for _ in range(steps)]


def test_a_walker_turns_before_a_wall_to_the_open_side_and_walks_where_it_is_free():
    wall, free = np.full((DEPTH_SIZE, DEPTH_SIZE), 5, np.uint8), np.full((DEPTH_SIZE, DEPTH_SIZE), 60, np.uint8)
    for side, columns in (("left", slice(0, 7)), ("right", slice(14, 21))):
        corner = wall.copy()
        corner[:, columns] = 40
        assert walk_of(corner, 10) == [side] * 10
    # of 40 steps a tenth or less begin a turn, of 4.5 steps on average
    assert np.mean([walk_of(free, seed=seed).count("forward") for seed in range(50)]) > 20
    ahead_left = free // 4
    ahead_left[:, 3:6] = 60
    assert np.mean([walk_of(ahead_left, seed=seed).count("forward_left") for seed in range(50)]) > 20
    assert walk_of(free, seed=3) == walk_of(free, seed=3) != walk_of(free, seed=4)


def test_a_walker_leaves_a_dead_end():
    """Where it never sees a long way, it goes a short one after a turn, rather than turn for ever."""
    assert "forward" in walk_of(np.full((DEPTH_SIZE, DEPTH_SIZE), 9, np.uint8), 40)


@pytest.fixture(scope="module")
def walks(tmp_path_factory) -> Path:
    """Four short walks, never changed by a test."""
    if find_spec("vizdoom") is None:
        pytest.skip("the extra [video] is not installed")
    return generate_doom(tmp_path_factory.mktemp("doom") / "walks", 4, 24, 3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_walks_repeat_to_the_byte_and_each_by_itself(walks, tmp_path):
    assert contents(generate_doom(tmp_path / "again", 4, 24, 3)) == contents(walks)
    more = contents(generate_doom(tmp_path / "more", 6, 24, 3))
    episodes = {name: content for name, content in contents(walks).items() if "/" in name}
    assert {name: more[name] for name in episodes} == episodes and len(episodes) == 4 * 4
    other = contents(generate_doom(tmp_path / "other", 4, 24, 4))
    assert all(other[name] != content for name, content in episodes.items() if name.endswith("frames.npy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "more", "other"]  # no _vizdoom*, no halves
    assert not list(Path.cwd().glob("_vizdoom*"))


def test_walks_are_a_folder_of_frames(walks, load):
    data = load(walks, clip_length=8)
    assert data.classes == (PLACES,) and data.shape == (3, 8, SIZE, SIZE) and set(data.action_names) <= set(ACTIONS)
    assert data.recorded("depth", "train").shape == (9, 8, DEPTH_SIZE, DEPTH_SIZE)
    moved = {True: [], False: []}
    for split in data.splits:
        batch, poses = everything(data, split), data.recorded("pose", split)
        assert batch.x.double().std() > 10
        for actions, pose in zip(batch.actions, poses, strict=True):
            for t in range(1, 8):
                walks_on, degrees = ACTIONS[data.action_names[actions[t]]]
                turned = (pose[t, 2] - pose[t - 1, 2] + 180) % 360 - 180
                assert abs(float(turned) + doom.TICS * degrees) < 0.1  # clockwise is less
                moved[bool(walks_on)].append(float((pose[t, :2] - pose[t - 1, :2]).norm()))
    assert np.mean(moved[True]) > 2 * np.mean(moved[False])  # one who stops slides on for a little


def test_a_walk_that_ends_before_its_time_is_begun_anew(walks, tmp_path, monkeypatch):
    class Ended:
        """An engine whose game is over after the first step."""

        def __init__(self, game):
            self.game = game

        def __getattr__(self, name):
            return (lambda: True) if name == "is_episode_finished" else getattr(self.game, name)

    seen, walk = [], doom._walk

    def end_each_first(game, frames, draws):
        seen.append(walk(game if len(seen) % 2 else Ended(game), frames, draws))
        return seen[-1]

    monkeypatch.setattr(doom, "_walk", end_each_first)
    again = generate_doom(tmp_path / "walks", 4, 24, 3)
    assert [files is None for files in seen] == [True, False] * 4
    for path in walks.rglob("frames.npy"):
        other = np.load(again / path.relative_to(walks))
        assert other.shape == (24, SIZE, SIZE, 3) and not np.array_equal(other, np.load(path))


def test_walks_that_are_there_are_kept(walks, monkeypatch):
    monkeypatch.setattr(doom, "find_spec", lambda name: None)  # so that they could not be made
    assert generate_doom(walks, 4, 24, 3) == walks
    with pytest.raises(InputError, match=r"walks/manifest.json: expected .*'seed': 4.*, found .*'seed': 3"):
        generate_doom(walks, 4, 24, 4)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(InputError, match="expected a folder written by make_doom_data.py, or none, found another"):
        generate_doom(tmp_path, 4, 24, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_a_generation_that_fails_leaves_nothing(walks, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(doom, "_walk", fail)
    with pytest.raises(KeyboardInterrupt):
        generate_doom(tmp_path / "walks", 4, 24, 3)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(doom, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'neural-discrete-representations\[video\]'") as caught:
        generate_doom(tmp_path / "walks", 4, 24, 3)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("key", "value"), [("episodes", 1), ("frames", 0), ("seed", -1), ("seed", 2**31)])
def test_settings_of_a_generation_out_of_range_are_named(tmp_path, key, value):
    with pytest.raises(InputError, match=f"--{key}: expected [012] to [0-9]+, found {value}"):
        generate_doom(tmp_path / "walks", **{"episodes": 4, "frames": 24, "seed": 0} | {key: value})


def test_the_command_ends_in_one_line_where_it_cannot(tmp_path):
    command = [sys.executable, str(ROOT / "pipelines" / "make_doom_data.py"), "--folder", str(tmp_path / "x")]
    result = subprocess.run([*command, "--episodes", "0"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 2 and result.stderr == "error: --episodes: expected 2 to 10000, found 0\n"


# Video files.


def coloured(number: int, count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Frames (h, w, 3) of one colour each: red tells the file, green the frame, in steps that compression keeps."""
    return [np.full((height, width, 3), (40 + 60 * number, 20 * place, 100), np.uint8) for place in range(count)]


def save_video(path: Path, frames: list[np.ndarray], rate: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // rate)
        return path
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def places_of(x: torch.Tensor) -> list:
    """Of each frame (b, 3, [t,] h, w) of `coloured` its file and frame."""
    means = x.float().mean((-2, -1))[:, :2].movedim(1, -1)
    return torch.stack([(means[..., 0] - 40) / 60, means[..., 1] / 20], -1).round().int().tolist()


def test_video_files_are_episodes_without_actions(tmp_path, load):
    lengths = {"a.gif": 6, "b.mp4": 9, "c.mov": 4, "d.webm": 5}
    for number, (name, length) in enumerate(lengths.items()):
        save_video(tmp_path / "films" / name, coloured(number, length))
    data = load(tmp_path / "films", clip_length=4)
    assert data.kind == "video" and data.shape == (3, 4, 32, 48) and data.action_names == ()
    found = []
    for split in data.splits:
        batch = everything(data, split)
        assert batch.actions is None and everything(data, split, epoch=1).actions is None
        found += places_of(batch.x)
    assert sorted(found) == [[[number, begin + t] for t in range(4)] for number, begin in
                             ((0, 0), (1, 0), (1, 4), (2, 0), (3, 0))]
    frames = [places_of(everything(load(tmp_path / "films"), split).x) for split in data.splits]
    assert sum(map(len, frames)) == sum(lengths.values())


def test_frames_are_taken_at_a_rate_and_resized(tmp_path, load):
    for number, name in enumerate(("a.gif", "b.mp4")):
        save_video(tmp_path / "films" / "deep" / name, coloured(number, 12), rate=10)
    for rate, places in ((5, range(0, 12, 2)), (20, [t // 2 for t in range(24)]), (10, range(12))):
        data = load(tmp_path / "films", frame_rate_hz=rate, size=[8, 16])
        assert data.shape == (3, 8, 16)
        for split in data.splits:
            found = places_of(everything(data, split).x)
            assert [place for _, place in found] == list(places), (rate, split)
    assert load(tmp_path / "films", size=20).shape == (3, 20, 20)


def test_places_of_video_files_are_labels(tmp_path, load):
    for number, name in enumerate(("hall/a.gif", "maze/a.gif", "hall/b.gif", "maze/b.gif")):
        save_video(tmp_path / "films" / name, coloured(number % 2, 3))
    data = load(tmp_path / "films")
    assert data.classes == (("hall", "maze"),)
    for split in data.splits:
        batch = everything(data, split)
        assert batch.labels[:, 0].tolist() == [place for place, _ in places_of(batch.x)]


def test_videos_that_cannot_be_read_are_left_out_by_reason(tmp_path, load, capsys, monkeypatch):
    root = tmp_path / "films"
    for number in range(3):
        save_video(root / f"{number}.gif", coloured(number, 5))
    whole = save_video(root / "whole.mp4", coloured(0, 60)).read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "empty.webm").touch()
    (root / "text.mov").write_text("#EXTM3U\nfile:///etc/hostname\n")
    data = load(root, validation_fraction=0.4)
    assert sum(len(data.split(split)) for split in data.splits) == 3 * 5 + 60
    assert set(data.unreadable) == {str(root / name) for name in ("cut.mp4", "empty.webm", "text.mov")}
    assert "left out 3 of 7 videos, which cannot be read" in capsys.readouterr().err
    assert "images of 3x32x48; no labels; 75 frames of 4 episodes; no actions; left out: 3 unreadable videos" in (
        describe(data))
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    (root / "whole.mp4").write_bytes(whole + b"\0")
    assert "requires PyAV: pip install 'neural-discrete-representations[video]'" in load(
        root, validation_fraction=0.4).unreadable[str(root / "whole.mp4")]


def test_videos_of_several_sizes_are_refused_with_the_setting_that_resizes_them(tmp_path, load):
    save_video(tmp_path / "films" / "a.gif", coloured(0, 3))
    save_video(tmp_path / "films" / "b.gif", coloured(1, 3, 24, 24))
    with pytest.raises(InputError, match=r"b.gif: expected frames of 32x48 pixels .*, found 24x24; "
                                         r"data.size=\[32,48\] resizes them"):
        load(tmp_path / "films")
    assert load(tmp_path / "films", size=16).shape == (3, 16, 16)
