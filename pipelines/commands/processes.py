"""Verbs in processes of their own, for verbs that are made of others; and how many processes a verb may be."""

import os
import signal
import subprocess
import sys

from pipelines.files.errors import InputError

# The verbs that several processes share.
SHARED = ("train_stage1", "train_stage2", "extract_codes", "evaluate", "sample", "score", "compress", "reconstruct",
          "convert_speaker")


def run_verb(verb: str, arguments: list[str]) -> int:
    """Runs `python -m pipelines.VERB arguments`, the verb being a module's name, and returns its exit status.

    SIGINT and SIGTERM are handed on to it, so that a training saves its state; then SystemExit with its status."""
    child = subprocess.Popen([sys.executable, "-m", f"pipelines.{verb}", *arguments], start_new_session=True)

    def hand_on(number: int, frame: object) -> None:
        if os.name != "nt" or number == signal.SIGTERM:  # on Windows Ctrl-C reaches all processes of the console
            child.send_signal(number)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, hand_on) for number in signals}
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number in signals:
        if status in (128 + number, -number):  # as it ends once it has begun, and before
            raise SystemExit(128 + number)
    return status


def refuse_ranks() -> None:
    """Raises InputError where torchrun starts several processes of a command that is one."""
    if (found := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise InputError(f"torchrun: expected one process, found {found}: only {', '.join(SHARED)} use several")
