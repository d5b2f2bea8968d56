"""Measures a run: exact bounds, use of the latents, errors, the prior's bits, and what classifiers of real data make of
its reconstructions and samples.

    python pipelines/evaluate.py experiment=mnist evaluate.split=test

Writes metrics.json and figures/*.png in the run's folder, and prints the table. Needs stage 1; what stage 2 adds is null
where it was not trained.

The bound of codes is log p(x) >= log p(x | z_q(x)) + log p(z_q(x)) (arXiv 1711.00937, section 3.2), its two terms in
bits per data dimension: `distortion`, and `rate` under the uniform prior of training or under the learned one. That of
a VAE is the ELBO: the distortion of samples of its posterior, and `rate_normal`, its KL to N(0, I). An AE has none.
Where the posterior is spread, over codes too, `bounds` has the ELBO and the bound of several samples beside it.
Of codes of another run (data=codes) `frame_nats` says what latents are worth to the decoder, `probe` what they know.
"""

import json
import time

from omegaconf import DictConfig

from pipelines.commands.hydra import hydra_main
from pipelines.evaluation import audio as sound_evaluation
from pipelines.evaluation import codes as code_evaluation
from pipelines.evaluation import image as image_evaluation
from pipelines.evaluation import video as video_evaluation
from pipelines.evaluation.measured import Subject
from pipelines.evaluation.shared import draw_training, measure_shared
from pipelines.evaluation.table import rounded, table
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.formats import FORMAT
from pipelines.runs.chain import load_run
from pipelines.runs.config import build, plain
from pipelines.runs.store import check_same_data, run_of
from pipelines.training.distributed import choose_device

# What each kind of data has of its own: check(subject), figures(measured, subject, figures so far), rows(result) of the
# table, and draw(measured, subject, result).
KINDS = {"image": image_evaluation, "audio": sound_evaluation, "video": video_evaluation, "codes": code_evaluation}


@hydra_main("stage1")
def main(cfg: DictConfig) -> None:
    start = time.monotonic()
    subject = load_subject(cfg)
    run, stage1, stage2, kind = subject.run, subject.stage1, subject.stage2, KINDS[subject.data.kind]
    for name, least in {"batch_size": 1, "bound_samples": 0, "samples": 0}.items():
        if (found := subject.options[name]) < least:
            raise InputError(f"evaluate.{name}: expected {least} or more, found {found}")
    kind.check(subject)
    measured, figures = measure_shared(subject)
    figures |= kind.figures(measured, subject, figures)
    result = {"format": FORMAT,
              "run": cfg.run, "data": subject.data.name, "split": subject.split_name, "items": len(subject.split),
              "stage1_step": stage1.state.step, "stage2_step": stage2 and stage2.state.step,
              "training_seconds": {"stage1": stage1.state.seconds, "stage2": stage2 and stage2.state.seconds},
              **figures}
    write_atomically(run.root / "metrics.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
    pictures = kind.draw(measured, subject, result) | draw_training(measured, subject)
    print(table(result, kind.rows(result)))
    print("\n".join(f"{title:<34}{path}" for title, path in pictures.items()))
    print(f"measured in {time.monotonic() - start:.0f} s -> {run.root / 'metrics.json'}")


def load_subject(cfg: DictConfig) -> Subject:
    """The run that the configuration names; the test split where the data have one, if none is asked for."""
    run, device, options = run_of(cfg), choose_device(cfg.evaluate.device), cfg.evaluate
    data = build(cfg.data)
    loaded = load_run(run, device, getattr(data, "parent", None))
    stage1, stage2 = loaded.stage1, loaded.stage2
    check_same_data(run, stage1, data, plain(cfg.data))
    name = options.split or ("test" if "test" in data.splits else "validation")
    return Subject(run, stage1, stage2, data, name, data.split(name).to(device), options, cfg.seed, device)


if __name__ == "__main__":
    main()
