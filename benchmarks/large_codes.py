"""A code data set larger than memory: written, opened, read and trained on, with the rates of each.

    python -m benchmarks.large_codes --folder FOLDER                 # 2,097,152 grids of 32x32 uint16: 4.3 GB
    python -m benchmarks.large_codes --folder FOLDER --train 20      # then stage 2, its address space limited

`--train` limits the process to `--spare` bytes of address space (ulimit -v) more than one that only imports torch; a
memory-mapped file counts in it. Linux only. docs/scale.md multiplies the rates up to 10^9 grids. The folder stays:
remove it afterwards.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipelines.commands.flags import VerbParser
from pipelines.data.codes import CodeData, write_codes
from pipelines.data.manifest import MANIFEST, read_manifest
from pipelines.files.errors import InputError, one_line_errors
from pipelines.splits.base import Batch, Data, Split
from pipelines.splits.order import epoch_order

KINDS = 4096  # random grids that items are made of
VALIDATION = 8  # items
BILLION = 10**9  # grids whose manifest is measured
ORDERED = 10**7  # items whose order is
SMALL_PRIOR = ["prior.channels=8", "prior.num_layers=2", "prior.first_kernel_size=3",
               "prior.head_channels=16", "train.batch_size=4", "train.log_every=5"]


@dataclass(frozen=True, kw_only=True)
class ShiftedGrids(Split):
    """Item i is random grid i mod KINDS, shifted by i: as random as its codes need be, and made at once."""

    num_codes: int

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        assert isinstance(self.x, Tensor)
        codes = (self.x[indices % KINDS] + 7919 * indices[:, None, None]) % self.num_codes
        return Batch(codes, self.labels[indices])


class LargeData(Data):
    """Codes of `grid` x `grid` positions."""

    name, kind, splits = "shifted grids", "codes", ("train", "validation")

    def __init__(self, items: int, grid: int, num_codes: int):
        self.items, self.num_codes, self.shape = items, num_codes, (grid, grid)
        self.grids = torch.randint(num_codes, (KINDS, grid, grid), generator=torch.Generator().manual_seed(0))

    def _split(self, name: str) -> ShiftedGrids:
        items = self.items if name == "train" else VALIDATION
        return ShiftedGrids(self.grids, torch.zeros(items, 0, dtype=torch.int64), num_codes=self.num_codes)


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="holds runs/large; made where it is missing")
    parser.add_argument("--items", type=int, default=2**21, help="training grids (default: 2,097,152)")
    parser.add_argument("--grid", type=int, default=32, help="positions to a side (default: 32)")
    parser.add_argument("--num-codes", type=int, default=512, help="K (default: 512)")
    parser.add_argument("--train", type=int, default=0, help="steps of stage 2 (default: 0)")
    parser.add_argument("--spare", type=float, default=3e9, help="bytes of address space for training (default: 3e9)")
    return parser.parse_args()


def timed(title: str, count: float, unit: str, work: Callable[[], object]) -> None:
    """Runs `work` once and prints its rate by the wall clock, and by the processor's time of this process alone."""
    start, used = time.perf_counter(), time.process_time()
    work()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(f"{title:28} {count / seconds:14,.0f} {unit}/s {seconds:9.2f} s, {used:.2f} s of a core", flush=True)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Writes the set where it is missing, then reads it in every way."""
    data = LargeData(arguments.items, arguments.grid, arguments.num_codes)

    def encode(batch: Batch) -> dict[str, Tensor]:
        return {"codes": batch.x}

    def write() -> None:
        write_codes(folder, data, encode, num_codes=arguments.num_codes, num_codebooks=1, stage1_hash="0" * 64)

    if not (folder / MANIFEST).exists():
        timed("written, then opened", arguments.items, "grid", write)
    size = sum(path.stat().st_size for path in folder.iterdir())
    shards = len(list(folder.glob("*.safetensors")))
    print(f"{size:,} bytes in {shards} shards; manifest {(folder / MANIFEST).stat().st_size / shards:.0f} bytes each")
    timed("opened: hashed and checked", size, "byte", lambda: CodeData(folder))
    split = CodeData(folder).split("train")
    some = torch.from_numpy(epoch_order(0, 0, len(split))[: 64 * 500]).split(64)
    timed("at random, 64 at a time", 64 * len(some), "grid", lambda: [split.batch(part).x for part in some])
    spread = torch.arange(min(len(split), 2**17)).split(1024)
    timed("in order", sum(map(len, spread)), "grid", lambda: [split.batch(part).x for part in spread])
    epoch_order.cache_clear()


def measure_scale(folder: Path) -> None:
    """What grows with the number of items alone: the manifest of BILLION grids, and the order of an epoch."""
    known = json.loads((folder / MANIFEST).read_text())
    shards = -(-BILLION // known["splits"]["train"][0]["count"])
    many = [known["splits"]["train"][0] | {"file": f"train-{number:05d}.safetensors"} for number in range(shards)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / MANIFEST
        path.write_text(json.dumps(known | {"splits": known["splits"] | {"train": many}}, indent=1))
        print(f"manifest of {shards:,} shards: {path.stat().st_size:,} bytes")
        timed("manifest read and checked", shards, "shard", lambda: read_manifest(scratch))
    tracemalloc.start()
    timed("order of an epoch", ORDERED, "item", lambda: epoch_order(0, 2, ORDERED))
    print(f"memory of this order: {tracemalloc.get_traced_memory()[1] / ORDERED:.1f} bytes per item")
    tracemalloc.stop()
    epoch_order.cache_clear()


def virtual_bytes(script: str) -> int:
    """The largest address space of a Python process that runs these lines."""
    script += "\nprint([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmPeak')][0])"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return 1024 * int(found.split()[-1])


def train(folder: Path, arguments: argparse.Namespace) -> None:
    """Stage 2 on the codes, in a process of its own. Raises InputError where it fails."""
    alone = virtual_bytes("import torch")
    limit = alone + int(arguments.spare)
    print(f"address space: torch alone {alone:,} bytes, training limited to {limit:,}", flush=True)
    command = [sys.executable, "-m", "pipelines.train_stage2", f"runs_dir={folder.parent.parent}", "run=large",
               f"train.steps={arguments.train}", f"train.validate_every={arguments.train}", *SMALL_PRIOR]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"},
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    if ended.returncode:
        raise InputError(f"train_stage2: expected exit status 0, found {ended.returncode}")


def main(arguments: argparse.Namespace) -> None:
    folder = arguments.folder / "runs" / "large" / "codes"
    measure(folder, arguments)
    measure_scale(folder)
    if arguments.train:
        train(folder, arguments)


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
