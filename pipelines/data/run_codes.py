"""The codes of one run as the data of another: the second level of a hierarchy.

Axes: n items of a split, b items of a batch, g codebooks of the parent run, h rows, w columns.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.codes import CodeData, CodeSplit, to_channels
from pipelines.files.errors import InputError
from pipelines.runs.data import load_data
from pipelines.runs.store import Run, check_same_stage1, load_stage1
from pipelines.splits.base import Batch, Data


@dataclass(frozen=True, kw_only=True)
class RunCodeSplit(CodeSplit):
    """Codes int64 (b, g, h, w)."""

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        batch = super().batch(indices, seed, epoch)
        return batch._replace(x=to_channels(batch.x, self.num_codebooks))


class RunCodes(Data):
    """int64 (g, h, w) below `num_codes`: the extracted codes of a run on images, or on the codes of such a run.

    Splits, labels and recorded fields are those of the parent's own data. Raises InputError where the parent's codes
    are not those of its stage 1, where their grid has not two axes, or where its decoder is conditioned on labels.
    """

    kind = "codes"

    def __init__(self, run: str):
        self.parent = Run(Path(run))
        self._codes = CodeData(self.parent.codes)
        self._stage1 = load_stage1(self.parent, torch.device("cpu"))
        check_same_stage1(self._codes.stage1_hash, self._stage1, self.parent.codes)
        manifest = self._codes.manifest
        if len(manifest.grid) != 2:
            raise InputError(f"data.run: expected codes of images, found {run} with codes on a grid {manifest.grid}")
        if labels := self._stage1.condition_on:
            raise InputError(f"data.run: expected a run whose decoder is not conditioned on labels, found {run}, whose "
                             f"decoder is conditioned on {', '.join(labels)}")
        self.name = f"codes of {self._codes.name}"
        self.shape = (manifest.num_codebooks, *manifest.grid)
        self.num_codes = manifest.num_codes
        self.label_names, self.classes = manifest.label_names, manifest.classes
        self.splits, self.remarks = self._codes.splits, self._codes.remarks
        self.parent_hash, self.extraction = manifest.stage1_hash, manifest.extraction

    @property
    def facts(self) -> dict[str, Any]:
        return {"num_codes": self.num_codes, "data_grid": list(self.shape[1:])}

    @property
    def saved_facts(self) -> dict[str, Any]:
        return {"parent": {"stage1_hash": self.parent_hash, "extraction": self.extraction}}

    @cached_property
    def parent_data(self) -> Data:
        """The data set that was encoded."""
        return load_data(self.parent, self._stage1, None)

    @property
    def recorded_names(self) -> tuple[str, ...]:
        return self.parent_data.recorded_names

    def recorded(self, name: str, split: str) -> Tensor:
        recorded = self.parent_data.recorded(name, split)
        views = self._codes.manifest.views if split == "train" else 1  # one after the other
        return recorded.repeat(views, *[1] * (recorded.ndim - 1))

    def _split(self, name: str) -> RunCodeSplit:
        split = self._codes.split(name)
        return RunCodeSplit(**{field.name: getattr(split, field.name) for field in fields(split)})
