"""Ancestral sampling from any `Prior`: a pure function of the uniform random numbers passed in.

`sample` goes over the positions once, with cached activations; `sample_naive`, one full forward pass per code, is the
reference that it is tested against. Both draw by inverting the cumulative distribution in float64.

Axes: b (or n) samples, k codes of a codebook, g codebooks.
"""

import itertools
import math
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from stage2_prior import triton_compiler
from stage2_prior.compiler import give_up
from stage2_prior.errors import CompilerError
from stage2_prior.precision import full_float32
from stage2_prior.prior import NOT_FINITE, CompiledLoop, Prior, ReplayableStepper, Stepper
from stage2_prior.rule import Rule
from stage2_prior.split import SplitCodes

BLOCK = 32  # samples that one thread of a compiled loop draws side by side: enough rows for the matrix products,
#             few enough for the cached activations of a row of codes to stay in the processor's cache
WARM_UP = 3  # positions before a step is recorded as a CUDA graph


@torch.no_grad()
def sample(
    prior: Prior,
    uniforms: Tensor,
    labels: Tensor | None = None,
    local: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    known: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Codes int64 (n, *grid[, g]), one for each of `uniforms`, float64 in [0, 1), on the device of prior and inputs.

    Sample i depends on its own row of `uniforms` (and labels, local, known) alone: not on n nor on the other samples.
    On a CPU this holds to the bit, and the prior's compiled loop is used where there is one, on torch.get_num_threads()
    threads. On CUDA one Triton kernel draws a row of a Gated PixelCNN, of video too, or a span of a WaveNet: in float32
    or float64, up to 512 samples, 128 channels and 4,096 codes, without top_k and top_p. Other priors and rules replay
    steps that were recorded as CUDA graphs, where the stepper allows it. Otherwise, and where numba fails, the stepper
    draws step by step; where Triton fails, recorded steps do. One line on stderr says so. Sampling runs in evaluation
    mode and outside autocast.

    labels, local: as in `Prior.forward`. temperature 0 takes the likeliest code. top_k keeps exactly k codes, ties to
    the lower one. top_p keeps the likeliest codes up to and including the one that crosses p. Of a prior that splits
    codes (`split.SplitCodes`) all three hold for each sub-code.
    known: int64, shaped like the result; codes that are not -1 are kept, the others are drawn in order (exact for a
    prefix in raster order).
    progress: called with (positions done, positions in total), summed over samples.
    Raises ValueError for input that does not fit the prior, and for logits that are NaN or infinite.
    """
    codes = uniforms
    for codes, done in sample_steps(prior, uniforms, labels, local, temperature, top_k, top_p, known):
        if progress is not None and done:
            progress(done, codes.numel() // prior.num_codebooks)
    return codes


@torch.no_grad()
def sample_steps(
    prior: Prior,
    uniforms: Tensor,
    labels: Tensor | None = None,
    local: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    known: Tensor | None = None,
) -> Iterator[tuple[Tensor, int]]:
    """`sample` while it draws: again and again the codes, -1 where none is drawn yet, and how many positions are done,
    summed over samples; first with 0, last with all. The tensor is the same each time, and goes on being filled.

    Where steps are replayed, as on CUDA, codes stand in it only at the end."""
    rule = Rule(temperature, top_k, top_p)
    codes, local = _start(prior, uniforms, labels, local, rule, known)
    yield codes, 0
    if isinstance(prior, SplitCodes):
        for drawn, done in sample_steps(prior.prior, prior.sub_uniforms(uniforms), labels, local, temperature, top_k,
                                        top_p, prior.sub_codes(codes)):
            if done:
                yield codes.copy_(prior.whole_codes(drawn)), done
        codes.copy_(prior.whole_codes(drawn))
        return
    with evaluating(prior, uniforms.device.type):
        loop = prior.compiled_loop() if uniforms.device.type == "cpu" else None
        if loop is not None:
            try:
                for done in itertools.accumulate(_fill_by_blocks(loop, codes, uniforms, labels, local, rule)):
                    yield codes, done
                return
            except CompilerError as error:  # codes drawn so far are valid: the stepper draws the others
                give_up(error)
        for done in itertools.accumulate(_fill_by_stepper(prior, codes, uniforms, labels, local, rule)):
            yield codes, done


@torch.no_grad()
def sample_naive(
    prior: Prior,
    uniforms: Tensor,
    labels: Tensor | None = None,
    local: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    known: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """As `sample`, with one full forward pass per code: slow, and obviously right."""
    rule = Rule(temperature, top_k, top_p)
    codes, local = _start(prior, uniforms, labels, local, rule, known)
    if isinstance(prior, SplitCodes):
        return prior.whole_codes(sample_naive(prior.prior, prior.sub_uniforms(uniforms), labels, local, temperature,
                                              top_k, top_p, prior.sub_codes(codes), progress))
    positions = list(itertools.product(*map(range, codes.shape[1:])))
    with evaluating(prior, uniforms.device.type):
        for done, position in enumerate(positions, start=1):
            at = _at(position)
            logits = prior(codes.clamp(min=0), labels, local)[(slice(None), *at)]
            codes[at] = torch.where(codes[at] < 0, draw(_finite(logits), uniforms[at], rule), codes[at])
            if progress is not None:
                progress(len(codes) * done // prior.num_codebooks, codes.numel() // prior.num_codebooks)
    return codes


def draw(logits: Tensor, uniforms: Tensor, rule: Rule) -> Tensor:
    """Codes int64 (b,) from logits (b, k) and uniforms float64 (b,): the first code with cdf > u * cdf[-1].

    Where rounding leaves none, the last code with positive mass.
    """
    if rule.temperature == 0.0:
        return logits.argmax(dim=-1)  # the first of equals
    logits = logits.double()
    mass = torch.exp((logits - logits.amax(dim=-1, keepdim=True)) / rule.temperature)
    if rule.top_k is not None or rule.top_p is not None:
        mass = mass * _kept(logits, mass, rule)
    cdf = mass.cumsum(dim=-1)
    possible = mass > 0
    hit = possible & (cdf > uniforms[:, None] * cdf[:, -1:])
    last = logits.shape[-1] - 1 - possible.flip(-1).byte().argmax(dim=-1)
    return torch.where(hit.any(dim=-1), hit.byte().argmax(dim=-1), last)


def _kept(logits: Tensor, mass: Tensor, rule: Rule) -> Tensor:
    """Mask (b, k) of the codes that top-k and then top-p keep."""
    # Likeliest first, the lower code first among equals.
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    kept = torch.ones_like(mass, dtype=torch.bool)
    if rule.top_k is not None:
        kept[:, rule.top_k :] = False
    if rule.top_p is not None:
        ranked = mass.gather(-1, order) * kept
        cdf = ranked.cumsum(dim=-1)
        before = torch.cat((torch.zeros_like(cdf[:, :1]), cdf[:, :-1]), dim=-1)
        kept &= before < rule.top_p * cdf[:, -1:]
    return torch.zeros_like(kept).scatter(-1, order, kept)


def _at(position: tuple[int, ...]) -> tuple[slice | int, ...]:
    return (slice(None), *position)


def _fill_by_stepper(
    prior: Prior, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
) -> Iterator[int]:
    stepper = prior.stepper(len(codes), prior.grid(codes.shape), labels, local)
    if isinstance(stepper, ReplayableStepper):
        return _fill_by_replay(prior, stepper, codes, uniforms, rule)
    return _fill_by_steps(prior, stepper, codes, uniforms, rule)


def _fill_by_steps(prior: Prior, stepper: Stepper, codes: Tensor, uniforms: Tensor, rule: Rule) -> Iterator[int]:
    finite = torch.ones((), dtype=torch.bool, device=codes.device)  # read once, at the end: no synchronisation per step
    seen = codes.clamp(min=0)
    free = _free(codes)
    for position in itertools.product(*map(range, codes.shape[1:])):
        if free[position[0]]:
            at = _at(position)
            logits = stepper.step(seen, position)
            finite &= _is_finite(logits)
            codes[at] = seen[at] = torch.where(codes[at] < 0, draw(logits, uniforms[at], rule), codes[at])
        if prior.num_codebooks == 1 or position[-1] == prior.num_codebooks - 1:
            yield len(codes)
    if not finite:
        raise ValueError(NOT_FINITE)
    codes.copy_(seen)


def _free(codes: Tensor) -> list[bool]:
    """Of each slice of the first grid axis, whether any sample has a code to draw there."""
    free: list[bool] = (codes < 0).any(0).reshape(codes.shape[1], -1).any(1).tolist()
    return free


def _fill_by_replay(
    prior: Prior, stepper: ReplayableStepper, codes: Tensor, uniforms: Tensor, rule: Rule
) -> Iterator[int]:
    """Row by row (the last grid axis), a row by the stepper's kernel or position by position.

    On CUDA the first few steps of each kind run directly; one is then recorded, and the others replay it.
    """
    seen = codes.clamp(min=0)
    finite = torch.ones((), dtype=torch.bool, device=codes.device)
    steps: Sequence[Callable[[], None]] = _replayable(prior, stepper, seen, codes, uniforms, rule, finite)
    recordings: list[_Recording] = []
    if codes.device.type == "cuda":
        side = torch.cuda.Stream(codes.device)  # type: ignore[no-untyped-call]
        steps = recordings = [_Recording(side, function) for function in steps]
    *begins, step = steps
    kernel = stepper.row_kernel(rule)
    uniforms = uniforms.contiguous()
    by_codebook = [x if prior.num_codebooks > 1 else x[..., None] for x in (seen, codes, uniforms)]
    *outer, width = prior.grid(codes.shape)
    free = _free(codes)
    try:
        for slices in itertools.product(*map(range, outer)):  # for a sequence one, which is empty
            skipped = len(slices) > 0 and not free[slices[0]]
            for axis, begin in enumerate(begins):
                if not any(slices[axis + 1 :]) and (axis == 0 or not skipped):
                    begin()
            if skipped:
                yield len(codes) * width
                continue
            if kernel is not None:
                rows = [x[_at(slices)] for x in by_codebook]
                try:
                    for start in range(0, width, kernel.most):
                        new, given, u = (x[:, start : start + kernel.most] for x in rows)
                        kernel.draw(new, given, u, finite)
                        yield new.shape[0] * new.shape[1]
                    continue
                except CompilerError as error:  # nothing is drawn of this row: the steps draw it
                    triton_compiler.give_up(error)
                    kernel = None
            for _ in range(width):
                step()
                yield len(codes)
        if not finite:
            raise ValueError(NOT_FINITE)
        codes.copy_(seen)
    finally:
        for recording in recordings:
            recording.release()
        if recordings:
            torch.cuda.empty_cache()  # a released recording's memory serves nothing else before


def _replayable(
    prior: Prior,
    stepper: ReplayableStepper,
    seen: Tensor,
    known: Tensor,
    uniforms: Tensor,
    rule: Rule,
    finite: Tensor,
) -> list[Callable[[], None]]:
    """For each grid axis a function. The last writes the next position of seen (b, *grid[, g]): the known code, or a
    draw. The others begin the next slice of their axis, whose first position is then the next one.

    They read and write tensors at fixed addresses only, the position included, and never wait for the device: the
    kernels that one launches once serve for all of its calls. `finite` becomes False where logits are NaN or infinite.
    """
    grid = prior.grid(seen.shape)
    position = [torch.full((1,), -1, dtype=torch.int64, device=seen.device) for _ in grid]
    by_codebook = [x if prior.num_codebooks > 1 else x[..., None] for x in (seen, known, uniforms)]
    by_codebook = [x.flatten(1, -2) for x in by_codebook]

    def begin(axis: int) -> None:
        position[axis].add_(1)
        for later in position[axis + 1 :]:
            later.fill_(-1)
        stepper.begin_at(seen, position, axis)

    def step() -> None:
        position[-1].add_(1)
        number = position[0]
        for place, size in zip(position[1:], grid[1:], strict=True):
            number = torch.add(place, number, alpha=size)
        for j in range(prior.num_codebooks):
            new, given, u = (x[..., j] for x in by_codebook)
            logits = stepper.step_at(seen, position, j)
            finite.logical_and_(_is_finite(logits))
            given = given.index_select(1, number)
            drawn = draw(logits, u.index_select(1, number)[:, 0], rule)
            new.index_copy_(1, number, torch.where(given < 0, drawn[:, None], given))

    return [*(partial(begin, axis) for axis in range(len(grid) - 1)), step]


class _Recording:
    """A function of no arguments that runs directly WARM_UP times; then its kernels are recorded, and replayed.

    It has to launch the same kernels, on the same addresses, at every call.
    """

    def __init__(self, side: "torch.cuda.Stream", function: Callable[[], None]) -> None:
        self.side, self.function, self.calls = side, function, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.calls < WARM_UP:
            self.calls += 1
            self._run_beside()
            return
        if self.graph is None:
            self.graph = self._record()
        self.graph.replay()

    def release(self) -> None:
        """Drops the recording: its memory is then free for `torch.cuda.empty_cache`."""
        self.graph = None

    def _run_beside(self) -> None:
        """Runs it on another stream: libraries that initialise at their first call must do so before a recording."""
        main = torch.cuda.current_stream(self.side.device)
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            self.function()
        main.wait_stream(self.side)

    def _record(self) -> "torch.cuda.CUDAGraph":
        """Records the kernels without running them; a replay launches all with one driver call."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads, such as one that copies the next batch, may go on allocating memory
        with (
            torch.cuda.device(self.side.device),
            torch.cuda.graph(graph, stream=self.side, capture_error_mode="thread_local"),
        ):
            self.function()
        return graph


def _fill_by_blocks(
    loop: CompiledLoop, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
) -> Iterator[int]:
    """Distributes blocks of samples over threads. Blocks are independent; a thread draws a whole block."""
    threads = torch.get_num_threads()
    size = max(1, min(BLOCK, math.ceil(len(codes) / threads)))
    reports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    stopped = False

    def fill(start: int) -> None:
        rows = slice(start, start + size)
        own_labels, own_local = (None if x is None else x[rows] for x in (labels, local))
        try:
            for done in loop.fill(codes[rows], uniforms[rows], own_labels, own_local, rule):
                reports.put(done)
                if stopped:
                    break
        finally:
            reports.put(None)

    with ThreadPoolExecutor(threads) as pool:
        blocks = [pool.submit(fill, start) for start in range(0, len(codes), size)]
        try:
            for _ in blocks:
                yield from iter(reports.get, None)
            for block in blocks:
                block.result()
        finally:
            stopped = True


def _start(
    prior: Prior, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule, known: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Checks all arguments. Returns the initial codes (-1: to be drawn), and local in the prior's precision."""
    rule.check(prior.num_codes)
    prior.check_shape("uniforms", uniforms.shape)
    device, dtype = next((p.device, p.dtype) for p in prior.parameters())
    for name, x in {"uniforms": uniforms, "labels": labels, "local": local, "known": known}.items():
        if x is not None and x.device != device:
            raise ValueError(f"{name}: expected on the prior's device {device}, found {x.device}")
    if uniforms.dtype != torch.float64:
        raise ValueError(f"uniforms: expected dtype torch.float64, found {uniforms.dtype}")
    if not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError(f"uniforms: expected values in [0, 1), found [{uniforms.min()}, {uniforms.max()}]")
    prior.check_conditions(len(uniforms), prior.grid(uniforms.shape), labels, local)
    local = None if local is None else local.to(dtype)  # it may come from a network under autocast
    if known is None:
        return torch.full(uniforms.shape, -1, device=device), local
    if known.dtype != torch.int64 or known.shape != uniforms.shape:
        raise ValueError(
            f"known: expected torch.int64 {tuple(uniforms.shape)}, found {known.dtype} {tuple(known.shape)}"
        )
    if known.numel() and (known.min() < -1 or known.max() >= prior.num_codes):
        low, high = (int(bound) for bound in known.aminmax())
        raise ValueError(f"known: expected values in [-1, {prior.num_codes}), found [{low}, {high}]")
    return known.clone(memory_format=torch.contiguous_format), local


def _is_finite(logits: Tensor) -> Tensor:
    """Whether every row of logits (b, k) is a distribution; some codes may be impossible (-inf)."""
    return logits.amax(dim=-1).isfinite().all()


def _finite(logits: Tensor) -> Tensor:
    if not _is_finite(logits):
        raise ValueError(NOT_FINITE)
    return logits


@contextmanager
def evaluating(prior: Prior, device_type: str) -> Iterator[None]:
    """Evaluation mode and full precision, without autocast and TF32; restores the mode of each module afterwards."""
    modes = [(module, module.training) for module in prior.modules()]
    prior.eval()
    try:
        with torch.autocast(device_type, enabled=False), full_float32():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
