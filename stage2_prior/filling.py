"""Codes missing anywhere in a grid, drawn given all the others: those before them in raster order, and those after.

A prior draws in raster order, so `sampling.sample` with `known` conditions a code on earlier ones alone. Here the later
known codes count too, by their exact likelihood. `fill` draws from p(unknown codes, labels | known codes) in two steps:

1. Sequential Monte Carlo (Gordon, Salmond and Smith 1993; Doucet and Johansen, "A tutorial on particle filtering and
   smoothing", 2009). Each item has a population of particles of its own. Slice by slice of the grid's first axis, the
   unknown codes of all particles are drawn from the prior, and each particle is weighted by the probability that it
   gives to the known codes of that slice; where the weights have become uneven, particles are resampled. Labels that
   are not given are part of a particle. One particle is drawn by the last weights.
2. Sweeps over the unknown codes of that particle (iterated sampling importance resampling: Andrieu, Lee and Vihola,
   "Uniform ergodicity of the iterated conditional SMC and geometric ergodicity of particle Gibbs samplers", 2018). The
   codes of a box are redrawn from the prior `tries` times; one of these or the present codes is drawn in proportion to
   the exact likelihood of all codes outside the box. This leaves the distribution as it is, and so does the draw of
   the labels given all codes that ends a sweep.

Step 1 approaches the distribution as particles are added, step 2 as sweeps are.

Axes: n items, m particles of an item, c rows of labels, t tries, g codebooks, L label columns.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from stage2_prior.prior import Prior
from stage2_prior.rule import Rule
from stage2_prior.sampling import sample

SIDE_BY_SIDE = 512  # grids that are drawn in one go: as many as the kernels on a GPU take
LOGITS = 2**24  # of one forward pass at most: 64 MiB in float32
UNEVEN = 0.5  # of the particles: with an effective sample size below it they are resampled


@dataclass(frozen=True)
class Filled:
    """Grids without unknown codes, and how well they were found."""

    codes: Tensor  # (n, *grid[, g]) int64
    labels: Tensor | None  # (n, L) int64
    nats: Tensor  # (n,) float64, -log p(codes, labels), with the given weights of the labels
    effective: Tensor  # (n,) float64, the smallest effective sample size of an item's particles: 1 to m
    changed: Tensor | None  # (n,) float64, the share of redraws that changed codes; None without sweeps


@dataclass(frozen=True)
class _Task:
    """What is the same for all particles. Labels are rows of `choices`, by their numbers."""

    prior: Prior
    choices: Tensor  # (c, L)
    log_weights: Tensor  # (c,)
    rule: Rule

    def labels(self, rows: Tensor) -> Tensor | None:
        return self.choices[rows] if self.choices.shape[1] else None

    def draw(self, known: Tensor, uniforms: Tensor, rows: Tensor, local: Tensor | None) -> Tensor:
        how = self.rule.temperature, self.rule.top_k, self.rule.top_p
        parts = torch.split(torch.arange(len(known), device=known.device), SIDE_BY_SIDE)
        return torch.cat([
            sample(self.prior, uniforms[i], self.labels(rows[i]), None if local is None else local[i], *how, known[i])
            for i in parts
        ])  # fmt: skip

    def nats(self, codes: Tensor, rows: Tensor, local: Tensor | None) -> Tensor:
        """`Prior.code_nats` as float64, in parts that bound the memory."""
        parts = torch.arange(len(codes), device=codes.device)
        size = max(1, LOGITS // (codes[0].numel() * self.prior.logits_per_code))
        return torch.cat([
            self.prior.code_nats(codes[i], self.labels(rows[i]), None if local is None else local[i]).double()
            for i in torch.split(parts, size)
        ])  # fmt: skip


@torch.no_grad()
def fill(
    prior: Prior,
    known: Tensor,
    uniforms: Callable[..., Tensor],
    particles: int,
    sweeps: int = 0,
    box: int = 3,
    tries: int = 1,
    labels: Tensor | None = None,
    log_weights: Tensor | None = None,
    local: Tensor | None = None,
    lengths: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stages: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Filled:
    """Draws the codes that are -1 in `known`, int64 (n, *grid[, g]), given all the others.

    uniforms: called with a shape, gives the next random numbers float64 (n, *shape) in [0, 1), on the prior's device.
    Item i is a function of its own rows of these, of known, local and lengths; on a CPU it does not depend on n.
    labels: int64 (c, L), the rows of labels that an item may have, and log_weights float64 (c,), the log of how often
    each is to be expected before a code is seen (default: equally often). One row where labels are given; None for a
    prior without. local (n, channels, *grid): as in `Prior.forward`.
    lengths (n,) int64: for padded codes, how many positions of the first grid axis are real; the others have to be
    given, and are not counted.
    box: the edge of the boxes that a sweep redraws. stages: how often the particles are weighted, at most.
    temperature, top_k, top_p: of the draws, as in `sampling.sample`; known codes are weighted by the prior itself.
    progress: called with (done, in total), in the population of one item or one sweep over its codes.
    Raises ValueError for input that does not fit, and for sweeps with temperature, top_k or top_p, which would change
    the distribution that they leave as it is."""
    if prior.training:
        raise ValueError("prior: expected evaluation mode, found training mode")
    for name, count, least in (("particles", particles, 1), ("sweeps", sweeps, 0), ("box", box, 1), ("tries", tries, 1),
                               ("stages", stages, 1)):  # fmt: skip
        if count < least:
            raise ValueError(f"{name}: expected {least} or more, found {count}")
    task = _Task(prior, *_choices(prior, labels, log_weights, known.device), Rule(temperature, top_k, top_p))
    if sweeps and task.rule != Rule():
        raise ValueError(f"sweeps: expected 0 with temperature, top_k or top_p, found {sweeps}")
    prior.check_shape("known", known.shape)
    missing, counted = known < 0, torch.ones_like(known, dtype=torch.bool)
    if lengths is not None:
        real = torch.arange(known.shape[1], device=known.device) < lengths[:, None]
        counted &= rearrange(real, "n t -> n t" + " 1" * (known.ndim - 2))
    if (missing & ~counted).any():
        raise ValueError("known: expected all codes after the length, found -1")

    total, done = len(known) * (1 + sweeps), 0
    draws, spare = uniforms(particles, *known.shape[1:]), uniforms(stages + 2)
    codes, rows = known.clone(), torch.zeros(len(known), dtype=torch.int64, device=known.device)
    effective = torch.zeros(len(known), dtype=torch.float64, device=known.device)
    for ends, items in _groups(missing, counted, len(task.choices) > 1, stages):
        population = _Population(task, known[items], counted[items], _at(local, items), draws[items], spare[items])
        for start, end in itertools.pairwise((0, *ends)):
            population.advance(start, end)
        codes[items], rows[items] = population.drawn()
        effective[items] = population.effective
        done += len(items)
        if progress is not None:
            progress(done, total)
    chain = _Chain(task, codes, rows, missing, counted, local)
    for _ in range(sweeps):
        chain.sweep(uniforms, box, tries)
        done += len(known)
        if progress is not None:
            progress(done, total)
    return Filled(chain.codes, task.labels(chain.rows), chain.total(), effective, chain.changed() if sweeps else None)


class _Population:
    """The particles of items that are weighted at the same places, flattened to (n m)."""

    def __init__(
        self, task: _Task, known: Tensor, counted: Tensor, local: Tensor | None, draws: Tensor, spare: Tensor
    ) -> None:
        self.task, (self.n, self.m) = task, draws.shape[:2]
        self.codes, self.evidence = self._each(known), self._each((known >= 0) & counted)
        self.local = None if local is None else self._each(local)
        self.draws, self.spare = draws.flatten(0, 1), iter(spare.unbind(1))
        self.rows = systematic(task.log_weights.expand(self.n, -1), next(self.spare), self.m)
        self.log_weights = torch.zeros(self.n, self.m, dtype=torch.float64, device=known.device)
        self.effective = torch.full_like(self.log_weights[:, 0], float(self.m))

    def advance(self, start: int, end: int) -> None:
        """Draws what is unknown in the slices from `start` to `end`, weights by what is known in them."""
        if start:
            self._resample()
        codes, rows = self.codes[:, :end], self.rows.flatten()
        local = None if self.local is None else self.local[:, :, :end]
        if (codes < 0).any():
            codes = self.task.draw(codes, self.draws[:, :end], rows, local)
            self.codes[:, :end] = codes
        nats = self.task.nats(codes, rows, local)[:, start:] * self.evidence[:, start:end]
        self.log_weights -= reduce(nats, "(n m) ... -> n m", "sum", m=self.m)
        self.effective = torch.minimum(self.effective, effective_size(self.log_weights))

    def drawn(self) -> tuple[Tensor, Tensor]:
        """Codes (n, *grid[, g]) and the row of labels (n,) of one particle of each item, drawn by the weights."""
        chosen = systematic(self.log_weights, next(self.spare), 1)
        flat = (chosen + self._first()).flatten()
        return self.codes[flat], self.rows.flatten()[flat]

    def _resample(self) -> None:
        """Where the weights have become uneven, replaces light particles by copies of heavy ones."""
        uneven = (effective_size(self.log_weights) < UNEVEN * self.m)[:, None]
        ancestors = systematic(self.log_weights, next(self.spare), self.m)
        ancestors = torch.where(uneven, ancestors, torch.arange(self.m, device=ancestors.device))
        self.rows, self.codes = self.rows.gather(1, ancestors), self.codes[(ancestors + self._first()).flatten()]
        self.log_weights = torch.where(uneven, 0.0, self.log_weights)

    def _first(self) -> Tensor:
        """The number of each item's first particle, (n, 1)."""
        return torch.arange(0, self.n * self.m, self.m, device=self.codes.device)[:, None]

    def _each(self, x: Tensor) -> Tensor:
        return repeat(x, "n ... -> (n m) ...", m=self.m).contiguous()  # of one item it is a view of it


class _Chain:
    """One grid of each item, and sweeps over its unknown codes."""

    def __init__(
        self, task: _Task, codes: Tensor, rows: Tensor, missing: Tensor, counted: Tensor, local: Tensor | None
    ) -> None:
        self.task, self.codes, self.rows = task, codes, rows
        self.missing, self.counted, self.local = missing, counted, local
        self.nats = task.nats(codes, rows, local)
        self.moved, self.redrawn = torch.zeros(2, len(codes), dtype=torch.float64, device=codes.device)

    def sweep(self, uniforms: Callable[..., Tensor], box: int, tries: int) -> None:
        """Redraws the unknown codes, box by box of a tiling with a random origin, then the labels."""
        grid = self.task.prior.grid(self.codes.shape)
        counts = [(size + 2 * box - 2) // box for size in grid]
        origins, draws = uniforms(len(grid)), uniforms(tries, *self.codes.shape[1:])
        picks, last = uniforms(math.prod(counts)), uniforms(1)
        numbers = self._tiles((origins * box).long(), grid, counts, box)
        for number in range(math.prod(counts)):
            inside = (numbers == number) & self.missing
            items = inside.flatten(1).any(1).nonzero()[:, 0]
            if len(items):
                self._redraw(items, inside[items], draws[items], picks[items, number])
        if len(self.task.choices) > 1:
            self._redraw_labels(last[:, 0])

    def total(self) -> Tensor:
        """-log p(codes, labels), (n,)."""
        return reduce(self.nats * self.counted, "n ... -> n", "sum") - self.task.log_weights[self.rows]

    def changed(self) -> Tensor:
        return self.moved / self.redrawn.clamp(min=1)

    def _tiles(self, origins: Tensor, grid: tuple[int, ...], counts: Sequence[int], box: int) -> Tensor:
        """The number of the box that each position is in: like codes."""
        number = torch.zeros((1,) * (1 + len(grid)), dtype=torch.int64, device=origins.device)
        for axis, (size, count) in enumerate(zip(grid, counts, strict=True)):
            along = (torch.arange(size, device=origins.device) + origins[:, axis, None]) // box
            shape = [-1, *(size if other == axis else 1 for other in range(len(grid)))]
            number = number * count + along.reshape(shape)
        return (number if self.codes.ndim == number.ndim else number[..., None]).expand_as(self.codes)

    def _redraw(self, items: Tensor, inside: Tensor, draws: Tensor, picks: Tensor) -> None:
        """Draws the codes `inside` (n, *grid[, g]) several times, and one of these or the present ones by the weights.

        Drawn from the prior, codes have the probability that the distribution gives to them too: the weights are those
        of all others."""
        tries = draws.shape[1]
        rows = repeat(self.rows[items], "n -> (n t)", t=tries)
        local = None if self.local is None else repeat(self.local[items], "n ... -> (n t) ...", t=tries)
        known = repeat(self.codes[items].masked_fill(inside, -1), "n ... -> (n t) ...", t=tries)
        made = self.task.draw(known, draws.flatten(0, 1), rows, local)
        nats = self.task.nats(made, rows, local)
        made, nats = (
            torch.cat((present[items][:, None], rearrange(new, "(n t) ... -> n t ...", t=tries)), 1)
            for present, new in ((self.codes, made), (self.nats, nats))
        )
        log_weights = -reduce(nats * (self.counted[items] & ~inside)[:, None], "n t ... -> n t", "sum")
        chosen, at = systematic(log_weights, picks, 1)[:, 0], torch.arange(len(items), device=items.device)
        self.redrawn[items] += 1
        self.moved[items] += (made[at, chosen] != self.codes[items]).flatten(1).any(1).double()
        self.codes[items], self.nats[items] = made[at, chosen], nats[at, chosen]

    def _redraw_labels(self, picks: Tensor) -> None:
        each = [self.task.nats(self.codes, torch.full_like(self.rows, row), self.local)
                for row in range(len(self.task.choices))]  # fmt: skip
        nats = torch.stack(each, 1)
        log_weights = self.task.log_weights - reduce(nats * self.counted[:, None], "n c ... -> n c", "sum")
        self.rows = systematic(log_weights, picks, 1)[:, 0]
        self.nats = nats[torch.arange(len(nats), device=nats.device), self.rows]


def stage_ends(unknown: Sequence[bool], evidence: Sequence[bool], ambiguous: bool, most: int) -> list[int]:
    """Where the stages of a population end, for slices of the first axis that have unknown, and counted known, codes.

    A stage ends before a slice with unknown codes if known ones have come after the first that were drawn: they say
    which particles are worth going on with. If labels are ambiguous, what precedes all unknown codes says so too. At
    most `most` stages, evenly thinned; the last one reaches the end."""
    ends, drawn, waiting = [], ambiguous, False
    for at, (own, given) in enumerate(zip(unknown, evidence, strict=True)):
        if own and waiting:
            ends.append(at)
            waiting = False
        drawn = drawn or own
        waiting = waiting or (drawn and given)
    if len(ends) >= most:
        ends = [ends[number * len(ends) // (most - 1)] for number in range(most - 1)] if most > 1 else []
    return [*ends, len(unknown)]


def systematic(log_weights: Tensor, uniforms: Tensor, count: int) -> Tensor:
    """Numbers int64 (n, count), increasing, each as often as its weight says, to within one: evenly spaced points on
    the cumulated weights, moved by uniforms (n,). log_weights (n, m) need not be normalised."""
    edges = log_weights.softmax(1).cumsum(1)
    points = (torch.arange(count, device=edges.device) + uniforms[:, None]) / count * edges[:, -1:]
    return torch.searchsorted(edges, points, right=True).clamp(max=log_weights.shape[1] - 1)


def effective_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 (n,) of log_weights (n, m): how many equal weights say as much (Kong 1992)."""
    return torch.exp(2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1))


def _groups(missing: Tensor, counted: Tensor, ambiguous: bool, most: int) -> Iterator[tuple[list[int], Tensor]]:
    """Items whose stages end at the same places: these places, and the numbers of the items.

    An item's stages depend on its own codes alone, and so does what is drawn for it."""
    unknown, evidence = (reduce(x, "n t ... -> n t", "any").tolist() for x in (missing, ~missing & counted))
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (own, given) in enumerate(zip(unknown, evidence, strict=True)):
        groups.setdefault(tuple(stage_ends(own, given, ambiguous, most)), []).append(number)
    for ends, items in groups.items():
        yield list(ends), torch.tensor(items, device=missing.device)


def _choices(
    prior: Prior, labels: Tensor | None, log_weights: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows of labels (c, L) and their log probabilities (c,); one empty row for a prior without labels."""
    columns = len(prior.num_classes)
    if labels is None:
        labels = torch.zeros(1, 0, dtype=torch.int64, device=device)
    if labels.ndim != 2 or labels.shape[1] != columns or not len(labels):
        raise ValueError(f"labels: expected shape (c, {columns}), found {tuple(labels.shape)}")
    if log_weights is None:
        log_weights = torch.zeros(len(labels), device=device)
    if log_weights.shape != labels.shape[:1]:
        raise ValueError(f"log_weights: expected shape ({len(labels)},), found {tuple(log_weights.shape)}")
    return labels, log_weights.double().log_softmax(0)


def _at(x: Tensor | None, items: Tensor) -> Tensor | None:
    return None if x is None else x[items]
