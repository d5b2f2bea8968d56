"""New codes from a trained prior, and their way down through the decoder: what sample.py and evaluate.py share.

Every sample has a random generator of its own, made from (seed, its number): sample 7 is the same among 8 as among 64,
in whatever batches they are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.files.errors import InputError
from pipelines.generation.decoding import decode, descend, picture_draws
from pipelines.generation.labels import choose_labels, told_names
from pipelines.runs.store import TrainedStage
from pipelines.splits.lengths import conditioning, draw_lengths
from pipelines.splits.noise import draws, generator
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.gaussian import normal
from stage2_prior.sampling import sample


@dataclass(frozen=True)
class Samples:
    """What was drawn, on the CPU."""

    x: Tensor  # (n, *shape) in data units; sounds are padded with zeros
    codes: Tensor  # (n, *grid[, g]) int64
    labels: Tensor | None  # (n, L) int64, L the labels that either stage is told: `label_names`
    label_names: list[str]
    lengths: Tensor | None  # (n,) int64, of sounds: how many samples are theirs

    def label(self, name: str) -> Tensor:
        """The classes (n,) of one label."""
        return self.labels[:, self.label_names.index(name)]


def generate(stage1: TrainedStage, stage2: TrainedStage, count: int, seed: int, batch_size: int, device: torch.device,
             wanted: dict[str, str] | None = None, known: Tensor | None = None, seconds: float | None = None,
             parents: Sequence[TrainedStage] = (), actions: Tensor | None = None, **truncation) -> Samples:
    """`count` samples in data units, those of a run on codes in its `parents`'. Shows a progress bar.

    known: int64 (count, *grid[, g]), -1 where free. seconds: of sounds, how long they are to be; None: drawn from the
    training clips with the same labels. actions: of video, as `local_actions` gives those of m clips; each
    sample is told those of one of them, drawn. `truncation`: temperature, top_k, top_p."""
    names, codes = told_names(stage1, stage2), stage2.config["codes"]
    shape = list(codes["grid"]) + ([codes["num_codebooks"]] if codes["num_codebooks"] > 1 else [])
    told1, told2 = ([names.index(name) for name in stage.condition_on] for stage in (stage1, stage2))
    parts = []
    with _Bar(count, stage1) as bar:
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))
            bar.batch = len(numbers)
            own = [generator(seed, number) for number in numbers]
            labels = choose_labels(codes, names, wanted or {}, draws(own, len(names)))
            uniforms = draws(own, *shape)
            positions = lengths = None
            if codes["length_counts"] is not None:
                positions = _positions(codes, stage1.config["example"], labels, names, seconds, draws(own, 1)[:, 0])
                lengths = positions * (codes["shape"][-1] // codes["grid"][0])
            fixed = None if known is None else known[numbers.start : numbers.stop].to(device)
            clock = positions if stage2.condition_on_length else None
            local = None
            if actions is not None:
                rows = (draws(own, 1)[:, 0] * len(actions)).long()
                local = actions[rows].float().expand(-1, -1, *codes["grid"])
            local = conditioning(local, clock, shape[0])
            chosen = labels[:, told2].to(device) if told2 else None
            try:
                drawn = sample(stage2.module, uniforms.to(device), labels=chosen, known=fixed,
                               local=None if local is None else local.to(device), progress=bar.prior, **truncation)
            except ValueError as error:
                raise InputError(f"sampling: {error}") from None
            x = decode(stage1, drawn, labels[:, told1] if told1 else None, lengths, own, bar.decoder)
            parts.append((descend(parents, x, own), drawn.cpu(), labels, lengths))
            bar.batch_done(lengths)
    x, drawn, labels, lengths = zip(*parts)
    return Samples(torch.cat(x), torch.cat(drawn), None if labels[0] is None else torch.cat(labels), names,
                   None if lengths[0] is None else torch.cat(lengths))


def generate_vae(stage1: TrainedStage, count: int, seed: int, batch_size: int, device: torch.device,
                 temperature: float) -> Tensor:
    """`count` pictures (n, *shape) of a VAE: latents from N(0, temperature^2) through the decoder, on the CPU."""
    model, parts = stage1.module, []
    shape = (model.bottleneck.dim, *model.latent_grid(stage1.config["example"]["shape"]))
    for start in range(0, count, batch_size):
        own = [generator(seed, number) for number in range(start, min(start + batch_size, count))]
        z_q = (temperature * normal(draws(own, *shape))).to(device, next(model.parameters()).dtype)
        parts.append(model.decode_latent(z_q, uniforms=picture_draws(stage1, own)).cpu())
    return torch.cat(parts)


def _positions(codes: dict, example: dict, labels: Tensor | None, names: list[str], seconds: float | None,
               draws: Tensor) -> Tensor:
    """Lengths in codes (n,) int64: as asked for, or as training clips with these labels have."""
    most, hop = codes["grid"][0], codes["shape"][-1] // codes["grid"][0]
    if seconds is not None:
        asked = round(seconds * example["facts"]["sample_rate_hz"] / hop)
        if not 1 <= asked <= most:
            longest = most * hop / example["facts"]["sample_rate_hz"]
            raise InputError(f"--seconds: expected more than 0, at most {longest:.3g}, found {seconds}")
        return torch.full((len(draws),), asked)
    columns = [codes["label_names"].index(name) for name in names]
    rows = np.asarray(codes["length_counts"])
    kept = labels if labels is not None else torch.zeros(len(draws), 0, dtype=torch.int64)
    return draw_lengths(rows[:, [*columns, -2, -1]].tolist(), kept, draws)


class _Bar:
    """Progress in samples, and for sounds how many seconds of them were made in a second."""

    def __init__(self, count: int, stage1: TrainedStage):
        self.rate = stage1.example.facts.get("sample_rate_hz")
        drawn = isinstance(stage1.module.decoder, AutoregressiveDecoder)
        decoder_share = 0.9 if drawn else 0.0  # of the time: a decoder that draws what it makes takes most of it
        self.shares, self.done, self.batch, self.sound = (1 - decoder_share, decoder_share), 0, 0, 0.0
        self.bar = tqdm(total=count, desc="sampling", unit="sample", leave=False, dynamic_ncols=True, disable=None,
                        bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]")

    def __enter__(self) -> "_Bar":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    def prior(self, done: int, total: int) -> None:
        self._show(self.shares[0] * done / total)

    def decoder(self, done: int, total: int) -> None:
        self._show(self.shares[0] + self.shares[1] * done / total)

    def batch_done(self, lengths: Tensor | None) -> None:
        self.done += self.batch
        self._show(0.0)
        if lengths is not None:
            self.sound += float(lengths.sum()) / self.rate
            elapsed = max(self.bar.format_dict["elapsed"], 1e-9)
            self.bar.set_postfix_str(f"{self.sound / elapsed:.2f} s of sound/s")

    def _show(self, share: float) -> None:
        self.bar.update(self.done + self.batch * share - self.bar.n)
