"""New codes from a trained prior, and their way down through the decoder: what sample.py and evaluate.py share.

Every sample has a random generator of its own, made from (seed, its number): sample 7 is the same among 8 as among 64,
in whatever batches they are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.data.codes import from_channels, to_channels
from pipelines.errors import InputError
from pipelines.lengths import conditioning, draw_lengths
from pipelines.runs import Run, TrainedStage, check_same_stage1, load_stage1, load_stage2
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.bottlenecks.gaussian import Gaussian, normal
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


def load_chain(run: Run, device: torch.device) -> tuple[TrainedStage, TrainedStage]:
    """Both stages of a run. Raises InputError where the prior was fitted to the codes of another stage 1, or, of a run
    on codes, to those of another parent."""
    stage2, stage1 = load_stage2(run, device), load_stage1(run, device)
    check_same_stage1(stage2.state.get("stage1_hash", "none"), stage1, run.stage2)
    expected, found = stage2.state.get("parent_hash"), stage1.config["example"].get("parent", {}).get("stage1_hash")
    if expected != found:
        raise InputError(f"{run.stage2}: parent_hash: expected {run.stage1} to be trained on codes of {expected}, "
                         f"found {found}")
    return stage1, stage2


def load_vae(run: Run, device: torch.device) -> TrainedStage | None:
    """The stage 1 of a run whose latents have a prior of their own and need no stage 2; None where it has codes.

    Raises InputError for latents without codes that have no prior."""
    if not (run.stage1 / "config.yaml").exists():
        return None
    stage1 = load_stage1(run, device)
    bottleneck = stage1.module.bottleneck
    if isinstance(bottleneck, Quantizer):
        return None
    if not isinstance(bottleneck, Gaussian):
        raise InputError(f"{run.stage1}: expected codes or Gaussian latents, found {type(bottleneck).__name__}: there is "
                         "no distribution to sample from")
    return stage1


def told_names(stage1: TrainedStage, stage2: TrainedStage) -> list[str]:
    """The labels that either stage is told, in the data's order."""
    told = {*stage2.config["condition_on"], *stage1.config.get("condition_on", [])}
    return [name for name in stage2.config["codes"]["label_names"] if name in told]


def choose_labels(codes: dict, names: list[str], wanted: dict[str, str], draws: Tensor) -> Tensor | None:
    """Labels (n, L) int64 of the samples: those that are wanted by name, the others drawn from the training counts.

    codes: of the prior's configuration. names: which labels, L of them. draws: float64 (n, L) in [0, 1).
    Raises InputError for an unknown label or class, or a class without training data."""
    for name in wanted:
        if name not in names:
            raise InputError(f"--label: expected one of the labels {names} of this run, found {name!r}")
    columns = []
    for column, name in enumerate(names):
        index = codes["label_names"].index(name)
        classes, counts = codes["classes"][index], np.asarray(codes["label_counts"][index], dtype=np.float64)
        if name in wanted:
            chosen = class_number(f"--label {name}", wanted[name], classes)
            if counts[chosen] == 0:
                raise InputError(f"--label {name}: expected a class that the prior was trained on, found "
                                 f"{wanted[name]!r}, which had no training examples")
            columns.append(torch.full((len(draws),), chosen))
        else:
            edges = np.cumsum(counts)
            drawn = np.searchsorted(edges, draws[:, column].numpy() * edges[-1], side="right")
            columns.append(torch.from_numpy(drawn))
    return torch.stack(columns, 1).long() if columns else None


def parse_labels(pairs: list[str], names: list[str]) -> dict[str, str]:
    """["digit=7"] -> {"digit": "7"}; the name may be left out where the prior has just one label."""
    wanted = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals and len(names) == 1:
            name, value = names[0], pair
        elif not equals:
            raise InputError(f"--label: expected NAME=CLASS with a name among {names}, found {pair!r}")
        wanted[name] = value
    return wanted


def class_number(key: str, wanted: str, classes: list[str]) -> int:
    """The place of a class among those of a label. Raises InputError at `key` for one that is not there."""
    if wanted not in classes:
        shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
        raise InputError(f"{key}: expected one of {shown}, found {wanted!r}")
    return classes.index(wanted)


def generator(seed: int, number: int) -> np.random.Generator:
    """Of the sample, or of the file, with this number."""
    return np.random.Generator(np.random.Philox(key=[seed, number]))


def draws(generators: list[np.random.Generator], *shape: int) -> Tensor:
    """The next random numbers of each generator: float64 (n, *shape)."""
    return torch.stack([torch.from_numpy(own.random(shape)) for own in generators])


def picture_draws(stage1: TrainedStage, generators: list[np.random.Generator]) -> Tensor | None:
    """The uniforms (n, *grid) of pictures that the decoder draws pixel by pixel; None for any other decoder."""
    if not isinstance(stage1.module.decoder, AutoregressiveDecoder):
        return None
    return draws(generators, *stage1.config["example"]["shape"][1:]).to(next(stage1.module.parameters()).device)


def decode(stage1: TrainedStage, codes: Tensor, labels: Tensor | None, lengths: Tensor | None,
           generators: list[np.random.Generator], progress: Callable[[int, int], None] | None = None) -> Tensor:
    """Codes (n, *grid[, g]) -> x in data units, on the CPU.

    labels (n, L): those that the decoder is told. lengths (n,) in samples: sounds are zero after them, and what stands
    in `codes` after them is replaced by the codes of silence, as in training. An autoregressive decoder draws from
    the generators, one for each row.
    """
    model, device = stage1.module, next(stage1.module.parameters()).device
    labels = None if labels is None else labels.to(device)
    codes = codes.to(device)
    with torch.inference_mode():
        if lengths is None:
            return model.decode(codes, labels, picture_draws(stage1, generators), progress).cpu()
        size = stage1.config["example"]["shape"][-1]
        hop = size // codes.shape[1]
        silence = model.encode(torch.zeros(1, *stage1.config["example"]["shape"], device=device))
        real = torch.arange(codes.shape[1]) < -(-lengths[:, None] // hop)
        codes = torch.where(real.to(device).view(*real.shape, *[1] * (codes.ndim - 2)), codes, silence)
        uniforms, longest = None, size
        if isinstance(model.decoder, AutoregressiveDecoder):
            longest = int(lengths.max())
            uniforms = torch.stack([torch.from_numpy(own.random(longest)) for own in generators]).to(device)
        x = model.decode(codes, labels, uniforms, progress).cpu()[..., :longest]
    x = torch.where(torch.arange(longest) < lengths[:, None, None], x, 0)
    return torch.nn.functional.pad(x, (0, size - longest))


def descend(parents: Sequence[TrainedStage], x: Tensor, generators: list[np.random.Generator]) -> Tensor:
    """What a run on codes makes, (n, g, h, w), through the decoders of `load_parents` -> pixels (n, c, h, w), on the
    CPU.

    Without parents x itself: it is no codes."""
    for parent in parents:
        x = decode(parent, from_channels(x), None, None, generators)
    return x.cpu()


def climb(parents: Sequence[TrainedStage], x: Tensor) -> Tensor:
    """The way up, through the encoders: pixels (n, c, h, w) -> the data (n, g, h, w) of a run on codes."""
    for parent in reversed(parents):
        x = to_channels(parent.module.encode(x), parent.module.bottleneck.num_codebooks)
    return x


def generate(stage1: TrainedStage, stage2: TrainedStage, count: int, seed: int, batch_size: int, device: torch.device,
             wanted: dict[str, str] | None = None, known: Tensor | None = None, seconds: float | None = None,
             parents: Sequence[TrainedStage] = (), actions: Tensor | None = None, **truncation) -> Samples:
    """`count` samples in data units, those of a run on codes in its `parents`'. Shows a progress bar.

    known: int64 (count, *grid[, g]), -1 where free. seconds: of sounds, how long they are to be; None: drawn from the
    training clips with the same labels. actions: of video, as `local_actions` gives those of m clips; each
    sample is told those of one of them, drawn. `truncation`: temperature, top_k, top_p."""
    names, codes = told_names(stage1, stage2), stage2.config["codes"]
    shape = list(codes["grid"]) + ([codes["num_codebooks"]] if codes["num_codebooks"] > 1 else [])
    told1, told2 = ([names.index(name) for name in stage.config.get("condition_on", [])] for stage in (stage1, stage2))
    parts = []
    with _Bar(count, stage1) as bar:
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))
            bar.batch = len(numbers)
            own = [generator(seed, number) for number in numbers]
            labels = choose_labels(codes, names, wanted or {}, draws(own, len(names)))
            uniforms = draws(own, *shape)
            positions = lengths = None
            if "length_counts" in codes:
                positions = _positions(codes, stage1.config["example"], labels, names, seconds, draws(own, 1)[:, 0])
                lengths = positions * (codes["shape"][-1] // codes["grid"][0])
            fixed = None if known is None else known[numbers.start : numbers.stop].to(device)
            clock = positions if stage2.config.get("condition_on_length") else None
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
        asked = round(seconds * example["sample_rate_hz"] / hop)
        if not 1 <= asked <= most:
            longest = most * hop / example["sample_rate_hz"]
            raise InputError(f"--seconds: expected more than 0, at most {longest:.3g}, found {seconds}")
        return torch.full((len(draws),), asked)
    columns = [codes["label_names"].index(name) for name in names]
    rows = np.asarray(codes["length_counts"])
    kept = labels if labels is not None else torch.zeros(len(draws), 0, dtype=torch.int64)
    return draw_lengths(rows[:, [*columns, -2, -1]].tolist(), kept, draws)


class _Bar:
    """Progress in samples, and for sounds how many seconds of them were made in a second."""

    def __init__(self, count: int, stage1: TrainedStage):
        self.rate = stage1.config["example"].get("sample_rate_hz")
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
