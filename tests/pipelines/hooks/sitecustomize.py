"""A time limit, and signals or a full disk at chosen moments, for every Python process with this folder on PYTHONPATH.

    NDR_TEST_LIMIT_S=300                                      the process ends after so many seconds: no test hangs
    NDR_TEST_SIGNAL="os.rename latest 2 SIGKILL self"         before it renames something to `latest` for the 2nd time
    NDR_TEST_SIGNAL="shutil.rmtree step-* 1 SIGTERM parent"   to its parent, before it first removes such a folder
    NDR_TEST_SIGNAL="disk * 7 SIGINT group; disk * 9 SIGINT group"   to its process group, twice
    NDR_TEST_SIGNAL="os.fsync *.safetensors.* 2 ENOSPC self"  the disk is full from then on, for as long as it lives

The events are Python's audit events, such as open, os.rename (os.replace too), os.remove, os.mkdir and shutil.rmtree,
and os.fsync; `disk` is any of those by which files come, go and last. The pattern is matched with the last part of
their path, of os.rename the target's. So a test fixes the moment at which a process is killed, instead of watching its
files. NDR_TEST_COUNT=FILE writes at the end how many `disk` events there were.
"""

import errno
import os
import signal
import sys
from fnmatch import fnmatch

DISK = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.fsync")


def install(orders: str) -> None:
    """Sends signals when the orders' events are about to happen."""
    for order in orders.split(";"):
        _install(*order.split())


def _install(event: str, pattern: str, number: str, what: str, to: str) -> None:
    left = int(number)
    send = {"self": lambda code: os.kill(os.getpid(), code), "parent": lambda code: os.kill(parent, code),
            "group": lambda code: os.killpg(os.getpgrp(), code)}[to]
    parent = os.getppid()

    def watch(happening: str, arguments: tuple) -> None:
        nonlocal left
        if happening == event or (event == "disk" and happening in DISK):
            path = arguments[1 if happening == "os.rename" else 0]
            if isinstance(path, (str, os.PathLike)) and fnmatch(os.path.basename(path), pattern):
                left -= 1
                if what == "ENOSPC":
                    if left <= 0 and happening == "os.fsync":
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                elif left == 0:
                    send(signal.Signals[what])

    sys.addaudithook(watch)


def count(path: str) -> None:
    """Writes to a file, whenever it changes, how many `disk` events there have been."""
    number = 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def watch(happening: str, arguments: tuple) -> None:
        nonlocal number
        if happening in DISK:
            number += 1
            os.pwrite(file, f"{number}\n".encode(), 0)

    sys.addaudithook(watch)


def _fsync(descriptor: int, original=os.fsync) -> None:
    """Python has no audit event for it."""
    sys.audit("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc/self/fd") else "unknown")
    original(descriptor)


if "NDR_TEST_LIMIT_S" in os.environ:
    signal.alarm(int(os.environ["NDR_TEST_LIMIT_S"]))
os.fsync = _fsync
if "NDR_TEST_SIGNAL" in os.environ:
    install(os.environ["NDR_TEST_SIGNAL"])
if "NDR_TEST_COUNT" in os.environ:
    count(os.environ["NDR_TEST_COUNT"])
