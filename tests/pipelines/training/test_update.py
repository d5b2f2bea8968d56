"""An update of a model: nothing in it waits for a GPU, and replaying a recorded one gives the bits of running it.

No GPU is needed: tensors on the device "meta" have shapes and types but no values, so whatever waits for a value fails.
"""

import contextlib
import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from pipelines.splits.base import Batch
from pipelines.splits.noise import seed_step
from pipelines.training.autoencoder import AutoencoderTask
from pipelines.training.loop import make_optimizer, set_learning_rate, update_average
from pipelines.training.prior import PriorTask
from pipelines.training.settings import Settings
from pipelines.training.update import WARM_UP, RecordedUpdate, Update
from stage2_prior import pixelcnn, prior, wavenet
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.video import GatedPixelCNN3d
from stage2_prior.wavenet import WaveNet

SETTINGS = Settings(batch_size=4, lr=1e-3, grad_clip=1.0, weight_decay=0.1, ema_decay=0.9)
BOTTLENECKS = ["ema", "gradient", "diveq", "simvq", "residual", "fsq", "bsq", "gumbel", "gaussian", "identity", "vimco"]
LIKELIHOODS = ["bernoulli", "categorical", "logistic", "logistic_mixture", "logit_laplace"]


class NoWaits(TorchDispatchMode):
    """Raises at every copy between main memory and a device that the processor waits for. Where a value is read
    (`item`, `nonzero`, an index that is a mask), tensors without values raise by themselves."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        devices = [x.device.type for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
        if name == "aten::_to_copy" and kwargs.get("device") is not None:
            target = torch.device(kwargs["device"]).type
            assert target == devices[0] or kwargs.get("non_blocking"), f"{func}: {devices[0]} -> {target}"
        if name == "aten::copy_":
            assert devices[0] == devices[1], f"{func}: {devices}"
        if name.startswith("aten::index"):
            assert len(set(devices)) == 1, f"{func}: an index in main memory, {devices}"
        return func(*args, **kwargs)


@pytest.fixture
def meta(monkeypatch):
    """A device without values. Autocast does not know it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused, capturable, **own: AdamW(groups, **own))
    return torch.device("meta")


class Images:
    kind, label_names, classes, variance, shape, facts = "image", (), (), 4000.0, (1, 8, 12), {}


def autoencoder_task(bottleneck="ema", likelihood="gaussian", data=Images, **changes):
    overrides = [f"autoencoder/bottleneck={bottleneck}", f"autoencoder/likelihood={likelihood}",
                 *(f"{key}={value}" for key, value in changes.items())]
    cfg = composed(["experiment=digits", "autoencoder.encoder.hidden=8", "autoencoder.encoder.residual_hidden=4",
                    *overrides])
    torch.manual_seed(0)
    return AutoencoderTask(build(complete(cfg, data)), [], lambda *_, **__: None)


def image_batch(device, rows=4):
    x = torch.randint(0, 256, (rows, *Images.shape), device=device).byte()
    return Batch(x, torch.zeros(rows, 0, dtype=torch.int64, device=device))


def code_batch(device, grid, num_codes, codebooks=(), classes=(), channels=0, lengths=False):
    rows = SETTINGS.batch_size
    labels = torch.stack([torch.randint(0, count, (rows,), device=device) for count in classes], 1) if classes else (
        torch.zeros(rows, 0, dtype=torch.int64, device=device))
    local = torch.randn(rows, channels, *grid, device=device) if channels else None
    return Batch(torch.randint(0, num_codes, (rows, *grid, *codebooks), device=device), labels, local,
                 torch.full((rows,), grid[0] - 1, device=device) if lengths else None)


def prior_cases():
    small = {"channels": 8, "num_layers": 2, "head_channels": 8}
    yield "pixelcnn", partial(GatedPixelCNN, 16, **small), partial(code_batch, grid=(4, 6), num_codes=16)
    yield "two codebooks, labels, dropout", partial(
        GatedPixelCNN, 16, 2, num_classes=(3, 5), dropout=0.5, **small), partial(
        code_batch, grid=(4, 6), codebooks=(2,), num_codes=16, classes=(3, 5))
    yield "wavenet with lengths", partial(
        WaveNet, 16, residual_channels=8, gate_channels=8, skip_channels=8, num_layers=3, num_classes=(3,),
        local_channels=4), partial(code_batch, grid=(12,), num_codes=16, classes=(3,), lengths=True)
    yield "video", partial(GatedPixelCNN3d, 16, num_temporal_layers=1, local_channels=2, **small), partial(
        code_batch, grid=(3, 4, 6), num_codes=16, channels=2)


PRIORS = {name: (make, batch) for name, make, batch in prior_cases()}


def prior_task(make):
    torch.manual_seed(0)
    prior = make()
    return PriorTask(prior, list(range(len(prior.num_classes))), {"train": 10.0, "validation": 10.0},
                     isinstance(prior, WaveNet))


def updates(task, batch, device, steps, kind=Update, precision=torch.float32):
    """The weights, averages and losses of a few updates."""
    model = task.model.train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = make_optimizer(model, SETTINGS, task.undecayed())
    for group in optimizer.param_groups if device.type == "cpu" else ():  # as on a GPU, where AdamW is fused too
        group["lr"] = torch.full((), SETTINGS.lr)
    update = kind(task, model, optimizer, SETTINGS.grad_clip, device, precision)
    losses = []
    for step in range(1, steps + 1):
        seed_step(0, step)
        set_learning_rate(optimizer, SETTINGS.lr / step)
        loss, figures = update(batch(device) if callable(batch) else batch, step)
        update_average(average, model, SETTINGS.ema_decay, step)
        losses.append(loss.clone())
    return SimpleNamespace(model=model, average=average, losses=losses, figures=figures, update=update)


def cases():
    for name in BOTTLENECKS:
        yield f"bottleneck {name}", partial(autoencoder_task, bottleneck=name), image_batch
    for name, key, value in (("vimco", "estimator", "first_order"), ("gumbel", "hard_from", 2)):
        own = {key: value, "logits": "distance", "num_codes": 16, "likeliest_from": 3, "likeliest_share": 0.5}
        changes = {f"autoencoder.bottleneck.{key}": value for key, value in own.items()}
        yield f"bottleneck {name} by distance", partial(autoencoder_task, bottleneck=name, **changes), image_batch
    for name in LIKELIHOODS:
        yield f"likelihood {name}", partial(autoencoder_task, likelihood=name), image_batch
    for name, (make, batch) in PRIORS.items():
        yield f"prior {name}", partial(prior_task, make), batch


CASES = {name: (task, batch) for name, task, batch in cases()}


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_the_gpu(name, meta):
    make, batch = CASES[name]
    with meta:
        task = make()
    if isinstance(task, AutoencoderTask):
        task.model.beta_warmup_steps = 3
    with NoWaits():
        found = updates(task, batch(meta), meta, steps=2)
        assert found.losses[0].device == meta and found.losses[0].shape == ()


@pytest.mark.parametrize("wait", [lambda x: x[0].item(), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.cpu(),
                                  lambda x: x[torch.tensor([0])], lambda x: x.copy_(torch.zeros(3)),
                                  lambda x: torch.zeros(3).to(x)])
def test_a_wait_is_noticed(wait, meta):
    with NoWaits(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        wait(torch.zeros(3, device=meta))


class Recorder(TorchDispatchMode):
    """A stand-in for a CUDA graph: keeps every operation that runs within, and runs them again on the same tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.written = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for own, given in zip(func._schema.arguments, args):
            if own.alias_info is not None and own.alias_info.is_write:
                self.written += [(x, x.clone()) for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.operations:
            new = func(*args, **kwargs)
            for old, fresh in zip(tree_leaves(result), tree_leaves(new)):
                if isinstance(old, torch.Tensor) and old.data_ptr() != fresh.data_ptr():
                    old.copy_(fresh)


def recorded(run):
    """As recording a graph does: nothing has happened afterwards, and the result is where replaying will write it."""
    recorder, random = Recorder(), torch.get_rng_state()
    with recorder:
        result = run()
    torch.set_rng_state(random)
    for tensor, before in reversed(recorder.written):
        tensor.detach().copy_(before)

    def replay():
        with torch.no_grad():
            recorder.replay()

    return replay, result


@pytest.mark.parametrize("name", ["bottleneck ema", "bottleneck gumbel", "bottleneck vimco", "bottleneck residual",
                                  "bottleneck vimco by distance", "bottleneck gumbel by distance",
                                  "prior two codebooks, labels, dropout", "prior wavenet with lengths"])
def test_replaying_a_recorded_update_gives_the_bits_of_running_it(name, monkeypatch):
    """Losses, figures, weights and averages over steps that change: other batches, seeds, rates, schedules."""
    monkeypatch.setattr(Update, "__call__", lambda self, batch, step: self._run(batch, self._step.fill_(step)))
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, capturable, **own: AdamW(groups, **own))
    for module in (pixelcnn, prior, wavenet):  # a GPU has no kernels of numba
        monkeypatch.setattr(module, "ready", lambda device, dtype: False)
    make, batch = CASES[name]
    torch.manual_seed(1)
    batches = [batch(torch.device("cpu")) for _ in range(WARM_UP + 3)]
    found = {}
    for kind in (Update, partial(RecordedUpdate, record=recorded)):
        task = make()
        if isinstance(task, AutoencoderTask):
            task.model.beta_warmup_steps = 5
            if name == "bottleneck ema":
                task.model.bottleneck.rate_weight, task.model.bottleneck.rate_warmup_steps = 0.5, 5
        own = iter(batches)
        found[kind] = updates(task, lambda _: next(own), torch.device("cpu"), len(batches), kind)
    plain, replayed = found.values()
    assert replayed.update._replay is not None, "it was recorded"
    assert [float(loss) for loss in replayed.losses] == [float(loss) for loss in plain.losses]
    figures = [{key: float(own.detach()) for key, own in run.figures().items()} for run in (replayed, plain)]
    assert figures[0] == figures[1]
    for one, other in ((plain.model, replayed.model), (plain.average, replayed.average)):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@gpu
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_no_step_synchronises(name):
    device = torch.device("cuda:0")
    make, batch = CASES[name]
    task = make()
    task.model.to(device)
    given = batch(device)
    updates(task, given, device, steps=1)  # libraries initialise
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = updates(task, given, device, steps=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.isfinite() for loss in found.losses)


@gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_a_graph_gives_the_bits_of_its_kernels(name, precision):
    """In a deterministic mode: two runs, kernel by kernel, need not agree to the bit otherwise."""
    device = torch.device("cuda:0")
    make, batch = CASES[name]
    torch.manual_seed(1)
    batches = [batch(device) for _ in range(WARM_UP + 4)]
    found = []
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        for kind in (Update, RecordedUpdate):
            task, own = make(), iter(batches)
            task.model.to(device)
            if isinstance(task, AutoencoderTask):
                task.model.beta_warmup_steps = 5
            found.append(updates(task, lambda _: next(own), device, len(batches), kind, precision))
    finally:
        torch.backends.cudnn.deterministic = before
    plain, replayed = found
    assert replayed.update._replay is not None, "it was recorded"
    assert torch.equal(torch.stack(plain.losses), torch.stack(replayed.losses))
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, replayed.model.state_dict()[key]), key
