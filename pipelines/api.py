"""Trained runs from Python.

    from pipelines import load

    run = load("mnist")                          # a folder, a name under runs/, a pretrained run, or hf://OWNER/NAME
    codes = run.encode("seven.png")              # int64, (*grid) for one item, (n, *grid) for several
    image = run.decode(codes)
    samples = run.sample(16, digit="7", seed=0)  # samples.x, samples.codes, samples.save("folder")

Items are given as tensors, NumPy arrays, Pillow images, paths or lists of these, one or a batch; results come back as
tensors on the CPU, one item for one item. Errors are `InputError`, a ValueError that names what was expected and found.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.codec.folders import Decompressed, compress_files, decompress_files
from pipelines.codec.items import Compressed, Given, compress, decoded, items_of, named, open_compressed, restore
from pipelines.codec.models import Models
from pipelines.data.codes import CodeData
from pipelines.data.exporting import ExportedCodes, export_codes
from pipelines.data.image_files import open_image
from pipelines.data.manifest import code_type
from pipelines.evaluation.checkup import Checkup, check
from pipelines.evaluation.exports import FORMATS, Exported, export, held_out_batch
from pipelines.evaluation.held_out import CACHE, HeldOut, held_out_scores, nearest_training
from pipelines.evaluation.score_table import in_order, rank_values, write_scores
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError, naming
from pipelines.files.locks import only_writer
from pipelines.files.outputs import one_call
from pipelines.files.places import outputs
from pipelines.generation.decoding import decode, descend, one_size
from pipelines.generation.labels import choose_labels, conditioning_labels, decoder_labels, parse_labels
from pipelines.generation.reconstruction import reconstruct
from pipelines.generation.samples import Sampler, Samples
from pipelines.generation.scores import Scores, score, trained_prior
from pipelines.generation.walk import Walk
from pipelines.health.finding import Finding
from pipelines.kinds import all_kinds, check_able, kind_of
from pipelines.kinds.base import Written
from pipelines.ranks.shares import leave_to_first, on_first, shared
from pipelines.reporting.run_page import note_missing, run_page
from pipelines.reporting.subject import Reported
from pipelines.runs.chain import LoadedRun, load_run
from pipelines.runs.example import refuse_imported
from pipelines.runs.figures import read_figures
from pipelines.runs.find import chosen_run
from pipelines.splits.base import Batch
from pipelines.splits.noise import draws, generator
from pipelines.training.distributed import choose_device
from stage1_vqvae.bottlenecks.base import Quantizer

MOST_REPORTED = 256  # samples of which a report shows as many as it has room for


def load(run: str | Path | None = None, device: str = "auto", runs_dir: str | Path = "runs") -> "TrainedRun":
    """A trained run: a folder, a name under `runs_dir`, or the name of a pretrained run, looked up in this order; None:
    the run whose stage 2 was trained last. hf://OWNER/NAME, or hf://OWNER/NAME@REVISION, is a run on a hub (extra
    [hub]); no other name makes a request. device: "auto", "cpu", "cuda", "cuda:1", ...

    Raises InputError for a run that does not exist, has no trained stage 1, or whose files are damaged."""
    return TrainedRun(load_run(chosen_run(run, Path(runs_dir)), choose_device(device)))


class TrainedRun:
    """A run's trained stages, ready to use."""

    def __init__(self, loaded: LoadedRun):
        self._loaded = loaded
        self._kind = kind_of(loaded.stage1.example.kind)

    def __repr__(self) -> str:
        return f"<run {self.folder}: {self.describe()}>"

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._loaded.run.root

    @property
    def outputs(self) -> Path:
        """The folder below which the verbs write: the run's, unless that is part of the installed package."""
        return outputs(self.folder)

    @property
    def kind(self) -> str:
        """The kind of data: "image", "audio", "video", "codes"."""
        return self._kind.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item in data units; of a run on codes that of the images below."""
        return self._kind.data_shape(self._loaded)

    @property
    def grid(self) -> tuple[int, ...]:
        """The grid of latents of one item."""
        return tuple(self.stage1.latent_grid(self._loaded.stage1.example.shape))

    @property
    def num_codes(self) -> int | None:
        """K, the number of codes of each codebook; None for latents without codes."""
        return self.stage1.bottleneck.num_codes if isinstance(self.stage1.bottleneck, Quantizer) else None

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of each label of the training data."""
        example = self._loaded.stage1.example
        return dict(zip(example.label_names, example.classes, strict=True))

    @property
    def figures(self) -> dict[str, Any]:
        """metrics.json as evaluate.py wrote it. Raises InputError for a run that was not evaluated."""
        return read_figures(self._loaded.run)

    @property
    def stage1(self) -> nn.Module:
        """The autoencoder, a torch module in eval mode."""
        return self._loaded.stage1.module

    @property
    def stage2(self) -> nn.Module | None:
        """The prior, a torch module in eval mode; None where none was trained."""
        return None if self._loaded.stage2 is None else self._loaded.stage2.module

    def describe(self) -> str:
        """Kind, sizes and training steps in one line."""
        loaded = self._loaded
        codes = "" if self.num_codes is None else f", K = {self.num_codes}"
        step = "imported" if loaded.stage1.example.imported else f"stage 1 of step {loaded.stage1.state.step}"
        prior = "no prior" if loaded.stage2 is None else f"prior of step {loaded.stage2.state.step}"
        return (f"{self.kind} {'x'.join(map(str, self.shape))} -> {'x'.join(map(str, self.grid))}{codes}, "
                f"{step}, {prior}")

    # --- arrays in, arrays out ------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Any, batch_size: int = 64, whole: bool = False) -> Tensor:
        """Items -> codes int64 (n, *grid[, g]), or (*grid[, g]) for one item.

        Arrays and tensors may have any height and width, audio and clips any length: the grid is as large as they are,
        rounded up to whole codes. whole: image files, video files and Pillow images keep their own size too; else they
        are cropped and resized to the run's."""
        _counts(batch_size=batch_size)
        self._need_stage1()
        self._need_codes()
        items, tiled = self._kind.read_any(self._loaded, x, whole), self._loaded.stage1.tiled
        size = tuple(items.x.shape[2:])
        with one_size(self._loaded.stage1, size):
            parts = items.x.split(batch_size if size == tiled.shape[1:] else 1)
            codes = torch.cat([tiled.encode(part) for part in parts])
        return codes[0] if items.single else codes

    def decode(self, codes: Any, seed: int = 0, batch_size: int = 64, **labels: str) -> Tensor:
        """Codes int64 (n, *grid[, g]), or those of one item -> data units (n, *shape), or one item: uint8 images and
        video, float32 waveforms. The grid may be any that the decoder takes.

        labels: a class for each label that the decoder is conditioned on, `speaker="theo"`. An autoregressive decoder
        samples; item i is then a function of its codes, `seed` and i."""
        self._need_stage1()
        self._need_codes()
        _counts(batch_size=batch_size)
        codes, single, count = self._read_codes(codes)
        given = decoder_labels(self._loaded.stage1, labels, len(codes))
        length = count * (self._loaded.stage1.example.shape[-1] // self._loaded.stage1.grid[0])
        lengths, parts = torch.full((len(codes),), length) if self._kind.padded else None, []
        if tuple(codes.shape[1 : 1 + len(self._loaded.stage1.grid)]) != tuple(self._loaded.stage1.grid):
            batch_size = 1
        for rows in torch.arange(len(codes)).split(batch_size):
            own = [generator(seed, number) for number in rows.tolist()]
            x = decode(self._loaded.stage1, codes[rows], None if given is None else given[rows],
                       None if lengths is None else lengths[rows], own)
            parts.append(descend(self._loaded.parents, x, own))
        x = torch.cat(parts) if lengths is None else torch.cat(parts)[..., :length]
        return x[0] if single else x

    def reconstruct(self, x: Any, seed: int = 0, batch_size: int = 64, whole: bool = False, **labels: str) -> Tensor:
        """Items -> their reconstructions in data units, of the same shape, which may be any; labels and seed as in
        `decode`, whole as in `encode`."""
        _counts(batch_size=batch_size)
        self._need_stage1()
        items = self._kind.read_any(self._loaded, x, whole)
        given = decoder_labels(self._loaded.stage1, labels, len(items.x))
        made = reconstruct(self._loaded, items.x, given, seed, batch_size, items.lengths)
        if items.single:
            return made[0] if items.lengths is None else made[0, ..., : int(items.lengths[0])]
        return made

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0, top_k: int | None = None,
               top_p: float | None = None, batch_size: int = 64, labels: Mapping[str, str] | Sequence[str] = (),
               **named: Any) -> "SampledItems":
        """n samples. Sample i depends on the options, `seed` and i alone, on a GPU up to rounding.

        Labels are given by name, `digit="7"` (or `labels=["digit=7"]`); those not given are drawn as often as in
        training. Other names are options of the kind of data: `complete=IMAGE, keep=0.5` of images, `seconds=0.5` of
        audio, `actions="forward"` of video, `size="128x192"` of images and video; size and seconds may be more than in
        training where the prior takes any grid. `complete=ITEM, mask=PART` fills a part of an image (an image, white
        there, or booleans), of audio (seconds, "0.2-0.35") or of video (frames, "4-8", or a region) given all around
        it; labels not given are drawn as the known codes say. `particles`, `sweeps`, `paste`: see sample.py --help."""
        _counts(n=n, batch_size=batch_size)
        return SampledItems(self, self._sampler(seed, temperature, top_k, top_p, batch_size, labels, named).draw(n))

    def sample_steps(self, n: int, seed: int = 0, temperature: float = 1.0, top_k: int | None = None,
                     top_p: float | None = None, labels: Mapping[str, str] | Sequence[str] = (), **named: Any
                     ) -> "Iterator[Tensor | SampledItems]":
        """`sample` while it draws, all n in one batch: again and again the codes, -1 where none is drawn yet, then what
        `sample` returns. On a GPU, of filled items and of latents without codes, no codes on the way."""
        _counts(n=n)
        for made in self._sampler(seed, temperature, top_k, top_p, n, labels, named).steps(n):
            yield SampledItems(self, made) if isinstance(made, Samples) else made

    def walk(self, seed: int = 0, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
             **labels: str) -> Walk:
        """Of a run on video: frame after frame, each conditioned on the frames before it and on an action.

        `walk.step("forward")` draws the next frames, uint8 (c, s, h, w), s = 1 unless time is compressed;
        `walk.begin(frames, actions)` before the first step lets the walk go on from given frames. Labels that are not
        given are drawn as often as in training."""
        loaded, names = self._loaded, self._sampling_labels
        stage2 = trained_prior(loaded)
        chosen = choose_labels(stage2.codes, names, labels, draws([generator(seed, 0)], len(names)))
        return Walk(loaded.stage1, stage2, seed, chosen, temperature=temperature, top_k=top_k, top_p=top_p)

    def score(self, x: Any, batch_size: int = 64, actions: str | None = None, **labels: str) -> Scores:
        """Exact bits of each item: of its codes by the prior, and of the data given the codes, float64 (n,) each; where
        they lie, as maps; and the size of each item as a lossless file, which estimates its complexity.

        Labels of the prior that are not given are marginalised over, weighted as in the training data; those that the
        decoder is conditioned on have to be given. actions: of video, the name of one action or a file of names."""
        _counts(batch_size=batch_size)
        self._need_codes()
        return self._score(self._kind.read(self._loaded, x), labels, actions, batch_size)

    def held_out_scores(self, given: Sequence[str] = (), count: int = 1000, data_root: Path | None = None,
                        batch_size: int = 64) -> HeldOut:
        """Scores of up to `count` held-out items, kept in the run; the prior is conditioned on the labels
        `given`, each item with its own class, and marginalised over others.

        Raises InputError where neither the run's data nor its codes can be found."""
        given = tuple(sorted({*given, *self._loaded.stage1.condition_on}))

        def codec(x: Tensor, lengths: Tensor | None) -> Tensor | None:
            return self._kind.codec_bits(self._loaded, x, lengths)

        return held_out_scores(self._loaded, given, count, data_root, codec, self.outputs / CACHE, batch_size)

    def compress(self, x: Any, lossless: bool = False, actions: Any = None, batch_size: int = 64,
                 rate_weight: float = 0.0, whole: bool = False, names: Sequence[str] = (), **labels: str) -> bytes:
        """Items of any size -> a compressed file, which any machine decodes to the same codes.

        Lossy: the codes, by the prior; with a rate_weight > 0 codes that cost fewer bits at more error, see
        `pipelines.codec.choice`. lossless: the codes, then the data by the decoder's likelihood (images, video, and the
        codes that a run on codes models). labels: as in `score`; those not given are chosen and stored. actions: of
        each frame of each clip, int64 (n, t) or one name for all, where the prior is conditioned on them. whole: as in
        `encode`. names: of the items, by which the file then finds them, or none."""
        _counts(batch_size=batch_size)
        items, models = self._kind.read_any(self._loaded, x, whole), self._models
        if len(names) not in (0, len(items.x)):
            raise InputError(f"names: expected one for each of {len(items.x)} items, found {len(names)}")
        given = Given(items.x, models.wanted_labels(labels, len(items.x)), items.lengths,
                      models.wanted_actions(actions, len(items.x), items.x.shape[2]), list(names))
        file, other = io.BytesIO(), tuple(items.x.shape[1:]) != self._loaded.stage1.example.shape
        compress(models, file, [given], lossless, batch_size, rate_weight, any_size=other)
        return file.getvalue()

    def decompress(self, data: bytes, items: Sequence[int | str] | None = None, seed: int = 0, batch_size: int = 64
                   ) -> Tensor:
        """A compressed file -> its items in data units (n, c, *size), as `decode` makes them of the codes, or exactly.

        items: numbers or names of some of them, in this order. Raises InputError that names items which are damaged:
        ask for the others, or let `decompress_files` write them; and for several sizes."""
        _counts(batch_size=batch_size)
        models = self._models
        reader = open_compressed(models, io.BytesIO(data), "data")
        wanted = list(range(reader.count)) if items is None else items_of(reader, items, "data")
        found: dict[int, Tensor] = {}
        for part in restore(models, reader, wanted, batch_size):
            if part.group is None:
                raise InputError(f"data: expected whole items, found damage in {named(reader, part.numbers)}")
            found |= zip(part.numbers, decoded(models, part, seed), strict=True)
        sizes = sorted({tuple(found[number].shape[1:]) for number in wanted})
        if len(sizes) > 1:
            several = " and ".join(map(str, sizes[:2]))
            raise InputError(f"data: expected items of one size, found {several}: ask for each by itself")
        return torch.stack([found[number] for number in wanted])

    def codes(self, split: str = "train") -> "CodeItems":
        """The extracted codes of a split, a torch Dataset of (codes, labels). Raises InputError before extraction."""
        return CodeItems(CodeData(self._loaded.run.codes).split(split))

    def checkup(self) -> Checkup:
        """What was looked at of the run, and what is wrong with it."""
        return check(self._loaded)

    def doctor(self) -> list[Finding]:
        """What is wrong with the run, the most basic first: evidence, meaning, and the settings to change."""
        return self.checkup().findings

    # --- files in, files out --------------------------------------------------------------------------------

    def reconstruct_files(self, source: str | Path, out: str | Path, labels: Mapping[str, str] | Sequence[str] = (),
                          seed: int = 0, batch_size: int = 64, whole: bool = False) -> Written:
        """Writes a reconstruction of a file, or of each file of a folder, and an overview of all.

        whole: images at their own size, one after the other, and not cropped and resized to the run's."""
        self._need_stage1()
        names = self._loaded.stage1.condition_on
        wanted = _wanted(labels, names)
        check_able(self._kind, "reconstruct", self.folder)
        if whole and not self._kind.any_size:
            raise InputError(f"whole: expected a run on images, audio or video, found {self.folder} on {self.kind}")
        with on_first(one_call(Path(out), "reconstruct")) as inside:
            own = {"whole": True} if whole else {}
            written = self._kind.reconstruct(self._loaded, Path(source), inside, wanted, seed, batch_size, **own)
        return _in_place(written, out)

    def compress_files(self, source: str | Path, out: str | Path, lossless: bool = False, actions: str | None = None,
                       labels: Mapping[str, str] | Sequence[str] = (), batch_size: int = 64, rate_weight: float = 0.0,
                       whole: bool = False) -> Compressed:
        """Compresses a file, or each file of a folder with its name, into one file `out`, in constant memory.

        whole: images and video at their own size, and not cropped and resized to the run's; audio has any length."""
        _counts(batch_size=batch_size)
        check_able(self._kind, "load_files", self.folder)
        wanted = _wanted(labels, self._models.names)
        return compress_files(self._kind, self._models, Path(source), Path(out), lossless, actions, wanted, batch_size,
                              rate_weight, whole)

    def decompress_files(self, source: str | Path, out: str | Path, items: Sequence[int | str] | None = None,
                         seed: int = 0, batch_size: int = 64) -> Decompressed:
        """Writes the items of a compressed file, or some of them, one file each, and says which ones are damaged."""
        _counts(batch_size=batch_size)
        check_able(self._kind, "write_item", self.folder)
        return decompress_files(self._kind, self._models, Path(source), Path(out), items, seed, batch_size)

    def score_files(self, source: str | Path, out: str | Path, labels: Mapping[str, str] | Sequence[str] = (),
                    rank: str = "codes", actions: str | None = None, held_out: int = 1000,
                    data_root: Path | None = None, batch_size: int = 64) -> Written:
        """Writes scores.csv of a file, or of each file of a folder, the most surprising first; a map of bits for each;
        and an overview. Where percentiles or nearest training items cannot be had, a line on stderr says why."""
        _counts(batch_size=batch_size, held_out=held_out)
        check_able(self._kind, "load_files", self.folder)
        self._need_codes()
        wanted = _wanted(labels, self._sampling_labels)
        with on_first(one_call(Path(out), "score")) as inside:
            paths, items = self._kind.load_files(self._loaded, self._kind.find_files(self._loaded, Path(source)))
            names = [path.stem for path in paths]
            scores, known, nearest = self._score(items, wanted, actions, batch_size), None, None
            order = rank_values(scores, rank).argsort(descending=True, stable=True)
            try:
                known = self.held_out_scores(tuple(wanted), held_out, data_root, batch_size)
            except InputError as error:
                if data_root is not None:
                    raise
                print(f"note: percentiles left out: {error}; --data-root FOLDER names the data", file=sys.stderr)
            leave_to_first()
            try:
                nearest = nearest_training(self._loaded, scores)
            except InputError as error:
                print(f"note: nearest training items left out: {error}", file=sys.stderr)
            words = write_scores(inside / "scores.csv", names, scores, known, nearest, order)
            overview = self._kind.draw_scores(self._loaded, inside, [names[row] for row in order.tolist()], words,
                                              items.rows(order), in_order(scores, order))
        return _in_place(Written(len(names), overview, f"{float(scores.bits_per_dim.mean()):.4f} bits/dim"), out)

    def report(self, out: str | Path, n: int = 16, seed: int = 0, data_root: Path | None = None, batch_size: int = 64
               ) -> Path:
        """Writes one HTML file that says what became of the run, and returns its path; n: samples, and items beside
        their reconstructions. Where something cannot be shown, the page and a line on stderr say why."""
        _counts(n=n, batch_size=batch_size)
        if n > MOST_REPORTED:
            raise InputError(f"n: expected a number <= {MOST_REPORTED}, since a page has no room for more, found {n}")
        out = Path(out)
        if out.is_dir():
            raise InputError(f"out: expected the name of a file, found the folder {out}")
        content, missing = run_page(Reported(self._loaded, self._kind, data_root, n, seed, batch_size))
        note_missing(missing)
        with naming(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content)
        return out

    def convert_files(self, source: str | Path, out: str | Path, label: str, target: str, seed: int = 0,
                      batch_size: int = 16) -> Written:
        """Writes each recording decoded with the class `target` of a label, such as another speaker."""
        check_able(self._kind, "convert", self.folder)
        with on_first(one_call(Path(out), "convert")) as inside:
            written = self._kind.convert(self._loaded, Path(source), inside, label, target, seed, batch_size)
        return _in_place(written, out)

    def predict_clips(self, out: str | Path, n: int = 8, context: int = 6, frames: int = 10,
                      actions: Sequence[str] = ("recorded",), data_root: Path | None = None, seed: int = 0,
                      batch_size: int = 64, **truncation: Any) -> Written:
        """Writes held-out clips, continued after `context` frames, conditioned on actions."""
        check_able(self._kind, "predict", self.folder)
        with one_call(Path(out), "predict") as inside:
            written = self._kind.predict(self._loaded, data_root, inside, n, context, frames, actions, seed, batch_size,
                                         **truncation)
        return _in_place(written, out)

    def export(self, out: str | Path, x: Any = None, items: int = 8, data_root: Path | None = None,
               formats: Sequence[str] = FORMATS) -> list[Exported]:
        """Writes encoder, decoder and prior as `torch.export` programs and ONNX files, which need no code of this
        project, once each gives what the original gives: of x, or of some held-out items of the run's data."""
        _counts(items=items)
        self._need_stage1()
        self._need_codes()
        if x is None:
            batch = held_out_batch(self._loaded, items, data_root)
        else:
            given = self._kind.read(self._loaded, x)
            batch = Batch(given.x[:items], torch.empty(len(given.x[:items]), 0, dtype=torch.int64),
                          lengths=None if given.lengths is None else given.lengths[:items])
        return export(self._loaded, batch, Path(out), formats)

    def export_codes(self, out: str | Path, format: str = "npz") -> ExportedCodes:
        """Writes the run's code data set as token files, with a card, into a new folder: see export_codes.py --help."""
        return export_codes(self._loaded, format, Path(out))

    def plot_latents(self, out: str | Path, data_root: Path | None = None, split: str | None = None, example: int = 0,
                     seed: int = 0, batch_size: int = 64) -> dict[str, Path | str]:
        """Writes figures of what the latents mean; returns their paths, or why one was left out, by title."""
        check_able(self._kind, "plot_latents", self.folder)
        with only_writer(_folder(out), "plot_latents"):
            return self._kind.plot_latents(self._loaded, data_root, Path(out), split, example, seed, batch_size)

    # --- checks ---------------------------------------------------------------------------------------------

    @cached_property
    def _models(self) -> Models:
        """What compressed files are coded by, kept with its fingerprint."""
        return Models(self._loaded)

    def _sampler(self, seed: int, temperature: float, top_k: int | None, top_p: float | None, batch_size: int,
                 labels: Mapping[str, str] | Sequence[str], named: Mapping[str, Any]) -> Sampler:
        loaded, names = self._loaded, self._sampling_labels
        wanted = _wanted(labels, names)
        options: dict[str, Any] = {}
        for name, value in named.items():
            if name in names:
                wanted[name] = str(value)
            elif value is not None:
                options[name] = value
        self._check_options(options)
        if options and not isinstance(self.stage1.bottleneck, Quantizer):
            raise InputError(f"{next(iter(options))}: expected a run with codes, found {self.folder}")
        own = {} if loaded.stage2 is None else self._kind.sampler_options(loaded, **options)
        return Sampler(loaded, seed, batch_size, wanted, temperature, top_k, top_p, **own)

    def _score(self, items: Any, labels: Mapping[str, str], actions: str | None, batch_size: int) -> Scores:
        local = self._kind.local(self._loaded, actions, len(items.x))
        found = score(self._loaded, items.x, items.lengths, labels, batch_size, local)

        def codec_bits(rows: Tensor) -> Tensor | None:
            lengths = None if items.lengths is None else items.lengths[rows]
            return self._kind.codec_bits(self._loaded, items.x[rows], lengths)

        sizes = list(shared(torch.arange(len(items.x)).split(batch_size), codec_bits))
        return replace(found, codec_bits=None if sizes[0] is None else torch.cat(sizes))

    @property
    def _device(self) -> torch.device:
        return next(self.stage1.parameters()).device

    @property
    def _sampling_labels(self) -> list[str]:
        return [] if self._loaded.stage2 is None else conditioning_labels(self._loaded.stage1, self._loaded.stage2)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses options of other kinds of data, labels this run is not conditioned on, and misspelt names."""
        for name in options:
            able = [kind.name for kind in all_kinds().values() if name in kind.options]
            if self.kind in able:
                continue
            if able:
                raise InputError(f"{name}: expected a run on {' or '.join(able)}, found {self.folder} on {self.kind}")
            known = [*self._sampling_labels, *self._kind.options]
            raise InputError(f"{name}: expected one of {', '.join(known) or 'no further options'}, found {name!r}")

    def _need_stage1(self) -> None:
        if self._loaded.stage1.example.imported:
            refuse_imported(self.folder)

    def _need_codes(self) -> None:
        if not isinstance(self.stage1.bottleneck, Quantizer):
            raise InputError(f"{self.folder}: expected codes, found {type(self.stage1.bottleneck).__name__}")

    def _read_codes(self, codes: Any) -> tuple[Tensor, bool, int]:
        """int64 (n, *grid[, g]), whether they were those of one item, and how many of the first axis were given.

        Padded items that have fewer codes than the grid are filled up with zeros."""
        books = self.stage1.bottleneck.num_codebooks
        grid = (*self.grid, *([books] if books > 1 else []))
        expected = f"integers of shape ({', '.join(map(str, grid))}) or (n, {', '.join(map(str, grid))})"
        expected += ", or of another grid" if self._kind.any_size else ""
        try:
            if isinstance(codes, list | tuple) and any(isinstance(own, Tensor) for own in codes):
                codes = torch.stack([torch.as_tensor(own) for own in codes])
            array = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"codes: expected {expected}, found {str(error).splitlines()[0]}") from None
        shape = array.shape[-len(grid) :]
        books_fit = shape[len(grid) - 1 :] == grid[len(grid) - 1 :] if books > 1 else True
        fits = shape == grid or (len(shape) == len(grid) and books_fit and 0 not in shape and self._kind.any_size)
        if array.dtype.kind not in "iu" or not fits or array.ndim not in (len(grid), len(grid) + 1) or not array.size:
            raise InputError(f"codes: expected {expected}, found {array.dtype} {array.shape}")
        if array.min() < 0 or array.max() >= self.num_codes:
            raise InputError(f"codes: expected values from 0 to {self.num_codes - 1}, found {array.min()} to "
                             f"{array.max()}")
        single, given = array.ndim == len(grid), shape[0]
        array = np.array(array[None] if single else array, dtype=np.int64)  # a copy, of this machine's byte order
        short = max(0, grid[0] - given) if self._kind.padded else 0
        padding = [(0, 0), (0, short), *[(0, 0)] * (len(grid) - 1)]
        return torch.from_numpy(np.pad(array, padding)), single, given


@dataclass(frozen=True)
class SampledItems:
    """What `TrainedRun.sample` returns."""

    _run: TrainedRun
    _samples: Samples

    def __len__(self) -> int:
        return len(self.x)

    @property
    def x(self) -> Tensor:
        """(n, *shape) in data units: uint8 images and video, float32 waveforms padded with zeros."""
        return self._samples.x

    @property
    def codes(self) -> Tensor | None:
        """int64 (n, *grid[, g]); None for latents without codes."""
        return self._samples.codes

    @property
    def lengths(self) -> Tensor | None:
        """int64 (n,): samples of each waveform that are not padding; None where items have no lengths."""
        return self._samples.lengths

    @property
    def labels(self) -> dict[str, list[str]]:
        """For each label that the run is conditioned on the class names of the n samples."""
        classes = self._run.classes
        return {name: [classes[name][number] for number in self._samples.label(name).tolist()]
                for name in self._samples.label_names}

    @property
    def bits(self) -> Tensor | None:
        """Of filled items, float64 (n,): -log2 of the prior's probability of codes and labels."""
        return self._samples.bits

    @property
    def ranking(self) -> list[int]:
        """Of filled items, the numbers of the candidates, the likeliest first."""
        return self._samples.ranking

    @property
    def effective(self) -> Tensor | None:
        """Of filled items, float64 (n,): the smallest effective sample size of each candidate's particles."""
        return self._samples.effective

    @property
    def changed(self) -> Tensor | None:
        """Of filled items, float64 (n,): the share of redraws that changed codes; None without sweeps."""
        return self._samples.changed

    def save(self, folder: str | Path) -> Path:
        """Writes one file per sample and one overview of all, whose path is returned, in the place of the files of the
        last call that wrote samples to this folder."""
        leave_to_first()
        with one_call(Path(folder), "sample") as inside:
            overview = self._run._kind.write_samples(inside, self._samples, self._run._loaded.stage1.example)
        return Path(folder) / overview.name


class BatchFunction:
    """A run's `encode`, `score` or `compress` as a function from batches to batches, dictionaries of NumPy arrays with
    one row per item: what Ray Data's `map_batches` takes. It is made once in each worker, which loads the run.

        BatchFunction("mnist", "encode", column="png")({"png": images}) == {"codes": ...}

    column: of the items, arrays as the method reads them, of one shape or (dtype object) of several, or the content of
    image files. It is left out of what is returned, all other columns stay. Further options are the method's own.

        encode    codes, in the smallest type that holds them
        score     code_bits, data_bits, bits_per_dim, bits_per_code, float64
        compress  one row per batch instead: count, and file, which holds the items by their names in the column
                  `name_column`, if there is one

    A code depends on no other item of its batch but by the rounding of matrix products; with the batches of one process
    codes are the same to the bit.
    """

    def __init__(self, run: str | Path, method: str, column: str = "x", device: str = "auto",
                 runs_dir: str | Path = "runs", name_column: str = "__key__", **options: Any):
        if method not in ("encode", "score", "compress"):
            raise InputError(f"method: expected encode, score or compress, found {method!r}")
        self.run, self.method, self.column = load(run, device, runs_dir), method, column
        self.name_column, self.options = name_column, options

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.column not in batch:
            raise InputError(f"column: expected one of {', '.join(batch)}, found {self.column!r}")
        given = batch[self.column]
        x = [opened(one) for one in given]  # a list, since an array of one item could be taken for the item
        others = {name: values for name, values in batch.items() if name != self.column}
        if self.method == "encode":
            codes = self.run.encode(x, **self.options).numpy()
            return others | {"codes": codes.astype(code_type(self.run.num_codes))}
        if self.method == "score":
            found = self.run.score(x, **self.options)
            return others | {name: getattr(found, name).numpy() for name in (
                "code_bits", "data_bits", "bits_per_dim", "bits_per_code")}
        names = [str(name) for name in batch.get(self.name_column, ())]
        file = np.empty(1, dtype=object)
        file[0] = self.run.compress(x, names=names, **self.options)
        return {"count": np.array([len(given)]), "file": file}


def opened(item: Any) -> Any:
    """The image in the content of a file, or a copy of an array, which may be read-only. Raises InputError for a
    content that is no image."""
    if not isinstance(item, bytes):
        return np.array(item)
    try:
        return open_image(io.BytesIO(item))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"images: expected the content of an image file, found {error}") from None


class CodeItems(torch.utils.data.Dataset):
    """(codes int64 (*grid[, g]), labels int64 (L,)) of each item of a split, which may be larger than memory."""

    def __init__(self, split: Any):
        self._split, self.labels = split, split.labels

    @property
    def codes(self) -> Tensor:
        """All of them, int64 (n, *grid[, g]), in memory."""
        return self._split.batch(torch.arange(len(self))).x

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._split.batch(torch.tensor([range(len(self))[index]])).x[0], self.labels[index]


def _counts(**values: Any) -> None:
    """Raises InputError for a count that is not an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name}: expected a number >= 1, found {value!r}")


def _wanted(labels: Any, names: Sequence[str]) -> dict[str, str]:
    """{"digit": "7"} or ["digit=7"] -> {"digit": "7"}."""
    if isinstance(labels, Mapping):
        return {str(name): str(value) for name, value in labels.items()}
    if not isinstance(labels, list | tuple) or not all(isinstance(pair, str) for pair in labels):
        raise InputError(f"labels: expected a dictionary or a list of NAME=CLASS, found {labels!r}")
    return parse_labels(labels, names)


def _folder(path: str | Path) -> Path:
    """The folder, which need not exist."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file")
    return folder


def _in_place(written: Written, out: str | Path) -> Written:
    """What was written, where it is now."""
    return replace(written, overview=Path(out) / written.overview.name)
