"""Ancestral sampling of a run: the prior draws codes, the decoder turns them into data; a run on codes goes on through
the decoders of the runs below it.

Every sample has a random generator of its own, made from (seed, its number): sample 7 is the same among 8 as among 64,
whatever the batch size.

Axes: n samples, b samples of a batch, c channels, g codebooks, L labels.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.files.errors import InputError
from pipelines.generation.decoding import decode, descend, one_size, pixel_uniforms
from pipelines.generation.filling import FADE_S, STAND_INS, Gap, known_codes, pasted
from pipelines.generation.labels import choose_labels, class_number, conditioning_labels
from pipelines.generation.scores import prior_labels
from pipelines.ranks.shares import shared
from pipelines.runs.chain import LoadedRun
from pipelines.splits.lengths import conditioning, draw_lengths
from pipelines.splits.noise import draws, generator
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage2_prior.filling import Filled, fill
from stage2_prior.sampling import sample_steps

STAND_IN = 2**62  # numbers of samples from which stand-ins for a hidden part are counted: no user's sample has them


@dataclass(frozen=True)
class Samples:
    """Samples of a run, on the CPU."""

    x: Tensor  # (n, *shape) in data units; padded with zeros where they have lengths
    codes: Tensor | None  # (n, *grid[, g]) int64; None for latents without codes
    labels: Tensor | None  # (n, L) int64, one column for each of `label_names`
    label_names: list[str]  # the labels that either stage is conditioned on
    lengths: Tensor | None  # (n,) int64: how much of the first axis of x is real; None: all of it
    # Where a hidden part was filled:
    gap: Gap | None = None
    bits: Tensor | None = None  # (n,) float64, -log2 of the prior's probability of codes and labels: candidates' rank
    effective: Tensor | None = None  # (n,) float64, the smallest effective sample size of a candidate's particles
    changed: Tensor | None = None  # (n,) float64, the share of boxes whose codes a sweep changed; None without sweeps

    @property
    def ranking(self) -> list[int]:
        """Numbers of the candidates, the likeliest first."""
        return self.bits.argsort(stable=True).tolist()

    def label(self, name: str) -> Tensor:
        """The classes (n,) of one label."""
        return self.labels[:, self.label_names.index(name)]


@dataclass(frozen=True)
class Sampler:
    """Draws samples of a run. Raises InputError for a run that cannot be sampled and for options that do not fit it."""

    loaded: LoadedRun
    seed: int = 0
    batch_size: int = 64
    labels: Mapping[str, str] = field(default_factory=dict)  # classes by name; others follow the training counts
    temperature: float = 1.0  # 0: always the likeliest code
    top_k: int | None = None
    top_p: float | None = None
    known: Tensor | None = None  # int64 (1 or n, *grid[, g]): codes that are kept, -1 where free
    length: int | None = None  # of every sample, in codes; None: drawn from the training items with the same labels
    size: tuple[int, ...] | None = None  # of every sample's data, along each axis; None: that of the run's items
    local: Tensor | None = None  # (m, c, *grid or 1s): each sample is conditioned on one of these rows, drawn
    gap: Gap | None = None  # a part of an item that is to be filled; its lengths take the place of `length`

    def __post_init__(self) -> None:
        bottleneck, stage1 = self.loaded.stage1.module.bottleneck, self.loaded.stage1
        self._check_numbers()
        plain = self.temperature == 1 and self.top_k is None and self.top_p is None
        if self.gap is not None and self.gap.sweeps and not plain:
            raise InputError(f"sweeps: expected 0 with temperature, top_k or top_p, found {self.gap.sweeps}")
        if isinstance(bottleneck, Quantizer):
            if self.loaded.stage2 is None:
                raise InputError(f"{self.loaded.run.stage2}: expected a trained stage 2, found none; train it first: "
                                 "make extract-codes stage2")
            return
        if not bottleneck.prior_draws:
            raise InputError(f"{stage1.step_folder}: expected codes or latents with a prior, found "
                             f"{type(bottleneck).__name__}: there is no distribution to sample from")
        for name in ("labels", "top_k", "top_p", "known", "length", "size", "local", "gap"):
            if (value := getattr(self, name)) is not None and (name != "labels" or value):
                raise InputError(f"{name.removesuffix('s')}: expected a run with codes, found {stage1.step_folder}")

    def draw(self, count: int) -> Samples:
        """`count` samples, with a progress bar."""
        for given in (None if self.known is None else len(self.known), None if self.gap is None else self.gap.count):
            if given is not None and given not in (1, count):
                raise InputError(f"complete: expected one item, or one for each of {count} samples, found {given}")
        if self.gap is not None and self.known is None:
            return replace(self, known=known_codes(self.loaded.stage1, self.gap, self._stand_ins())).draw(count)
        draw = self._draw_latents if self.loaded.stage2 is None else self._draw_codes
        batches, parts = [range(start, min(start + self.batch_size, count))
                          for start in range(0, count, self.batch_size)], []
        with _Bar(count, self.loaded.stage1.module.decoder) as bar:

            def of_batch(numbers: range) -> dict[str, Tensor | list[str] | None]:
                bar.begin(len(numbers))
                made = draw(numbers, bar)
                return {own.name: getattr(made, own.name) for own in fields(Samples) if own.name != "gap"}

            for numbers, made in zip(batches, shared(batches, of_batch), strict=True):
                parts.append(made)
                bar.end(len(numbers))
        return Samples(gap=self.gap, **{
            name: torch.cat([part[name] for part in parts]) if isinstance(value, Tensor) else value
            for name, value in parts[0].items()})

    def steps(self, count: int) -> Iterator["Tensor | Samples"]:
        """`draw` while it draws, all samples in one batch: again and again the codes int64 (count, *grid[, g]), -1
        where none is drawn yet; at last the samples. Of a filled part, and of latents without codes, these alone."""
        if self.gap is not None or self.loaded.stage2 is None:
            yield replace(self, batch_size=count).draw(count)
            return
        with _Bar(count, self.loaded.stage1.module.decoder) as bar:
            bar.begin(count)
            for made in self._code_steps(range(count), bar):
                if isinstance(made, Samples):
                    yield made
                else:  # threads may have drawn more by now: what was reported, in raster order
                    codes, done = made
                    reported = torch.arange(math.prod(codes.shape[1:]), device=codes.device).view(codes.shape[1:])
                    most = done // count * self.loaded.stage2.module.num_codebooks
                    yield torch.where(reported < most, codes, -1)
            bar.end(count)

    def _stand_ins(self) -> Tensor:
        """Samples (m, *shape) for the place of what is hidden: the same whatever the seed, and as long as the items."""
        length = None if self.gap.lengths is None else int(self._codes_of(self.gap.lengths).max())
        free = replace(self, gap=None, seed=0, temperature=1.0, top_k=None, top_p=None, length=length)
        with _Bar(STAND_INS, self.loaded.stage1.module.decoder) as bar:
            bar.begin(STAND_INS)
            return free._draw_codes(range(STAND_IN, STAND_IN + STAND_INS), bar).x

    def _check_numbers(self) -> None:
        for name, value in (("temperature", self.temperature), ("top_k", self.top_k), ("top_p", self.top_p)):
            accepted = isinstance(value, int if name == "top_k" else int | float) and not isinstance(value, bool)
            if not accepted and (value is not None or name == "temperature"):
                raise InputError(f"{name}: expected a number, found {value!r}")
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature: expected a finite number >= 0, found {self.temperature}")

    @property
    def _label_names(self) -> list[str]:
        stage1, stage2 = self.loaded.stage1, self.loaded.stage2
        return [] if stage2 is None else conditioning_labels(stage1, stage2)

    def _draw_codes(self, numbers: range, bar: "_Bar") -> Samples:
        for made in self._code_steps(numbers, bar):
            if isinstance(made, Samples):
                return made
        raise AssertionError("the last step is the samples")

    def _code_steps(self, numbers: range, bar: "_Bar") -> Iterator["tuple[Tensor, int] | Samples"]:
        """Codes so far, and how many positions are done, summed over samples; at last the samples."""
        stage1, stage2, spec = self.loaded.stage1, self.loaded.stage2, self.loaded.stage2.codes
        device, names = next(stage2.module.parameters()).device, self._label_names
        columns1, columns2 = ([names.index(name) for name in stage.condition_on] for stage in (stage1, stage2))
        own = [generator(self.seed, number) for number in numbers]
        labels = choose_labels(spec, names, self.labels, draws(own, len(names)))
        grid = self._grid
        uniforms = draws(own, *grid, *spec.item_shape[len(grid) :]).to(device)
        positions = self._positions(labels, numbers, own)
        local = None
        if self.local is not None:
            rows = (draws(own, 1)[:, 0] * len(self.local)).long()
            local = self.local[rows].float().expand(-1, -1, *grid)
        local = conditioning(local, positions if stage2.condition_on_length else None, grid[0], spec.grid[0])
        known = self.known
        if known is not None:
            known = (known.expand(len(numbers), *known.shape[1:]) if len(known) == 1 else known[numbers]).to(device)
        local, filled = None if local is None else local.to(device), None
        try:
            if self.gap is None:
                for codes, done in sample_steps(
                    stage2.module, uniforms, labels=labels[:, columns2].to(device) if columns2 else None, local=local,
                    known=known, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
                ):
                    bar.prior(done, codes.numel() // stage2.module.num_codebooks)
                    yield codes, done
            else:
                filled = self._filled(known, local, positions, own, bar)
                codes = filled.codes
        except ValueError as error:
            raise InputError(f"sampling: {error}") from None
        if filled is not None and filled.labels is not None:
            labels[:, columns2] = filled.labels.cpu()
        hop = spec.shape[-1] // spec.grid[0]
        lengths = None if positions is None else positions * hop
        x = decode(stage1, codes, labels[:, columns1] if columns1 else None, lengths, own, bar.decoder, self.size)
        made = Samples(descend(self.loaded.parents, x, own), codes.cpu(), labels, names, lengths)
        yield made if filled is None else self._completed(made, filled, numbers)

    def _filled(self, known: Tensor, local: Tensor | None, positions: Tensor | None, own: list, bar: "_Bar") -> Filled:
        """The codes, and the labels that are not given, drawn given the known codes."""
        device, stage2 = known.device, self.loaded.stage2
        choices, log_weights = prior_labels(stage2, self.labels.keys())
        for column, name in enumerate(stage2.condition_on):
            if name in self.labels:
                classes = stage2.codes.classes[stage2.prior_columns[column]]
                choices[:, column] = class_number(f"label {name}", self.labels[name], classes)
        return fill(
            stage2.module, known, lambda *shape: draws(own, *shape).to(device), self.gap.particles, self.gap.sweeps,
            labels=choices.to(device) if choices.shape[1] else None, log_weights=log_weights.to(device), local=local,
            lengths=None if positions is None else positions.to(device), temperature=self.temperature,
            top_k=self.top_k, top_p=self.top_p, progress=bar.prior,
        )

    def _completed(self, made: Samples, filled: Filled, numbers: range) -> Samples:
        """As long as the items, with what is visible of them, and with how well the codes were found."""
        gap, x, lengths, fade = self.gap, made.x, None, 0
        if gap.lengths is not None:
            lengths = gap.rows(numbers, gap.lengths)
            x = torch.where(torch.arange(x.shape[-1]) < lengths[:, None, None], x, 0)
            fade = round(FADE_S * self.loaded.stage1.example.facts.get("sample_rate_hz", 0))  # of a wave alone
        if gap.paste:
            x = pasted(gap.rows(numbers, gap.x), gap.rows(numbers, gap.hidden), x, fade)
        changed = None if filled.changed is None else filled.changed.cpu()
        return replace(made, x=x, lengths=lengths, gap=gap, bits=filled.nats.cpu() / math.log(2),
                       effective=filled.effective.cpu(), changed=changed)

    @property
    def _grid(self) -> tuple[int, ...]:
        """Of the codes of a sample."""
        spec, stage1 = self.loaded.stage2.codes, self.loaded.stage1
        if self.size is not None:
            with one_size(stage1, self.size):
                return stage1.tiled.grid(self.size)
        return (max(spec.grid[0], self.length or 0), *spec.grid[1:])

    def _codes_of(self, lengths: Tensor) -> Tensor:
        """Lengths of items in data units -> in codes."""
        spec = self.loaded.stage2.codes
        return -(-lengths * spec.grid[0] // spec.shape[-1])

    def _positions(self, labels: Tensor | None, numbers: range, own: list) -> Tensor | None:
        """Lengths in codes (b,) int64 of padded items, as asked for or as in training; None where items have none."""
        spec = self.loaded.stage2.codes
        if self.gap is not None and self.gap.lengths is not None:
            return self._codes_of(self.gap.rows(numbers, self.gap.lengths))
        if spec.length_counts is None:
            if self.length is not None:
                raise InputError("length: expected a run on items with lengths, found one without")
            return None
        uniforms = draws(own, 1)[:, 0]
        if self.length is not None:
            if self.length < 1:
                raise InputError(f"length: expected 1 code or more, found {self.length}")
            return torch.full((len(own),), self.length)
        columns = [spec.label_names.index(name) for name in self._label_names]
        rows = torch.tensor(spec.length_counts)[:, [*columns, -2, -1]].tolist()
        given = labels if labels is not None else torch.zeros(len(own), 0, dtype=torch.int64)
        return draw_lengths(rows, given, uniforms)

    def _draw_latents(self, numbers: range, bar: "_Bar") -> Samples:
        """Latents that have a prior of their own, as a VAE's, through the decoder."""
        stage1 = self.loaded.stage1
        model, weight = stage1.module, next(stage1.module.parameters())
        own = [generator(self.seed, number) for number in numbers]
        shape = (model.bottleneck.prior_draws, *model.latent_grid(stage1.example.shape))
        z_q = model.bottleneck.from_prior(draws(own, *shape), self.temperature).to(weight.device, weight.dtype)
        x = model.decode_latent(z_q, uniforms=pixel_uniforms(stage1, own)).cpu()
        return Samples(x, None, None, [], None)


class _Bar:
    """Progress in samples: of a batch the prior's share, then the decoder's."""

    def __init__(self, count: int, decoder: torch.nn.Module):
        # a decoder that draws its data position by position takes most of the time
        self.decoder_share = 0.9 if isinstance(decoder, AutoregressiveDecoder) else 0.0
        self.done, self.batch = 0, 0
        self.bar = tqdm(total=count, desc="sampling", unit="sample", leave=False, dynamic_ncols=True, disable=None,
                        bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]")

    def __enter__(self) -> "_Bar":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    def begin(self, batch: int) -> None:
        self.batch = batch

    def prior(self, done: int, total: int) -> None:
        self._show((1 - self.decoder_share) * done / total)

    def decoder(self, done: int, total: int) -> None:
        self._show(1 - self.decoder_share + self.decoder_share * done / total)

    def end(self, batch: int) -> None:
        self.done += batch
        self.batch = 0
        self._show(0.0)

    def _show(self, share: float) -> None:
        self.bar.n = self.done + self.batch * share
        self.bar.update(0)
