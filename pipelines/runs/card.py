"""The model card of a published run: README.md, with the metadata at its top that hubs read, made of the run's files.

Nothing in it is invented: figures are those of metrics.json, and terms (licences, credits) those that were given, now
or for the card that is replaced; what nobody gave is stated as unknown. No path of a machine gets into it.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from pipelines.files.errors import InputError
from pipelines.files.reading import parse_yaml, read_text, yaml_bytes
from pipelines.runs.chain import LoadedRun
from pipelines.runs.figures import read_figures
from pipelines.runs.store import Run
from pipelines.splits.describe import NOUNS, printable
from stage1_vqvae.bottlenecks.base import Quantizer

CARD = "README.md"
LIBRARY = "neural-discrete-representations"
UNKNOWN = "unknown"
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")  # of a licence on a hub, such as cc-by-sa-4.0
DATA_SET = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)  # what a hub takes as the name of a data set
SHOWN_CLASSES = 20
# Of metrics.json what is no figure of the model's quality, or stands in words among the limits.
LEFT_OUT = {"format", "items", "stage1_step", "stage2_step", "training_seconds", "copies", "files"}
SETS = {"real": "training items", "reconstructions": "reconstructions", "samples": "samples"}  # of `quality`
# What some figures are; docs/metrics.md defines all of them.
MEANINGS = {
    "bits_per_dim.distortion": "bits per dimension of the data given their codes",
    "bits_per_dim.total_uniform": "the same with the codes, under a uniform prior",
    "bits_per_dim.total_prior": "the same with the codes, under the learned prior",
    "codes.perplexity": "effective number of codes in use",
    "codes.prior_bits": "bits per code under the learned prior, held-out",
    "codes.prior_bits_train": "the same of training items",
    "nmse": "squared error over the variance of the data",
    "psnr_db": "of reconstructions",
    "ssim": "of reconstructions",
    "classifier.real": "accuracy of a classifier on held-out images",
    "classifier.reconstructions": "the same on their reconstructions",
    "classifier.samples": "the same on samples, against the class they are conditioned on",
    "audio.log_spectral_distance_db": "of reconstructions",
    "audio.stoi": "intelligibility of reconstructions, 0 to 1",
}
QUALITY = {  # of a set, the last parts of keys below `quality`
    "accuracy": "of the network of local features, on held-out items",
    "frechet_local_features": "distance from held-out items; no FID",
    "precision": "share within the manifold of held-out items",
    "recall": "held-out items within the manifold of the set",
    "density": "like precision, with less weight on outliers",
    "coverage": "held-out items with one of the set near them",
}


@dataclass(frozen=True)
class Terms:
    """What a run's files do not say, and a person has to; None: unknown."""

    license: str | None = None  # of the weights, an identifier of the hub's list
    data_license: str | None = None  # in words
    data_credit: str | None = None  # who made the data, in words

    def __post_init__(self) -> None:
        if self.license is not None and not IDENTIFIER.fullmatch(self.license):
            raise InputError("license: expected an identifier as hubs list them, such as mit, cc-by-sa-4.0 or other, "
                             f"found {self.license!r}")
        for name in ("data_license", "data_credit"):
            value = getattr(self, name)
            if value is not None and not (value.strip() and value.isprintable()):
                raise InputError(f"{name}: expected a line of text, found {value!r}")

    def or_else(self, other: "Terms") -> "Terms":
        """These terms, and those of `other` where nothing is given here."""
        return Terms(**{name: other_value if value is None else value for (name, value), other_value
                        in zip(asdict(self).items(), asdict(other).values(), strict=True)})


def known_terms(run: Run) -> Terms:
    """Those that the run's card states; none where it has no card. Raises InputError for a README.md that is none."""
    path = run.root / CARD
    if not path.exists():
        return Terms()
    what = "a card that publish.py wrote"
    head = re.match(r"---\n(.*?\n)---\n", read_text(path, what).replace("\r\n", "\n"), re.DOTALL)
    content = parse_yaml(head[1], str(path), what) if head else {}
    if content.get("library_name") != LIBRARY:
        raise InputError(f"{path}: expected {what}, found another file; rename it, and it stays")
    found = {field.name: content.get(field.name) for field in fields(Terms)}
    for name, value in found.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{path}: {name}: expected text, found {value!r}")
    return Terms(**{name: None if value == UNKNOWN else value for name, value in found.items()})


def card(loaded: LoadedRun, name: str, terms: Terms, task: str | None, hub_name: str | None = None) -> bytes:
    """README.md of a run that is called `name`.

    task: the hub's name for what such a run does, None where it has none. hub_name: "hf://OWNER/NAME", if known."""
    figures = read_figures(loaded.run) if (loaded.run.root / "metrics.json").exists() else None
    parts = [f"# {printable(name)}", _what(loaded), _data(loaded, terms, figures), _figures(figures),
             _limits(loaded, figures), _loading(loaded, name, hub_name)]
    head = yaml_bytes(_metadata(loaded, name, terms, task, figures)).decode()
    text = "\n\n".join(parts)
    return f"---\n{head}---\n\n{text}\n".encode()


def _metadata(loaded: LoadedRun, name: str, terms: Terms, task: str | None, figures: dict | None) -> dict[str, Any]:
    example = loaded.stage1.example
    data_set = example.data if DATA_SET.fullmatch(example.data) else None
    content = {
        "license": terms.license or UNKNOWN, "library_name": LIBRARY, "pipeline_tag": task,
        "tags": ["vq-vae", "discrete-representations", "pytorch", example.kind],
        "datasets": [data_set] if data_set else None,
        "data_license": terms.data_license or UNKNOWN, "data_credit": terms.data_credit or UNKNOWN,
    }
    if figures is not None:
        values = [{"type": metric_type(key), "name": key, "value": value} for key, value in flat(figures)]
        content["model-index"] = [{"name": name, "results": [{
            "task": {"type": task or "other"},
            "dataset": {"type": data_set or "other", "name": example.data, "split": str(figures.get("split"))},
            "metrics": values}]}]
    return {key: value for key, value in content.items() if value is not None}


def metric_type(key: str) -> str:
    """What hubs group a figure by. Precision and recall of sets are not those of classifiers."""
    last = key.rpartition(".")[2]
    if "classifier" in key or last == "accuracy":
        return "accuracy"
    return f"set_{last}" if key.startswith("quality.") else last


def flat(figures: dict) -> Iterator[tuple[str, float]]:
    """The measured numbers by dotted names, several codebooks by their mean."""

    def below(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            if "each" in value and "mean" in value:
                value = {"": value["mean"]}
            for name, inner in value.items():
                if not name.startswith("num_"):
                    yield from below(f"{prefix}.{name}" if name else prefix, inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix, float(f"{value:.6g}")

    for section, content in figures.items():
        if section not in LEFT_OUT:
            yield from below(section, content)


def meaning(key: str) -> str:
    """What a figure is, in a few words; "" where its name says it."""
    if key.startswith("quality."):
        *_, name, figure = key.split(".")
        return f"of {SETS[name]}: {QUALITY[figure]}" if name in SETS else QUALITY[figure]
    return MEANINGS.get(key, "")


def _what(loaded: LoadedRun) -> str:
    stage1, stage2, example = loaded.stage1, loaded.stage2, loaded.stage1.example
    noun = NOUNS.get(example.kind, "items")
    lines = [f"A two-stage model of {noun} with discrete codes (VQ-VAE, arXiv 1711.00937). One item is "
             f"{_sizes(example.shape)}" + (f" at {example.facts['sample_rate_hz']} Hz" if "sample_rate_hz"
                                           in example.facts else "") + "."]
    bottleneck = stage1.module.bottleneck
    if example.imported:
        lines[0] = (f"A model of codes that another program made: integers below {bottleneck.num_codes} on a grid of "
                    f"{_sizes(stage1.grid)}, {bottleneck.num_codebooks} at each position. What they stand for, its "
                    "files do not say.")
    codes = "latents"
    if isinstance(bottleneck, Quantizer):
        books = f" in each of {bottleneck.num_codebooks} codebooks" if bottleneck.num_codebooks > 1 else ""
        codes = f"codes out of {bottleneck.num_codes}{books}"
    if example.imported:
        lines.append("- Stage 1: none. Samples are codes, written in the format that the training codes came in: "
                     f"{example.facts['tokens']['format']}.")
    else:
        lines.append(f"- Stage 1: {type(stage1.module.encoder).__name__}, {type(bottleneck).__name__}, "
                     f"{type(stage1.module.decoder).__name__}, {_millions(stage1.module)} parameters, "
                     f"{stage1.state.step} steps: an item is a grid of {_sizes(stage1.grid)} {codes}"
                     + _conditions(loaded, stage1.condition_on) + ".")
    if loaded.parents:
        lines.append("- Its data are codes themselves: the stage 1 that makes them of "
                     f"{NOUNS.get(loaded.parents[-1].example.kind, 'items')} is in `parent/`.")
    if stage2 is None:
        lines.append("- There is no stage 2" + (
            "." if example.imported else ": it encodes and decodes, but draws no new items."))
    else:
        lines.append(f"- Stage 2: {type(stage2.module).__name__}, {_millions(stage2.module)} parameters, "
                     f"{stage2.state.step} steps: the prior of the codes, from which new items are drawn"
                     + _conditions(loaded, stage2.condition_on) + ".")
    return "\n".join(["## What it is", "", lines[0], "", *lines[1:]])


def _conditions(loaded: LoadedRun, names: tuple[str, ...]) -> str:
    example, parts = loaded.stage1.example, []
    for name in names:
        classes = example.classes[example.label_names.index(name)]
        more = ", ..." if len(classes) > SHOWN_CLASSES else ""
        parts.append(f"{name} ({', '.join(classes[:SHOWN_CLASSES])}{more})")
    return printable(f", conditioned on {' and '.join(parts)}") if parts else ""


def _data(loaded: LoadedRun, terms: Terms, figures: dict | None) -> str:
    copies = (figures or {}).get("copies") or {}
    count = f", {copies['training_items']} training items" if "training_items" in copies else ""
    return "\n".join([
        "## Data and licences", "",
        f"- Trained on: {printable(loaded.stage1.example.data)}{count}.",
        f"- Made by: {terms.data_credit or UNKNOWN}.",
        f"- Licence of the data: {terms.data_license or UNKNOWN}.",
        f"- Licence of the weights: {terms.license or UNKNOWN}, as far as their publisher holds rights in them; the "
        "terms of the data may extend to the weights and to what they generate.",
    ])


def _figures(figures: dict | None) -> str:
    if figures is None:
        return "## Figures\n\nNothing was measured: the run was published without an evaluation."
    classified = figures.get("classifier") is not None or (figures.get("audio") or {}).get("classifiers")
    command = f"python pipelines/evaluate.py run=NAME evaluate.split={figures.get('split')}"
    rows = [f"| `{key}` | {value:{'.0f' if abs(value) >= 1e4 else '.4g'}} | {meaning(key)} |"
            for key, value in flat(figures)]
    return "\n".join([
        "## Figures", "",
        f"Of {figures.get('items')} items, split `{figures.get('split')}`, measured by", "",
        f"    {command}{' evaluate.classifier=true' if classified else ''}", "",
        "where `runs/NAME` is the run that was published, before its prior was rounded to half precision. "
        "docs/metrics.md of the project defines each figure.", "",
        "| figure | value | |", "| --- | --- | --- |", *rows,
    ])


def _limits(loaded: LoadedRun, figures: dict | None) -> str:
    example = loaded.stage1.example
    noun, data, figures = NOUNS.get(example.kind, "items"), printable(example.data), figures or {}
    others = "" if example.imported else f" Other {noun} get codes too, without a warning;"
    lines = [f"- It was trained on {data} alone, and for nothing else.{others} "
             "`pipelines/score.py` says how unusual an item is.",
             f"- An item has the size {_sizes(example.shape)}; no other was trained."]
    classifiers = {"": figures.get("classifier") or {}} | (((figures.get("audio") or {}).get("classifiers")) or {})
    for name, found in classifiers.items():
        if "samples" in found and "real" in found and found["samples"] is not None:
            label = found.get("label", name)
            lines.append(f"- A classifier finds the wanted {label} in {found['samples']:.1%} of the samples, against "
                         f"{found['real']:.1%} of real items.")
    bits = figures.get("codes") or {}
    held, train = (_mean(bits.get(key)) for key in ("prior_bits", "prior_bits_train"))
    if held is not None and train is not None:
        lines.append(f"- The prior spends {held:.2f} bits on a held-out code and {train:.2f} on a training code: the "
                     "gap is overfitting.")
    copies = (figures.get("copies") or {}).get("codes")
    if copies:
        beyond = copies["share"] - copies["expected"] > 2 * copies["standard_error"]
        lines.append(f"- Samples nearer to a training item than to any held-out one: {copies['share']:.1%}, expected "
                     f"without copying {copies['expected']:.1%} (standard error {copies['standard_error']:.1%})"
                     + (": samples may resemble training items." if beyond else "."))
    lines.append("- How good samples look or sound to people was not measured.")
    lines.append("- The weights are rounded to half precision.")
    return "\n".join(["## Limits", "", *lines])


def _loading(loaded: LoadedRun, name: str, hub_name: str | None) -> str:
    stage1, stage2, example = loaded.stage1, loaded.stage2, loaded.stage1.example
    code = ["from pipelines import load", "",
            f'run = load("{hub_name}")' + "  # or this folder" if hub_name else 'run = load("FOLDER")  # this folder']
    if stage2 is not None:
        label = ""
        if stage2.condition_on and (names := example.classes[example.label_names.index(stage2.condition_on[0])]):
            label = f", labels={[f'{stage2.condition_on[0]}={names[0]}']!r}"
        code += [f"samples = run.sample(2, seed=0{label})",
                 "codes = samples.codes" if example.imported else "codes = run.encode(samples.x)"]
    elif isinstance(stage1.module.bottleneck, Quantizer):
        code += ["codes = run.encode(x)  # x: arrays, tensors, files, or a list of these"]
    hub = [] if hub_name else ["", 'From a hub it is `load("hf://OWNER/NAME")`, with the extra `[hub]`.']
    return "\n".join(["## How to load it", "", f"With the Python package `{LIBRARY}`:", "", "```python", *code, "```",
                      *hub])


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} million"


def _mean(value: Any) -> float | None:
    return value["mean"] if isinstance(value, dict) else value
