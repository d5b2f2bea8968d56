"""Files that are made once: whole or absent, by one process at a time."""

import os

import numpy as np
import pytest
import torch

from pipelines.data.cache import cache_key, cached, locked, made_whole, map_values
from pipelines.files.errors import InputError


def test_a_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "values.u8"
    with pytest.raises(KeyboardInterrupt), made_whole(target) as path:
        path.write_bytes(b"ab")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with made_whole(target) as path:
        path.write_bytes(bytes(range(6)))
        assert not target.exists()
    assert list(tmp_path.iterdir()) == [target]
    assert torch.equal(map_values(target, np.uint8, (2, 3)), torch.arange(6, dtype=torch.uint8).view(2, 3))


def test_what_a_killed_process_left_of_any_file_is_removed(tmp_path):
    """Another source or setting has another key, so that nothing would ever take that name again."""
    key = cache_key("settings of before")
    for name in (f"faces-{key}.tmp", f"faces-{key}.u8", "notes.tmp"):
        (tmp_path / name).touch()
    with made_whole(tmp_path / f"faces-{cache_key('others')}.u8") as path:
        path.touch()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [f"faces-{key}.u8", f"faces-{cache_key('others')}.u8", "notes.tmp"])


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError) as caught, made_whole(tmp_path / "values.u8") as path:
        path.write_bytes(b"ab")
    assert caught.value.filename == str(tmp_path / "values.u8") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content, found", [(None, 0), (bytes(5), 5), (bytes(13), 13)])
def test_a_file_of_another_size_is_refused(tmp_path, content, found):
    path = tmp_path / "values.i16"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"values.i16: expected 12 bytes, found {found}; remove it and values.json"):
        map_values(path, np.int16, (6,))


def test_the_key_is_that_of_the_settings():
    assert cache_key([1, "a"]) == cache_key((1, "a")) != cache_key([1, "b"]) and len(cache_key([], 8)) == 8


def test_a_lock_makes_its_folder_and_is_given_back(tmp_path):
    for _ in range(2):  # the second would wait for ever, had the first not given it back
        with locked(tmp_path / "cache" / "deep") as descriptor:
            assert os.fstat(descriptor)


def test_a_file_is_made_once_and_anew_when_it_or_its_notes_are_damaged(tmp_path, capsys):
    target, made = tmp_path / "cache" / "values.u8", []

    def make() -> dict:
        made.append(1)
        with made_whole(target) as path:
            path.write_bytes(b"abc")
        return {"count": 3}

    for damage in (lambda: None, lambda: None, lambda: target.write_bytes(b"abd"), target.unlink,
                   lambda: target.with_suffix(".json").write_bytes(b"{"),
                   lambda: target.with_suffix(".json").write_text(
                       target.with_suffix(".json").read_text().replace("3", "4"))):
        if made:
            damage()
        assert cached(target, make) == {"count": 3} and target.read_bytes() == b"abc"
    assert len(made) == 5
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 4 and all(line.startswith("note: ") and line.endswith("it is made anew") for line in notes)
