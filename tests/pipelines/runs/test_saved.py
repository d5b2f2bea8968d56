"""Modules from configurations that are not trusted: built without memory first, and held against their weights."""

import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.files.errors import InputError
from pipelines.runs.chain import load_run
from pipelines.runs.find import PRETRAINED, run_names
from pipelines.runs.store import Run, load_stage1, load_stage2

CPU = torch.device("cpu")
NAMES = {"stage1": "autoencoder", "stage2": "prior"}


@pytest.fixture
def run(tmp_path) -> Run:
    """Both stages of digits, the frozen run of format 1."""
    shutil.copytree(Path(__file__).resolve().parents[2] / "golden" / "format1", tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.mark.parametrize("stage, key, value", [
    ("stage1", "autoencoder.bottleneck.num_codes", 10**12), ("stage1", "autoencoder.bottleneck.num_codes", 10**9),
    ("stage1", "autoencoder.bottleneck.num_codebooks", 2**30), ("stage1", "autoencoder.bottleneck.num_codes", ...),
    ("stage1", "autoencoder.encoder.num_residual_blocks", 10**9), ("stage1", "autoencoder.encoder.hidden", 10**8),
    ("stage1", "autoencoder.encoder.num_downsamplings", 10**9), ("stage1", "autoencoder.encoder", None),
    ("stage1", "autoencoder.encoder", 3), ("stage1", "autoencoder.likelihood", 3), ("stage1", "autoencoder", {}),
    ("stage1", "autoencoder.bottleneck", {"_target_": "torch.nn.Identity"}),
    ("stage1", "autoencoder._partial_", True), ("stage1", "autoencoder._target_", "torch.nn.ReLU"),
    ("stage1", "autoencoder.beta", float("nan")), ("stage1", "example.shape", [1, 2**20, 2**20]),
    ("stage1", "example.shape", [3, 8, 8]), ("stage1", "example.shape", [1, 8]), ("stage1", "example.shape", [1, 9, 8]),
    ("stage2", "prior.num_layers", 10**9), ("stage2", "prior.channels", 10**9), ("stage2", "prior.num_classes", 3),
    ("stage2", "prior.num_classes", []), ("stage2", "prior.num_classes", [2**31]),
    ("stage2", "prior.num_codes", "many"),
    ("stage2", "prior", [1]), ("stage2", "codes.num_codes", 31), ("stage2", "codes.grid", []),
    ("stage2", "codes.grid", [4]), ("stage2", "codes.grid", [4, 5]), ("stage2", "codes.num_codebooks", 2),
    ("stage2", "codes.classes", [list("abcdefghij")]), ("stage2", "codes.shape", [1, 4, 4]),
])
def test_a_configuration_that_does_not_fit_its_weights_is_refused_at_once(stage, key, value, run, changed):
    path = getattr(run, stage) / "config.yaml"
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), key, value), sort_keys=False))
    start = time.process_time()
    with pytest.raises(InputError, match="expected .*, found") as error:
        _ = load_run(run, CPU).stage2
    assert time.process_time() - start < 2
    assert "\n" not in str(error.value) and str(path) in str(error.value) or "safetensors" in str(error.value)


def test_pretrained_runs_fit_their_weights():
    for name in run_names(PRETRAINED):
        loaded = load_run(Run(PRETRAINED / name), CPU)
        assert loaded.stage1.grid == loaded.stage2.grid == loaded.stage2.codes.grid


def test_what_is_built_is_what_is_stored(run):
    for load in (load_stage1, load_stage2):
        stage = load(run, CPU)
        tensors = [*stage.module.parameters(), *stage.module.buffers()]
        assert all(tensor.device == CPU and not tensor.requires_grad for tensor in tensors)
