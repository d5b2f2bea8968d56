"""Tokens of other programs -> a run: their code data set, and the stage 1 that leaves codes as they are.

Every item is read twice, a batch at a time: once for the largest code, the lengths and the checksum, once for the
shards. The run appears whole or not at all.

Axes: n items of a split, m of a batch, g codebooks; *grid the positions of an item.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.data.codes import CodeData, write_codes
from pipelines.files.atomic import folder_made_whole, write_atomically
from pipelines.files.checks import LARGEST_SIZE, expect, is_integer, is_sizes
from pipelines.files.errors import InputError
from pipelines.files.formats import FORMAT
from pipelines.files.reading import read_json, yaml_bytes
from pipelines.runs.config import build, composed, plain
from pipelines.runs.continued import note_settings
from pipelines.runs.example import Example
from pipelines.runs.store import Run, load_stage1, stage1_hash
from pipelines.splits.base import Batch, Data, Split, held_out_size, hold_out
from pipelines.tokens import all_formats, format_at
from pipelines.tokens.base import AXES, Label, Layout, Options, Source, beside, read_labels, read_lengths, unpadded
from pipelines.training.checkpoint import State, step_name, write_parts

MOST_CODES = 2**20  # a configuration that is read back names no larger size of so small a component
AT_ONCE = 2**20  # codes that are read at once
CARD = "card.json"  # of a folder that export_codes.py wrote
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}  # names in a folder
PRIORS = {1: "wavenet", 2: "gated_pixelcnn", 3: "gated_pixelcnn3d"}  # by the axes of the grid


@dataclass(frozen=True)
class Wishes:
    """What the user says of the files; None: it is found."""

    format: str | None = None
    options: Options = Options()
    grid: Sequence[int] | None = None
    codebook_axis: str | None = None
    num_codes: int | None = None
    lengths: Path | None = None
    padding: int | None = None  # this value at the end of an item is none of its codes
    labels: Sequence[str] = ()  # files, or NAME=FILE
    validation_fraction: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """The files of a split, or of all items."""

    source: Source
    lengths: np.ndarray | None  # (n,)
    labels: Mapping[str, Label]


@dataclass(frozen=True)
class Imported:
    """What became of the files."""

    codes: CodeData
    layout: Layout
    largest: int  # of all codes
    left_out: list[str]


def import_tokens(run: Run, paths: Mapping[str, Path], wishes: Wishes) -> Imported:
    """Makes `run`, which does not exist yet, of the tokens in `paths`, by the names of splits; a single one is searched
    for splits, and divided where it has none.

    Raises InputError for what is no whole file of tokens and for items that do not fit together."""
    if run.root.exists():
        raise InputError(f"run: expected a name that is not taken, found {run.root}; list_runs.py --remove removes it")
    if wishes.num_codes is not None and not 2 <= wishes.num_codes <= MOST_CODES:
        raise InputError(f"num_codes: expected 2 to {MOST_CODES}, found {wishes.num_codes}; larger codes have to be "
                         "split into several")
    name = paths["train"].resolve().stem
    if set(paths) == {"train"}:
        wishes, paths = with_card(paths["train"], wishes), found_splits(paths["train"], wishes.format)
    form = format_at(paths["train"], wishes.format)
    parts = {name: _opened(path, wishes, len(paths) > 1) for name, path in paths.items()}
    parts, shape = _alike(parts)
    layout = Layout.found(form.name, parts["train"].source.dtype, shape, wishes.grid, wishes.codebook_axis,
                          parts["train"].source.key, paths["train"])
    if wishes.padding is not None and len(layout.grid) > 1:
        raise InputError(f"padding: expected items with one axis, found a grid {layout.grid}")
    scans = {name: _scan(part, layout, wishes) for name, part in parts.items()}
    parts = {name: replace(part, lengths=scans[name].lengths) for name, part in parts.items()}
    padded = any(part.lengths is not None for part in parts.values())
    if padded and len(layout.grid) > 1:
        raise InputError(f"{paths['train']}: lengths: expected items with one axis, found a grid {layout.grid}")
    for part in parts.values():
        if part.source.length_axis not in (None, layout.length_axis):
            raise InputError(f"{part.source.path}: expected items whose axis {layout.length_axis} has lengths, found "
                             f"axis {part.source.length_axis}; --codebook-axis says which axis is of codebooks")
    if padded:
        parts = {name: replace(part, lengths=np.full(part.source.count, layout.grid[0]) if part.lengths is None
                               else part.lengths) for name, part in parts.items()}
    layout = replace(layout, padded=padded, padding=wishes.padding)
    largest = max(scan.largest for scan in scans.values())
    num_codes = wishes.num_codes or max(2, 1 << largest.bit_length())
    data = TokenData(f"imported {name}", parts, layout, num_codes, wishes)
    origin = hashlib.sha256("".join(scans[name].digest for name in sorted(scans)).encode()).digest()
    run.root.parent.mkdir(parents=True, exist_ok=True)
    with folder_made_whole(run.root, "import_codes") as folder:
        imported = _write(Run(folder), data, layout, num_codes, origin, run)
    left_out = sorted({f"{part.source.path}: {what}" for part in parts.values() for what in part.source.left_out})
    return Imported(imported, layout, largest, left_out)


def found_splits(path: Path, form: str | None) -> dict[str, Path]:
    """The files, or folders, `train`, `validation` (`val`) and `test` of a folder, with any format's suffix; of all
    else the path itself as "train"."""
    if not path.is_dir():
        return {"train": path}
    suffixes = {own.suffix for name, own in all_formats().items() if form in (None, name)}
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        there = [path / f"{name}{suffix}" for name in names for suffix in sorted(suffixes)]
        there = [own for own in there if own.exists() and own.is_dir() == (own.suffix == "")]
        if len(there) > 1:
            raise InputError(f"{path}: expected one file of the split {split}, found "
                             f"{' and '.join(own.name for own in there)}; --format chooses")
        found |= {split: there[0]} if there else {}
    return found if "train" in found and len(found) > 1 else {"train": path}


def with_card(path: Path, wishes: Wishes) -> Wishes:
    """What is not given, as the card.json of an exported folder has it. Raises InputError for values that cannot be."""
    card = path / CARD
    if not card.is_file():
        return wishes
    facts, found = read_json(card, "the card of exported codes"), {}
    sizes = {"grid": is_sizes, "shape": is_sizes, "num_codes": lambda value: is_integer(value, 2, MOST_CODES),
             "codebook_axis": lambda value: value in AXES, "padding": lambda value: value is None or is_integer(
                 value, -(2**62)), "format": lambda value: value in all_formats()}
    for key, accepted in sizes.items():
        expect(card, key, facts.get(key), accepted(facts.get(key)), "the value that export_codes.py wrote")
        found[key] = facts[key]
    length = math.prod(found.pop("shape"))
    options = wishes.options
    if options.item_length is None and wishes.grid is None:
        options = replace(options, item_length=length)
    return replace(wishes, options=options, **{key: value for key, value in found.items()
                                               if getattr(wishes, key) is None})


@dataclass(frozen=True, kw_only=True)
class TokenSplit(Split):
    """Rows of a source, codes int64 (b, *grid[, g]) in a batch."""

    source: Source
    layout: Layout
    numbers: np.ndarray  # (n,) of the items in the source, ascending

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        """The items at ascending `indices`, zeros beyond their lengths."""
        codes = _codes(self.source, self.layout, self.numbers[indices.numpy()]).astype(np.int64)
        lengths = None if self.lengths is None else self.lengths[indices]
        if lengths is not None:
            codes[np.arange(codes.shape[1]) >= lengths.numpy()[:, None]] = 0
        return Batch(torch.from_numpy(codes), self.labels[indices], lengths=lengths)


class TokenData(Data):
    """What is imported. One source without splits is divided: `validation_fraction` of it is held out."""

    kind = "tokens"

    def __init__(self, name: str, parts: Mapping[str, Part], layout: Layout, num_codes: int, wishes: Wishes):
        self.name, self.num_codes = name, num_codes
        self.shape = (layout.num_codebooks, *layout.grid)
        self.label_names = tuple(parts["train"].labels)
        self.classes = tuple(label.classes for label in parts["train"].labels.values())
        self.splits = tuple(dict.fromkeys(["train", "validation", *parts]))
        self._parts: dict[str, TokenSplit] = {}
        for split, part in parts.items():
            if split == "train" and "validation" not in parts:
                count = part.source.count
                kept, out = hold_out(count, held_out_size("validation_fraction", wishes.validation_fraction, count),
                                     wishes.seed)
                self._parts |= {"train": _split(part, layout, kept), "validation": _split(part, layout, out)}
            else:
                self._parts[split] = _split(part, layout, torch.arange(part.source.count))

    def _split(self, name: str) -> TokenSplit:
        return self._parts[name]


def _split(part: Part, layout: Layout, rows: Tensor) -> TokenSplit:
    columns = [torch.from_numpy(label.numbers)[rows] for label in part.labels.values()]
    labels = torch.stack(columns, 1) if columns else torch.zeros(len(rows), 0, dtype=torch.int64)
    lengths = None if part.lengths is None else torch.from_numpy(part.lengths)[rows]
    return TokenSplit(x=torch.zeros(len(rows), 0), labels=labels, lengths=lengths, source=part.source, layout=layout,
                      numbers=rows.numpy())


@dataclass(frozen=True)
class _Scan:
    largest: int
    lengths: np.ndarray | None
    digest: str  # of all codes


def _opened(path: Path, wishes: Wishes, several: bool) -> Part:
    """A file with its labels and lengths: given, or found in it or beside it. `several`: splits, each with its own."""
    source = format_at(path, wishes.format).open(path, wishes.options)
    if several and (wishes.lengths or wishes.labels):
        raise InputError(f"{'lengths' if wishes.lengths else 'labels'}: expected none for several splits, whose files "
                         f"are looked for beside theirs, {beside(path, 'labels.csv').name}, found some")
    lengths, labels, count = source.lengths, dict(source.labels), source.count
    named = wishes.lengths or beside(path, "lengths.npy")
    if wishes.lengths is not None or (lengths is None and named.exists()):
        lengths = read_lengths(named)
    if lengths is not None:
        longest = source.shape[-1 if wishes.codebook_axis == "first" else 0] if wishes.grid is None else wishes.grid[0]
        if len(lengths) != count or lengths.min() < 1 or lengths.max() > longest:
            found = f" from {lengths.min()} to {lengths.max()}" if len(lengths) else ""
            raise InputError(f"{path}: lengths: expected {count} numbers from 1 to {longest}, found "
                             f"{len(lengths)}{found}")
    for given in wishes.labels:
        name, equals, place = given.rpartition("=")
        if not Path(place).is_file():
            raise InputError(f"labels: expected FILE or NAME=FILE, a .csv or .npy file, found {given!r}")
        own = read_labels(Path(place))
        if equals and len(own) != 1:
            raise InputError(f"labels: expected a file of one label for {name}, found {', '.join(own)}")
        labels |= {name: next(iter(own.values()))} if equals else own
    if not wishes.labels and not labels and beside(path, "labels.csv").exists():
        labels = read_labels(beside(path, "labels.csv"))
    for name, label in labels.items():
        if len(label.numbers) != count:
            raise InputError(f"{path}: labels: expected a {name} for each of {count} items, found {len(label.numbers)}")
    if math.prod(source.shape) > LARGEST_SIZE:
        raise InputError(f"{path}: expected items of at most {LARGEST_SIZE} codes, found shape {source.shape}")
    return Part(source, None if lengths is None else lengths.astype(np.int64), labels)


def _alike(parts: dict[str, Part]) -> tuple[dict[str, Part], tuple[int, ...]]:
    """Splits with the same classes, each label's all, and the shape of their longest item. Raises InputError for shapes
    and labels that differ."""
    first = parts["train"]
    axis = next((part.source.length_axis for part in parts.values() if part.source.length_axis is not None), None)
    shape = np.array([part.source.shape for part in parts.values() if len(part.source.shape) == len(
        first.source.shape)]).max(0)
    for split, part in parts.items():
        own = part.source.shape
        if own != first.source.shape and (len(own) != len(shape) or any(
                size != most for place, (size, most) in enumerate(zip(own, shape)) if place != axis)):
            raise InputError(f"{part.source.path}: expected items of shape {first.source.shape} as in "
                             f"{first.source.path.name}, found {own}")
        if axis is not None and part.lengths is None:
            parts = parts | {split: replace(part, lengths=np.full(part.source.count, own[axis]))}
        if list(part.labels) != list(first.labels):
            raise InputError(f"{part.source.path}: labels: expected {list(first.labels)} as in "
                             f"{first.source.path.name}, found {list(part.labels)}")
    classes = {name: tuple(sorted({own for part in parts.values() for own in part.labels[name].classes}))
               for name in first.labels}
    return {split: replace(part, labels={name: label.joined(classes[name]) for name, label in part.labels.items()})
            for split, part in parts.items()}, tuple(shape.tolist())


def _codes(source: Source, layout: Layout, numbers: np.ndarray) -> np.ndarray:
    """Codes (m, *grid[, g]) of items, zeros where those of another split are longer."""
    items = source.rows(numbers)
    missing = [(0, 0), *((0, most - size) for most, size in zip(layout.shape, items.shape[1:], strict=True))]
    return layout.to_codes(np.pad(items, missing) if any(map(any, missing)) else items)


def _scan(part: Part, layout: Layout, wishes: Wishes) -> _Scan:
    """Raises InputError for a code that is negative or not below `num_codes`, with the number of its item."""
    source, lengths, digest, largest = part.source, part.lengths, hashlib.sha256(), 0
    found = []
    step = max(1, AT_ONCE // math.prod(layout.shape))
    bar = tqdm(total=source.count, desc=f"checking {source.path.name}", unit="item", leave=False, disable=None)
    with bar:
        for start in range(0, source.count, step):
            numbers = np.arange(start, min(start + step, source.count))
            codes = _codes(source, layout, numbers)
            if wishes.padding is not None:
                own = unpadded(codes, wishes.padding, source.path, start)
                own = own if lengths is None else np.minimum(own, lengths[numbers])
                found.append(own)
            else:
                own = None if lengths is None else lengths[numbers]
            real = codes if own is None else codes[np.arange(codes.shape[1]) < own[:, None]]
            least, most = int(real.min()), int(real.max())
            highest = (wishes.num_codes or MOST_CODES) - 1
            if least < 0 or most > highest:
                flat = codes.reshape(len(codes), -1)
                wrong = (flat < 0) if least < 0 else (flat > highest)
                item = start + int(np.flatnonzero(wrong.any(1))[0])
                hint = f"; --padding {least} if it stands for none" if least < 0 and wishes.padding is None else ""
                raise InputError(f"{source.path}: expected codes from 0 to {highest}, found "
                                 f"{least if least < 0 else most} in item {item}{hint}")
            largest = max(largest, most)
            digest.update(real.astype("<i4").tobytes() + (b"" if own is None else own.astype("<i8").tobytes()))
            bar.update(len(numbers))
    if wishes.padding is not None:
        lengths = np.concatenate(found)
    return _Scan(largest, lengths, f"{digest.hexdigest()}{layout.grid}{layout.num_codebooks}")


def _write(run: Run, data: TokenData, layout: Layout, num_codes: int, origin: bytes, home: Run) -> CodeData:
    """Fills the folder of `run`, which will be `home`. Returns its codes."""
    cfg = composed([f"prior={PRIORS[len(layout.grid)]}"])
    stage1 = {
        "_target_": "stage1_vqvae.autoencoder.Autoencoder",
        "encoder": {"_target_": "torch.nn.Identity"},
        "bottleneck": {"_target_": "stage1_vqvae.given.GivenCodes", "num_codes": num_codes,
                       "num_codebooks": layout.num_codebooks},
        "decoder": {"_target_": "torch.nn.Identity"},
        "likelihood": {"_target_": "stage1_vqvae.given.Itself", "num_codes": num_codes},
        "beta": 1.0, "beta_warmup_steps": 0,
    }
    source = {"_target_": "pipelines.data.imported.ImportedCodes", "run": str(home.root)}
    facts = {"tokens": layout.to_facts()}
    example = Example(data.name, data.kind, data.shape, data.label_names, data.classes, facts)
    config = {"format": FORMAT, "seed": 0, "data": source, "autoencoder": stage1, "condition_on": [],
              "train": plain(cfg.stage1), "example": example.to_config()}
    note_settings(run, cfg)  # before there is a checkpoint: a run that was begun without gets none
    module = build(stage1)
    module.bottleneck.origin.copy_(torch.frombuffer(bytearray(origin), dtype=torch.uint8))
    checkpoint = run.stage1 / "checkpoints" / step_name(0)
    checkpoint.mkdir(parents=True)
    write_parts(checkpoint, State(), module.state_dict())
    for pointer in ("best", "latest"):
        write_atomically(checkpoint.parent / pointer, f"{checkpoint.name}\n".encode())
    write_atomically(run.stage1 / "config.yaml", yaml_bytes(config))
    made_by = stage1_hash(load_stage1(run, torch.device("cpu")))

    def encode(batch: Batch) -> dict:
        return {"codes": batch.x, **({} if batch.lengths is None else {"lengths": batch.lengths})}

    codes = write_codes(run.codes, data, encode, num_codes=num_codes, num_codebooks=layout.num_codebooks,
                        stage1_hash=made_by, batch_size=max(1, AT_ONCE // math.prod(layout.shape)))
    config["example"]["facts"]["digest"] = codes.manifest.extraction
    write_atomically(run.stage1 / "config.yaml", yaml_bytes(config))
    return codes
