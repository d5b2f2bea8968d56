"""What a user can cause is one line and status 2; a bug of ours keeps its traceback."""

import errno
import threading

import pytest

from pipelines.files.errors import InputError, naming, one_line_errors


@pytest.mark.parametrize(("error", "line"), [
    (InputError("data.size: expected 1,\n  found 0"), "error: data.size: expected 1, found 0"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), "error: a.png: No such file or directory"),
    (PermissionError(errno.EACCES, "Permission denied", "a", None, "b"), "error: a -> b: Permission denied"),
    (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
])
def test_one_line_and_status_2(error, line, capsys):
    @one_line_errors()
    def main():
        raise error

    for _ in range(2):  # a decorated function can be called again
        with pytest.raises(SystemExit) as status:
            main()
        assert status.value.code == 2 and capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), OSError("without a number"),
                                   OSError(errno.EBADF, "Bad file descriptor"), KeyboardInterrupt()])
def test_all_else_passes(error, capsys):
    with pytest.raises(type(error)) as raised, one_line_errors():
        raise error
    assert raised.value is error and capsys.readouterr().err == ""


def test_errors_of_a_file_get_its_name(capsys):
    with pytest.raises(SystemExit), one_line_errors(), naming("big.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert capsys.readouterr().err == "error: big.bin: No space left on device\n"
    with pytest.raises(FileNotFoundError) as error, naming("big.bin"):
        open("nowhere.txt")
    assert error.value.filename == "nowhere.txt"


@pytest.mark.parametrize("error, said", [(OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
                                         (RuntimeError("a bug"), "Traceback")])
def test_a_full_disk_is_one_line_of_a_thread_too(error, said, capsys):
    def fail():
        raise error

    with one_line_errors():
        thread = threading.Thread(target=fail, name="writer")
        thread.start()
        thread.join()
    found = capsys.readouterr().err
    assert said in found and (found.count("\n") == 1) == isinstance(error, OSError)
