"""Codes to bytes and back by a prior: its likelihood as the length of a file.

Encoding takes one forward pass over all codes of an item, decoding one step per code, by the compiled loop, by the
stepper, or by a forward pass for each code: they agree up to rounding, which `coder` makes harmless. The prior has to
be in float64, where they differ by less than a thousandth of the tolerance; in float32 they do not.

Several items share a stream. Within it the order is: positions in raster order, then codebooks, then items.

Axes: b items, k codes of a codebook, g codebooks, L label columns.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from stage2_prior.coder import Decoder, Encoder
from stage2_prior.compiler import give_up
from stage2_prior.errors import CompilerError
from stage2_prior.prior import Prior, Stepper
from stage2_prior.sampling import evaluating
from stage2_prior.split import SplitCodes
from stage2_prior.stepping import each_step, naive_steps

IMPLEMENTATIONS = ("compiled", "stepper", "naive")
PART = 64  # positions whose logits are copied at once
BLOCK = 32  # items that a thread decodes side by side, at least, where there are as many


@torch.no_grad()
def logits_of(prior: Prior, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
    """What `write` codes `prior.sub_codes(codes)` by: float64 (b, k, *grid[, g]), by one forward pass of a prior in
    float64."""
    check_precision(prior)
    with evaluating(prior, codes.device.type):
        return prior(codes, labels, None if local is None else local.double())


def write(encoder: Encoder, logits: Tensor, codes: Tensor, lengths: Tensor | None = None) -> None:
    """Appends items to a stream: codes int64 (b, *grid[, g]), logits float64 (b, k, *grid[, g]).

    lengths (b,): how many positions of the first grid axis are written of each item; None: all."""
    rows, columns = rearrange(logits, "b k ... -> (...) b k"), rearrange(codes, "b ... -> (...) b")
    kept = _counted(codes.shape, lengths)
    for start in range(0, len(columns), PART):  # a copy of the logits of all positions at once would double the memory
        here = slice(start, start + PART)
        encoder.codes(rows[here][kept[here]].cpu().numpy(), columns[here][kept[here]].cpu().numpy())


def read(
    decoder: Decoder,
    streams: Sequence[int],
    prior: Prior,
    grid: tuple[int, ...],
    labels: Tensor | None = None,
    local: Tensor | None = None,
    lengths: Tensor | None = None,
    implementation: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The next codes int64 (b, *grid[, g]) of b items of a prior on the CPU, in float64.

    streams (b,): the stream of each item, which holds the items in this order. Codes beyond `lengths` are 0. Whole
    streams are distributed over torch.get_num_threads() threads. implementation: one of IMPLEMENTATIONS; None: the
    fastest there is. progress: called with the number of positions done since the last call, summed over items.
    Damaged streams yield any codes: check them against a checksum."""
    check_precision(prior)
    if isinstance(prior, SplitCodes):
        return prior.whole_codes(read(decoder, streams, prior.prior, grid, labels, local, lengths, implementation,
                                      progress))
    codebooks = [prior.num_codebooks] if prior.num_codebooks > 1 else []
    numbers = np.asarray(streams, np.int64)
    codes = torch.zeros(len(numbers), *grid, *codebooks, dtype=torch.int64)
    local = None if local is None else local.double()

    @torch.no_grad()  # of each thread
    def fill(rows: slice) -> None:
        own_labels, own_local, own_lengths = (None if x is None else x[rows] for x in (labels, local, lengths))
        part = codes[rows].clone()
        in_order = part.view(len(part), -1)
        for place, position, here, logits in _in_order(
            prior, part, grid, own_labels, own_local, own_lengths, implementation
        ):
            chosen = np.ascontiguousarray(logits.numpy()[here.numpy()])
            found = decoder.codes(chosen, numbers[rows][here.numpy()])
            in_order[here, place] = torch.from_numpy(found)
            if progress is not None and (not codebooks or position[-1] == codebooks[0] - 1):
                progress(int(here.sum()))
        codes[rows] = part

    _in_blocks(prior, fill, numbers)
    return codes


def choose(
    prior: Prior,
    costs: Callable[[slice, Tensor, tuple[int, ...]], Tensor],
    count: int,
    grid: tuple[int, ...],
    labels: Tensor | None = None,
    local: Tensor | None = None,
    lengths: Tensor | None = None,
    implementation: str | None = None,
) -> Tensor:
    """Codes int64 (b, *grid[, g]) of `count` items, each of least cost - log p(code | the codes before it), one after
    the other, by a prior on the CPU, in float64. Codes beyond `lengths` are 0.

    costs: some of the items, their codes so far (b, *grid[, g]) and a position -> (b, k), in nats, of its codes. What a
    code makes later ones cost is not looked at. Raises ValueError for a prior that splits codes: it has no logits of
    all of them."""
    codebooks = [prior.num_codebooks] if prior.num_codebooks > 1 else []
    codes = torch.zeros(count, *grid, *codebooks, dtype=torch.int64)
    local = None if local is None else local.double()

    @torch.no_grad()  # of each thread
    def fill(rows: slice) -> None:
        own_labels, own_local, own_lengths = (None if x is None else x[rows] for x in (labels, local, lengths))
        part = codes[rows].clone()
        in_order = part.view(len(part), -1)
        for place, position, here, logits in _in_order(
            prior, part, grid, own_labels, own_local, own_lengths, implementation
        ):
            best = (costs(rows, part, position) - logits).argmin(1)
            in_order[here, place] = best[here]
        codes[rows] = part

    _in_blocks(prior, fill, np.arange(count))
    return codes


def check_precision(prior: Prior) -> None:
    """Raises ValueError for a prior that is not in float64."""
    if (dtype := next(prior.parameters()).dtype) != torch.float64:
        raise ValueError(f"prior: expected parameters of torch.float64, found {dtype}: in lower precision two "
                         "implementations disagree by more than the tolerance")


def _in_order(
    prior: Prior, codes: Tensor, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None,
    lengths: Tensor | None, implementation: str | None,
) -> Iterator[tuple[int, tuple[int, ...], Tensor, Tensor]]:
    """All places of codes (b, *grid[, g]) in order: the number, the position, which items have it (b,), and the logits
    (b, k) there. The caller fills `codes` in before it asks for the next."""
    steps = steps_of(prior, len(codes), grid, labels, local, implementation)
    kept = _counted(codes.shape, lengths)
    for place, position in enumerate(itertools.product(*map(range, codes.shape[1:]))):
        if not kept[place].any():
            break
        try:
            logits = steps.step(codes, position)
        except CompilerError as error:  # at the first step: nothing has been filled in
            give_up(error)
            steps = each_step(prior, len(codes), grid, labels, local)
            logits = steps.step(codes, position)
        yield place, position, kept[place], logits


def _in_blocks(prior: Prior, fill: Callable[[slice], None], streams: np.ndarray) -> None:
    """Calls `fill` with all items, whole streams at a time, on torch.get_num_threads() threads."""
    threads = torch.get_num_threads()
    with evaluating(prior, "cpu"), ThreadPoolExecutor(threads) as pool:
        for block in [pool.submit(fill, rows) for rows in _blocks(streams, threads)]:
            block.result()


def _counted(shape: Sequence[int], lengths: Tensor | None) -> Tensor:
    """Which codes are in the stream: bool (positions and codebooks, b)."""
    if lengths is None:
        return torch.ones(int(np.prod(shape[1:])), shape[0], dtype=torch.bool)
    inner = int(np.prod(shape[2:]))
    return (torch.arange(shape[1])[:, None] < lengths.cpu()).repeat_interleave(inner, 0)


def _blocks(streams: np.ndarray, threads: int) -> list[slice]:
    """Consecutive items, in blocks of whole streams."""
    edges = [0, *(np.flatnonzero(np.diff(streams)) + 1).tolist(), len(streams)]
    least = min(BLOCK, -(-len(streams) // threads))
    starts = [0]
    for edge in edges[1:-1]:
        if edge - starts[-1] >= least:
            starts.append(edge)
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, len(streams)])]


def steps_of(
    prior: Prior, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None,
    implementation: str | None,
) -> Stepper:
    if implementation == "naive":
        return naive_steps(prior, labels, local)
    loop = prior.compiled_loop() if implementation in (None, "compiled") else None
    if loop is not None:
        return loop.stepper(batch, grid, labels, local)
    if implementation == "compiled":
        raise ValueError(f"implementation: expected a prior with a compiled loop, found {type(prior).__name__}")
    return each_step(prior, batch, grid, labels, local)
