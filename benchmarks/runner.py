"""Measures one work: its contenders take turns, each in a process of its own, which also reports its peak memory.

The process that imports this never computes nor touches a GPU: it forks. So a contender starts with all imported and
nothing warm, and meets neither the threads nor the memory of another. A row is plain data, as it stands in the JSON
file; `compare` adds what follows from the machine's rates.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.machine import Rates, free_memory, synchronise
from benchmarks.work import Contender, Driven, Estimate, Floor, Seconds, Sizes, find, missing

Row = dict[str, Any]
MOST_ROUNDS, FEWEST_ROUNDS = 15, 3
SLOW = 8.0  # seconds of a run above which a contender takes a turn in the first round alone
VERY_SLOW = 90.0  # of the first run, above which it counts as the only one: more than any compilation takes


def measure(name: str, sizes: Sizes, device: str, budget: float, long: bool = False, check: bool = False,
            first_only: bool = False) -> Row:
    """The row of works/NAME.py at these sizes, with about `budget` seconds of timed rounds, or `FEWEST_ROUNDS` if these
    take more; 0: a single round.

    long: contenders that take minutes run too. first_only: the project's own contender alone, for curves.
    """
    work = find(name)(device=torch.device(device), **sizes)
    contenders = work.contenders()[: 1 if first_only else None]
    free = in_child(lambda: free_memory(work.device))
    described = {contender.name: describe(contender, long, free) for contender in contenders}
    running = [contender for contender in contenders
               if isinstance(contender, Contender) and "left_out" not in described[contender.name]]
    settles, in_a_row = (work.settles, work.in_a_row) if budget else (1, 0.0)
    for own, (first, times, peak) in zip(running, turns(running, work.device, budget, settles, in_a_row)):
        per = own.count
        described[own.name] |= {
            "first_s": first / per, "times_s": [taken / per for taken in times],
            "median_s": statistics.median(times) / per, "fastest_s": min(times) / per, "peak_mib": peak}
    for contender in contenders:
        if isinstance(contender, Estimate) and "median_s" in described[contender.of]:
            for key in ("median_s", "fastest_s"):
                described[contender.name][key] = described[contender.of][key] * contender.times
    floor = in_child(work.floor)
    return {
        "work": name, "title": work.title, "label": work.label(), "sizes": sizes, "unit": work.unit,
        "device": str(work.device), "threads": torch.get_num_threads(), "ours": contenders[0].name,
        "contenders": described,
        "floor": asdict(floor) | {"dtype": str(floor.dtype).removeprefix("torch.")}
                 if isinstance(floor, Floor) else floor,
        "checks": in_child(work.check) if check else {},
    }


def describe(contender: Contender | Estimate, long: bool, free: float) -> dict[str, Any]:
    if isinstance(contender, Estimate):
        return {"rival": True, "estimated": f"{contender.times:g} times {contender.of}"}
    facts: dict[str, Any] = {"rival": contender.rival, "count": contender.count}
    if contender.threads is not None:
        facts["threads"] = contender.threads
    if reason := missing(contender, long, free):
        facts["left_out"] = reason
    return facts


def turns(contenders: list[Contender], device: torch.device, budget: float, settles: int, in_a_row: float = 0.0
          ) -> list[tuple[float, list[float], float | None]]:
    """(seconds of the first run, seconds of a run in each turn, peak MiB) of each contender.

    The first run, which compiles and fills caches, is kept apart; `settles` - 1 more are not looked at. Then all take
    turns, so that each meets the same load of the machine: in at least `FEWEST_ROUNDS` rounds, in more while `budget`
    lasts. Slow ones take fewer turns. A turn is one run, or `in_a_row` seconds of runs, of which all but the first
    count: it finds the processor's caches full of another's data.
    """
    children = [Child(lambda end, own=contender: serve(own, device, end)) for contender in contenders]
    try:
        for child in children:
            child.receive()  # built
        firsts = [child.ask(True) for child in children]
        times: list[list[float]] = [[first] if first > VERY_SLOW else [] for first in firsts]
        for child, taken in zip(children, times):
            for _ in range(0 if taken else settles - 1):
                child.ask(True)
        start = time.perf_counter()
        for done in range(MOST_ROUNDS):
            if done >= (FEWEST_ROUNDS if budget else 1) and time.perf_counter() - start > budget:
                break
            for child, taken in zip(children, times):
                if not taken or taken[0] <= SLOW:
                    taken.append(turn(child, in_a_row))
        peaks = [child.ask(False) for child in children]
    finally:
        for child in children:
            child.end()
    return list(zip(firsts, times, peaks))


def turn(child: "Child", in_a_row: float) -> float:
    """Seconds of a run: the mean over a turn's, the first one apart where others follow it."""
    first, others = child.ask(True), []
    while first + sum(others) < in_a_row:
        others.append(child.ask(True))
    return statistics.mean(others or [first])


class Child:
    """A forked process that runs `serve(connection)`, silently; its errors are raised here."""

    def __init__(self, serve: Callable[[Connection], None]):
        context = multiprocessing.get_context("fork")
        self._connection, end = context.Pipe()
        self._process = context.Process(target=_run, args=(serve, end), daemon=True)
        self._process.start()
        end.close()

    def ask(self, message: Any) -> Any:
        self._connection.send(message)
        return self.receive()

    def receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a process of the benchmark ended with status {self._process.exitcode}") from None
        if isinstance(answer, _Failure):
            raise RuntimeError(answer.text)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join()


class _Failure:
    def __init__(self, text: str):
        self.text = text


def _run(serve: Callable[[Connection], None], end: Connection) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())  # progress bars
    try:
        serve(end)
    except BaseException:
        end.send(_Failure(traceback.format_exc()))


def in_child(function: Callable[[], Any]) -> Any:
    """The result of a function that computes, from a process of its own."""
    child = Child(lambda end: end.send(function()))
    try:
        return child.receive()
    finally:
        child.end()


def serve(contender: Contender, device: torch.device, end: Connection) -> None:
    """Builds the contender, then runs it once for each True and answers with the seconds; False: the peak in MiB."""
    before = resident_bytes()
    if contender.threads is not None:
        torch.set_num_threads(contender.threads)
    torch.manual_seed(0)
    run = contender.make()
    started: float | None = None
    end.send("built")

    def next_turn() -> None:
        nonlocal started
        if started is not None:
            synchronise(device)
            end.send(time.perf_counter() - started)
        if not end.recv():
            raise _Enough
        synchronise(device)
        started = time.perf_counter()

    try:
        if isinstance(run, Driven):
            run.drive(next_turn)
        while True:
            next_turn()
            result = run()
            if isinstance(result, Seconds):
                end.send(float(result))
                started = None
    except _Enough:
        end.send(peak_mib(device, before))


class _Enough(BaseException):
    """No more turns."""


def peak_mib(device: torch.device, before: int) -> float | None:
    """MiB by which memory grew at most since it had `before` bytes: data, model and all; on a GPU its allocations.

    Of started processes the largest one's memory; None where it was no larger than this process, which the system
    counts as theirs too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    scale = 1 if sys.platform == "darwin" else 1024
    own, started = (resource.getrusage(who).ru_maxrss * scale
                    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    if started:
        return started / 2**20 if started > 1.1 * before else None
    return (own - before) / 2**20


def resident_bytes() -> int:
    """Of this process; without /proc its peak so far."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(row: Row, rates: Rates) -> Row:
    """Adds the floor's seconds and the ratios: to the floor, and of the fastest rival to us (2: twice as fast).

    Of a row that was compared already, these are made anew."""
    ours = row["contenders"][row["ours"]]
    floor = {"contender": row["floor"]} if isinstance(row["floor"], str) else row["floor"]
    if "contender" in floor:
        seconds = row["contenders"][floor["contender"]]["median_s"]
        row = row | {"floor": floor | {"seconds": seconds}}
    else:
        parts = {"arithmetic": floor["flops"] / rates[floor["dtype"]],
                 "memory": floor["bytes"] / rates["cache" if floor["cached"] else "memory"]}
        bound = max(parts, key=lambda name: parts[name])
        seconds = parts[bound]
        row = row | {"floor": floor | {"seconds": seconds, "bound_by": bound}}
    timed = {name: facts["median_s"] for name, facts in row["contenders"].items()
             if facts["rival"] and "median_s" in facts}
    rival = min(timed, key=lambda name: timed[name]) if timed else None
    return row | {"ratio_to_floor": ours["median_s"] / seconds, "rival": rival,
                  "ratio_to_rival": timed[rival] / ours["median_s"] if rival else None}
