"""Runs scripts in forks of a process that has imported everything: importing takes most of the time of a small command.

Reads one order per line on stdin, {"script", "arguments", "cwd", "stdout", "stderr", "file_size", "environment",
"signal", "ranks", "kill"}, and answers each with the exit status of its process. Nothing that one script does reaches
another. With "ranks" n there are n processes, as torchrun would start them: where one dies the others get SIGTERM, and
its status is the answer. "kill" [r, n]: rank r dies by SIGKILL as it begins its n-th part of the shared work.
"""

import gc
import importlib
import itertools
import json
import os
import pkgutil
import resource
import runpy
import signal
import socket
import sys

import sitecustomize  # tests/pipelines/hooks: conftest.py puts it on PYTHONPATH

import pipelines
from pipelines.ranks import shares


def begin(order: dict, rank: int, port: int) -> None:
    """In the fork: as if a shell, or torchrun, had started the script."""
    if order["ranks"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(order["ranks"]),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if order["kill"] and order["kill"][0] == rank:
        die_at_part(order["kill"][1])
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = os.open(f"{order[name]}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    if order["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"],) * 2)
    os.environ.update(order["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where the tests run in the background
    signal.alarm(int(os.environ["NDR_TEST_LIMIT_S"]))
    if order["signal"]:
        sitecustomize.install(order["signal"])
    os.chdir(order["cwd"])
    sys.argv = [order["script"], *order["arguments"]]
    sys.path[0] = os.path.dirname(order["script"])
    runpy.run_path(order["script"], run_name="__main__")


def die_at_part(number: int) -> None:
    attempt, left = shares._Group.attempt, itertools.count(1)

    def dying(group, work):
        if next(left) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt(group, work)

    shares._Group.attempt = dying


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def status_of(children: set[int]) -> int:
    """Of the process that fails first, else 0, once all have ended."""
    status = 0
    while children:
        child, code = os.waitpid(-1, 0)
        children.discard(child)
        if code and not status:
            status = os.waitstatus_to_exitcode(code)
            for other in children:
                os.kill(other, signal.SIGTERM)
    return status


def serve() -> None:
    while line := sys.stdin.readline():
        order = json.loads(line)
        children, port = set(), free_port() if order["ranks"] > 1 else 0
        for rank in range(order["ranks"]):
            child = os.fork()
            if child == 0:
                return begin(order, rank, port)
            children.add(child)
        print(status_of(children), flush=True)


for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
    importlib.import_module(module.name)  # verbs import what they need only when they run
gc.freeze()  # else every fork goes through all modules once more as it ends
serve()
