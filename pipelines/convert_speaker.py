"""Recordings in another voice: what is said stays, who says it changes.

    python pipelines/convert_speaker.py --run pretrained/fsdd --input seven.wav --speaker theo
    python pipelines/convert_speaker.py --input FOLDER --speaker theo --out FOLDER

Each recording is encoded, and its codes are decoded with the other speaker's label. Any rate, stereo and bit depth goes
in; out come wav files at the run's rate, and one picture of originals above conversions.
"""

import argparse
from pathlib import Path

import torch

from pipelines.commands.flags import add_run_flags, check_flags
from pipelines.files.errors import InputError, one_line_errors
from pipelines.generation.conversion import convert
from pipelines.generation.labels import class_number
from pipelines.generation.recordings import SHOWN, encode_sounds
from pipelines.media.audio import comparison, write_wav
from pipelines.runs.find import chosen_run
from pipelines.runs.store import load_stage1
from pipelines.training.distributed import choose_device


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Says recordings again in the voice of another speaker.")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--speaker", required=True, help="one of the speakers that the run was trained on")
    parser.add_argument("--label", default="speaker", help="the decoder's label that is changed (default: speaker)")
    add_run_flags(parser, "RUN/conversions", "of a decoder that draws what it makes (default: 0)", batch_size=16)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    check_flags(arguments)
    device = choose_device(arguments.device)
    run = chosen_run(arguments.run, arguments.runs_dir)
    stage1 = load_stage1(run, device)
    told, example = stage1.condition_on, stage1.config["example"]
    if arguments.label not in told:
        raise InputError(f"{run.root}: expected a decoder that is told {arguments.label!r}, found one told {told}")
    column = example["label_names"].index(arguments.label)
    target = class_number("--speaker", arguments.speaker, example["classes"][column])
    paths, waves, codes, lengths = encode_sounds(stage1, arguments.input, arguments.batch_size)
    labels = torch.zeros(len(codes), len(example["label_names"]), dtype=torch.int64)
    labels[:, column] = target
    made = convert(stage1, codes, labels, lengths, arguments.seed, arguments.batch_size)
    out = arguments.out or run.root / "conversions"
    out.mkdir(parents=True, exist_ok=True)
    own = [wave[0, :length] for wave, length in zip(made, lengths.tolist())]
    for number, (path, wave) in enumerate(zip(paths, own)):
        write_wav(out / f"{number:05d}-{path.stem}-{arguments.speaker}.wav", wave, example["facts"]["sample_rate_hz"])
    rows = {"original": waves[:SHOWN], arguments.speaker: own[:SHOWN]}
    captions = {"original": [path.stem for path in paths[:SHOWN]]}
    comparison(out / "spectrograms.png", rows, captions, example["facts"]["sample_rate_hz"])
    print(f"{len(paths)} conversions to {arguments.speaker} with {run.root}: {out / 'spectrograms.png'}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
