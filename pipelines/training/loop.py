"""The training loop of both stages: one function, read from top to bottom.

What differs between the stages is a `Task`: its loss, what happens before the first and after each step, its
validation figures. Everything random is a function of (seed, step), so a run that was killed at any moment and started
again with the same command ends with the same bits as one that was not (on a CPU, with the same number of threads).
"""

import copy
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.files.errors import InputError
from pipelines.files.signals import Stopped, stop_request
from pipelines.splits.base import Batch, Split
from pipelines.splits.noise import seed_step
from pipelines.splits.order import step_items
from pipelines.training import checkpoint, distributed
from pipelines.training.checkpoint import State
from pipelines.training.layout import channels_last
from pipelines.training.log import RunLog
from pipelines.training.memory import keep_freed_memory
from pipelines.training.settings import Settings
from pipelines.training.task import Task
from pipelines.training.update import AccumulatedUpdate, RecordedUpdate, Update, autocast
from stage1_vqvae.precision import full_float32

RESUMABLE = {"steps", "device", "cuda_graph", "accumulate", "log_every", "checkpoint_every", "validate_every"}
# Steps, device, how a batch is cut, logging and how often to validate may change when a run goes on.


@full_float32()
def train(task: Task, splits: dict[str, Split], settings: Settings, folder: Path, seed: int, device: torch.device,
          facts: dict) -> State:
    """Trains `task.model` on splits["train"] up to `settings.steps`, continuing from the newest checkpoint in `folder`.

    `facts` are the fields of `State` that stand in every checkpoint: hashes, the time. Returns the last state.
    With float32 the products are of float32 on a GPU too, never of TF32: bfloat16 is the fast precision there.
    Raises InputError for a loss that is NaN or infinite (the last good checkpoint stays) and `Stopped` after SIGINT or
    SIGTERM, once the present step is saved.
    """
    if device.type == "cpu":
        keep_freed_memory()
    check_graph(settings, device)
    precision = choose_precision(settings.precision, device)
    model = task.model.to(device)
    channels_last(model)
    if precision == torch.float64:
        model.double()
    rows = distributed.rank_rows(settings.batch_size, settings.accumulate)
    train_split = splits["train"].to(device)
    validation = splits["validation"].to(device)
    check_batches(len(validation), settings.batch_size)
    optimizer = make_optimizer(model, settings, task.undecayed())
    average = copy.deepcopy(model).eval().requires_grad_(False) if settings.ema_decay else None
    state = State(**facts)

    def batch_of(step: int) -> Batch:
        indices, epochs = step_items(seed, step, settings.batch_size, len(train_split))
        return train_split.batch(torch.from_numpy(indices[rows]), seed=seed, epoch=torch.from_numpy(epochs[rows]))

    newest = checkpoint.find_checkpoint(folder)
    if newest is not None:
        state = checkpoint.read_state(newest)
        finished = state.step >= settings.steps or state.stopped_early
        checkpoint.restore(newest, state, model, average, None if finished else optimizer, device)
        if distributed.rank() == 0:  # nothing is removed before all has loaded
            checkpoint.settle_pointers(folder, state)
        state = replace(state, **facts)
        if finished:
            return state
    else:
        with autocast(device, precision):
            seed_step(seed, 0)
            task.before_first_step((batch_of(step) for step in range(1, 1 << 62)), settings.accumulate)
        if average is not None:
            average.load_state_dict(model.state_dict())

    def logged(step: int) -> bool:
        return step % settings.log_every == 0 or step == settings.steps

    def make_update() -> Update:
        network: nn.Module = model
        if distributed.in_group():  # of one process too: the same code runs on one GPU and on many
            network = DistributedDataParallel(model, broadcast_buffers=False)
        common = task, network, optimizer, settings.grad_clip, device, precision
        if settings.accumulate > 1:
            return AccumulatedUpdate(*common, count=settings.accumulate, reseed=lambda step: seed_step(seed, step),
                                     logged=logged)
        return RecordedUpdate(*common) if settings.cuda_graph else Update(*common)

    first_step = state.step
    task.before_step(first_step + 1)
    log = RunLog(folder, first_step, settings.steps, task.title, active=distributed.rank() == 0)
    update = make_update()
    first_bad = update.first_bad
    start, last_shown, shown_step = time.monotonic() - state.seconds, time.monotonic(), first_step
    shown: dict[str, float] = {}

    steps = range(first_step + 1, settings.steps + 1)
    with stop_request() as stop, closing(log), closing(train_split.batches(batch_of, steps)) as batches:
        for step, batch in zip(steps, batches):
            seed_step(seed, step)
            set_learning_rate(optimizer, learning_rate(settings, step))
            if task.before_step(step):
                optimizer.zero_grad(set_to_none=True)
                update = make_update()
                update.first_bad = first_bad
            model.train()
            loss, figures = update(batch, step)
            if average is not None:
                update_average(average, model, settings.ema_decay, step)
            state.step = step

            last = step == settings.steps
            if logged(step):
                refuse_bad_loss(first_bad, folder)
                values = mean_over_ranks({"loss": loss} | figures())
                now = time.monotonic()
                speed = (step - shown_step) * settings.batch_size / max(now - last_shown, 1e-9)
                last_shown, shown_step, shown = now, step, shown | values
                log.figures(step, "train", values | {"lr": learning_rate(settings, step)}, now - start)
                log.show(step, shown, speed)
            del figures  # and the activations that they are computed from

            improved = False
            if step % settings.validate_every == 0 or last:
                refuse_bad_loss(first_bad, folder)
                judged = average if average is not None else model
                values = validate(task, judged, validation, settings, device, precision)
                log.figures(step, "validation", values, time.monotonic() - start)
                log.warn(task.facts(), task.settings)
                if log.active:
                    task.show(judged, validation.batch(torch.arange(min(16, len(validation)))), log, step)
                score = values[task.criterion]
                shown = shown | {f"val {task.criterion}": score}
                refuse_bad_loss(torch.where(torch.tensor(math.isfinite(score)), 0, step).to(device), folder)
                improved = step >= task.settled_from and (state.best_score is None or score < state.best_score)
                if improved:
                    state.best_step, state.best_score, state.bad_validations = step, score, 0
                elif step >= task.settled_from:
                    state.bad_validations += 1
                state.stopped_early = bool(settings.patience) and state.bad_validations >= settings.patience

            # ranks may see the signal at different steps: they agree when they synchronise anyway
            stopping = distributed.any_rank(stop.is_set(), device) if step % 10 == 0 or last else (
                stop.is_set() and distributed.world_size() == 1)
            if improved or last or stopping or state.stopped_early or step % settings.checkpoint_every == 0:
                refuse_bad_loss(torch.where(all_finite(model) | (first_bad > 0), first_bad, step), folder)
                state.seconds = round(time.monotonic() - start, 3)
                if distributed.rank() == 0:
                    checkpoint.save_checkpoint(folder, state, model.state_dict(),
                                               average.state_dict() if average is not None else None,
                                               checkpoint.optimizer_state(optimizer))
                distributed.barrier()
            if state.stopped_early:
                break
            if stopping and not last:
                raise Stopped(stop.number, f"stopped at step {step}, saved; the same command continues from here")
    return state


def describe_best(state: State, figure: str) -> str:
    """The best validation of a training's state, in words."""
    if state.best_step is None:
        return "not validated yet"
    return f"best validation {figure} {state.best_score:.4f} at step {state.best_step}"


def validate(task: Task, model: nn.Module, split: Split, settings: Settings, device, precision) -> dict[str, float]:
    """Means of the task's figures over the whole split; each rank processes its share of the batches."""
    model.eval()
    totals: dict[str, Tensor] = {}
    count = torch.zeros((), dtype=torch.float64, device=device)
    starts = range(0, len(split), settings.batch_size)

    def batch_from(start: int) -> Batch:
        return split.batch(torch.arange(start, min(start + settings.batch_size, len(split))))

    with torch.no_grad(), autocast(device, precision):
        own = starts[distributed.rank() :: distributed.world_size()]
        for batch in split.batches(batch_from, own):
            for name, values in task.figures(model, batch).items():
                totals[name] = totals.get(name, torch.zeros_like(count)) + values.double().sum()
            count += len(batch.x)
    names = sorted(totals)
    sums = distributed.sum_over_ranks(torch.stack([totals[name] for name in names] + [count]))
    means = {name: float(value) for name, value in zip(names, sums[:-1] / sums[-1])}
    return means | task.summary()


def check_batches(items: int, batch_size: int) -> None:
    """Raises InputError where a rank would have nothing to validate."""
    batches = -(-items // batch_size)
    if batches < distributed.world_size():
        raise InputError(f"validation: expected at least one batch for each of {distributed.world_size()} processes, "
                         f"found {batches}; lower batch_size")


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then lr, then over the last `decay_share` of the steps a cosine to lr * final_lr_fraction."""
    if step <= settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    start = max(settings.warmup_steps, (1 - settings.decay_share) * settings.steps)
    progress = max(0.0, step - start) / max(1.0, settings.steps - start)
    fall = 0.5 * (1 - math.cos(math.pi * progress))
    return settings.lr * (1 - fall * (1 - settings.final_lr_fraction))


def make_optimizer(model: nn.Module, settings: Settings, undecayed: Sequence[nn.Parameter] = ()
                   ) -> torch.optim.Optimizer:
    """Adam, with decoupled weight decay of matrices and kernels, except `undecayed`."""
    spared = {id(parameter) for parameter in undecayed}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in spared]
    others = [p for p in model.parameters() if p.ndim <= 1 or id(p) in spared]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    on_gpu = any(p.device.type == "cuda" for p in model.parameters())
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr,
                                  betas=(0.9, settings.beta2), fused=True, capturable=on_gpu)
    for group in optimizer.param_groups:
        if on_gpu:  # a recorded step reads it anew
            group["lr"] = torch.full((), settings.lr, device=group["params"][0].device)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, with a shorter memory in the first steps; buffers are copied."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for own, new in zip(average.buffers(), model.buffers()):
        own.copy_(new)


def check_graph(settings: Settings, device: torch.device) -> None:
    """Raises InputError for cuda_graph=true where a step cannot be recorded."""
    if settings.cuda_graph and device.type != "cuda":
        raise InputError(f"cuda_graph: expected false without a CUDA device, found true with device {device}")
    if settings.cuda_graph and distributed.in_group():
        raise InputError("cuda_graph: expected false under torchrun, whose gradients are exchanged while they are "
                         "computed, found true")
    if settings.cuda_graph and settings.accumulate > 1:
        raise InputError("cuda_graph: expected false with accumulate > 1, found true")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 autocast if the device multiplies bfloat16 in hardware, otherwise float32."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and (
                torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
        name = "bfloat16" if fast else "float32"
    if name not in ("bfloat16", "float32", "float64"):
        raise InputError(f"precision: expected auto, bfloat16, float32 or float64, found {name!r}")
    return getattr(torch, name)


def all_finite(model: nn.Module) -> Tensor:
    """() bool: whether every weight and statistic of a model is finite."""
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()


def mean_over_ranks(figures: dict[str, Tensor]) -> dict[str, float]:
    names = list(figures)
    values = torch.stack([figures[name].detach().double() for name in names])
    values = distributed.sum_over_ranks(values) / distributed.world_size()
    return dict(zip(names, values.tolist()))


def refuse_bad_loss(first_bad: Tensor, folder: Path) -> None:
    """Raises InputError if the loss of any rank was NaN or infinite; nothing has been saved since."""
    steps = distributed.gather_rows(first_bad[None])
    if steps.any():
        good = checkpoint.find_checkpoint(folder)
        raise InputError(f"loss: expected a number, found NaN or infinity at step {int(steps[steps > 0].min())}; the "
                         f"last good checkpoint is {good.name if good else 'none'}: try a lower lr or grad_clip=1")
