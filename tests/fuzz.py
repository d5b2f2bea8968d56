"""Damages every file that a run consists of, and watches what reads it.

    python -m tests.fuzz --mutations 10000 --hostile 300 --seed 0

Five small runs are trained (images, a folder of images, audio, video, codes of codes). A mutation changes one file of
one of them: bits, cuts, zeros, swapped blocks, no file at all but a pipe, a link or a folder; types and numbers in
JSON, YAML and headers of safetensors; an optimiser's tensors. Half of those that a checksum would catch are sealed with
a new one, so that the readers behind it are tried too. Then one of the functions that read this file runs in a fork.
What may come of it:

    same      its outputs are those of the unchanged run
    refused   one line on stderr, `error: ...`, and exit status 2
    changed   other outputs: only where no checksum protects the file, as in a configuration, or the seal is forged

A traceback, a crash, more lines than one, silence until the time limit, and a change behind a checksum are failures.
Mutation i depends on the seed and i alone: `--only i` repeats it and shows what it wrote.
"""

import argparse
import copy
import ctypes
import gc
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from pipelines import extract_codes, load, train_stage1, train_stage2
from pipelines.data.codes import CodeData
from pipelines.files.errors import one_line_errors
from pipelines.runs.config import composed
from pipelines.training.log import read_metrics

LIMIT_S = 60  # of one reader; alone on a core the slowest takes one
HOSTILE_S = 2.0  # of processor time, in which a hostile configuration is refused
HOSTILE_BYTES = 2**28  # more memory than the unchanged run takes
FAILURES = ("traceback", "crash", "hang", "lines", "silent")

SMALL = [f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
         ("steps=2", "batch_size=8", "validate_every=1", "checkpoint_every=1", "log_every=1", "device=cpu")]
PIXELS = ["prior.channels=8", "prior.num_layers=1", "prior.head_channels=8"]
ENCODER = ["hidden=8", "residual_hidden=4"]
ROOM = ["data.episodes=4", "data.frames=8", "data.size=12", "data.validation_fraction=0.25"]
SPEECH = ["data.crop=256", "data.length=512", "data.validation_fraction=0.2", "autoencoder.encoder.hidden=8",
          "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4",
          *(f"autoencoder.decoder.upsampler.{size}" for size in ("hidden=8", "channels=8", "out_channels=4")),
          "autoencoder.decoder.network.num_layers=2", "prior.num_layers=2",
          *(f"{part}.{name}_channels=8" for part in ("autoencoder.decoder.network", "prior")
            for name in ("residual", "gate", "skip"))]
VIDEO = ["data.clip_length=4", *(f"autoencoder.encoder.network.{size}" for size in
                                 (*ENCODER, "outer_hidden=8", "num_downsamplings=1")),
         "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4", "prior.num_temporal_layers=1",
         "prior.first_kernel_size=3"]
BOTTOM = ["experiment=doom", "data=room", "data.episodes=4", "data.frames=12", "data.size=24",
          "data.validation_fraction=0.25", *(f"autoencoder.encoder.{size}" for size in (*ENCODER, "outer_hidden=8")),
          "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4"]
TOP = ["experiment=doom_3codes",
       *(f"autoencoder.encoder.encoder.encoder.{size}" for size in (*ENCODER, "outer_hidden=8")),
       "autoencoder.encoder.encoder.channels=8", "autoencoder.encoder.features=4", "autoencoder.bottleneck.dim=6",
       "autoencoder.decoder.network.channels=8", "autoencoder.decoder.network.num_layers=1",
       "autoencoder.decoder.network.head_channels=8", "autoencoder.decoder.upsampler.decoder.decoder.out_channels=4",
       "autoencoder.bottleneck.num_codes=8"]


@dataclass(frozen=True)
class Outcome:
    """How a fork ended."""

    kind: str  # "done", "refused", or one of FAILURES
    output: str  # a digest of what the reader returned
    stderr: str
    seconds: float  # of processor time
    bytes: int  # at most in memory


@dataclass(frozen=True)
class Mutation:
    """What was done to which file."""

    run: str
    file: str  # relative to the folder of all runs
    kind: str
    protected: bool  # by a checksum that still holds the unchanged content's
    reader: str


# --- Runs and what reads them ---------------------------------------------------------------------------------------


def experiments(folder: Path) -> dict[str, list[str]]:
    """The overrides of each run; `bottom` makes the codes of `codes`."""
    common = [*SMALL, f"runs_dir={folder}"]
    return {
        "image": ["experiment=digits", *common, *PIXELS, *(f"autoencoder.encoder.{size}" for size in ENCODER),
                  "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4", "extract.shard_size=1000"],
        "folder": ["experiment=digits", "data=image_folder", f"data.root={folder}/pictures", "data.size=8",
                   "data.channels=1", f"data.cache={folder}/cache", "data.workers=1", *common, *PIXELS,
                   *(f"autoencoder.encoder.{size}" for size in ENCODER), "autoencoder.bottleneck.num_codes=8",
                   "autoencoder.bottleneck.dim=4", "condition_on=[]"],
        "audio": ["experiment=fsdd", f"data.root={folder}/fsdd", f"data.cache={folder}/cache", "data.workers=1",
                  *SPEECH, *common],
        "video": ["experiment=room_video", *ROOM, *VIDEO, *PIXELS, *common],
        "bottom": [*BOTTOM, *PIXELS, *common],
        "codes": [*TOP, *PIXELS, f"data.run={folder}/bottom", *common],
    }


def write_sources(folder: Path) -> None:
    """Recordings of two speakers and a folder of pictures."""
    from PIL import Image

    draws = np.random.default_rng(0)
    (folder / "fsdd").mkdir(parents=True)
    (folder / "pictures").mkdir()
    for digit in (0, 7):
        for speaker in ("ann", "bob"):
            for index in range(7):
                wave = 0.3 * np.sin(np.arange(draws.integers(300, 500)) * (0.1 + 0.05 * digit + 0.01 * index))
                soundfile.write(folder / "fsdd" / f"{digit}_{speaker}_{index}.wav", wave, 8000)
    for index in range(20):
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(folder / "pictures" / f"{index}.png")


def verb(script: Any, overrides: list[str]) -> Callable[[], None]:
    """A verb's main on a configuration that is composed here, before any fork."""
    cfg = composed(overrides)
    return lambda: script.main.__wrapped__(copy.deepcopy(cfg))


def make_runs(folder: Path, names: list[str]) -> None:
    """Trains the runs, each verb in a fork, since PyTorch's gradients do not outlive one."""
    write_sources(folder)
    for name in (name for name in experiments(folder) if name in names or name == "bottom" and "codes" in names):
        overrides = [*experiments(folder)[name], f"run={name}"]
        for script in (train_stage1, extract_codes, train_stage2):
            outcome = forked(lambda: verb(script, overrides)() or "", folder / "scratch", 300)
            assert outcome.kind == "done", (name, script.__name__, outcome)
        (folder / name / "metrics.json").write_text(json.dumps({"format": 2, "run": name, "psnr_db": 20.5, "bounds":
                                                                {"elbo": 3.25}, "codes": {"used": [7, 3]}}, indent=1))
        for events in (folder / name).glob("stage*/tensorboard"):
            shutil.rmtree(events)


def digest(*tensors: Any) -> str:
    """Of tensors and text, exact."""
    found = hashlib.sha256()
    for value in tensors:
        found.update(value.contiguous().numpy().tobytes() if isinstance(value, torch.Tensor) else str(value).encode())
    return found.hexdigest()[:16]


def weights_of(folder: Path) -> str:
    """Of the newest checkpoint of a stage, whatever came before it."""
    step = (folder / "checkpoints" / "latest").read_text().strip()
    return digest(step, *((folder / "checkpoints" / step / name).read_bytes().hex()
                          for name in ("model.safetensors", "optimizer.pt")))


def use(folder: Path) -> str:
    run = load(folder)
    samples = run.sample(2, seed=1, temperature=0.7)
    codes = run.encode(samples.x) if run.kind != "codes" and run.kind != "audio" else samples.codes
    extra = run.figures if (folder / "metrics.json").exists() else ""
    return digest(samples.x, codes, run.describe(), run.classes, samples.labels, extra)


def logs(folder: Path) -> str:
    return digest(*(read_metrics(folder / stage / "metrics.jsonl") for stage in ("stage1", "stage2")))


def all_codes(folder: Path) -> str:
    data = CodeData(folder / "codes")
    parts = [data.split(name) for name in data.splits]
    fields = [value for split in parts for value in (split.x, split.labels, split.local, split.lengths)]
    return digest(data.manifest, *(value for value in fields if value is not None))


class Fuzzer:
    """The runs in `folder`, never changed, and a copy in `work` that mutations damage."""

    def __init__(self, folder: Path, work: Path, names: tuple[str, ...], limit_s: float = LIMIT_S):
        self.folder, self.work, self.limit_s = folder, work, limit_s
        self.names = [name for name in names if name != "bottom"]
        self.readers: dict[str, dict[str, Callable[[], str]]] = {name: self._readers(name) for name in self.names}
        self.files = [(name, path.relative_to(folder)) for name in self.names for path in self._files(name)]
        self.expected: dict[tuple[str, str], Outcome] = {}
        for name in self.names:
            load(folder / name).sample(1)  # compiles before the forks
        gc.freeze()
        for name in self.names:
            for reader in self.readers[name]:
                self._copy(name)
                outcome = self._run(name, reader)
                assert outcome.kind == "done", (name, reader, outcome)
                self.expected[name, reader] = outcome

    def _files(self, name: str) -> list[Path]:
        found = [path for path in sorted((self.folder / name).rglob("*")) if path.is_file()]
        return found + sorted((self.folder / "cache").glob("*-*.*") if name in ("audio", "folder") else [])

    def _readers(self, name: str) -> dict[str, Callable[[], str]]:
        overrides = [*experiments(self.work)[name], f"run={name}"]
        run = self.work / name
        more = {stage: verb(script, [*overrides, f"{stage}.steps=3"])
                for stage, script in (("stage1", train_stage1), ("stage2", train_stage2))}
        extract = verb(extract_codes, overrides)
        return {
            "use": lambda: use(run),
            "logs": lambda: logs(run),
            "codes": lambda: all_codes(run),
            "extract": lambda: extract() or all_codes(run),
            "stage1": lambda: more["stage1"]() or weights_of(run / "stage1"),
            "stage2": lambda: more["stage2"]() or weights_of(run / "stage2"),
        }

    def _copy(self, name: str) -> None:
        """Anew in `work`: the run, and what it was made of."""
        self.work.mkdir(exist_ok=True)
        for part in (name, "cache", "fsdd", "pictures", "bottom"):
            target = self.work / part
            if target.is_symlink() or target.exists():
                if part in ("fsdd", "pictures", "bottom"):
                    continue  # no mutation touches these
                shutil.rmtree(target)
            if (self.folder / part).exists():
                shutil.copytree(self.folder / part, target, copy_function=shutil.copy2)
        for path in (self.work / name).glob("stage1/config.yaml"):
            path.write_text(path.read_text().replace(f"{self.folder}/", f"{self.work}/"))

    def _run(self, name: str, reader: str) -> Outcome:
        return forked(self.readers[name][reader], self.work / "scratch", self.limit_s)

    def mutate(self, draws: np.random.Generator) -> Mutation:
        """Makes the copy anew and changes one of its files."""
        name, file = self.files[draws.integers(len(self.files))]
        self._copy(name)
        path = self.work / file
        readers = readers_of(file)
        reader = readers[draws.integers(len(readers))]
        before = path.read_bytes()
        kind = change(path, draws)
        sealed = False
        if path.is_file() and not path.is_symlink() and (changed := path.read_bytes()) != before:
            sealed = draws.random() < 0.5 and seal(path, changed)
        protected = path.suffix in (".safetensors", ".pt", ".u8", ".i16") and not sealed
        return Mutation(name, str(file), f"{kind}, sealed" if sealed else kind, protected, reader)

    def outcome(self, mutation: Mutation) -> tuple[str, Outcome]:
        """What reading it came to: "same", "refused", "changed", or one of FAILURES."""
        found = self._run(mutation.run, mutation.reader)
        if found.kind != "done":
            return found.kind, found
        if found.output == self.expected[mutation.run, mutation.reader].output:
            return "same", found
        return "silent" if mutation.protected else "changed", found


def readers_of(file: Path) -> list[str]:
    """Which readers read a file."""
    if file.parts[0] == "cache":
        return ["stage1", "extract"]
    stage = file.parts[1]
    if file.name == "metrics.jsonl":
        return [stage, "logs"]
    if stage == "codes":
        return ["codes", "stage2", "extract"]
    if file.name in ("optimizer.pt", "latest"):
        return [stage]
    return ["use", stage] if stage == "stage2" else ["use", "extract", stage] if stage == "stage1" else ["use"]


# --- Mutations ------------------------------------------------------------------------------------------------------

ODD: list[Any] = [None, True, False, -1, 0, 1, 3, 2**31, 10**12, 10**30, 1.5, -0.0, float("nan"), float("inf"), "",
                  "x", "step-0000001", "../..", "\0", "\ud800", [], {}, [0], [[]], {"a": 1}, "1", 7e300]
TEXTS = ["[" * 3000, "{" * 3000, "9" * 5000, "2001-99-99", "a: &a [*a]", "null", "[]", "3", "\"text\"", "", "\n",
         "---\n---",
         "a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: &d [*c, *c, *c, *c]\ne: [*d, *d, *d, *d]",
         "!!python/object/apply:os.system ['true']", "? [a]\n: b", "<<: {a: 1}", "a: !!int ''", "a: !!float ''",
         "a: !!bool x", "{\"step\": 1e999}", "a: 0x" + "f" * 6000, "format: 2\nformat: 1", "\ufeffa: 1", "a:\t- b"]


def change(path: Path, draws: np.random.Generator) -> str:
    """Changes a file in some way; says in which."""
    binary = {"bit": bit, "bits": bits, "cut": cut, "zeros": zeros, "swap": swap, "noise": noise, "more": more}
    kinds: dict[str, Callable[[Path, np.random.Generator], None]] = {**binary, "other": other}
    if path.suffix in (".json", ".yaml", ".jsonl"):
        kinds |= {"text": text, "latin1": latin1, "value": value, "number": value, "key": key}
    elif path.suffix == ".safetensors":
        kinds |= {"header": header, "length": header_length}
    elif path.suffix == ".pt":
        kinds |= {"state": optimizer_state, "options": optimizer_options}
    elif not path.suffix:
        kinds |= {"text": text, "latin1": latin1}
    name = list(kinds)[draws.integers(len(kinds))]
    kinds[name](path, draws)
    return name


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def place(content: bytes, draws: np.random.Generator) -> int:
    """A position; half of the time among the first 200, where headers are."""
    return int(draws.integers(max(1, min(len(content), 200) if draws.random() < 0.5 else len(content))))


def bit(path: Path, draws: np.random.Generator, count: int = 1) -> None:
    content = bytearray(path.read_bytes()) or bytearray(1)
    for _ in range(count):
        content[place(content, draws)] ^= 1 << draws.integers(8)
    rewrite(path, bytes(content))


def bits(path: Path, draws: np.random.Generator) -> None:
    bit(path, draws, 8)


def cut(path: Path, draws: np.random.Generator) -> None:
    content = path.read_bytes()
    rewrite(path, b"" if draws.random() < 0.2 else content[: place(content, draws)])


def zeros(path: Path, draws: np.random.Generator) -> None:
    content = path.read_bytes()
    start = place(content, draws)
    end = min(len(content), start + int(draws.choice([1, 8, 64, 512])))
    rewrite(path, content[:start] + bytes(end - start) + content[end:])


def swap(path: Path, draws: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    size = int(draws.choice([1, 4, 32, 128]))
    first, second = sorted(place(content, draws) for _ in range(2))
    second = max(second, first + size)
    one, two = content[first : first + size], content[second : second + size]
    rewrite(path, bytes(content[:first] + two + content[first + size : second] + one + content[second + size :]))


def noise(path: Path, draws: np.random.Generator) -> None:
    content = path.read_bytes()
    start, size = place(content, draws), int(draws.choice([1, 8, 64]))
    rewrite(path, content[:start] + draws.bytes(size) + content[start + size :])


def more(path: Path, draws: np.random.Generator) -> None:
    rewrite(path, path.read_bytes() + draws.bytes(int(draws.choice([1, 7, 100]))))


def other(path: Path, draws: np.random.Generator) -> None:
    """No file, or not a regular one."""
    path.unlink()
    kind = draws.integers(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind < 5:
        path.symlink_to([path.with_name("nowhere"), "/dev/zero", path.name][kind - 2])


def text(path: Path, draws: np.random.Generator) -> None:
    rewrite(path, TEXTS[draws.integers(len(TEXTS))].encode("utf-8", "surrogatepass"))


def latin1(path: Path, draws: np.random.Generator) -> None:
    content = path.read_bytes()
    start = place(content, draws)
    rewrite(path, content[:start] + [b"\xe9", b"\xff\xfe", b"\xc3"][draws.integers(3)] + content[start:])


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in it, at any depth."""
    found, left = [], [tree]
    while left:
        inner = left.pop()
        for name in list(inner) if isinstance(inner, dict) else range(len(inner)):
            found.append((inner, name))
            if isinstance(inner[name], dict | list):
                left.append(inner[name])
    return found


def odd(found: Any, draws: np.random.Generator) -> Any:
    """Another value; for numbers often one near it."""
    if isinstance(found, int | float) and not isinstance(found, bool) and draws.random() < 0.5:
        return [found + 1, found - 1, -found, found * 2, found * 10**6, float(found), str(found)][draws.integers(7)]
    if isinstance(found, list | dict) and found and draws.random() < 0.4:
        return [list(found)[:-1], [found], list(found) + list(found)[:1], list(found)[::-1]][draws.integers(4)]
    return copy.deepcopy(ODD[draws.integers(len(ODD))])


def edit(path: Path, draws: np.random.Generator, how: Callable[[Any, Any], None]) -> None:
    """Changes one place of what JSON or YAML holds."""
    content = path.read_text()
    rows = content.splitlines() if path.suffix == ".jsonl" else [content]
    number = int(draws.integers(len(rows)))
    tree = yaml.safe_load(rows[number]) if path.suffix == ".yaml" else json.loads(rows[number])
    places = nodes(tree)
    how(*places[draws.integers(len(places))])
    if path.suffix == ".yaml":
        rows[number] = yaml.safe_dump(tree, sort_keys=False)
    else:
        rows[number] = json.dumps(tree, indent=None if path.suffix == ".jsonl" else 1)
    rewrite(path, ("\n".join(rows) + "\n").encode("utf-8", "surrogatepass"))


def value(path: Path, draws: np.random.Generator) -> None:
    def how(inner: Any, name: Any) -> None:
        inner[name] = odd(inner[name], draws)

    edit(path, draws, how)


def key(path: Path, draws: np.random.Generator) -> None:
    """One is lost, renamed or added."""

    def how(inner: Any, name: Any) -> None:
        found = inner.pop(name)
        kind = draws.integers(3)
        if isinstance(inner, list):
            inner.extend([found, found] if kind else [])
        elif kind == 1:
            inner[f"{name}_"] = found
        elif kind == 2:
            inner |= {name: found, "more": 1}

    edit(path, draws, how)


def header(path: Path, draws: np.random.Generator) -> None:
    """Names, types, shapes and offsets of the tensors in a safetensors file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + size])
    places = nodes(tree)
    inner, name = places[draws.integers(len(places))]
    if inner[name] in ("F32", "F16", "I64", "U8", "BOOL", "U16", "I32") or draws.random() < 0.2:
        inner[name] = str(draws.choice(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "U64", "C64"]))
    elif draws.random() < 0.2 and isinstance(inner, dict):
        inner[f"{name}x"] = inner.pop(name)
    else:
        inner[name] = odd(inner[name], draws)
    made = json.dumps(tree).encode("utf-8", "surrogatepass")
    rewrite(path, len(made).to_bytes(8, "little") + made + content[8 + size :])


def header_length(path: Path, draws: np.random.Generator) -> None:
    content = path.read_bytes()
    size = int(draws.choice([0, 1, 7, len(content), 2**20, 2**40, 2**62]))
    rewrite(path, size.to_bytes(8, "little") + content[8:])


def optimizer_state(path: Path, draws: np.random.Generator) -> None:
    """A tensor of another shape, type or layout, without a place in memory for each value, or that is not finite."""
    tree = torch.load(path, weights_only=True)
    index = list(tree["state"])[draws.integers(len(tree["state"]))]
    name = ["step", "exp_avg", "exp_avg_sq"][draws.integers(3)]
    own = tree["state"][index][name]
    tree["state"][index][name] = [
        own.double(), own.half(), own.new_zeros(()).expand(own.shape), own.flatten()[:-1] if own.ndim else own[None],
        own.new_zeros(3, 3), own * torch.nan, own.tolist(), None, own.to_sparse() if own.ndim else 1, own.to("meta"),
        torch.stack([own, own], -1)[..., 0], own.long(), own.transpose(0, -1) if own.ndim > 1 else own + torch.inf,
    ][draws.integers(13)]
    if draws.random() < 0.1:
        del tree["state"][index][name]
    torch.save(tree, path)


def optimizer_options(path: Path, draws: np.random.Generator) -> None:
    tree = torch.load(path, weights_only=True)
    group = tree["param_groups"][draws.integers(len(tree["param_groups"]))]
    name = list(group)[draws.integers(len(group))]
    group[name] = odd(group[name], draws)
    if draws.random() < 0.2:
        tree["param_groups"] = [tree["param_groups"], tree["param_groups"][:1], {}, None][draws.integers(4)]
    torch.save(tree, path)


def seal(path: Path, content: bytes) -> bool:
    """Gives a part its new checksum, where one is kept; whether it did."""
    found = hashlib.sha256(content).hexdigest()
    state, manifest, notes = path.with_name("state.json"), path.with_name("manifest.json"), path.with_suffix(".json")
    if path.parent.name.startswith("step-") and path.suffix in (".safetensors", ".pt"):
        tree = json.loads(state.read_text())
        tree["checksums"][path.name] = found
        rewrite(state, json.dumps(tree).encode())
    elif path.parent.name == "codes" and path.suffix == ".safetensors":
        tree = json.loads(manifest.read_text())
        for shard in (shard for shards in tree["splits"].values() for shard in shards if shard["file"] == path.name):
            shard |= {"sha256": found, "bytes": len(content)}
        rewrite(manifest, json.dumps(tree).encode())
    elif path.suffix in (".u8", ".i16"):
        tree = json.loads(notes.read_text())
        own = json.dumps(tree["notes"], sort_keys=True).encode()
        rewrite(notes, json.dumps(tree | {"sha256": hashlib.sha256(own + content).hexdigest()}).encode())
    else:
        return False
    return True


# --- Hostile configurations -----------------------------------------------------------------------------------------

FOREIGN = ["os.system", "subprocess.run", "torch.load", "torch.hub.load", "builtins.exec", "canary.fire", "canary",
           "pipelines.files.atomic.write_atomically", "stage1_vqvae.autoencoder.torch.load", "shutil.rmtree",
           "stage2_prior.sampling.torch.hub.load", "stage1_vqvae.canary.fire", "torch.nn.Linear", "sys.exit", ".",
           "a.b"]
HUGE = [10**5, 10**6, 2**31, 10**9, 10**12, 2**62]
COUNTS = ("num_", "hidden", "channels", "dim", "layers", "kernel_size", "size")


def hostile(folder: Path, draws: np.random.Generator) -> tuple[str, bool]:
    """Changes what a run's configuration builds; says how, and whether nothing but a refusal is right."""
    stage, key = (("stage1", "autoencoder"), ("stage2", "prior"))[draws.integers(2)]
    path = folder / stage / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    places = [(inner, name) for inner, name in nodes(tree[key]) + [(tree, key)] if not isinstance(inner, list)]
    components = [(inner, name) for inner, name in places if isinstance(inner[name], dict)]
    sizes = [(inner, name) for inner, name in places if isinstance(inner, dict) and str(name).startswith(COUNTS)
             and type(inner[name]) is int and inner[name] > 0]
    kind = ["foreign", "huge", "none", "missing", "type", "partial", "deep", "many"][draws.integers(8)]
    must = kind in ("foreign", "none", "deep")
    if kind == "foreign":
        inner, name = components[draws.integers(len(components))]
        target = FOREIGN[draws.integers(len(FOREIGN))]
        inner[name] = {"_target_": target, "args": ["touch canary-was-here"]} if draws.random() < 0.5 else (
            inner[name] | {"_target_": target})
    elif kind == "huge":
        inner, name = sizes[draws.integers(len(sizes))]
        inner[name] = HUGE[draws.integers(len(HUGE))]
        kind, must = f"huge {name}", False
    elif kind == "none":
        inner, name = components[draws.integers(len(components))]
        inner[name] = [None, 3, "x", [], {}][draws.integers(5)]
    elif kind == "missing":
        inner, name = places[draws.integers(len(places))]
        del inner[name]
    elif kind == "type":
        inner, name = places[draws.integers(len(places))]
        inner[name] = odd(inner[name], draws)
    elif kind == "partial":
        inner, name = components[draws.integers(len(components))]
        inner[name]["_partial_"] = True
    elif kind == "deep":
        inner, name = components[draws.integers(len(components))]
        for _ in range(60):
            inner[name] = {"_target_": "torch.nn.Identity", "a": inner[name]}
    else:
        inner, name = places[draws.integers(len(places))]
        inner[name] = [copy.deepcopy(inner[name])] * 2000
    rewrite(path, yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass"))
    return kind, must


def fuzz_hostile(fuzzer: Fuzzer, count: int, seed: int, show: Callable[[str], None]) -> tuple[Counter, list[str]]:
    """Loads `count` hostile configurations; (kind, outcome) counted, and a line for each failure."""
    counts: Counter = Counter()
    failures = []
    traps = fuzzer.work / "traps"
    traps.mkdir(parents=True, exist_ok=True)
    sprung = fuzzer.work / "canary-was-here"
    (traps / "canary.py").write_text(f"open({str(sprung)!r}, 'w')\ndef fire(*a, **k): pass\n")
    sys.path.append(str(traps))
    for number in range(count):
        draws = np.random.default_rng([seed, number, 1])
        name = fuzzer.names[draws.integers(len(fuzzer.names))]
        fuzzer._copy(name)
        kind, must = hostile(fuzzer.work / name, draws)
        found = fuzzer._run(name, "use")
        expected = fuzzer.expected[name, "use"]
        result = found.kind if found.kind != "done" else "same" if found.output == expected.output else "accepted"
        counts[kind.split()[0], result] += 1
        slow = found.kind == "refused" and found.seconds > HOSTILE_S
        large = found.bytes > expected.bytes + HOSTILE_BYTES
        if sprung.exists() or slow or large or result in FAILURES or must and result != "refused":
            failures.append(f"hostile {number} of {name}, {kind}: {result}, {found.seconds:.1f} s, "
                            f"{(found.bytes - expected.bytes) / 2**20:.0f} MiB more, foreign code: {sprung.exists()}: "
                            f"{found.stderr[-600:]}")
            show(failures[-1])
            sprung.unlink(missing_ok=True)
    return counts, failures


# --- Forks ----------------------------------------------------------------------------------------------------------


def forked(reader: Callable[[], str], scratch: Path, limit_s: float) -> Outcome:
    """Runs a reader in a fork that ends in time."""
    scratch.mkdir(parents=True, exist_ok=True)
    names = {name: scratch / name for name in ("stdout", "stderr", "output")}
    for path in names.values():
        path.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _in_fork(reader, names, limit_s)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    stderr = names["stderr"].read_text(errors="replace") if names["stderr"].exists() else ""
    output = names["output"].read_text() if names["output"].exists() else ""
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    kind = ("hang" if code == -signal.SIGALRM else "crash" if code < 0 else "done" if code == 0
            else "traceback" if "Traceback" in stderr or code != 2 else "refused" if len(lines) == 1 else "lines")
    return Outcome(kind, output, stderr, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _in_fork(reader: Callable[[], str], names: dict[str, Path], limit_s: float) -> None:
    """Never returns."""
    code = 70
    try:
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(names[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w")), io.TextIOWrapper(io.FileIO(2, "w"))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(limit_s))
        ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed is given back
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            with one_line_errors():
                names["output"].write_text(reader())
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 71
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stderr.flush()
        sys.stdout.flush()
    finally:
        os._exit(code)


# --- The whole ------------------------------------------------------------------------------------------------------


def fuzz(fuzzer: Fuzzer, numbers: range, seed: int, show: Callable[[str], None],
         seconds: float = float("inf")) -> tuple[Counter, list[str]]:
    """Mutations by number; (file, kind, outcome) counted, and a line for each failure."""
    counts: Counter = Counter()
    failures = []
    end = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > end:
            break
        mutation = fuzzer.mutate(np.random.default_rng([seed, number]))
        result, found = fuzzer.outcome(mutation)
        counts[group(mutation), mutation.kind, result] += 1
        if result in FAILURES:
            failures.append(f"mutation {number}: {mutation}: {result}: {found.stderr[-600:]}")
            show(failures[-1])
        if len(numbers) == 1:
            show(f"{mutation}\n{result}: {found.output}\n{found.stderr}")
    return counts, failures


def group(mutation: Mutation) -> str:
    """The kind of file: "audio stage1 model.safetensors"."""
    file = Path(mutation.file)
    if file.parts[0] == "cache":
        return f"{mutation.run} cache{file.suffix}"
    stage = [file.parts[1]] if len(file.parts) > 2 else []
    return " ".join([mutation.run, *stage, "shard" if "-0000" in file.name else file.name])


def table(counts: Counter, column: int, title: str) -> str:
    """Outcomes in columns, files or kinds in rows."""
    outcomes = [name for name in ("same", "refused", "changed", "accepted", *FAILURES)
                if any(entry[-1] == name for entry in counts)]
    rows = sorted({entry[column] for entry in counts})
    lines = [[title, *outcomes]]
    for row in rows:
        lines.append([row, *(str(sum(count for entry, count in counts.items()
                                     if entry[column] == row and entry[-1] == name)) for name in outcomes)])
    lines.append(["all", *(str(sum(count for entry, count in counts.items() if entry[-1] == name))
                           for name in outcomes)])
    widths = [max(map(len, parts)) for parts in zip(*lines)]
    lines = [[first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])] for first, *rest in lines]
    return "\n".join("  ".join(line) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--hostile", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so much time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this mutation alone, with what it wrote")
    parser.add_argument("--folder", type=Path, help="keep the trained runs here, and take them from here next time")
    parser.add_argument("--runs", nargs="+", default=["image", "folder", "audio", "video", "codes"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch) / "runs").absolute()
        if not folder.exists():
            make_runs(folder, arguments.runs)
        fuzzer = Fuzzer(folder, Path(scratch) / "work", tuple(arguments.runs))
        numbers = range(arguments.mutations) if arguments.only is None else range(arguments.only, arguments.only + 1)
        counts, failures = fuzz(fuzzer, numbers, arguments.seed, print, arguments.seconds)
        print(table(counts, 0, "file"), table(counts, 1, "kind"), sep="\n\n")
        if arguments.only is None:
            hostiles, more_failures = fuzz_hostile(fuzzer, arguments.hostile, arguments.seed, print)
            print("", table(hostiles, 0, "hostile configuration"), sep="\n")
            failures += more_failures
    print(f"\n{sum(counts.values())} mutations, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
