"""What comes next: held-out clips of video continued in the space of codes, as actions say.

    python pipelines/predict_video.py --run runs/room_video --context 6 --frames 10 --actions forward
    python pipelines/predict_video.py --run runs/doom_video --actions recorded forward right FILE

The frames of the context are encoded; the prior draws the codes of those that follow, told the recorded actions, or one
action throughout, or those of a file, one a line; the decoder sees the codes alone (arXiv 1711.00937, section 4.4).

Writes for each clip a GIF and a strip of its frames, a row for each of --actions below the recorded clip, and all
strips in one picture. Clip i depends on --seed, on its number and on what it continues.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from pipelines.commands.flags import add_data_flag, add_run_flags, add_truncation_flags, check_flags, truncation
from pipelines.evaluation.measured import spread
from pipelines.files.errors import InputError, one_line_errors
from pipelines.generation.actions import RECORDED, wanted_actions
from pipelines.generation.continuation import predict
from pipelines.media.images import frame_strip, write_gif, write_image
from pipelines.runs.chain import load_run
from pipelines.runs.data import load_data
from pipelines.runs.find import chosen_run
from pipelines.training.distributed import choose_device


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Continues held-out clips with a trained run, as actions say.")
    add_data_flag(parser)
    parser.add_argument("--n", type=int, default=8, help="how many clips, from all over the held-out episodes")
    parser.add_argument("--context", type=int, default=6, help="frames that are given")
    parser.add_argument("--frames", type=int, default=10, help="frames that are predicted")
    parser.add_argument("--actions", nargs="+", default=[RECORDED], metavar="NAME_OR_FILE",
                        help=f"for the predicted frames: an action throughout, a file with one a line, or {RECORDED!r}")
    add_truncation_flags(parser)
    add_run_flags(parser, "RUN/predictions", "of what is drawn (default: 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    check_flags(arguments)
    device = choose_device(arguments.device)
    run = chosen_run(arguments.run, arguments.runs_dir)
    out = arguments.out or run.root / "predictions"
    loaded = load_run(run, device)
    stage1, stage2 = loaded.stage1, loaded.stage2
    example, context = stage1.config["example"], arguments.context
    if example["kind"] != "video":
        raise InputError(f"{run.root}: expected a run on video, found one on {example['kind']}")
    if stage2 is None:
        raise InputError(f"{run.stage2}: expected a trained stage 2, found no checkpoint; train it first: make stage2")
    names = stage1.example.facts["action_names"]
    wanted = {name: None if name == RECORDED else wanted_actions(name, names, arguments.frames)
              for name in arguments.actions}
    split = load_data(run, stage1, arguments.data_root).clips("validation", context + arguments.frames)
    batch = split.batch(spread(arguments.n, len(split)))

    start, rows = time.monotonic(), {"recorded": batch.x}
    for name, actions in wanted.items():
        told = batch.actions.clone()
        if actions is not None:
            told[:, context:] = actions
        rows[title(name)] = predict(stage1, stage2, batch.x[:, :, :context], told, batch.labels, arguments.seed,
                                    arguments.batch_size, **truncation(arguments))
    seconds = time.monotonic() - start

    out.mkdir(parents=True, exist_ok=True)
    picture = write_clips(out, rows, context)
    print(f"{len(batch.x)} clips, {arguments.frames} frames after {context}, with {run.root} in {seconds:.1f} s: "
          f"{out / '00000.gif'}, ...; {picture}")


def title(actions: str) -> str:
    """Of a row of frames that were predicted."""
    return "predicted" if actions == RECORDED else Path(actions).stem


def write_clips(out: Path, rows: dict[str, Tensor], context: int) -> Path:
    """A GIF and a strip of each clip, rows by their titles (n, c, t, h, w); all strips in a picture, which is named."""
    strips = []
    for number in range(len(rows["recorded"])):
        own = {name: clips[number] for name, clips in rows.items()}
        strips.append(frame_strip(own, context))
        write_gif(out / f"{number:05d}.gif", own, context)
        write_image(out / f"{number:05d}.png", strips[-1])
    write_image(out / "predictions.png", torch.cat(strips, 1))
    return out / "predictions.png"


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
