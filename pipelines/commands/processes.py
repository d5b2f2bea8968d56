"""Verbs in processes of their own, for verbs that are made of others."""

import signal
import subprocess
import sys


def run_verb(verb: str, arguments: list[str]) -> int:
    """Runs `python -m pipelines.VERB arguments`, the verb being a module's name, and returns its exit status.

    SIGINT and SIGTERM are handed on to it, so that a training saves its state; then SystemExit with its status."""
    child = subprocess.Popen([sys.executable, "-m", f"pipelines.{verb}", *arguments], start_new_session=True)
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: child.send_signal(number)) for number in signals}
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if status in {128 + number for number in signals}:
        raise SystemExit(status)
    return status
