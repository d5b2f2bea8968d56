"""accumulate=n: a batch that passes in n micro-batches makes the update of the whole batch, statistics included."""

import json

import pytest
import torch

from pipelines.data.digits import Digits
from pipelines.files.errors import InputError
from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from pipelines.splits.base import Split
from pipelines.splits.noise import seed_weights
from pipelines.training.autoencoder import AutoencoderTask
from pipelines.training.checkpoint import find_checkpoint, read_state, read_weights
from pipelines.training.loop import check_graph, train
from pipelines.training.prior import PriorTask
from pipelines.training.settings import Settings
from stage2_prior.wavenet import WaveNet

SETTINGS = {"steps": 6, "batch_size": 16, "validate_every": 3, "checkpoint_every": 3, "log_every": 1, "device": "cpu",
            "precision": "float64", "grad_clip": 0.5, "lr": 1e-3}
OWN = {"ema": ["num_codes=32", "dim=8", "revive_threshold=0.5", "rate_weight=0.1"],
       "bsq": ["num_bits=4", "dim=8", "entropy_weight=1"]}


def task_of(bottleneck: str) -> AutoencoderTask:
    settings = [f"autoencoder.bottleneck.{setting}" for setting in OWN[bottleneck]]
    cfg = composed(["experiment=digits", f"autoencoder/bottleneck={bottleneck}", "autoencoder.encoder.hidden=8",
                    "autoencoder.encoder.residual_hidden=4", *settings])
    seed_weights(0)
    return AutoencoderTask(build(complete(cfg, Digits())), [], lambda *_, **__: None)


def results(folder, task, splits, **changed) -> tuple[dict, list[dict]]:
    folder.mkdir(exist_ok=True)
    train(task, splits, Settings(**SETTINGS | changed), folder, 0, torch.device("cpu"), {})
    newest = find_checkpoint(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return read_weights(newest, read_state(newest), "model.safetensors"), rows


def assert_close(found: tuple[dict, list[dict]], expected: tuple[dict, list[dict]], but: tuple[str, ...] = ()) -> None:
    """But for rounding in float64, which Adam can enlarge."""
    (weights, rows), (other_weights, other_rows) = found, expected
    assert weights.keys() == other_weights.keys() and len(rows) == len(other_rows) >= 8
    for name in weights:
        assert torch.allclose(weights[name].double(), other_weights[name].double(), rtol=0, atol=1e-7), name
    for row, other in zip(rows, other_rows):
        for key in row.keys() - {"seconds", *but}:
            if isinstance(row[key], float):
                assert abs(row[key] - other[key]) <= 1e-6, f"step {row['step']}, {key}: {row[key]} {other[key]}"


@pytest.mark.parametrize("bottleneck", OWN)
def test_stage1(bottleneck, tmp_path):
    """Data-driven initialisation, moving averages and revival included, and the sum that BSQ needs at once; other
    bottlenecks: tests/stage1_vqvae/test_distributed.py. Ratios over a batch are means of those of micro-batches."""
    splits = {name: Digits().split(name) for name in ("train", "validation")}
    whole = results(tmp_path / "whole", task_of(bottleneck), splits)
    parts = results(tmp_path / "parts", task_of(bottleneck), splits, accumulate=4)
    assert_close(parts, whole, ("z_q nmse", "codebook lag", "equal values"))
    assert any((parts[0][name] != whole[0][name]).any() for name in whole[0]), "the batch was not cut"


class Codes(Split):
    """Items are codes, as they are stored."""

    def batch(self, indices, seed=0, epoch=None):
        return self._take(indices)


def test_stage2_with_dropout_and_lengths(tmp_path):
    """Each micro-batch drops what the whole batch drops in its rows, and labels and lengths go with their rows."""
    generated = torch.arange(3 * 40 * 12).view(120, 12) * 7919 % 31
    lengths = torch.arange(120) % 12 + 1
    split = Codes(generated, torch.arange(120)[:, None] % 5, lengths=lengths)

    def task() -> PriorTask:
        seed_weights(0)
        prior = WaveNet(num_codes=31, num_classes=(5,), residual_channels=8, gate_channels=8, skip_channels=8,
                        num_layers=4, dilation_cycle=2, dropout=0.5)
        return PriorTask(prior, [0], {"train": 6.5, "validation": 6.5}, with_length=False)

    splits = {"train": split, "validation": split}
    assert_close(results(tmp_path / "parts", task(), splits, accumulate=2, ema_decay=0.9),
                 results(tmp_path / "whole", task(), splits, ema_decay=0.9))


def test_a_resumed_run_has_the_same_bits(tmp_path):
    splits = {name: Digits().split(name) for name in ("train", "validation")}
    straight, _ = results(tmp_path / "straight", task_of("ema"), splits, accumulate=2, precision="float32")
    results(tmp_path / "resumed", task_of("ema"), splits, accumulate=2, precision="float32", steps=3)
    resumed, _ = results(tmp_path / "resumed", task_of("ema"), splits, accumulate=2, precision="float32")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_what_does_not_divide_the_batch_is_refused(tmp_path):
    with pytest.raises(InputError, match="^accumulate: expected a divisor of the 16 rows of each process, found 3$"):
        results(tmp_path, task_of("ema"), {}, accumulate=3)
    with pytest.raises(InputError, match="^cuda_graph: expected false with accumulate > 1, found true$"):
        check_graph(Settings(cuda_graph=True, accumulate=2), torch.device("cuda"))
