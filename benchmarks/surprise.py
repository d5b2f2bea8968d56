"""How well exact bits tell unusual items and places apart, and whether priors copy: areas under ROC curves, a table.

    python -m benchmarks.surprise digits --data data             # pretrained/mnist, MNIST below data/
    python -m benchmarks.surprise speech --data data/fsdd        # pretrained/fsdd
    python -m benchmarks.surprise patches --data data/imagenet128 --run imagenet128
    python -m benchmarks.surprise copies --run runs/mnist        # a run with its codes, on its own data
    python -m benchmarks.surprise overfit                        # a prior trained on 200 embedded digits for too long
    python -m benchmarks.surprise picture --out docs/score_mnist.png

digits and speech: held-out items against the same items, changed. patches: positions inside a pasted patch against all
others of the same image, averaged over images. copies, overfit: as `evaluate` reports them. All on the CPU, seeded.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.commands.flags import VerbParser
from pipelines.files.errors import one_line_errors

DIGITS = 1000  # test items: the standard error of an area is below 0.012
NOISE_DB = 10.0  # of speech to white noise
PATCH = 32  # pixels
SPOKEN = 2400  # words by synthetic voices, of which one in fifteen is a digit


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--run", help="default: the pretrained run of the part")
    parser.add_argument("--data", type=Path, help="folder of the run's data")
    parser.add_argument("--items", type=int, default=DIGITS, help=f"held-out items, at most (default: {DIGITS})")
    parser.add_argument("--out", type=Path, default=Path("score_mnist.png"), help="of picture")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    PARTS[arguments.part](arguments)
    print(f"measured in {time.monotonic() - start:.0f} s")


def digits(arguments: argparse.Namespace) -> None:
    """Test digits against themselves turned, mirrored, ..., by bits and by the error of their reconstructions."""
    import torch

    from pipelines.metrics.squares import squared_errors

    run, split = opened(arguments, "mnist")
    x = split.batch(torch.arange(min(arguments.items, len(split)))).x
    made = measures(run, x, {}, lambda x: squared_errors(run.reconstruct(x), x))
    for title, changed in changed_digits(x).items():
        print_areas(title, made, measures(run, changed, {}, lambda x: squared_errors(run.reconstruct(x), x)))


def changed_digits(x):
    """Images uint8 (n, 1, 28, 28) -> other images by what was done to them."""
    import torch

    half, generator = x.shape[2] // 2, torch.Generator().manual_seed(0)
    other = x.roll(1, 0)
    return {
        "turned by 90 degrees": x.rot90(1, (2, 3)),
        "mirrored": x.flip(3),
        "upper and lower half exchanged": torch.cat([x[:, :, half:], x[:, :, :half]], 2),
        "left and right half exchanged": torch.cat([x[..., half:], x[..., :half]], 3),
        "lower half of another digit": torch.cat([x[:, :, :half], other[:, :, half:]], 2),
        "right half of another digit": torch.cat([x[..., :half], other[..., half:]], 3),
        "noise": torch.randint(0, 256, x.shape, generator=generator, dtype=torch.uint8),
        "inverted": 255 - x,
        "salt, 10 % of the pixels": torch.where(torch.rand(x.shape, generator=generator) < 0.1, 255, x).byte(),
    }


def speech(arguments: argparse.Namespace) -> None:
    """Test clips against themselves backwards, in noise, and faster or slower: voices that are in no training clip.

    By the bits of the codes alone: the decoder, a WaveNet, takes minutes. The prior is conditioned on the true speaker
    and marginalised over digits."""
    import torch
    import torchaudio

    run, split = opened(arguments, "fsdd")
    batch = split.batch(torch.arange(min(arguments.items, len(split))))
    waves = [wave[0, :length] for wave, length in zip(batch.x, batch.lengths.tolist())]
    generator, rate = torch.Generator().manual_seed(0), run._loaded.stage1.example.facts["sample_rate_hz"]
    longest = batch.x.shape[-1]

    def noisy(wave):
        level = wave.square().mean().sqrt() * 10 ** (-NOISE_DB / 20)
        return (wave + level * torch.randn(wave.shape, generator=generator)).clamp(-1, 1)

    def resampled(wave, factor):
        return torchaudio.functional.resample(wave, round(rate * factor), rate)[:longest]

    speakers = batch.labels[:, list(run.classes).index("speaker")]
    sets = {"backwards": [wave.flip(0) for wave in waves], f"white noise at {NOISE_DB:.0f} dB": list(map(noisy, waves)),
            "25 % faster and higher": [resampled(wave, 1.25) for wave in waves],
            "20 % slower and lower": [resampled(wave, 0.8) for wave in waves]}
    known = code_measures(run, waves, {"speaker": speakers})
    for title, changed in sets.items():
        print_areas(title, known, code_measures(run, changed, {"speaker": speakers}))
    wrong = (speakers + 1) % len(run.classes["speaker"])
    print_areas("conditioned on another speaker", known, code_measures(run, waves, {"speaker": wrong}))
    unseen = synthetic_digits(rate, longest)
    if unseen:
        level = float(torch.cat(waves).square().mean().sqrt())
        voices = [wave * level / wave.square().mean().sqrt() for wave in unseen]
        print_areas(f"{len(voices)} by unseen voices, no label given", code_measures(run, waves, {}),
                    code_measures(run, voices, {}))


def synthetic_digits(rate_hz: int, longest: int) -> list:
    """Digits spoken by 24 synthetic voices, without the silence around them; none without the extra [speech]."""
    from importlib.util import find_spec

    import soundfile
    import torch
    import torchaudio

    from pipelines.data.speech import WORDS, generate_speech, read_speech

    if find_spec("espeakng_loader") is None:
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        spoken = generate_speech(Path(folder), SPOKEN, 1, 24, 0)
        speech = read_speech(spoken)
        for clip in speech.clips:
            if clip.words[0] in WORDS[:10]:
                wave = torch.from_numpy(soundfile.read(spoken / clip.file, dtype="float32")[0])
                loud = (wave.abs() > 0.02 * wave.abs().max()).nonzero().flatten()
                wave = wave[int(loud[0]) : int(loud[-1]) + 1]
                found.append(torchaudio.functional.resample(wave, speech.sample_rate_hz, rate_hz)[:longest])
    return found


def patches(arguments: argparse.Namespace) -> None:
    """Held-out images with a patch of something else: is it found by the bits of the codes at its positions?"""
    import torch
    import torch.nn.functional as F

    run, split = opened(arguments, "imagenet128")
    count = min(arguments.items, len(split))  # of all the split: neighbours may be frames of one walk
    x = split.batch(torch.arange(count) * (len(split) // count)).x
    size, generator = min(PATCH, x.shape[-1] // 2), torch.Generator().manual_seed(0)
    tops, lefts = torch.randint(0, x.shape[-1] - size + 1, (2, len(x)), generator=generator)
    other = x.roll(len(x) // 2, 0)
    noise = torch.randint(0, 256, x.shape, generator=generator, dtype=torch.uint8)
    inside = torch.zeros(len(x), *x.shape[-2:])
    for row, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist())):
        inside[row, top : top + size, left : left + size] = 1
    grid = run.grid
    share = F.adaptive_avg_pool2d(inside[:, None], grid)[:, 0]  # of each position's pixels
    print(f"patches of {size}x{size} pixels in {len(x)} images; area, pixels' bits summed at each position | codes")
    for title, pasted in {"none: the same place": x, "another image": other, "its own pixels upside down": x.flip(2),
                          "its own pixels inverted": 255 - x, "noise": noise}.items():
        scores = run.score(torch.where(inside[:, None] > 0, pasted, x))
        data = F.adaptive_avg_pool2d(scores.data_map[:, None], grid)[:, 0]
        found = [torch.tensor([area(own[part == 0], own[part > 0.5]) for own, part in zip(values, share)]).mean()
                 for values in (data, scores.code_map)]
        print(f"{title:<40}{found[0]:>10.3f}{found[1]:>10.3f}")


def copies(arguments: argparse.Namespace) -> None:
    """A run's samples against its training and held-out items."""
    import torch

    from pipelines.evaluation.copies import copy_rows, draw_copies, find_copies
    from pipelines.evaluation.measured import Subject
    from pipelines.evaluation.table import row_line
    from pipelines.kinds import kind_of
    from pipelines.runs.data import load_data
    from pipelines.runs.settings import Evaluation

    loaded = loaded_run(arguments, "mnist")._loaded
    data = load_data(loaded.run, loaded.stage1, arguments.data)
    name = "test" if "test" in data.splits else "validation"
    subject = Subject(loaded, data, name, data.split(name), Evaluation(), 0, torch.device("cpu"))
    kind, start = kind_of(data.kind).evaluation, time.process_time()
    subject.samples(subject.options.copies)
    drawn = time.process_time() - start
    found = find_copies(subject, kind)
    print("\n".join(row_line(*row) for row in copy_rows(found.figures)))
    print(found.figures)
    print(f"{drawn:.1f} s of processor time for the samples, {time.process_time() - start - drawn:.1f} s to compare")
    subject.run.figures.mkdir(exist_ok=True)
    print(draw_copies(found, subject, kind))


def overfit(arguments: argparse.Namespace) -> None:
    """Both stages on 200 of the embedded digits: a prior trained until it knows them by heart, beside one stopped where
    held-out digits get no likelier."""
    import subprocess
    import sys

    with tempfile.TemporaryDirectory() as folder:
        for title, settings in OVERFIT.items():
            common = ["experiment=digits", "run=overfit", f"runs_dir={folder}/{title}",
                      "data.validation_fraction=0.8887", *settings]
            for verb in ("train_stage1", "extract_codes", "train_stage2"):
                subprocess.run([sys.executable, f"pipelines/{verb}.py", *common], check=True, capture_output=True)
            print(title)
            arguments.run = f"{folder}/{title}/overfit"
            copies(arguments)


OVERFIT = {"stopped": [],  # validated only at its end, the prior is taken as it is then
           "memorised": ["stage2.steps=3000", "stage2.validate_every=3000", "stage2.ema_decay=0", "prior.dropout=0"]}


def picture(arguments: argparse.Namespace) -> None:
    """Samples of pretrained/mnist, as they are and changed, with the bits of their codes: docs/score_mnist.png."""
    import torch

    from pipelines.evaluation.held_out import percentiles
    from pipelines.evaluation.score_table import captions, in_order
    from pipelines.media.heat import overview, scale

    run = loaded_run(arguments, "mnist")
    x = run.sample(13, seed=3).x
    half = x.shape[2] // 2
    inverted = x[2].clone()
    inverted[:, 4:12, 12:20] = 255 - inverted[:, 4:12, 12:20]
    items = {"turned": x[0].rot90(1, (1, 2)), "mirrored": x[1].flip(2),
             "patch inverted": inverted, "halves exchanged": torch.cat([x[3, :, half:], x[3, :, :half]], 1),
             "another's lower half": torch.cat([x[4, :, :half], x[5, :, half:]], 1)}
    items |= {f"sample {number}": x[number] for number in range(6, 13)}
    scores = run.score(torch.stack(list(items.values())))
    known = percentiles(scores.bits_per_code, run.held_out_scores(data_root=arguments.data).code)
    order = scores.bits_per_code.argsort(descending=True)
    names = captions(list(items), scores, known)
    scores = in_order(scores, order)
    overview(arguments.out, [names[row] for row in order.tolist()], torch.stack(list(items.values()))[order],
             scores.code_map, scale(scores.code_map))
    print(arguments.out)


def opened(arguments: argparse.Namespace, name: str):
    """A run, and the held-out split of its data: test, where there is one."""
    from pipelines.runs.data import load_data

    run = loaded_run(arguments, name)
    data = load_data(run._loaded.run, run._loaded.stage1, arguments.data)
    return run, data.split("test" if "test" in data.splits else "validation")


def loaded_run(arguments: argparse.Namespace, name: str):
    from pipelines import load

    return load(arguments.run or name, "cpu")


def measures(run, x, labels, error: Callable | None = None) -> dict:
    """Figures of items by name, each (n,)."""
    from pipelines.generation.scores import score_items

    items = run._kind.read(run._loaded, x)
    scores = score_items(run._loaded, items.x, items.lengths, labels, 64, maps=False)
    sizes = run._kind.codec_bits(run._loaded, items.x, items.lengths)
    found = {"bits of codes": scores.bits_per_code, "bits of data": scores.data_bits / scores.dimensions,
             "all bits": scores.bits_per_dim, "all bits - codec's": (scores.bits - sizes) / scores.dimensions}
    return found | ({} if error is None else {"squared error": error(x)})


def code_measures(run, x, labels) -> dict:
    """The first of these figures alone."""
    import torch

    from pipelines.generation.scores import prior_bits

    items, found = run._kind.read(run._loaded, x), []
    for own, lengths, *given in zip(items.x.split(64), items.lengths.split(64),
                                    *(column.split(64) for column in labels.values())):
        codes = run.stage1.encode(own)
        counts = -(-lengths * codes.shape[1] // own.shape[2])
        found.append(prior_bits(run._loaded, codes, counts, dict(zip(labels, given)), None).sum(1) / counts)
    return {"bits of codes": torch.cat(found)}


def print_areas(title: str, known: dict, changed: dict) -> None:
    print(f"{title:<40}" + "".join(f"{name}: {area(known[name], changed[name]):.3f}   " for name in known), flush=True)


def area(lower, higher) -> float:
    """The area under the ROC curve: the chance that one of `higher` exceeds one of `lower`, ties counting half."""
    import torch

    known = lower.double().sort().values
    below, up_to = (torch.searchsorted(known, higher.double(), side=side) for side in ("left", "right"))
    return float((below + up_to).double().mean() / (2 * len(known)))


PARTS = {"digits": digits, "speech": speech, "patches": patches, "copies": copies, "overfit": overfit,
         "picture": picture}

if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
