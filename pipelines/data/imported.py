"""Codes that no stage 1 of ours made, as a data set: those that import_codes.py wrote into the run itself.

Axes: g codebooks, *grid the positions of an item.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pipelines.data.codes import CodeData
from pipelines.data.run_codes import RunCodeSplit
from pipelines.runs.store import Run
from pipelines.splits.base import Data


class ImportedCodes(Data):
    """int64 (g, *grid) below `num_codes`, in splits as they were imported; some have lengths.

    source: `pipelines.tokens.base.Layout.to_facts`, how codes lay in the files that they came from."""

    kind = "tokens"
    own_run = True

    def __init__(self, run: str, source: dict):
        self._codes = CodeData(Run(Path(run)).codes)
        manifest = self._codes.manifest
        self.name, self.shape = manifest.data["name"], (manifest.num_codebooks, *manifest.grid)
        self.num_codes, self.source = manifest.num_codes, source
        self.label_names, self.classes = manifest.label_names, manifest.classes
        self.splits, self.remarks, self.digest = self._codes.splits, self._codes.remarks, manifest.extraction

    @property
    def facts(self) -> dict[str, Any]:
        return {"num_codes": self.num_codes, "data_grid": list(self.shape[1:])}

    @property
    def saved_facts(self) -> dict[str, Any]:
        return {"tokens": self.source}

    def _split(self, name: str) -> RunCodeSplit:
        split = self._codes.split(name)
        return RunCodeSplit(**{field.name: getattr(split, field.name) for field in fields(split)})
