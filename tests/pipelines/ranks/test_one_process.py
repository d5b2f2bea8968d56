"""Shares of a command of one process are the whole; those of several: tests/pipelines/test_shares.py."""

import pytest

from pipelines.files.errors import InputError
from pipelines.files.locks import only_writer
from pipelines.ranks.shares import by_first, first, leave_to_first, on_first, own_parts, shared, sharing


def test_one_process_works_on_every_part_when_its_result_is_asked_for():
    done = []
    with sharing():
        results = shared(iter("abc"), lambda part: done.append(part) or part.upper())
        assert next(results) == "A" and done == ["a"]
        assert list(results) == ["B", "C"] and own_parts([1, 2, 3]) == [1, 2, 3]
        assert first() and by_first(lambda: 7) == 7
        leave_to_first()
    assert done == ["a", "b", "c"]


def test_it_holds_its_locks_itself(tmp_path):
    with on_first(only_writer(tmp_path, "sample")):
        refused = pytest.raises(InputError, match="expected no other process that writes there, found sample")
        with refused, only_writer(tmp_path, "score"):
            pass
    with on_first(only_writer(tmp_path, "score")) as lock:
        assert lock is None
