"""A time limit, and a signal at a chosen moment, for every Python process that has this folder on its PYTHONPATH.

    NDR_TEST_LIMIT_S=300                                      the process ends after so many seconds: no test hangs
    NDR_TEST_SIGNAL="os.rename latest 2 SIGKILL self"         before it renames something to `latest` for the 2nd time
    NDR_TEST_SIGNAL="shutil.rmtree step-* 1 SIGTERM parent"   to its parent, before it first removes such a folder

The events are Python's audit events, such as open, os.rename (os.replace too) and shutil.rmtree; the pattern is matched
with the last part of their path, of os.rename the target's. So a test fixes the moment at which a process is killed,
instead of watching its files.
"""

import os
import signal
import sys
from fnmatch import fnmatch


def install(order: str) -> None:
    """Sends a signal when the order's event is about to happen."""
    event, pattern, count, name, to = order.split()
    left = int(count)
    receiver = {"self": os.getpid(), "parent": os.getppid()}[to]

    def watch(happening: str, arguments: tuple) -> None:
        nonlocal left
        if happening == event:
            path = arguments[1 if event == "os.rename" else 0]
            if isinstance(path, (str, os.PathLike)) and fnmatch(os.path.basename(path), pattern):
                left -= 1
                if left == 0:
                    os.kill(receiver, signal.Signals[name])

    sys.addaudithook(watch)


if "NDR_TEST_LIMIT_S" in os.environ:
    signal.alarm(int(os.environ["NDR_TEST_LIMIT_S"]))
if "NDR_TEST_SIGNAL" in os.environ:
    install(os.environ["NDR_TEST_SIGNAL"])
