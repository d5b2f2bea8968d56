"""New pictures, sounds or videos by ancestral sampling: prior -> codes -> decoder, of a run on codes -> its parent's.

    python pipelines/sample.py --n 64                                # the run whose stage 2 was trained last
    python pipelines/sample.py --run pretrained/mnist --label digit=7 --temperature 0.9 --seed 1
    python pipelines/sample.py --complete half-a-digit.png           # keeps the upper half, draws the rest
    python pipelines/sample.py --run pretrained/fsdd --label digit=7 --label speaker=theo --seconds 0.5
    python pipelines/sample.py --run runs/room_video --n 8 --actions forward

A VAE needs no prior: its latents come from N(0, I), its standard deviations times --temperature.

Writes single pictures and one grid of them; or wav files, and one picture of their waves and spectrograms; or a GIF of
each video, and one picture of their frames, row by row. Videos are told --actions, else those of training clips.
Sample i depends on --seed and i alone, not on --n or --batch-size.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from pipelines.commands.flags import add_run_flags, add_truncation_flags, check_flags, truncation
from pipelines.data.codes import CodeData
from pipelines.data.manifest import MANIFEST
from pipelines.data.pictures import load_pictures
from pipelines.files.errors import InputError, one_line_errors
from pipelines.generation.actions import local_actions, wanted_actions
from pipelines.generation.labels import parse_labels, told_names
from pipelines.generation.samples import Samples, generate, generate_vae
from pipelines.media.audio import spectrograms, write_wav
from pipelines.media.images import clip_frames, image_grid, write_gif, write_image
from pipelines.runs.chain import load_run
from pipelines.runs.find import chosen_run
from pipelines.runs.store import Run, TrainedStage
from pipelines.training.distributed import choose_device
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.bottlenecks.gaussian import Gaussian

SHOWN = 8  # sounds in the picture


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="New pictures, sounds or videos from a trained run.")
    parser.add_argument("--n", type=int, default=64, help="how many")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS",
                        help="condition on a class (repeatable); labels not given are drawn as often as in training")
    add_truncation_flags(parser)
    parser.add_argument("--complete", type=Path, metavar="PICTURE", help="keep its upper part, draw what is below")
    parser.add_argument("--keep", type=float, default=0.5, help="with --complete: the share of rows to keep")
    parser.add_argument("--seconds", type=float, help="of sounds: how long (default: as training clips of these labels)")
    parser.add_argument("--actions", metavar="NAME_OR_FILE",
                        help="of video: one action throughout, or a file with one a line (default: of training clips)")
    add_run_flags(parser, "RUN/samples", "of what is drawn (default: 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    check_flags(arguments)
    device = choose_device(arguments.device)
    run = chosen_run(arguments.run, arguments.runs_dir)
    out = arguments.out or run.samples
    loaded = load_run(run, device)
    stage1, stage2, parents = loaded.stage1, loaded.stage2, loaded.parents
    if not isinstance(stage1.module.bottleneck, Quantizer):
        sample_vae(stage1, arguments, out, device)
        return
    if stage2 is None:
        raise InputError(f"{run.stage2}: expected a trained stage 2, found no checkpoint; train it first: make stage2")
    example = stage1.config["example"]
    for flag, kind in (("seconds", "audio"), ("complete", "image"), ("actions", "video")):
        if getattr(arguments, flag) is not None and example["kind"] != kind:
            raise InputError(f"--{flag}: expected a run on {kind} data, found {run.root} on {example['kind']}")
    wanted = parse_labels(arguments.label, told_names(stage1, stage2))
    known = known_codes(arguments, stage1, stage2, device) if arguments.complete else None
    actions = told_actions(arguments.actions, run, stage1, stage2) if example["kind"] == "video" else None
    print(f"sampling {arguments.n} from {run.root} (prior of step {stage2.state.step})")

    start = time.monotonic()
    made = generate(stage1, stage2, arguments.n, arguments.seed, arguments.batch_size, device, wanted, known,
                    arguments.seconds, parents, actions, **truncation(arguments))
    seconds = time.monotonic() - start

    out.mkdir(parents=True, exist_ok=True)
    picture = write_sounds(out, made, stage1) if example["kind"] == "audio" else write_pictures(out, made.x)
    print(f"{arguments.n} samples in {seconds:.1f} s: {picture}")


def sample_vae(stage1: TrainedStage, arguments: argparse.Namespace, out: Path, device: torch.device) -> None:
    """Latents from N(0, I), the prior of training. Raises InputError for flags of a prior over codes, and for latents
    that have no prior."""
    if not isinstance(bottleneck := stage1.module.bottleneck, Gaussian):
        raise InputError(f"{stage1.step_folder.parents[1]}: expected codes or Gaussian latents, found "
                         f"{type(bottleneck).__name__}: there is no distribution to sample from")
    for flag in ("label", "top_k", "top_p", "complete", "seconds", "actions"):
        if getattr(arguments, flag) not in (None, []):
            raise InputError(f"--{flag.replace('_', '-')}: expected a run with codes, found {stage1.step_folder}")
    if not arguments.temperature >= 0:
        raise InputError(f"--temperature: expected 0 or more, found {arguments.temperature}")
    images = generate_vae(stage1, arguments.n, arguments.seed, arguments.batch_size, device, arguments.temperature)
    out.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.n} samples of N(0, I) with {stage1.step_folder}: {write_pictures(out, images)}")


def told_actions(wanted: str | None, run: Run, stage1: TrainedStage, stage2: TrainedStage) -> Tensor:
    """What samples of video are told, one clip's for each row: what is wanted, else those of the training clips."""
    codes, example = stage2.config["codes"], stage1.config["example"]
    if wanted is not None:
        actions = wanted_actions(wanted, example["facts"]["action_names"], codes["shape"][1])
        return local_actions(actions[None], len(example["facts"]["action_names"]), codes["grid"][0])
    if not (run.codes / MANIFEST).exists():
        raise InputError(f"--actions: expected NAME or FILE for a run without its codes, {run.codes}, found none")
    return CodeData(run.codes).split("train").local


def write_pictures(out: Path, images: Tensor) -> Path:
    """Each as a file, and all in a grid, which is named; of videos (n, c, t, h, w) a row each."""
    if images.ndim == 5:
        for number, clip in enumerate(images):
            write_gif(out / f"{number:05d}.gif", {f"sample {number}": clip}, context=0)
        write_image(out / "grid.png", image_grid(clip_frames(images), columns=images.shape[2]))
        return out / "grid.png"
    for number, image in enumerate(images):
        write_image(out / f"{number:05d}.png", image)
    write_image(out / "grid.png", image_grid(images))
    return out / "grid.png"


def write_sounds(out: Path, made: Samples, stage1: TrainedStage) -> Path:
    """Each as a wav file named by its labels, and the first ones in a picture, which is named."""
    example, captions = stage1.config["example"], []
    classes, rate = dict(zip(example["label_names"], example["classes"])), example["facts"]["sample_rate_hz"]
    for number, (wave, length) in enumerate(zip(made.x[:, 0], made.lengths.tolist(), strict=True)):
        words = [classes[name][made.label(name)[number]] for name in made.label_names]
        captions.append(" ".join(words))
        write_wav(out / f"{'-'.join([f'{number:05d}', *words])}.wav", wave[:length], rate)
    waves = [wave[:length] for wave, length in zip(made.x[:SHOWN, 0], made.lengths.tolist())]
    spectrograms(out / "spectrograms.png", waves, captions[:SHOWN], rate)
    return out / "spectrograms.png"


def known_codes(arguments, stage1: TrainedStage, stage2: TrainedStage, device: torch.device) -> Tensor:
    """The codes of the upper rows of a picture, -1 below, for each of the samples: int64 (n, *grid[, g])."""
    if not 0 <= arguments.keep <= 1:
        raise InputError(f"--keep: expected a share between 0 and 1, found {arguments.keep}")
    _, picture = load_pictures([arguments.complete], tuple(stage2.config["codes"]["shape"]))
    codes = stage1.module.encode(picture.to(device))
    codes[:, round(arguments.keep * codes.shape[1]) :] = -1
    return codes.expand(arguments.n, *codes.shape[1:])


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
