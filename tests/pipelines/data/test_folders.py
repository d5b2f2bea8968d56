"""Walking folders: each file is taken once or counted by reason, whatever order the system lists them in."""

import os
import random
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.data.folders import BESIDE, check_strays, find_parts, list_files, walk
from pipelines.files.errors import InputError
from pipelines.splits.describe import counted, printable


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


@pytest.fixture
def listing(monkeypatch):
    """listing(refused=PATH, seed=0): from now on folders are listed in another order, and one of them not at all."""
    scandir = os.scandir

    def change(seed: int = 0, refused: Path | None = None) -> None:
        @contextmanager
        def shuffled(path):
            if refused is not None and os.fspath(path) == str(refused):
                raise PermissionError(13, "Permission denied", str(path))
            with scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            random.Random(seed).shuffle(entries)
            yield iter(entries)

        monkeypatch.setattr(os, "scandir", shuffled)

    return change


def paths(root: Path) -> list[str]:
    return [file.path for file in walk([root], {".png"})[0].files]


def test_links_are_followed_once_and_files_count_where_they_lie(tmp_path, listing):
    root = touch(tmp_path / "root", "a/1.png", "a/deep/2.png", "b/3.png", "z.png")
    outside = touch(tmp_path / "outside", "4.png", "inner/5.png")
    for link, target in {"a/sibling": root / "b", "A-sibling": root / "a", "b/up": root, "b/above": tmp_path,
                         "m": outside, "l": outside / "inner", "loop": root / "loop", "gone": tmp_path / "nowhere",
                         "0.png": root / "z.png", "x.png": outside / "4.png", "blob.png": tmp_path / "blob"}.items():
        (root / link).symlink_to(target)
    (outside / "back").symlink_to(outside)
    touch(tmp_path, "blob")  # as data stores keep files: without suffixes, and links to them
    results = []
    for seed in range(6):
        listing(seed)
        (part,) = walk([root], {".png"})
        results.append(part)
    assert [file.path for file in results[0].files] == [
        "a/1.png", "a/deep/2.png", "b/3.png", "blob.png", "l/5.png", "m/4.png", "z.png"]
    assert results[0].left_out == {"duplicate link": 8, "broken link": 2}
    assert set(results[0].details) == {"a/sibling", "A-sibling", "b/up", "b/above", "m/inner", "m/back", "0.png",
                                       "x.png", "loop", "gone"}
    assert all(result == results[0] for result in results)


def test_of_two_links_to_one_folder_the_first_by_name_counts(tmp_path, listing):
    root, outside = touch(tmp_path / "root", "1.png"), touch(tmp_path / "outside", "2.png")
    for name in "dbca":
        (root / name).symlink_to(outside)
    for seed in range(4):
        listing(seed)
        assert paths(root) == ["1.png", "a/2.png"]


def test_a_folder_that_cannot_be_read_is_counted_and_named(tmp_path, listing, capsys):
    root = touch(tmp_path / "root", "a/1.png", "b/2.png")
    listing(refused=root / "b")
    (part,) = walk([root], {".png"})
    assert [file.path for file in part.files] == ["a/1.png"] and part.left_out == {"unreadable folder": 1}
    assert [file.path for file in list_files(root, {".png"})] == ["a/1.png"]
    assert "b: a folder that cannot be read (Permission denied)" in capsys.readouterr().err
    listing(refused=root)
    with pytest.raises(PermissionError):
        walk([root], {".png"})


@pytest.mark.parametrize(("name", "depth", "taken"), [("d", 1000, True), ("a-long-name", 1000, False)])
def test_folders_a_thousand_deep_are_read_as_far_as_the_system_reads_paths(name, depth, taken, tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    try:
        (part,) = walk([tmp_path], {".png"})
    finally:  # pytest removes old folders by recursion, which is not deep enough
        os.unlink("x.png", dir_fd=here)
        for _ in range(depth):
            above = os.open("..", os.O_RDONLY, dir_fd=here)
            os.rmdir(name, dir_fd=above)
            os.close(here)
            here = above
        os.close(here)
    assert not list(tmp_path.iterdir())
    assert len(part.files) == taken and part.left_out == ({} if taken else {"unreadable folder": 1})


@pytest.mark.parametrize("name", [b"\xff\xfe.png", "été (2024) = ~.png".encode(), b"new\nline.png", b"-rf.png",
                                  "e\u0301.png".encode(), b" .png", "🖼.PNG".encode(), b"..twice..png.png"])
def test_odd_names_are_names(name, tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass
    assert paths(tmp_path) == ([] if name.startswith(b".") else [os.fsdecode(name)])
    assert "\n" not in printable(os.fsdecode(name)) and printable(os.fsdecode(name)).encode()


def test_what_is_left_out_is_counted_by_suffix_and_clutter_is_passed_over(tmp_path):
    root = touch(tmp_path, "1.png", "2.PNG", "a.txt", "b.TXT", "c.pdf", "README", ".DS_Store", "Thumbs.db", "x/.hidden",
                 "__MACOSX/._1.png", "desktop.ini", "d.heic")
    os.mkfifo(root / "pipe.png")
    (part,) = walk([root], {".png"}, {".heic": "the extra heic reads them"})
    assert [file.path for file in part.files] == ["1.png", "2.PNG"]
    assert part.left_out == {".txt": 2, ".pdf": 1, "without a suffix": 1, ".heic (the extra heic reads them)": 1,
                             "special file": 1}
    assert counted(part.left_out) == (
        "2 .txt, 1 .heic (the extra heic reads them), 1 .pdf, 1 special file, 1 without a suffix")
    assert counted(Counter({BESIDE: 2, "broken link": 3})) == (
        "3 broken links, 2 files beside the folders of splits")


def test_no_file_is_in_two_splits_and_what_lies_beside_them_is_counted(tmp_path):
    root = touch(tmp_path / "root", "train/1.png", "test/2.png", "3.png", "other/4.png", "notes.txt", "other/a.csv")
    (root / "train" / "link").symlink_to(root / "test")
    (root / "test" / "9.png").symlink_to(root / "train" / "1.png")
    parts = find_parts(root, {".png"}, "images")
    assert {split: [file.path for file in part.files] for split, part in parts.items()} == {
        "train": ["1.png"], "test": ["2.png"]}
    assert parts["train"].left_out == {"duplicate link": 1, BESIDE: 2, ".txt": 1, ".csv": 1}
    assert parts["test"].left_out == {"duplicate link": 1}
    (root / "val").symlink_to(root / "train")
    with pytest.raises(InputError, match="val: expected images .*, found none; left out: 1 duplicate link"):
        find_parts(root, {".png"}, "images")


def test_one_file_beside_class_folders_is_refused_with_what_to_do(tmp_path):
    root = touch(tmp_path, "a/1.png", "b/2.png", "stray.png")
    (part,) = walk([root], {".png"})
    with pytest.raises(InputError, match=r"found 1 of 3 beside 2 folders, such as stray.png: move them into a folder, "
                                         "or do that"):
        check_strays(part, "images", "do that")
    (root / "stray.png").unlink()
    check_strays(walk([root], {".png"})[0], "images", "do that")
