"""One update of a model: launched kernel by kernel, or recorded once as a CUDA graph and replayed.

A GPU finishes the kernels of a small model sooner than Python launches the next; a graph launches all of them at once.
A graph repeats the very kernels that were recorded, so both give the same bits. `torch.compile` would fuse kernels as
well, but with other rounding, and minutes of compilation for each model.
"""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.splits.base import Batch
from pipelines.training.task import Figures, Task
from stage1_vqvae.collectives import MicroBatches
from stage2_prior.dropout import micro_batch

Result = tuple[Tensor, Figures]
Record = Callable[[Callable[[], Result]], tuple[Callable[[], object], Result]]

WARM_UP = 3  # updates before one is recorded: libraries initialise at their first calls


class Update:
    """Loss, gradients, clipping, the optimiser's step, and the task's care of its codebook."""

    def __init__(self, task: Task, network: nn.Module, optimizer: torch.optim.Optimizer, grad_clip: float,
                 device: torch.device, precision: torch.dtype):
        self.task, self.network, self.optimizer, self.grad_clip = task, network, optimizer, grad_clip
        self.device, self.precision = device, precision
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)  # the first step whose loss was not finite
        self._step = torch.zeros((), dtype=torch.int64, device=device)

    def __call__(self, batch: Batch, step: int) -> Result:
        """The loss () of this rank's rows, and figures to log."""
        return self._run(batch, step if self.device.type == "cpu" else self._step.fill_(step))

    def _run(self, batch: Batch, step: Tensor | int) -> Result:
        self.optimizer.zero_grad(set_to_none=True)
        loss, figures = self._learn(batch, step)
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip)
        bad = (self.first_bad == 0) & ~torch.isfinite(loss)
        self.first_bad.copy_(torch.where(bad, step, self.first_bad))
        self.optimizer.step()
        self.task.after_step(self.optimizer)
        return loss, figures

    def _learn(self, batch: Batch, step: Tensor | int) -> Result:
        """The gradients of a batch, its loss () and figures."""
        with autocast(self.device, self.precision):
            loss, figures = self.task.loss(self.network, batch, step)
        loss.backward()
        return loss.detach(), lambda: self.task.merged([figures()])


class AccumulatedUpdate(Update):
    """The same update, of a batch that passes in micro-batches: memory is that of one of them. Each is to the model
    what a rank's batch is (`MicroBatches`): noise is that of its rows, and statistics are learned from all together.

    reseed: sets the random numbers of the present step, which each micro-batch draws for the whole batch. logged: of a
    step, whether its figures will be asked for."""

    def __init__(self, *arguments, count: int, reseed: Callable[[int], None], logged: Callable[[int], bool]):
        super().__init__(*arguments)
        self._count, self._reseed, self._logged = count, reseed, logged
        self._number = 0  # of the step

    def __call__(self, batch: Batch, step: int) -> Result:
        self._number = step
        return super().__call__(batch, step)

    def _learn(self, batch: Batch, step: Tensor | int) -> Result:
        rows = len(batch.x) // self._count
        parts = [Batch._make(None if field is None else field[number * rows : (number + 1) * rows] for field in batch)
                 for number in range(self._count)]
        sums, total, found = MicroBatches(self._count), torch.zeros((), device=self.device), []
        if self.task.needs_whole_batch:
            with torch.no_grad(), autocast(self.device, self.precision):
                for number, part in enumerate(parts):
                    with sums.at(number, looking=True):
                        self._reseed(self._number)
                        self.task.loss(self.task.model, part, step)
        for number, part in enumerate(parts):
            with ExitStack() as stack:
                if number < self._count - 1 and isinstance(self.network, DistributedDataParallel):
                    stack.enter_context(self.network.no_sync())  # ranks exchange gradients once
                stack.enter_context(sums.at(number))
                stack.enter_context(micro_batch(number, self._count))
                self._reseed(self._number)
                with autocast(self.device, self.precision):
                    loss, figures = self.task.loss(self.network, part, step)
                (loss / self._count).backward()
            total = total + loss.detach() / self._count
            if self._logged(self._number):
                found.append({name: figure.detach() for name, figure in figures().items()})
            del loss, figures  # and the activations
        return total, lambda: self.task.merged(found)


class RecordedUpdate(Update):
    """The same update, recorded after `WARM_UP` of them. All batches have the shapes of the first.

    What changes from step to step lies in tensors at fixed addresses: batch, step, learning rate; random numbers follow
    the generator's seed, which the loop sets before each step."""

    def __init__(self, *arguments, record: Record | None = None):
        super().__init__(*arguments)
        self._record = record or self._record_graph
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._batch: Batch | None = None
        self._calls = 0
        self._replay: Callable[[], object] | None = None
        self._result: Result | None = None

    def __call__(self, batch: Batch, step: int) -> Result:
        self._hold(batch)
        self._step.fill_(step)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._beside()
        if self._replay is None:
            self._replay, self._result = self._record(self._own_run)
        self._replay()
        assert self._result is not None
        return self._result

    def _own_run(self) -> Result:
        assert self._batch is not None
        return self._run(self._batch, self._step)

    def _hold(self, batch: Batch) -> None:
        """Copies a batch to where the recorded kernels read it."""
        if self._batch is None:
            others = (None if field is None else field.clone() for field in batch[2:])
            self._batch = Batch(batch.x.clone(), batch.labels.clone(), *others)
            return
        for own, new in zip(self._batch, batch, strict=True):
            if own is not None and new is not None:
                own.copy_(new)

    def _beside(self) -> Result:
        """An update on the stream of the recording."""
        if self._side is None:
            return self._own_run()
        own = torch.cuda.current_stream(self.device)
        self._side.wait_stream(own)
        with torch.cuda.stream(self._side):
            result = self._own_run()
        own.wait_stream(self._side)
        return result

    def _record_graph(self, run: Callable[[], Result]) -> tuple[Callable[[], object], Result]:
        """Other threads may copy batches meanwhile: only this one's calls are refused where they cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
            result = run()
        return graph.replay, result


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
