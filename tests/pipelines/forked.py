"""Runs scripts in forks of a process that has imported everything: importing takes most of the time of a small command.

Reads one order per line on stdin, {"script", "arguments", "cwd", "stdout", "stderr", "file_size", "environment",
"signal"}, and answers each with the exit status of its process. Nothing that one script does reaches another.
"""

import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import signal
import sys

import sitecustomize  # tests/pipelines/hooks: conftest.py puts it on PYTHONPATH

import pipelines


def begin(order: dict) -> None:
    """In the fork: as if a shell had started the script."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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


for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
    importlib.import_module(module.name)  # verbs import what they need only when they run
gc.freeze()  # else every fork goes through all modules once more as it ends
while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        begin(json.loads(line))
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
