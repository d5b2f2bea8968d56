"""Codes that no stage 1 of ours made, as a data set: those that import_codes.py wrote into the run itself.

Axes: g codebooks, *grid the positions of an item.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pipelines.data.codes import CodeData
from pipelines.data.run_codes import RunCodeSplit
from pipelines.files.formats import CONFIG, migrated
from pipelines.runs.config import read_config
from pipelines.runs.example import Example
from pipelines.runs.store import Run
from pipelines.splits.base import Data


class ImportedCodes(Data):
    """int64 (g, *grid) below `num_codes`, in splits as they were imported; some have lengths."""

    kind = "tokens"
    own_run = True

    def __init__(self, run: str):
        own = Run(Path(run))
        self._codes = CodeData(own.codes)
        path = own.stage1 / "config.yaml"
        self._layout = Example.from_config(migrated(read_config(path), path, CONFIG), path).facts["tokens"]
        manifest = self._codes.manifest
        self.name, self.shape = manifest.data["name"], (manifest.num_codebooks, *manifest.grid)
        self.num_codes = manifest.num_codes
        self.label_names, self.classes = manifest.label_names, manifest.classes
        self.splits, self.remarks, self.digest = self._codes.splits, self._codes.remarks, manifest.extraction

    @property
    def facts(self) -> dict[str, Any]:
        return {"num_codes": self.num_codes, "data_grid": list(self.shape[1:])}

    @property
    def saved_facts(self) -> dict[str, Any]:
        """How codes lay in the files that they came from, `pipelines.tokens.base.Layout.to_facts`."""
        return {"tokens": self._layout}

    def _split(self, name: str) -> RunCodeSplit:
        split = self._codes.split(name)
        return RunCodeSplit(**{field.name: getattr(split, field.name) for field in fields(split)})
