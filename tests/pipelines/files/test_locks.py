"""One process writes into a folder; another is refused, in words; a killed one holds nothing."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.files import locks
from pipelines.files.atomic import folder_made_whole, write_atomically
from pipelines.files.errors import InputError
from pipelines.files.locks import LOCK, locked, only_writer

ROOT = Path(__file__).resolve().parents[3]


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path):
    folder = tmp_path / "stage1"
    with only_writer(folder, "train_stage1"):
        (folder / "config.yaml").touch()
        expected = rf"{folder}: expected no other process .* found train_stage1 \(process {os.getpid()} on .*, since 20"
        with pytest.raises(InputError, match=expected), only_writer(folder, "train_stage1"):
            pytest.fail("two at once")
        with only_writer(tmp_path / "stage2", "train_stage2"):
            pass  # another folder is free
    assert [path.name for path in tmp_path.rglob("*")] == ["stage1", "config.yaml"]  # the lock's file is gone
    with only_writer(folder, "train_stage1"):
        pass


def test_a_folder_that_a_writer_made_and_left_empty_goes_again(tmp_path):
    with pytest.raises(InputError), only_writer(tmp_path / "run" / "stage1", "train_stage1"):
        raise InputError("train.lr: ...")
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_no_lock_and_its_temporary_files_go(tmp_path):
    code = ("import os, signal, sys; from pathlib import Path\n"
            "from pipelines.files.locks import only_writer\n"
            f"folder = Path({str(tmp_path)!r})\n"
            "with only_writer(folder, 'train_stage1'):\n"
            "    for name in ('.latest.77.tmp', 'checkpoints/.best.77.tmp', '.mine.tmp', 'kept.77.tmp'):\n"
            "        (folder / name).parent.mkdir(exist_ok=True); (folder / name).touch()\n"
            "    print('ready', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match=f"process {process.pid}"), only_writer(tmp_path, "train_stage1"):
            pass
        assert (tmp_path / ".latest.77.tmp").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert (tmp_path / LOCK).exists()
    with only_writer(tmp_path, "train_stage1", tmp_path / "checkpoints"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine.tmp", "checkpoints", "kept.77.tmp"]


def test_writers_that_come_and_go_are_never_two(tmp_path):
    """The lock's file is made and removed all the time: a lock on a removed one must keep nobody out."""
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        for _ in range(200):
            try:
                with only_writer(tmp_path / "folder", "work"):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0)
                    inside -= 1
                    done += 1
            except InputError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    locks_note, locks.NOTE_S = locks.NOTE_S, 0.0
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        locks.NOTE_S = locks_note
    assert most == 1 and done >= 20 and not list(tmp_path.rglob("*/*"))


def test_a_cache_waits_for_the_one_that_makes_it(tmp_path):
    order = []

    def second() -> None:
        with locked(tmp_path):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.15)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_file_system_without_locks_is_named_and_nothing_is_removed(tmp_path, monkeypatch, capsys):
    def without(descriptor, blocking):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locks, "lock_descriptor", without)
    (tmp_path / ".latest.1.tmp").touch()
    for context in (only_writer(tmp_path, "train_stage1"), locked(tmp_path)):
        with context:
            assert (tmp_path / ".latest.1.tmp").exists()
        assert f"note: {tmp_path}: its file system has no locks" in capsys.readouterr().err


def test_a_folder_is_whole_or_absent_and_what_a_kill_left_of_it_goes(tmp_path):
    target = tmp_path / "mnist"
    (tmp_path / ".mnist.tmp" / "stage1").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), folder_made_whole(target, "publish") as folder:
        assert not list(folder.iterdir())
        write_atomically(folder / "config.yaml", b"a")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with folder_made_whole(target, "publish") as folder:
        write_atomically(folder / "config.yaml", b"a")
        assert not target.exists()
        with pytest.raises(InputError, match="found publish"), folder_made_whole(target, "publish"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    with pytest.raises(OSError) as error, folder_made_whole(target, "publish") as folder:
        write_atomically(folder / "config.yaml", b"b")
    assert error.value.errno in (errno.ENOTEMPTY, errno.EEXIST) and (target / "config.yaml").read_bytes() == b"a"
