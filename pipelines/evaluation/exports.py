"""A run's models as graphs that need no code of this project: `torch.export` programs (.pt2) and ONNX (.onnx).

    encoder   x in data units -> codes int64 (b, *grid[, g])
    decoder   codes[, labels] -> x float32 (b, c, *data grid) in data units, not rounded
              an autoregressive one: codes, levels int64 (b, 1, *data grid)[, labels] -> logits (b, k, *data grid)
    prior     codes[, labels][, local] -> logits (b, k, *grid[, g])

A graph of an autoregressive network is its full forward pass: the logits at a position depend on earlier positions
alone, so one step of sampling is one pass, of which the logits at the next position count. Grids are those of the run,
batches have any size. Each file is read back and compared with the original on real items; one that differs is refused.

Axes: b batch, k codes or levels, g codebooks, c channels, L labels.
"""

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.evaluation.held_out import held_out_split
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.outputs import one_call
from pipelines.generation.actions import local_actions
from pipelines.runs.chain import LoadedRun
from pipelines.runs.data import load_data
from pipelines.runs.store import TrainedStage, stage1_hash, stage2_hash
from pipelines.splits.base import Batch
from pipelines.splits.lengths import conditioning
from pipelines.splits.order import spread
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage2_prior.prior import Prior
from stage2_prior.split import SplitCodes

TOLERANCE = 1e-5  # of the largest absolute value, or of 1 if that is less: float32 sums taken in another order
MOST_ITEMS = 4096  # in a batch of a torch.export program
FORMATS = ("pt2", "onnx")
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Graph:
    """A network to export, and real inputs of it by name."""

    name: str
    network: nn.Module
    inputs: dict[str, Tensor]
    output: str


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far it is from the original."""

    file: str
    size: int  # bytes
    exact: bool  # codes, which are identical
    difference: float  # largest absolute one, over the original's largest absolute value or 1


class Encode(nn.Module):
    """Data to codes."""

    def __init__(self, model: Autoencoder):
        super().__init__()
        self.encoder, self.bottleneck, self.likelihood = model.encoder, model.bottleneck, model.likelihood

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(self.encoder(self.likelihood.to_network(x))).codes


class Decode(nn.Module):
    """Codes to the mean of the data, not rounded: whole levels would hide how near two results are, or double it."""

    def __init__(self, model: Autoencoder):
        super().__init__()
        self.bottleneck, self.decoder, self.likelihood = model.bottleneck, model.decoder, model.likelihood

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        z_q = self.bottleneck.lookup(codes)
        return self.likelihood.expectation(self.decoder(z_q) if labels is None else self.decoder(z_q, labels))


class DecodeStep(nn.Module):
    """Codes and the levels of the data so far to the logits of each position's level given those before it."""

    def __init__(self, model: Autoencoder):
        super().__init__()
        self.bottleneck, self.decoder = model.bottleneck, model.decoder

    def forward(self, codes: Tensor, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.decoder.features(self.bottleneck.lookup(codes), labels)
        return self.decoder.network(levels[:, 0], labels, features)


class PriorStep(nn.Module):
    """Codes so far to the logits of each position's code given those before it."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior = prior

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        return self.prior(codes, labels, local)


def held_out_batch(loaded: LoadedRun, count: int, root: Path | None) -> Batch:
    """Some held-out items of the run's data, evenly spread. Raises InputError where the data cannot be found."""
    data = load_data(loaded.run, loaded.stage1, root)
    split = data.split(held_out_split(data))
    batch = split.batch(spread(count, len(split)))
    return Batch(*(None if part is None else part.cpu() for part in batch))


def export(loaded: LoadedRun, batch: Batch, out: Path, formats: Sequence[str] = FORMATS) -> list[Exported]:
    """Writes to the folder `out` encoder, decoder and, where one was trained, the prior, each in each of the formats,
    and export.json, which describes inputs and outputs.

    batch: real items on the CPU, whose labels may have no columns: then classes are taken in turn.
    Raises InputError for a run without codes, where a package of the extra [export] is missing, and where a file
    differs from the original; then no file is left, and those of an earlier call stay."""
    if "onnx" in formats and (missing := [name for name in NEEDED if find_spec(name) is None]):
        raise InputError(f"format: expected the extra [export] for onnx, found {', '.join(missing)} not installed; "
                         "pip install 'neural-discrete-representations[export]', or choose pt2")
    graphs, written = graphs_of(loaded, batch), []
    with one_call(out, "export_model") as folder, torch.no_grad():
        for graph in graphs:
            for form in formats:
                path = folder / f"{graph.name}.{form}"
                run = _write(graph, path)
                written.append(Exported(path.name, path.stat().st_size, graph.output == "codes",
                                        _compare(graph, path, run)))
        write_atomically(folder / "export.json", (json.dumps(_described(loaded, graphs, written), indent=1) + "\n")
                         .encode())
    return written


def graphs_of(loaded: LoadedRun, batch: Batch) -> list[Graph]:
    """The networks of a run with inputs made of real items, two at least: a batch of one would be all that fits."""
    stage1, model = loaded.stage1, loaded.stage1.module
    if not isinstance(model.bottleneck, Quantizer):
        raise InputError(f"{loaded.run.root}: expected codes, found {type(model.bottleneck).__name__}")
    rows = torch.arange(max(2, len(batch.x))) % len(batch.x)
    batch = Batch(*(None if part is None else part[rows] for part in batch))
    codes = model.encode(batch.x)
    own = {"labels": _labels(stage1, batch, stage1.decoder_columns)} if stage1.condition_on else {}
    graphs = [Graph("encoder", Encode(model), {"x": batch.x}, "codes")]
    if isinstance(model.decoder, AutoregressiveDecoder):
        levels = model.likelihood.levels(batch.x)
        graphs.append(Graph("decoder", DecodeStep(model), {"codes": codes, "levels": levels} | own, "logits"))
    else:
        graphs.append(Graph("decoder", Decode(model), {"codes": codes} | own, "x"))
    if (stage2 := loaded.stage2) is not None:
        inputs = {"codes": codes}
        if stage2.condition_on:
            inputs["labels"] = _labels(stage1, batch, stage2.prior_columns)
        if stage2.module.local_channels:
            inputs["local"] = _local(loaded, batch, codes)
        graphs.append(Graph("prior", PriorStep(stage2.module), inputs, "logits"))
    return graphs


def _labels(stage1: TrainedStage, batch: Batch, columns: list[int]) -> Tensor:
    """(b, L) int64 of these columns of the data's labels; the classes in turn where the items' own are not known."""
    if batch.labels.shape[1]:
        return batch.labels[:, columns].contiguous()
    counts = torch.tensor([len(stage1.example.classes[column]) for column in columns])
    return torch.arange(len(batch.x))[:, None] % counts


def _local(loaded: LoadedRun, batch: Batch, codes: Tensor) -> Tensor:
    """float32 (b, c, *grid): what the prior is conditioned on at each position; of unknown actions the first."""
    stage2, names = loaded.stage2, loaded.stage1.example.facts.get("action_names")
    grid, local, positions = codes.shape[1 : 1 + stage2.module.grid_axes], None, None
    if names:
        actions = torch.zeros(batch.x.shape[0], batch.x.shape[2], dtype=torch.int64)
        local = local_actions(actions if batch.actions is None else batch.actions, len(names), grid[0])
        local = local.float().expand(-1, -1, *grid)
    if stage2.condition_on_length:
        positions = -(-batch.lengths * grid[0] // batch.x.shape[2])
    local = conditioning(local, positions, grid[0])
    expected, found = stage2.module.local_channels, 0 if local is None else local.shape[1]
    if found != expected:
        raise InputError(f"{loaded.run.root}: expected a prior conditioned on actions or lengths, found one with "
                         f"{expected} local channels, of which {found} are known")
    return local.contiguous()


def _write(graph: Graph, path: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """Writes the graph, and returns what runs the file that was written.

    Neither the items nor the places of source files get into it: torch would store both."""
    batch = {0: torch.export.Dim("batch", min=1, max=MOST_ITEMS)}
    shapes, zeros = ({name: make(value) for name, value in graph.inputs.items()}
                     for make in (lambda _: batch, torch.zeros_like))
    with warnings.catch_warnings():  # of torch's own calls of what it will rename
        warnings.simplefilter("ignore")
        program = torch.export.export(graph.network.eval(), (), zeros, dynamic_shapes=shapes)
        inner = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
        for node in itertools.chain.from_iterable(part.graph.nodes for part in inner):
            node.meta.pop("stack_trace", None)
        if path.suffix == ".pt2":
            torch.export.save(program, path)
            module = torch.export.load(path).module()
            return lambda inputs: module(**inputs)
        converted = torch.onnx.export(program, (), kwargs=zeros, input_names=list(zeros), output_names=[graph.output],
                                      dynamo=True, verbose=False)
        for step in converted.model.graph.all_nodes():
            step.metadata_props.clear()
        converted.save(path, external_data=False)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(
        session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


def _compare(graph: Graph, path: Path, run: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """The largest difference from the original over batches of all items, of one and of three.

    Raises InputError where it is above TOLERANCE, and for a code that differs."""
    worst = 0.0
    items = torch.arange(len(next(iter(graph.inputs.values()))))
    for rows in (items, items[:1], torch.arange(3) % len(items)):
        inputs = {name: value[rows] for name, value in graph.inputs.items()}
        expected, found = graph.network(**inputs), run(inputs)
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise InputError(f"{path.name}: expected {expected.dtype} {tuple(expected.shape)} as the original gives, "
                             f"found {found.dtype} {tuple(found.shape)}; no file is left")
        if expected.is_floating_point():
            scale = max(1.0, float(expected.abs().max()))
            difference = float((found.double() - expected.double()).abs().max()) / scale
            if not difference <= TOLERANCE:
                raise InputError(f"{path.name}: expected the original's {graph.output} within {TOLERANCE} of the "
                                 f"largest, found a difference of {difference:.3g}; no file is left")
            worst = max(worst, difference)
        elif differing := int((found != expected).sum()):
            raise InputError(f"{path.name}: expected the original's {graph.output}, found {differing} of "
                             f"{expected.numel()} others; no file is left")
    return worst


def _described(loaded: LoadedRun, graphs: list[Graph], written: list[Exported]) -> dict:
    """export.json: what goes in and comes out, for those who have the files alone."""
    stage1, stage2 = loaded.stage1, loaded.stage2
    example, bottleneck = stage1.example, stage1.module.bottleneck

    def form(value: Tensor) -> dict:
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": ["batch", *value.shape[1:]]}

    def classes(stage: TrainedStage) -> dict:
        return {name: list(example.classes[example.label_names.index(name)]) for name in stage.condition_on}

    facts = {name: example.facts[name] for name in ("sample_rate_hz", "action_names") if name in example.facts}
    if stage2 is not None and isinstance(stage2.module, SplitCodes):
        facts |= {"prior_digits": stage2.module.parts, "prior_values": stage2.module.prior.num_codes}
    return {
        "kind": example.kind, **facts, "num_codes": bottleneck.num_codes, "num_codebooks": bottleneck.num_codebooks,
        "stage1_hash": stage1_hash(stage1), "stage2_hash": None if stage2 is None else stage2_hash(stage2),
        "labels": {"decoder": classes(stage1)} | ({} if stage2 is None else {"prior": classes(stage2)}),
        "graphs": {graph.name: {"inputs": {name: form(value) for name, value in graph.inputs.items()},
                                "output": {graph.output: form(graph.network(**graph.inputs))}} for graph in graphs},
        "differences": {own.file: own.difference for own in written},
    }
