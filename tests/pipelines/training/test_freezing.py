"""stage1.freeze_encoder_at: from a step on the encoder and its moments stay, whatever else goes on learning."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipelines.data.digits import Digits
from pipelines.files.errors import InputError
from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from pipelines.splits.noise import seed_weights
from pipelines.training import loop
from pipelines.training.autoencoder import AutoencoderTask, frozen_from
from pipelines.training.checkpoint import find_checkpoint, read_optimizer, read_state, read_weights
from pipelines.training.settings import Stage1Settings
from pipelines.training.update import RecordedUpdate

SETTINGS = {"steps": 10, "batch_size": 8, "validate_every": 10, "checkpoint_every": 1, "log_every": 5, "device": "cpu",
            "precision": "float32", "freeze_encoder_at": 0.5, "ema_decay": 0.9, "grad_clip": 1.0, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def data():
    return Digits()


class Watched(AutoencoderTask):
    """Keeps the weights and moments of every step; raises at `stop`, as if it were killed."""

    def start(self, stop=None):
        self.stop, self.weights, self.moments, self.networks = stop, {}, {}, []

    def loss(self, network, batch, step):
        self.step = int(step)
        if self.step == self.stop:
            raise KeyboardInterrupt
        self.networks.append(network)
        return super().loss(network, batch, step)

    def after_step(self, optimizer):
        super().after_step(optimizer)
        self.weights[self.step] = copy.deepcopy(self.model.state_dict())
        first = next(self.model.encoder.parameters())
        self.moments[self.step] = {name: value.clone() for name, value in optimizer.state[first].items()}


def trained(folder, data, stop=None, bottleneck="ema", **changes):
    cfg = composed(["experiment=digits", f"autoencoder/bottleneck={bottleneck}", "autoencoder.encoder.hidden=8",
                    "autoencoder.encoder.residual_hidden=4"])
    seed_weights(0)
    settings = Stage1Settings(**SETTINGS | changes)
    task = Watched(build(complete(cfg, data)), [], lambda *_, **__: None)
    task.frozen_from = frozen_from(settings)
    task.start(stop)
    folder.mkdir(exist_ok=True)
    splits = {name: data.split(name) for name in ("train", "validation")}
    try:
        loop.train(task, splits, settings, folder, 0, torch.device("cpu"), {})
    except KeyboardInterrupt:
        assert stop is not None
    return task


def saved(folder):
    newest = find_checkpoint(folder)
    state = read_state(newest)
    return read_weights(newest, state, "model.safetensors"), read_optimizer(newest, state)["state"]


@pytest.mark.parametrize("bottleneck", ["ema", "simvq"])
def test_encoder_and_moments_stay_and_the_rest_learns(bottleneck, data, tmp_path):
    task = trained(tmp_path, data, bottleneck=bottleneck, checkpoint_every=10)
    for step in range(2, 11):
        for name in task.weights[1]:
            same = torch.equal(task.weights[step][name], task.weights[step - 1][name])
            if name.startswith("encoder."):
                assert same is (step > 5), (step, name)
        for part in ("bottleneck.", "decoder."):
            assert any(not torch.equal(task.weights[step][name], task.weights[step - 1][name])
                       for name in task.weights[1] if name.startswith(part)), part
        same = all(torch.equal(task.moments[step][name], task.moments[step - 1][name]) for name in task.moments[1])
        assert same is (step > 5)


@pytest.mark.parametrize("stop", [4, 6, 7])
def test_a_run_that_is_stopped_about_then_ends_with_the_same_bits(stop, data, tmp_path, straight):
    """Killed before the step that freezes, at it, and after it."""
    trained(tmp_path, data, stop=stop)
    assert read_state(find_checkpoint(tmp_path)).step == stop - 1
    trained(tmp_path, data)
    (weights, moments), (expected, expected_moments) = saved(tmp_path), straight
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)
    assert moments.keys() == expected_moments.keys()
    assert all(torch.equal(moments[index][name], value) for index, own in expected_moments.items()
               for name, value in own.items())


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    trained(folder, data, checkpoint_every=10)
    return saved(folder)


def test_a_process_group_and_a_recorded_step_freeze_as_well(data, tmp_path, straight, monkeypatch):
    """Each is made anew at that step: a DDP wrapper would wait for the encoder's gradients, a graph repeat them."""
    made = []

    class Replayed(RecordedUpdate):
        def __init__(self, *arguments):
            made.append(self)
            super().__init__(*arguments, record=lambda run: (lambda: None, run()))  # as on a GPU, without one

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        task = trained(tmp_path / "grouped", data, checkpoint_every=10)
    finally:
        dist.destroy_process_group()
    assert all(isinstance(network, DistributedDataParallel) for network in task.networks)
    assert len(set(map(id, task.networks))) == 2
    weights, _ = saved(tmp_path / "grouped")
    assert all(torch.equal(weights[name], value) for name, value in straight[0].items())
    monkeypatch.setattr(loop, "check_graph", lambda *_: None)
    monkeypatch.setattr(loop, "RecordedUpdate", Replayed)
    trained(tmp_path / "recorded", data, checkpoint_every=10, cuda_graph=True, steps=6)
    assert len(made) == 2


def test_the_step_is_a_share_of_the_steps_and_never_the_first():
    assert frozen_from(Stage1Settings(steps=100)) is None
    assert frozen_from(Stage1Settings(steps=100, freeze_encoder_at=0.75)) == 76
    assert frozen_from(Stage1Settings(steps=3, freeze_encoder_at=0.01)) == 2
    with pytest.raises(InputError, match="freeze_encoder_at: expected a number >= 0 and < 1, found 1"):
        Stage1Settings(freeze_encoder_at=1.0)


def test_only_stage_1_has_it():
    with pytest.raises(InputError, match="stage2.freeze_encoder_at: expected"):
        composed(["experiment=digits", "stage2.freeze_encoder_at=0.5"])
