"""One's own pictures or sounds through the bottleneck and back.

    python pipelines/reconstruct.py --run runs/imagenet128 --input holiday.jpg
    python pipelines/reconstruct.py --run pretrained/cifar10_compact --input FOLDER --out FOLDER

Writes each reconstruction, and one picture of originals above reconstructions. Pictures are resized and cropped to what
the run was trained on, sounds resampled; a decoder that is told the speaker needs --label speaker=NAME. A run on the
codes of another one takes pictures down to its few codes and back up to pixels; its picture shows all levels, and
several decodings of the same codes.
"""

import argparse
from pathlib import Path

import torch

from pipelines.commands.flags import add_run_flags, check_flags
from pipelines.data.pictures import find_pictures, load_pictures
from pipelines.evaluation import codes as code_evaluation
from pipelines.evaluation.image import psnr_db, squared_errors
from pipelines.files.errors import InputError, one_line_errors
from pipelines.generation import recordings as own_sounds
from pipelines.generation.conversion import convert
from pipelines.generation.decoding import climb, descend, picture_draws
from pipelines.generation.labels import class_number, parse_labels
from pipelines.generation.recordings import encode_sounds
from pipelines.media import audio as sound_media
from pipelines.media.images import image_pairs, image_rows, write_image
from pipelines.metrics.spectra import log_spectral_distance
from pipelines.runs.find import chosen_run
from pipelines.runs.store import TrainedStage, load_parents, load_stage1
from pipelines.splits.noise import generator
from pipelines.training.distributed import choose_device

SHOWN = 64


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Encodes pictures or sounds with a trained run and decodes them.")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS",
                        help="what the decoder is told, for a run whose decoder is told labels")
    add_run_flags(parser, "RUN/reconstructions", "of a decoder that draws what it makes (default: 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    check_flags(arguments)
    device = choose_device(arguments.device)
    run = chosen_run(arguments.run, arguments.runs_dir)
    stage1 = load_stage1(run, device)
    out, kind = arguments.out or run.root / "reconstructions", stage1.config["example"]["kind"]
    if kind in ("image", "codes"):
        count, picture, figure = reconstruct_pictures(stage1, load_parents(run, stage1, device), arguments, out)
    elif kind == "audio":
        count, picture, figure = reconstruct_sounds(stage1, arguments, out)
    else:
        raise InputError(f"{run.root}: expected a run on pictures or sounds, found one on {kind}")
    print(f"{count} reconstructions with {run.root}, {figure}: {picture}")


def reconstruct_pictures(stage1: TrainedStage, parents: list[TrainedStage], arguments: argparse.Namespace,
                         out: Path) -> tuple[int, Path, str]:
    """How many, the picture of them, and their PSNR."""
    device, bottom = next(stage1.module.parameters()).device, (parents or [stage1])[-1]
    paths, originals = load_pictures(find_pictures(arguments.input), tuple(bottom.config["example"]["shape"]))
    out.mkdir(parents=True, exist_ok=True)
    model, pictures, errors = stage1.module, [], []
    with torch.inference_mode():
        for numbers in torch.arange(len(originals)).split(arguments.batch_size):
            part, own = originals[numbers], [generator(arguments.seed, number) for number in numbers.tolist()]
            uniforms = picture_draws(stage1, own)
            made = model.evaluate(climb(parents, part.to(device)), uniforms=uniforms).reconstruction
            pictures.append(descend(parents, made, own))
            errors.append(squared_errors(pictures[-1], part))
    pictures, errors = torch.cat(pictures), torch.cat(errors)
    for number, (path, picture) in enumerate(zip(paths, pictures)):
        write_image(out / f"{number:05d}-{path.stem}.png", picture)
    if parents:
        made = code_evaluation.levels(originals[: code_evaluation.SHOWN], stage1, parents, arguments.seed)
        write_image(out / "comparison.png", image_rows(made))
    else:
        write_image(out / "comparison.png", image_pairs(originals[:SHOWN], pictures[:SHOWN]))
    return len(paths), out / "comparison.png", f"PSNR {psnr_db(errors).mean():.2f} dB"


def reconstruct_sounds(stage1: TrainedStage, arguments: argparse.Namespace, out: Path) -> tuple[int, Path, str]:
    """How many, the picture of them, and their log-spectral distance."""
    example, told = stage1.config["example"], stage1.config["condition_on"]
    rate, wanted = example["facts"]["sample_rate_hz"], parse_labels(arguments.label, told)
    paths, waves, codes, lengths = encode_sounds(stage1, arguments.input, arguments.batch_size)
    labels = torch.zeros(len(codes), len(example["label_names"]), dtype=torch.int64)
    for name in told:
        column = example["label_names"].index(name)
        if name not in wanted:
            classes = ", ".join(example["classes"][column][:12])
            raise InputError(f"--label: expected {name}=CLASS, one of {classes}, found none")
        labels[:, column] = class_number(f"--label {name}", wanted[name], example["classes"][column])
    out.mkdir(parents=True, exist_ok=True)
    made = convert(stage1, codes, labels, lengths, arguments.seed, arguments.batch_size)
    own = [wave[0, :length] for wave, length in zip(made, lengths.tolist())]
    for number, (path, wave) in enumerate(zip(paths, own)):
        sound_media.write_wav(out / f"{number:05d}-{path.stem}.wav", wave, rate)
    most = own_sounds.SHOWN
    shown, captions = {"original": waves[:most], "reconstruction": own[:most]}, [path.stem for path in paths[:most]]
    sound_media.comparison(out / "spectrograms.png", shown, {"original": captions}, rate)
    originals = torch.zeros_like(made)
    for row, wave in zip(originals, waves):
        row[0, : len(wave)] = wave
    distance = log_spectral_distance(originals, made, rate, lengths).mean()
    return len(paths), out / "spectrograms.png", f"log-spectral distance {distance:.2f} dB"


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
