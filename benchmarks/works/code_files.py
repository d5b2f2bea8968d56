"""The code data set on disk: written, opened with all its checks, and read in random batches."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.work import Contender, Floor, Run, Sizes, Work
from benchmarks.works.extraction import in_folder
from pipelines.data.codes import CodeData, CodeSplit, write_codes
from pipelines.splits.base import Batch, Data

BATCH, WRITTEN = 64, 256  # items of a batch that is read, and that is encoded


class Numbers(Data):
    """Items that are codes already; the last is the validation split."""

    name, kind, splits = "numbers", "codes", ("train", "validation")

    def __init__(self, count: int, grid: int, k: int):
        self.shape = (grid, grid)
        self.codes = torch.randint(k, (count + 1, grid, grid), generator=torch.Generator().manual_seed(0))

    def _split(self, name: str) -> CodeSplit:
        x = self.codes[:-1] if name == "train" else self.codes[-1:]
        return CodeSplit(x, torch.zeros(len(x), 0, dtype=torch.int64), num_codebooks=1)


@dataclass(frozen=True, kw_only=True)
class CodeFiles(Work):
    title = "code data set"
    unit = "item"
    devices = ("cpu",)
    what: str
    count: int
    grid: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        sets = [(16, 4, 16)] if quick else [(100_000, 8, 512), (8192, 32, 512)]
        return [{"what": what, "count": count, "grid": grid, "k": k} for count, grid, k in sets
                for what in ("written", "opened", "read at random")]

    def label(self) -> str:
        return f"{self.what}: {self.count:,} items of {self.grid}x{self.grid}, K = {self.k}"

    def contenders(self) -> list[Contender]:
        def own() -> Run:
            data = Numbers(self.count, self.grid, self.k)

            def encode(batch: Batch) -> dict[str, torch.Tensor]:
                return {"codes": batch.x}

            def write(folder: Path) -> None:
                write_codes(folder, data, encode, num_codes=self.k, num_codebooks=1, stage1_hash="0" * 64,
                            batch_size=WRITTEN)

            if self.what == "written":
                return in_folder(write)
            folder = Path(tempfile.mkdtemp())
            write(folder)
            if self.what == "opened":
                return lambda: CodeData(folder)
            split = CodeData(folder).split("train")
            batches = torch.randperm(self.count).split(BATCH)
            return lambda: [split.batch(indices).x for indices in batches]

        def plain() -> Run:
            data = Numbers(self.count, self.grid, self.k)
            if self.what == "written":
                return in_folder(lambda folder: torch.save(data.codes.clone(), folder / "codes.pt"))
            folder = Path(tempfile.mkdtemp())
            path = folder / "codes.pt"
            torch.save(data.codes, path)
            if self.what == "opened":
                return lambda: torch.load(path, weights_only=True)
            loader = DataLoader(TensorDataset(torch.load(path, weights_only=True)), batch_size=BATCH, shuffle=True)
            return lambda: [batch for (batch,) in loader]

        return [
            Contender("CodeData", own, count=self.count),
            Contender("torch.save, torch.load, DataLoader", plain, rival=True, count=self.count),
        ]

    def floor(self) -> Floor:
        # Codes in memory are int64, stored ones of 8 or 16 bits: each is read in one form and written in the other. The
        # disk, checksums and checks of ranges are not in it.
        return Floor(bytes=self.grid**2 * (8 + (1 if self.k <= 256 else 2)))
