"""What a user can cause ends in one line on stderr and exit status 2; what is our bug keeps its traceback."""

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.files.signals import Stopped, raising_stopped

# Of the system's errors those that a user can cause and cure: a wrong path, no permission, no room.
USER_ERRNOS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE),
}


class InputError(ValueError):
    """A file, key or flag is not as it has to be: the message names it, what was expected and what was found."""


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Gives an OSError that names no file, such as that of a full disk, the name of the one that was being written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around the main part of a script, as `with one_line_errors():` or as a decorator, `@one_line_errors()`.

    InputError, and an OSError of `USER_ERRNOS`, become `error: ...` on stderr and SystemExit(2). A SIGINT or SIGTERM
    becomes a line and SystemExit(128 + its number). All else passes.
    """
    previous, threading.excepthook = threading.excepthook, _thread_error
    try:
        with raising_stopped():
            yield
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(128 + stopped.number) from None
    except InputError as error:
        _exit(str(error))
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        _exit(f"{names}: {error.strerror}" if names else f"{error.strerror}")
    finally:
        threading.excepthook = previous


def _thread_error(arguments: threading.ExceptHookArgs) -> None:
    """One line also for a thread, such as TensorBoard's, whose error the main thread finds later."""
    error = arguments.exc_value
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        print(f"note: {arguments.thread and arguments.thread.name}: {error}", file=sys.stderr)
    else:
        threading.__excepthook__(arguments)


def _exit(message: str) -> None:
    """Exit status 2 after one line, however many lines the message has."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2) from None
