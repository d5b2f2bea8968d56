"""Five training steps of each task under `torch.cuda.set_sync_debug_mode("error")`: none may wait for the GPU.

The commands themselves run, in this process; the mode is set while steps 6 to 10 of 14 run, between which nothing is
logged. Where a step does wait, a second run under "warn" lists every place and how often it was passed. The mode sees
copies that block, `item()`, `nonzero` and the like; an upload from pageable memory only where CUDA reports it.
"""

import collections
import warnings

import torch

from benchmarks.gpu_check import report
from benchmarks.gpu_check.parts import audio, chain, components, digits, video
from benchmarks.gpu_check.recorder import Recorder, expect, missing
from benchmarks.gpu_check.verbs import call_verb, on_device, settings

NEEDS = digits.NEEDS
STEPS, FIRST, LAST = 14, 6, 10


def main(recorder: Recorder) -> None:
    tasks = {"images": images(recorder), "images with augmentation": [*images(recorder), "data.pad=1", "run=padded"],
             "audio": sound(recorder), "video": clips(recorder), "codes of frames": frames(recorder),
             "codes of codes": codes_of_codes(recorder)}
    if lacking := missing(audio.NEEDS):
        recorder.record("audio", report.SKIPPED, note=f"needs {', '.join(lacking)}")
        del tasks["audio"]
    for name, overrides in tasks.items():
        with recorder.check(f"{name}, stage 1: no synchronisation in a step") as found:
            without_waiting(recorder, "train_stage1", overrides, found)
        with recorder.check(f"{name}: extraction"):
            call_verb("extract_codes", overrides)
        with recorder.check(f"{name}, stage 2: no synchronisation in a step") as found:
            without_waiting(recorder, "train_stage2", overrides, found)
    for stage, verb in (("stage1", "train_stage1"), ("stage2", "train_stage2")):
        with recorder.check(f"images, {stage} as a CUDA graph: no synchronisation in a step") as found:
            without_waiting(recorder, verb, recorded(recorder, stage), found)
    for name in components.BOTTLENECKS:
        with recorder.check(f"bottleneck {name}, stage 1: no synchronisation in a step") as found:
            without_waiting(recorder, "train_stage1", [*images(recorder)[:-len(digits.TINY)], f"run={name}",
                                                       f"autoencoder/bottleneck={name}"], found)


def common(recorder: Recorder, run: str) -> list[str]:
    return [f"runs_dir={recorder.work}", f"run={run}", *on_device(recorder), *settings(
        steps=STEPS, batch_size=8, validate_every=STEPS, checkpoint_every=STEPS, log_every=STEPS)]


def images(recorder: Recorder) -> list[str]:
    return ["experiment=digits", *common(recorder, "digits"), *digits.TINY]


def recorded(recorder: Recorder, stage: str) -> list[str]:
    """The update of step 4 is recorded, and replayed from then on."""
    folder = recorder.work / "recorded"
    folder.mkdir(exist_ok=True)
    if stage == "stage2":
        (folder / "codes").symlink_to(recorder.work / "digits" / "codes")
    return [*images(recorder), "run=recorded", f"{stage}.cuda_graph=true"]


def sound(recorder: Recorder) -> list[str]:
    return ["experiment=fsdd", *common(recorder, "tones"), *audio.TINY, f"data.root={recorder.inputs / 'fsdd'}",
            f"data.cache={recorder.work / 'cache'}", "data.crop=512", "data.length=1024", "data.workers=1",
            "data.validation_fraction=0.2"]


def clips(recorder: Recorder) -> list[str]:
    return ["experiment=room_video", *common(recorder, "clips"), *video.ROOM, *video.TINY,
            *(f"autoencoder.encoder.network.{width}" for width in video.WIDTHS)]


def frames(recorder: Recorder) -> list[str]:
    return ["experiment=doom", "data=room", "data.episodes=8", "data.frames=12", "data.size=24",
            *common(recorder, "bottom"), *chain.BOTTOM, *chain.PRIOR]


def codes_of_codes(recorder: Recorder) -> list[str]:
    return ["experiment=doom_3codes", f"data.run={recorder.work}/bottom", "autoencoder.bottleneck.num_codes=8",
            *common(recorder, "top"), *chain.TOP, *chain.PRIOR]


def without_waiting(recorder: Recorder, verb: str, overrides: list[str], found) -> None:
    """Raises RuntimeError, with what CUDA says and the places under "warn", where one of the five steps waits."""
    try:
        under_mode("error", verb, overrides)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        places = under_mode("warn", verb, in_another_folder(recorder, verb, overrides))
        total = sum(places.values())
        found.value(total / (LAST - FIRST + 1), "a step")
        listed = "; ".join(f"{place} {count}" for place, count in places.most_common())
        raise RuntimeError(f"{total} synchronisations in {LAST - FIRST + 1} steps: {listed}") from error
    found.note(f"0 in {LAST - FIRST + 1} steps")


def in_another_folder(recorder: Recorder, verb: str, overrides: list[str]) -> list[str]:
    """The same training as a new run; a prior's codes are those that were extracted."""
    run = [override for override in overrides if override.startswith("run=")][-1].removeprefix("run=")
    warned = recorder.work / "warned" / verb
    if verb == "train_stage2":
        (warned / run).mkdir(parents=True)
        (warned / run / "codes").symlink_to(recorder.work / run / "codes")
    return [*overrides, f"runs_dir={warned}"]


def under_mode(mode: str, verb: str, overrides: list[str]) -> collections.Counter:
    """Runs a training with the mode set around its middle steps; returns the places of warnings, counted.

    The loop seeds the generator at the start of each step: that is where the mode changes."""
    from pipelines.training import loop

    plain, seen, set_mode = loop.seed_step, [], torch.cuda.set_sync_debug_mode

    def seed_step(seed: int, step: int) -> None:
        seen.append(step)
        if step == FIRST:
            set_mode(mode)
        elif step == LAST + 1:  # its batch was made under the mode too
            set_mode("default")
        plain(seed, step)

    loop.seed_step = seed_step
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call_verb(verb, overrides)
    finally:
        loop.seed_step = plain
        set_mode("default")
    expect({FIRST, LAST + 1} <= set(seen), f"expected steps {FIRST} and {LAST + 1} to be seeded, found {seen}")
    own = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return collections.Counter("/".join(warning.filename.split("/")[-2:]) + f":{warning.lineno}" for warning in own)
