"""Measures a run: bounds on exact probabilities of 8-bit values, use of the latents, errors, the prior's bits, and how
well classifiers trained on real data recognise its reconstructions and samples, whether samples are copies of
training items, and how near both are, as sets, to real items.

    python pipelines/evaluate.py experiment=mnist evaluate.split=test

Writes metrics.json and figures/*.png in the run's folder, and prints the table. Requires stage 1; stage-2 metrics are
null if stage 2 was not trained.

For codes the bound is log p(x) >= log p(x | z_q(x)) + log p(z_q(x)) (arXiv 1711.00937, section 3.2), its two terms in
bits per data dimension: `distortion`, and `rate` under the uniform prior of training or under the learned prior. For a
VAE it is the ELBO: the distortion of posterior samples, and `rate_normal`, the KL to N(0, I). An AE has none. For
stochastic posteriors (including categorical ones over codes), `bounds` also reports the ELBO and the multi-sample
(importance-weighted) bound, with standard errors. For codes of another run (data=codes), `frame_nats` says how many
nats per frame the codes save, and `classifiers` which labels a linear classifier predicts from them.
"""

import json
import time
from typing import TYPE_CHECKING

from pipelines.commands.hydra import hydra_main

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pipelines.evaluation.measured import Subject


@hydra_main("stage1", "data", "evaluate", shares=True)
def main(cfg: "DictConfig") -> None:
    from pipelines.evaluation.copies import copy_rows, draw_copies, find_copies
    from pipelines.evaluation.quality import measure_quality, quality_rows
    from pipelines.evaluation.shared import draw_training, measure_shared
    from pipelines.evaluation.table import rounded, table
    from pipelines.files.atomic import write_atomically
    from pipelines.files.formats import FORMAT
    from pipelines.files.locks import only_writer
    from pipelines.kinds import kind_of
    from pipelines.ranks.shares import leave_to_first, on_first

    start = time.monotonic()
    subject = load_subject(cfg)
    run, stage1, stage2 = subject.run, subject.loaded.stage1, subject.loaded.stage2
    kind = kind_of(subject.data.kind).evaluation
    kind.check(subject)
    with on_first(only_writer(run.root, "evaluate")), on_first(only_writer(run.figures, "evaluate")):
        measured, figures = measure_shared(subject)
        figures |= kind.figures(measured, subject, figures)
        copies = find_copies(subject, kind)
        figures["copies"] = None if copies is None else copies.figures
        figures["quality"] = measure_quality(measured, subject, kind)
        leave_to_first()
        result = {"format": FORMAT, "run": cfg.run, "data": subject.data.name, "split": subject.split_name,
                  "items": len(subject.split),
                  "stage1_step": stage1.state.step, "stage2_step": stage2 and stage2.state.step,
                  "training_seconds": {"stage1": stage1.state.seconds, "stage2": stage2 and stage2.state.seconds},
                  **figures}
        write_atomically(run.root / "metrics.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
        paths = kind.draw(measured, subject, result) | draw_copies(copies, subject, kind)
        paths |= draw_training(measured, subject)
        print(table(result, kind.rows(result) + copy_rows(result["copies"])
                    + quality_rows(result["quality"])))
        print("\n".join(f"{title:<34}{path}" for title, path in paths.items()))
        print(f"measured in {time.monotonic() - start:.0f} s -> {run.root / 'metrics.json'}")


def load_subject(cfg: "DictConfig") -> "Subject":
    """The run that the configuration names; the test split where the data have one, if none is asked for."""
    from pipelines.evaluation.measured import Subject
    from pipelines.runs.chain import load_run
    from pipelines.runs.config import plain
    from pipelines.runs.data import open_data
    from pipelines.runs.settings import Evaluation
    from pipelines.runs.store import check_same_data, run_of
    from pipelines.training.distributed import choose_device
    from pipelines.training.memory import keep_freed_memory

    run, options = run_of(cfg), Evaluation(**plain(cfg.evaluate))
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    data = open_data(cfg.data)
    loaded = load_run(run, device, data.parent)
    check_same_data(run, loaded.stage1, data, plain(cfg.data), options.other_data)
    name = options.split or ("test" if "test" in data.splits else "validation")
    return Subject(loaded, data, name, data.split(name).to(device), options, cfg.seed, device)


if __name__ == "__main__":
    main()
