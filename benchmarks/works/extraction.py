"""Extraction: images to the codes of a data set on disk, against the plain loop of public code."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.plain.vqvae import COMPACT, PlainVQVAE
from benchmarks.work import Contender, Floor, Run, Sizes, Work
from benchmarks.works.stage1_step import CHANNELS, D, autoencoder, encoder_macs, images
from pipelines.data.codes import write_codes
from pipelines.data.images import ImageSplit
from pipelines.splits.base import Data
from pipelines.training.memory import keep_freed_memory


class Images(Data):
    """Generated images, all of them in the training split but one."""

    name, kind, splits = "images", "image", ("train", "validation")

    def __init__(self, size: int, count: int):
        self.shape = (CHANNELS, size, size)
        self.images = images(size, count, torch.device("cpu"))

    def _split(self, name: str) -> ImageSplit:
        x = self.images[1:] if name == "train" else self.images[:1]
        return ImageSplit(x, torch.zeros(len(x), 0, dtype=torch.int64), size=self.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Extraction(Work):
    title = "extraction"
    unit = "image"
    count: int
    size: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        return [{"count": 8, "size": 8, "k": 16}] if quick else [
            {"count": 4096, "size": 32, "k": 512}, {"count": 256, "size": 128, "k": 512}]

    def label(self) -> str:
        return f"{self.count:,} images of {self.size}x{self.size}, compact network, K = {self.k}"

    def contenders(self) -> list[Contender]:
        def own() -> Run:
            if self.device.type == "cpu":
                keep_freed_memory()  # as extract_codes.py does
            data, model = Images(self.size, self.count), autoencoder(self.k, COMPACT).to(self.device).eval()
            with torch.no_grad():
                model.bottleneck.initialised.fill_(True)
            return in_folder(lambda folder: write_codes(
                folder, data, lambda batch: {"codes": model.encode(batch.x)}, num_codes=self.k, num_codebooks=1,
                stage1_hash="0" * 64, device=self.device))

        def plain() -> Run:
            x = images(self.size, self.count, self.device)
            model = PlainVQVAE(CHANNELS, self.k, D, COMPACT).to(self.device).eval()

            def run(folder: Path) -> None:
                codes = [model.encode(part.float() / 255 - 0.5).cpu() for part in x.split(128)]
                torch.save(torch.cat(codes), folder / "codes.pt")

            return in_folder(run)

        return [
            Contender("write_codes of Autoencoder.encode", own, count=self.count),
            Contender("plain loop, torch.save", plain, rival=True, count=self.count),
        ]

    def floor(self) -> Floor:
        # the encoder's multiply-accumulates and the search's scores, in float32: codes are not to depend on rounding
        return Floor(flops=2.0 * (encoder_macs(self.size, COMPACT) + (self.size / 4) ** 2 * self.k * D))


def in_folder(write: Callable[[Path], object]) -> Run:
    """Writes into an empty folder each time."""
    folder = Path(tempfile.mkdtemp()) / "codes"

    def run() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write(folder)

    return run
