"""The commands end to end on video, on walks in the embedded room: frame by frame, and with time compressed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pipelines.api import load
from pipelines.data.codes import CodeData
from pipelines.data.room import Room
from pipelines.evaluation.video import fidelity
from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions
from pipelines.generation.continuation import predict
from pipelines.generation.walk import Walk
from pipelines.runs.chain import load_run
from pipelines.runs.store import Run
from pipelines.splits.noise import generator
from pipelines.splits.order import spread
from stage2_prior.sampling import sample

ROOM = {"episodes": 8, "frames": 16, "size": 12, "clip_length": 8, "validation_fraction": 0.25}
TINY = [
    *(f"data.{key}={value}" for key, value in ROOM.items()), "evaluate.context=4",
    "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4", "prior.channels=8", "prior.num_layers=1",
    "prior.num_temporal_layers=1", "prior.first_kernel_size=3", "prior.head_channels=16", "extract.views=2",
    "evaluate.predictions=3",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
      ("steps=6", "batch_size=2", "validate_every=3", "checkpoint_every=3", "log_every=2")),
]
SIZES = "hidden=8", "outer_hidden=8", "residual_hidden=4", "num_downsamplings=1"
PER_FRAME = ["experiment=room_video", *(f"autoencoder.encoder.network.{size}" for size in SIZES)]
HALVED = ["experiment=digits", "data=room", "autoencoder=video", "prior=gated_pixelcnn3d",
          *(f"autoencoder.encoder.{size}" for size in (*SIZES, "temporal_stride=2"))]
STAGES = {"frames": PER_FRAME, "halved": HALVED}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, command) -> Path:
    """Both kinds of run, never changed by a test."""
    folder = tmp_path_factory.mktemp("runs")
    for name, own in STAGES.items():
        for script in ("train_stage1", "extract_codes", "train_stage2"):
            command(script, *TINY, *own, f"run={name}", f"runs_dir={folder}")
    return folder


def frames_of(path: Path) -> list[np.ndarray]:
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(path))]


@pytest.mark.parametrize("name", STAGES)
def test_codes_come_with_the_actions_of_their_frames(runs, name):
    codes, room = CodeData(runs / name / "codes"), Room(**ROOM)
    covered = 2 if name == "halved" else 1
    assert codes.grid == (8 // covered, 6, 6)
    for split in room.splits:
        items = torch.arange(len(room.split(split)))
        local, actions = codes.split(split).batch(items).local, room.split(split).batch(items).actions
        assert local.shape == (len(items), 3 * covered, *codes.grid) and local.dtype == torch.float32
        assert (local == local[..., :1, :1]).all()
        one_hot = local[..., 0, 0].unflatten(1, (covered, 3)).argmax(2)  # (n, covered, t)
        assert torch.equal(one_hot.movedim(1, 2).flatten(1), actions)
    assert len(codes.split("train")) == 2 * len(room.split("train"))


@pytest.mark.parametrize("name", STAGES)
def test_a_prediction_keeps_its_context_and_depends_on_nothing_later(runs, name):
    loaded = load_run(Run(runs / name), CPU)
    stage1, stage2 = loaded.stage1, loaded.stage2
    batch = Room(**ROOM).split("validation").batch(torch.arange(4))
    context = batch.x[:, :, :4]
    made = predict(stage1, stage2, context, 8, batch.actions, batch.labels, seed=0, batch_size=3)
    assert made.shape == batch.x.shape and made.dtype == torch.uint8
    model = stage1.module
    assert torch.equal(made[:, :, :4], model.decode(model.encode(context)))
    other = batch.actions.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 3
    changed = predict(stage1, stage2, context, 8, other, batch.labels, seed=0, batch_size=4)
    assert torch.equal(changed[:, :, :6], made[:, :, :6]) and not torch.equal(changed, made)
    alone = predict(stage1, stage2, context[:1], 8, batch.actions[:1], batch.labels[:1], seed=0, batch_size=1)
    assert torch.equal(alone[0], made[0])
    assert not torch.equal(made, predict(stage1, stage2, context, 8, batch.actions, batch.labels, seed=1, batch_size=4))


@pytest.mark.parametrize("name", STAGES)
def test_a_walk_draws_the_frames_of_a_prediction(runs, name):
    """The same codes with the same seed, context and actions, for as long as a clip lasts."""
    loaded = load_run(Run(runs / name), CPU)
    stage1, stage2 = loaded.stage1, loaded.stage2
    room = Room(**ROOM)
    batch = room.split("validation").batch(torch.arange(1))
    made = predict(stage1, stage2, batch.x[:, :, :2], 8, batch.actions, batch.labels, seed=3, batch_size=1, top_p=0.9)
    if name == "halved":  # one key leads to two frames
        actions = batch.actions[:, ::2].repeat_interleave(2, 1)
        actions[:, :2] = batch.actions[:, :2]
        made = predict(stage1, stage2, batch.x[:, :, :2], 8, actions, batch.labels, seed=3, batch_size=1, top_p=0.9)
    walk = Walk(stage1, stage2, seed=3, top_p=0.9)
    frames = [walk.begin(batch.x[0, :, :2], batch.actions[0, :2])]
    frames += [walk.step(room.action_names[action]) for action in batch.actions[0, 2 :: walk.stride]]
    assert torch.equal(torch.cat(frames, 1), made[0])


@pytest.mark.parametrize("name", STAGES)
def test_a_walk_goes_on_beyond_a_clip_and_is_conditioned_on_its_window_alone(runs, name):
    """The next codes are those that the prior draws after the window, wherever a clip began."""
    loaded = load_run(Run(runs / name), CPU)
    stage1, stage2 = loaded.stage1, loaded.stage2
    walk, uniforms = Walk(stage1, stage2, seed=5), torch.from_numpy(generator(5, 0).random((20, 6, 6)))
    assert walk.window == 2 < stage2.grid[0]
    names = Room(**ROOM).action_names
    chosen = [0, 1, 1, 0, 2, 0, 0, 1, 2, 2, 0, 1, 0, 1, 2, 0, 0, 1, 2, 0]
    frames, codes = [], []
    for action in chosen:
        frames.append(walk.step(names[action]))
        codes.append(walk.codes[:, -1:])
    assert {tuple(frame.shape) for frame in frames} == {(3, walk.stride, 12, 12)}
    codes, actions = torch.cat(codes, 1), torch.tensor([chosen]).repeat_interleave(walk.stride, 1)
    local = local_actions(actions, 3, 20).expand(-1, -1, -1, 6, 6).float()
    whole = sample(stage2.module, uniforms[None], local=local)
    assert torch.equal(whole, codes), "no frame further back is seen"
    for forgotten, same in ((17, True), (18, False), (19, False)):  # 20 is to be drawn; 18 and 19 are its window
        changed = codes.clone()
        changed[:, forgotten] = (changed[:, forgotten] + 1) % 16
        logits = [stage2.module(torch.cat([own, own[:, :1]], 1), local=torch.cat([local, local[:, :, :1]], 2))[:, :, 20]
                  for own in (codes, changed)]
        assert torch.equal(*logits) == same


def test_a_walk_refuses_actions_and_contexts_that_do_not_fit(runs):
    loaded, clip = load_run(Run(runs / "halved"), CPU), Room(**ROOM).split("validation").batch(torch.arange(1))
    walk = Walk(loaded.stage1, loaded.stage2)
    with pytest.raises(InputError, match="^context: expected a multiple of 2 frames, .*, found 3$"):
        walk.begin(clip.x[0, :, :3], clip.actions[0, :3])
    for action, found in ((None, "None"), ("back", "'back'")):
        with pytest.raises(InputError, match=f"^action: expected one of forward, left, right, found {found}$"):
            walk.step(action)
    with pytest.raises(InputError, match="^sampling: temperature: "):
        Walk(loaded.stage1, loaded.stage2, temperature=-1.0).step("left")


@pytest.mark.parametrize("name", STAGES)
def test_hidden_frames_and_regions_are_filled(runs, name, tmp_path):
    run, clip = load(runs / name, "cpu"), Room(**ROOM).split("validation").batch(torch.tensor([1])).x[0]
    filled = run.sample(2, complete=clip, mask="4-6", particles=3, seed=1)
    assert torch.equal(filled.x[:, :, :4], clip[None, :, :4].expand(2, -1, -1, -1, -1))
    assert torch.equal(filled.x[:, :, 6:], clip[None, :, 6:].expand(2, -1, -1, -1, -1))
    assert not torch.equal(filled.x[0, :, 4:6], clip[:, 4:6])
    assert filled.save(tmp_path / "out").exists() and (tmp_path / "out" / "candidates.csv").exists()
    region = torch.zeros(12, 12, dtype=torch.bool)
    region[:6] = True
    filled = run.sample(1, complete=clip, mask=region, particles=3)
    assert torch.equal(filled.x[0, :, :, 6:], clip[:, :, 6:])
    with pytest.raises(InputError, match="^mask: expected whole frames, found 1.5-3$"):
        run.sample(1, complete=clip, mask="1.5-3")
    with pytest.raises(InputError, match="^mask: expected the frames to fill"):
        run.sample(1, complete=clip)


def test_a_context_that_ends_within_a_frame_of_codes_is_refused(runs):
    loaded = load_run(Run(runs / "halved"), CPU)
    stage1, stage2 = loaded.stage1, loaded.stage2
    batch = Room(**ROOM).split("validation").batch(torch.arange(1))
    for context, frames, name in ((3, 8, "context"), (4, 7, "context and prediction")):
        found = 3 if context == 3 else 7
        with pytest.raises(InputError, match=f"^{name}: expected a multiple of 2 frames, .*, found {found}$"):
            predict(stage1, stage2, batch.x[:, :, :context], frames, batch.actions[:, :frames], batch.labels, 0, 1)


def test_clips_are_scored_under_given_actions(runs, tmp_path, command):
    clips = Room(**ROOM).split("validation").batch(torch.arange(2))
    for number in range(2):
        np.save(tmp_path / f"clip{number}.npy", clips.x[number].movedim(0, -1).numpy())
    recorded = "\n".join(Room(**ROOM).action_names[number] for number in clips.actions[0].tolist())
    (tmp_path / "turns.txt").write_text(recorded)
    run = ["score", "--run", str(runs / "frames"), "--out", str(tmp_path / "out"), "--held-out", "4"]
    refused = command(*run, "--input", str(tmp_path), check=False)
    assert refused.returncode == 2 and "error: --actions: expected one of " in refused.stderr
    command(*run, "--input", str(tmp_path), "--actions", str(tmp_path / "turns.txt"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"scores.csv", "overview.png"} <= names and len([name for name in names if name.endswith(".gif")]) == 2
    loaded = load_run(Run(runs / "frames"), CPU)
    codes = loaded.stage1.module.encode(clips.x[:1])
    local = local_actions(clips.actions[:1], 3, codes.shape[1]).float().expand(-1, -1, *codes.shape[1:])
    assert not loaded.stage2.condition_on
    expected = -float(loaded.stage2.module.log_prob(codes, local=local)) / np.log(2)
    (row,) = [line.split(",") for line in (tmp_path / "out" / "scores.csv").read_text().splitlines()
              if line.startswith("clip0")]
    assert float(row[1]) == pytest.approx(expected, rel=1e-4)
    assert row[8], "percentiles among held-out clips under their own actions"


def test_predict_video_writes_a_gif_and_a_strip_of_each_clip(runs, tmp_path, command):
    (tmp_path / "turns.txt").write_text("left\nright\nright\nleft\nforward\n")
    result = command("predict_video", "--run", str(runs / "frames"), "--n", "2", "--context", "3", "--frames", "5",
                     "--actions", "recorded", "right", str(tmp_path / "turns.txt"), "--out", str(tmp_path / "out"))
    assert "2 clips, 5 frames after 3" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".written-by-predict", "00000.gif", "00000.png", "00001.gif", "00001.png", "predictions.png"]
    strips = [np.asarray(Image.open(tmp_path / "out" / f"0000{number}.png")) for number in range(2)]
    assert np.array_equal(np.concatenate(strips), np.asarray(Image.open(tmp_path / "out" / "predictions.png")))
    clip = Room(**ROOM).clips("validation", 8).batch(torch.tensor([0])).x[0]
    factor = -(-600 // (8 * 12))
    picture = clip.repeat_interleave(factor, 2).repeat_interleave(factor, 3).numpy()  # c t h w
    size = 12 * factor
    for t in range(8):  # the recorded frames, from the right
        left = strips[0].shape[1] - (8 - t) * (size + 4)
        assert np.array_equal(strips[0][4 : 4 + size, left : left + size], picture[:, t].transpose(1, 2, 0))
    pictures = frames_of(tmp_path / "out" / "00000.gif")
    assert len(pictures) == 8 and len({picture.tobytes() for picture in pictures}) > 4
    again = tmp_path / "again"
    command("predict_video", "--run", str(runs / "frames"), "--n", "2", "--context", "3", "--frames", "5", "--actions",
            "recorded", "right", str(tmp_path / "turns.txt"), "--out", str(again), "--batch-size", "1")
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize(("flags", "message"), [
    (["--actions", "up"], "--actions: expected one of forward, left, right, or a file of them, found 'up'"),
    (["--context", "0"], "--context: expected a number >= 1, found 0"),
    (["--context", "12"], "clips: expected 1 to 16 frames, the longest validation episode, found 22"),
    (["--seed", "-1"], "--seed: expected an integer from 0 to 9223372036854775807, found -1"),
])
def test_predict_video_refuses_bad_input_in_a_line(runs, tmp_path, command, flags, message):
    out = tmp_path / "out"
    result = command("predict_video", "--run", str(runs / "frames"), "--out", str(out), *flags, check=False)
    assert result.returncode == 2 and result.stderr.splitlines()[-1] == f"error: {message}" and not out.exists()


def test_predict_video_refuses_a_run_on_pictures(tiny_run, command):
    result = command("predict_video", "--run", str(tiny_run), check=False)
    assert result.returncode == 2
    assert result.stderr == f"error: {tiny_run}: expected a run on video, found one on image\n"


def test_samples_are_told_recorded_actions_or_one(runs, tmp_path, command):
    def sampled(name: str, *flags: str) -> list[np.ndarray]:
        command("sample", "--run", str(runs / "halved"), "--out", str(tmp_path / name), "--n", "3", *flags)
        assert Image.open(tmp_path / name / "grid.png").size[0] > 600
        paths = sorted((tmp_path / name).glob("0*.gif"))
        assert len(paths) == 3
        return [np.stack(frames_of(path)) for path in paths]

    plain = sampled("plain")
    forward, right = (sampled(name, "--actions", name) for name in ("forward", "right"))
    assert all(len(clip) == 8 for clip in plain)
    assert not all(np.array_equal(a, b) for a, b in zip(forward, right))
    for one, other in zip(plain, sampled("again", "--batch-size", "2")):
        assert np.array_equal(one, other)


def test_a_run_without_its_codes_must_be_told_the_actions(runs, tmp_path, command):
    shutil.copytree(runs / "frames", tmp_path / "run", ignore=shutil.ignore_patterns("codes"))
    command("sample", "--run", str(tmp_path / "run"), "--n", "1", "--actions", "left")
    result = command("sample", "--run", str(tmp_path / "run"), "--n", "1", check=False)
    assert result.returncode == 2 and "--actions: expected NAME or FILE for a run without its codes" in result.stderr


def test_actions_are_refused_for_pictures(tiny_run, command):
    result = command("sample", "--run", str(tiny_run), "--actions", "left", check=False)
    assert result.returncode == 2 and "--actions: expected a run on video," in result.stderr


@pytest.fixture(scope="module")
def without_actions(tmp_path_factory, command) -> tuple[Path, list[str]]:
    """A run on four GIFs of 8 to 11 frames, with the arguments of its commands: both stages, without actions."""
    folder = tmp_path_factory.mktemp("gifs")
    room = Room(**ROOM | {"clip_length": 0}).split("train").batch(torch.arange(44)).x.movedim(1, 3).numpy()
    for number, start in enumerate((0, 11, 22, 33)):
        frames = [Image.fromarray(frame) for frame in room[start : start + 8 + number]]
        frames[0].save(folder / f"{number}.gif", save_all=True, append_images=frames[1:], duration=50)
    arguments = [*(own for own in TINY if not own.startswith("data.")), *PER_FRAME, "data=frames_folder", "run=gifs",
                 f"data.root={folder}", f"data.cache={folder / 'cache'}", "~data.episodes",
                 "data.size=12", "data.clip_length=4", "evaluate.context=2", f"runs_dir={folder / 'runs'}"]
    for script in ("train_stage1", "extract_codes", "train_stage2"):
        command(script, *arguments)
    return folder / "runs" / "gifs", arguments


@pytest.mark.slow  # seven commands
def test_video_without_actions_trains_samples_predicts_and_evaluates(without_actions, command, tmp_path):
    run, arguments = without_actions
    assert CodeData(run / "codes").split("train").local is None
    command("sample", "--run", str(run), "--n", "2", "--out", str(tmp_path / "samples"))
    assert len(list((tmp_path / "samples").glob("*.gif"))) == 2
    command("predict_video", "--run", str(run), "--n", "1", "--context", "2", "--frames", "3", "--out",
            str(tmp_path / "predictions"))
    assert len(frames_of(tmp_path / "predictions" / "00000.gif")) == 5
    result = command("evaluate", *arguments, "evaluate.actions=[left]")
    found = json.loads((run / "metrics.json").read_text())["video"]
    assert found["shift_columns"] == found["shift_columns_recorded"] == {} and len(found["prediction_psnr_db"]) == 2
    assert "note: evaluate.actions: left are not measured" in result.stderr
    assert "predicted: PSNR, dB" in result.stdout


@pytest.mark.parametrize("name", STAGES)
def test_clips_are_compressed_with_their_actions(runs, name):
    run, batch = load(runs / name, "cpu"), Room(**ROOM).split("validation").batch(torch.arange(3))
    assert torch.equal(run.decompress(run.compress(batch.x, actions=batch.actions)), run.reconstruct(batch.x))
    assert torch.equal(run.decompress(run.compress(batch.x, actions="forward", lossless=True), [1]), batch.x[1:2])
    with pytest.raises(InputError, match="actions: expected those of the clips"):
        run.compress(batch.x)
    with pytest.raises(InputError, match=r"actions: expected int64 \(3, 8\) from 0 to 2, found torch.int64 \(3, 4\)"):
        run.compress(batch.x, actions=batch.actions[:, :4])


def test_video_files_are_compressed_and_come_back_exactly_or_as_reconstructions(without_actions, command, tmp_path):
    run, source = without_actions[0], tmp_path / "clips"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.gif").write_bytes((run.parent.parent / f"{number}.gif").read_bytes())
    (source / "cut.gif").write_bytes((source / "0.gif").read_bytes()[:60])
    for flags, suffix in (((), "gif"), (("--lossless",), "npy")):
        file = str(tmp_path / f"{suffix}.ndc")
        result = command("compress", "--run", str(run), "--input", str(source), "--out", file, *flags)
        assert "3 items in " in result.stdout and "cut.gif" in result.stderr
        command("decompress", "--run", str(run), "--input", file, "--out", str(tmp_path / suffix))
        assert {path.name for path in (tmp_path / suffix).glob(f"*.{suffix}")} == {f"{n}.{suffix}" for n in range(3)}
    frames = np.stack(frames_of(source / "1.gif")[:4])
    assert np.array_equal(np.load(tmp_path / "npy" / "1.npy"), frames)


def test_the_door_reads_the_first_frames_of_a_video_file(without_actions, tmp_path):
    run, door = without_actions[0], load(without_actions[0])
    path = run.parent.parent / "2.gif"
    frames = np.stack(frames_of(path)[:4])
    assert torch.equal(door.encode(path), door.encode(frames)) and door.score([path]).bits.shape == (1,)
    (tmp_path / "a.gif").write_bytes(path.read_bytes()[:50])
    for name, message in (("a.gif", "expected a video file, found one that cannot be read"),
                          ("b.mp4", "expected a video file, found one that cannot be read")):
        with pytest.raises(InputError, match=message):
            door.encode(tmp_path / name)


@pytest.mark.parametrize(("script", "flag"), [("sample", "--actions=left"), ("predict_video", "--actions=left")])
def test_actions_are_refused_for_video_without_actions(without_actions, command, tmp_path, script, flag):
    run, _ = without_actions
    result = command(script, "--run", str(run), "--out", str(tmp_path / "out"), flag, check=False)
    assert result.returncode == 2 and "--actions: expected a run on video with actions, found one" in result.stderr


@pytest.mark.parametrize("name", STAGES)
def test_evaluation_measures_predictions_and_motion(runs, tmp_path, command, name):
    shutil.copytree(runs / name, tmp_path / name)
    table = command("evaluate", *TINY, *STAGES[name], f"run={name}", f"runs_dir={tmp_path}",
                    "evaluate.actions=[left,right]", "evaluate.prediction_temperature=0.5",
                    "evaluate.prediction_samples=2").stdout
    figures = json.loads((tmp_path / name / "metrics.json").read_text())
    assert figures["copies"]["codes"]["share"] <= 1 and (tmp_path / name / "figures" / "nearest.png").is_file()
    found, codes = figures["video"], figures["codes"]
    assert (found["clips"], found["context"], found["frames"], found["temperature"]) == (3, 4, 4, 0.5)
    for way in ("prediction", "mean", "last_frame", "reconstruction"):
        assert len(found[f"{way}_psnr_db"]) == len(found[f"{way}_ssim"]) == 4
    assert list(found["shift_columns"]) == ["left", "right"]
    assert list(found["shift_columns_recorded"]) == ["forward", "left", "right"] and 0 < codes["prior_bits"] < 5
    assert figures["bits_per_dim"]["rate_prior"] == pytest.approx(
        codes["codes_per_example"] * codes["prior_bits"] / (8 * 12 * 12 * 3), rel=1e-4)
    split, loaded = Room(**ROOM).split("validation"), load_run(Run(tmp_path / name), CPU)
    batch = split.batch(spread(3, len(split)))
    twice = [torch.cat([own, own]) for own in (batch.x[:, :, :4], batch.actions, batch.labels)]
    drawn = predict(loaded.stage1, loaded.stage2, twice[0], 8, *twice[1:], 0, 8, temperature=0.5)
    assert found["prediction_psnr_db"] == pytest.approx(fidelity(drawn[:3], batch, 4)["psnr_db"], rel=1e-5)
    mean = torch.stack([drawn[:3], drawn[3:]]).double().mean(0).round().to(torch.uint8)
    assert found["mean_psnr_db"] == pytest.approx(fidelity(mean, batch, 4)["psnr_db"], rel=1e-5)
    assert found["mean_psnr_db"] != found["prediction_psnr_db"] and found["samples"] == 2
    # the last frame repeated, by hand
    x = batch.x.double()
    error = (x[:, :, 4:] - x[:, :, 3:4]).square().mean((0, 1, 3, 4))
    assert found["last_frame_psnr_db"] == pytest.approx((10 * torch.log10(255**2 / error)).tolist(), rel=1e-4)
    for path in re.findall(r"\S+\.png", table):
        assert Path(path).is_file()
    for words in ("predicted: PSNR, dB", "mean of predictions: PSNR, dB",
                  "last frame repeated: SSIM", "columns per frame to the right: right",
                  "  frame by frame"):
        assert words in table


@pytest.mark.parametrize(("override", "message"), [
    ("evaluate.context=8", "evaluate.context: expected 1 to 7, of clips of 8 frames, found 8"),
    ("evaluate.actions=[up]",
     "evaluate.actions: expected names among forward, left, right, or null for all of them, found 'up'"),
    ("evaluate.predictions=-1", "evaluate.predictions: expected an integer >= 0, found -1"),
    ("evaluate.prediction_temperature=-1",
     "evaluate.prediction_temperature: expected a finite number >= 0, found -1"),
    ("evaluate.samples=-1", "evaluate.samples: expected an integer >= 0, found -1"),
    ("evaluate.batch_size=0", "evaluate.batch_size: expected an integer >= 1, found 0"),
])
def test_evaluation_refuses_bad_settings_in_a_line(runs, command, override, message):
    result = command("evaluate", *TINY, *PER_FRAME, "run=frames", f"runs_dir={runs}", override, check=False)
    assert result.returncode == 2 and result.stderr.splitlines()[-1] == f"error: {message}"
    assert not (runs / "frames" / "metrics.json").exists()


def test_a_clip_that_ends_as_it_began_leaves_the_figures_finite():
    x = torch.zeros(2, 3, 4, 12, 12, dtype=torch.uint8)
    x[1, :, 3] = 100
    batch = Room(**ROOM).split("train").batch(torch.arange(2))._replace(x=x)
    steps = fidelity(x[:, :, :1].expand_as(x), batch, context=2)
    assert steps["psnr_db"][1] == pytest.approx(10 * np.log10(255**2 / 5000)) and steps["ssim"][0] == 1


@pytest.mark.parametrize(("number", "total", "items"), [(3, 9, [0, 3, 6]), (4, 6, [0, 1, 3, 4]), (9, 2, [0, 1])])
def test_chosen_items_are_spread_over_all(number, total, items):
    assert spread(number, total).tolist() == items
