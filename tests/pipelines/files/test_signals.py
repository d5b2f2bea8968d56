"""A signal stops a command once, however often it is delivered, and one that comes later kills."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.files import signals
from pipelines.files.signals import Stopped, raising_stopped, saying, stop_request

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def handlers():
    """Of this process, as they were."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals._first = None


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_stops_and_its_repetition_is_ignored(number):
    with raising_stopped():
        with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
            signal.raise_signal(number)
        for again in (number, *NUMBERS):
            signal.raise_signal(again)  # as through a scheduler, make and torchrun
    assert stopped.value.number == number
    signal.raise_signal(number)  # while the process is ending


@pytest.mark.parametrize("number", NUMBERS)
def test_a_loop_is_asked_to_stop_and_a_repetition_on_its_way_out_is_ignored(number):
    with raising_stopped():
        with stop_request() as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert stop.is_set() and stop.number == number
        signal.raise_signal(number)


def test_handlers_are_given_back_where_no_signal_came():
    with raising_stopped(), stop_request():
        assert signal.getsignal(signal.SIGTERM) is not signal.default_int_handler
    assert all(signal.getsignal(number) is signal.default_int_handler for number in NUMBERS)


def test_a_signal_that_was_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raising_stopped():
        signal.raise_signal(signal.SIGINT)


def test_words_are_added_to_what_stopped_says():
    with pytest.raises(Stopped, match="^stopped by SIGTERM; shards stay$") as stopped, saying("shards stay"):
        raise Stopped(signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_seconds_later_kills(number):
    """The command ignores its request to stop; `GRACE_S` is shortened so that the test need not wait."""
    code = ("import time; from pipelines.files import signals; signals.GRACE_S = 0.2\n"
            "with signals.stop_request():\n    print('ready', flush=True)\n    time.sleep(60)\n    time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(number)
        time.sleep(0.05)
        assert process.poll() is None
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(10) == -number
