"""One process under torchrun: the code of many, the bits of one. Devices under torchrun."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipelines.data.digits import Digits
from pipelines.files.errors import InputError
from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from pipelines.splits.noise import seed_weights
from pipelines.training import distributed
from pipelines.training.autoencoder import AutoencoderTask
from pipelines.training.checkpoint import find_checkpoint, read_state, read_weights
from pipelines.training.loop import train
from pipelines.training.settings import Settings

SETTINGS = Settings(steps=4, batch_size=16, validate_every=4, checkpoint_every=4, log_every=2, device="cpu",
                    precision="float32")


class Watched(AutoencoderTask):
    """Notes through what it computes."""

    def loss(self, network, batch, step):
        self.network = network
        return super().loss(network, batch, step)


def trained(folder, settings=SETTINGS):
    data = Digits()
    cfg = composed(["experiment=digits", "autoencoder.encoder.hidden=8", "autoencoder.encoder.residual_hidden=4"])
    seed_weights(0)
    task = Watched(build(complete(cfg, data)), [], lambda *_, **__: None)
    folder.mkdir(exist_ok=True)
    splits = {name: data.split(name) for name in ("train", "validation")}
    train(task, splits, settings, folder, 0, torch.device("cpu"), {})
    newest = find_checkpoint(folder)
    return task, read_weights(newest, read_state(newest), "model.safetensors")


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_process_alone_in_its_group_runs_the_code_of_many(group, tmp_path):
    task, weights = trained(tmp_path / "grouped")
    assert isinstance(task.network, DistributedDataParallel)
    dist.destroy_process_group()
    plain, expected = trained(tmp_path / "plain")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'again'}", rank=0, world_size=1)
    assert plain.network is plain.model
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1"])
def test_a_numbered_gpu_is_refused_under_torchrun(name, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match=f"^device: expected auto, cpu or cuda under torchrun, .* found '{name}'$"):
        distributed.choose_device(name)
    assert distributed.choose_device("cpu") == torch.device("cpu")


def test_nccl_is_told_its_device(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    found = []
    monkeypatch.setattr(dist, "init_process_group", lambda *names, **options: found.append((names, options)))
    monkeypatch.setattr(dist, "barrier", lambda: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for name in ("cuda:3", "cpu"):
        with distributed.process_group(torch.device(name)):
            pass
    assert found == [(("nccl",), {"device_id": torch.device("cuda:3")}), (("gloo",), {})]


def test_a_step_is_recorded_on_one_gpu_only(group, tmp_path):
    with pytest.raises(InputError, match="^cuda_graph: expected false without a CUDA device, found true"):
        trained(tmp_path, Settings(cuda_graph=True, device="cpu"))
    from pipelines.training.loop import check_graph

    with pytest.raises(InputError, match="^cuda_graph: expected false under torchrun, .*, found true$"):
        check_graph(Settings(cuda_graph=True), torch.device("cuda:0"))


def test_batches_that_a_thread_makes_are_those_of_the_loop(tmp_path, monkeypatch):
    """As on a GPU whose memory the items do not fit: same weights; an error of reading ends the training with it."""
    from pipelines.data.images import ImageSplit
    from pipelines.splits.transfer import ahead

    expected = trained(tmp_path / "plain")[1]
    monkeypatch.setattr(ImageSplit, "batches", lambda self, make, numbers: ahead(make, numbers, self.device))
    found = trained(tmp_path / "ahead")[1]
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    def unreadable(self, indices, *_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(ImageSplit, "_fetch", unreadable)
    with pytest.raises(OSError, match="the disk is gone"):
        trained(tmp_path / "gone")
