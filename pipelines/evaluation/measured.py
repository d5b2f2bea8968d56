"""The subject of an evaluation, and figures of every item of its split that stage 1 alone gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipelines.data.codes import CodeData, CodeSplit
from pipelines.data.manifest import MANIFEST
from pipelines.files.errors import InputError
from pipelines.generation.decoding import decode, pixel_uniforms
from pipelines.generation.samples import Sampler, Samples
from pipelines.ranks.shares import own_parts, shared
from pipelines.runs.chain import LoadedRun
from pipelines.runs.settings import Evaluation
from pipelines.runs.store import Run, TrainedStage
from pipelines.splits.base import Batch, Data, Split, code_lengths, columns_of
from pipelines.splits.noise import generator
from stage1_vqvae.codebook import usage

Found = TypeVar("Found")  # of a batch, as `pipelines.ranks.shares` hands it on


@dataclass(frozen=True)
class Subject:
    """A run, and the split of its data that it is measured on."""

    loaded: LoadedRun
    data: Data
    split_name: str
    split: Split  # on the device
    options: Evaluation
    seed: int
    device: torch.device
    _drawn: dict[str, Samples] = field(default_factory=dict)
    _trained: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return self.loaded.run

    @cached_property
    def _code_data(self) -> CodeData:
        if not (self.run.codes / MANIFEST).exists():
            raise InputError(f"{self.run.codes}: expected the codes that the prior is measured on, found none; extract "
                             "them first: make extract-codes")
        return CodeData(self.run.codes)

    @property
    def views(self) -> int:
        """Passes over the training items among the codes of the training split."""
        return self._code_data.manifest.views

    @cached_property
    def codes(self) -> dict[str, CodeSplit]:
        """The training codes and those of the measured split, which a prior is measured on. Raises InputError for a run
        that has none, such as a published one."""
        return {name: self._code_data.split(name) for name in ("train", self.split_name)}

    def once(self, name: str, train: Callable[[], nn.Module]) -> nn.Module:
        """What `train` gives: the network of this name is trained at most once."""
        if name not in self._trained:
            self._trained[name] = train()
        return self._trained[name]

    def samples(self, count: int) -> Samples:
        """The first `count` samples of the prior. Sample i is the same however many are drawn: no sample is drawn
        twice."""
        drawn = self._drawn.get("samples")
        if drawn is None or len(drawn.x) < count:
            local = self.codes["train"].local if self.loaded.stage2 is not None else None
            drawn = Sampler(self.loaded, self.seed, self.options.batch_size, local=local).draw(count)
            self._drawn["samples"] = drawn
        return replace(drawn, **{name: value[:count] for name, value in vars(drawn).items() if torch.is_tensor(value)})


@dataclass(frozen=True)
class Measured:
    """Over a whole split of n items, on the CPU."""

    nll_nats: Tensor  # (n,) float64, -log p(x | z_q)
    rate_nats: Tensor  # (n,) float64, under the prior of training
    norms: Tensor  # (n, t) float64, |z_e| at t positions in raster order; for Gaussian latents the norm of the mean
    codes: Tensor | None  # (n, t, g) int64; None where there are none
    real: Tensor  # (n, t) bool: which positions are not padding
    reconstructions: Tensor  # (n, *shape) in data units
    sizes: Tensor  # (n,) int64: data dimensions of each item, without padding
    others_nats: Tensor | None = None  # (n,) float64, -log p(x | z_q of another item); autoregressive decoders only
    drawn: Tensor | None = None  # (m, *shape) reconstructions of the first items from drawn latents

    @property
    def positions(self) -> float:
        """Latent positions of an example, on average."""
        return float(self.real.sum()) / len(self.real)


@torch.no_grad()
def measure(stage1: TrainedStage, split: Split, batch_size: int, seed: int) -> Measured:
    """The autoencoder's figures, codes and reconstructions over a whole split, without noise.

    An autoregressive decoder draws its reconstructions from generators made from (seed, item)."""
    model, columns = stage1.module, stage1.decoder_columns

    def of_batch(start: int, batch: Batch) -> list[Tensor | None]:
        labels = columns_of(batch.labels, columns)
        own = [generator(seed, start + place) for place in range(len(batch.x))]
        uniforms = pixel_uniforms(stage1, own) if batch.lengths is None else None
        result = model.evaluate(batch.x, labels, uniforms, lengths=batch.lengths)
        norms = result.z_e[:, : model.bottleneck.dim].double().norm(dim=1).flatten(1).cpu()
        found, positions = result.latent.codes, norms.shape[1]
        codes = None if found is None else found.reshape(len(batch.x), positions, -1).cpu()
        lengths = code_lengths(batch, result.z_e.shape[2])
        whole = torch.full((len(batch.x),), positions) if lengths is None else lengths.cpu()
        real = torch.arange(positions) < whole[:, None]
        made = result.reconstruction
        if made is None:
            made = decode(stage1, found, labels, batch.lengths.cpu(), own)
        sizes = (torch.full((len(batch.x),), batch.x[0].numel()) if lengths is None
                 else batch.lengths.cpu() * batch.x.shape[1])
        return [result.nll_nats.cpu(), result.rate_nats.cpu(), norms, codes, real, made.cpu(), sizes]

    parts = zip(*shared_batches(split, batch_size, "stage 1", of_batch), strict=True)
    return Measured(*(None if part[0] is None else torch.cat(part) for part in parts))


def uses(measured: Measured, num_codes: int) -> Tensor:
    """How often each code of each codebook occurs (g, k), without padding."""
    return torch.stack([usage(own, num_codes) for own in measured.codes[measured.real].unbind(-1)])


def shared_batches(split: Split, batch_size: int, title: str, work: Callable[[int, Batch], Found],
                   items: Tensor | None = None) -> Iterator[Found]:
    """work(number of the first item, batch) over a whole split, or over these items of it, in order, with a progress
    bar. Ranks share the batches, and all get all results."""
    parts = (torch.arange(len(split)) if items is None else items).split(batch_size)
    own = split.batches(lambda number: split.batch(parts[number]), own_parts(range(len(parts))))
    made = shared(range(len(parts)), lambda number: work(int(parts[number][0]), next(own)))
    yield from tqdm(made, total=len(parts), desc=title, leave=False, dynamic_ncols=True, disable=None)


def batches(split: Split, batch_size: int, title: str, items: Tensor | None = None) -> Iterator[tuple[int, Batch]]:
    """(number of the first item, batch) over a whole split, or over these items of it, with a progress bar."""
    parts = (torch.arange(len(split)) if items is None else items).split(batch_size)
    made = split.batches(lambda number: split.batch(parts[number]), range(len(parts)))
    for part, batch in zip(tqdm(parts, desc=title, leave=False, dynamic_ncols=True, disable=None), made, strict=True):
        yield int(part[0]), batch
