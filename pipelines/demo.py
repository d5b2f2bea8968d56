"""A guided tour: both stages, samples and evaluation on data that need no download, each step explained.

    python pipelines/demo.py                          # the bundled handwritten digits: two minutes on two cores
    python pipelines/demo.py --audio                  # words spoken by eSpeak-NG (extra [speech]), ten minutes
    python pipelines/demo.py --video                  # walks through a simulated room, two minutes
    python pipelines/demo.py stage1.steps=200         # KEY=VALUE goes to training, extraction and evaluation

Each step runs one command in its own process; if one fails, the demo stops and returns its exit status. The last one
writes a report, and its last line names it.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from pipelines.commands.flags import VerbParser
from pipelines.commands.processes import run_verb
from pipelines.files.errors import one_line_errors

RATE = ("The quantiser weighs distortion against rate, and the weight of the rate grows from 0 over the first "
        "500 steps: codes become more predictable and reconstructions less exact, so the objective rises meanwhile.")
REPORT = "Writes all of it, with training curves, reconstructions and what each code looks like, as one page."
EXTRACT = "Encodes each example and writes its codes to disk: the data set that stage 2 learns from."


@dataclass(frozen=True)
class Tour:
    """The steps for one kind of data: what a step does and why, its verb, and its own flags."""

    overrides: tuple[str, ...]
    run: str
    steps: tuple[tuple[str, str, tuple[str, ...]], ...]  # a verb without flags of its own takes the overrides


IMAGES = Tour(("experiment=digits",), "digits", (
    (f"Stage 1: trains a VQ-VAE, which turns each 8x8 image into 4x4 codes and back. {RATE}", "train_stage1", ()),
    (EXTRACT, "extract_codes", ()),
    ("Stage 2: fits a PixelCNN to the codes, conditioned on the digit, so that new codes can be drawn.",
     "train_stage2", ()),
    ("Draws 64 grids of codes from the prior and decodes them to images.", "sample", ("--n", "64")),
    ("Measures reconstructions, codes and prior; a classifier trained on real digits classifies 1,000 samples.",
     "evaluate", ()),
    (REPORT, "report", ("--n", "16")),
))
AUDIO = Tour(("experiment=spoken_words_demo", "run=demo_audio"), "demo_audio", (
    ("Stage 1: trains a VQ-VAE on waveforms: 64 audio samples per code, and a decoder conditioned on the voice, "
     "so that the codes need not say who speaks.", "train_stage1", ()),
    (EXTRACT, "extract_codes", ()),
    ("Stage 2: fits a WaveNet to the codes, conditioned on word and voice.", "train_stage2", ()),
    ("Draws the codes of 16 words from the prior and decodes them to audio.", "sample", ("--n", "16")),
    ("Measures reconstructions, conversions to the other voice and samples, with classifiers of word and voice.",
     "evaluate", ()),
    (REPORT, "report", ("--n", "16")),
))
VIDEO = Tour(("experiment=room_video",), "room_video", (
    (f"Stage 1: trains a VQ-VAE, which turns each 32x32 frame into 8x8 codes and back. {RATE}", "train_stage1", ()),
    (EXTRACT, "extract_codes", ()),
    ("Stage 2: fits a prior to the codes of clips: each code given those before it and the actions.",
     "train_stage2", ()),
    ("Draws 8 clips, conditioned on the actions of training clips.", "sample", ("--n", "8")),
    ("Measures reconstructions and how well the prior predicts the frames of held-out clips.", "evaluate", ()),
    ("Continues held-out clips as they were recorded, and with one action throughout: forward, then right.",
     "predict_video", ("--actions", "recorded", "forward", "right")),
    (REPORT, "report", ("--n", "16")),
))


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--audio", dest="tour", action="store_const", const=AUDIO, help="spoken words instead of images")
    kind.add_argument("--video", dest="tour", action="store_const", const=VIDEO,
                      help="video of a simulated room instead of images")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in train-stage1: stage1.steps=200")
    parser.set_defaults(tour=IMAGES)
    return parser.parse_intermixed_args()


def main(arguments: argparse.Namespace) -> None:
    tour = arguments.tour
    given = dict(override.split("=", 1) for override in arguments.overrides if "=" in override)
    run = Path(given.get("runs_dir", "runs")) / given.get("run", tour.run)
    for number, (what, verb, flags) in enumerate(tour.steps, 1):
        print(f"\n[{number}/{len(tour.steps)}] {what}", flush=True)
        own = ["--run", str(run), *flags] if flags else [*tour.overrides, *arguments.overrides]
        if status := run_verb(verb, own):
            raise SystemExit(status)


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
