"""Linux, macOS and Windows: nothing is called that one of them lacks without another way beside it."""

import ast
import errno
import os
from pathlib import Path

import pytest

from pipelines.files import platforms
from pipelines.files.platforms import memory_bytes, reserve, usable_cores

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for package in ("pipelines", "stage1_vqvae", "stage2_prior") for path in (ROOT / package).rglob("*.py")]

# Of Python's "Availability" notes: what macOS or Windows lacks of modules that both have.
MISSING = {
    "os": {
        *("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise", "fork", "forkpty", "wait",
          "wait3", "wait4", "waitid", "WNOHANG", "killpg", "getpgid", "getpgrp", "setpgid", "setpgrp", "setsid",
          "getsid", "getuid", "geteuid", "getgid", "getgroups", "getloadavg", "sysconf", "sysconf_names", "confstr",
          "uname", "nice", "mkfifo", "mknod", "chown", "fchown", "lchown", "chroot", "statvfs", "fstatvfs", "sync",
          "fdatasync", "sendfile", "copy_file_range", "memfd_create", "eventfd", "pipe2", "pread", "pwrite", "lockf",
          "register_at_fork", "posix_spawn", "splice", "getxattr", "setxattr", "getrandom", "O_CLOEXEC", "O_DIRECTORY",
          "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_DIRECT", "O_TMPFILE", "ttyname", "openpty", "process_cpu_count"),
    },
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGQUIT", "SIGSTOP",
               "SIGCONT", "alarm", "setitimer", "pause", "pthread_sigmask", "pthread_kill", "sigwait", "sigpending",
               "siginterrupt"},
    "select": {"poll", "epoll", "kqueue", "PIPE_BUF"},
    "time": {"tzset", "clock_gettime", "pthread_getcpuclockid"},
    "socket": {"AF_UNIX", "socketpair"},
}
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "msvcrt", "winreg", "_winapi"}
# Keyword arguments of subprocess.Popen that raise an error on Windows. (start_new_session is ignored there.)
ARGUMENTS = {"pass_fds", "preexec_fn"}
ASKING = ("hasattr(os", "os.name", "sys.platform")


def unguarded(tree: ast.Module) -> list[str]:
    """Uses of what a system lacks outside an `if` (or `... if ... else ...`) that asks for it or for the system, and
    outside functions that are only called inside one."""
    found, guarded = [], called_guarded(tree)

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Attribute) and node.attr in MISSING.get(ast.unparse(node.value), ()) and not inside:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom):
            names = MISSING.get(node.module or "", set()) & {alias.name for alias in node.names}
            found.extend(f"{node.lineno}: {node.module}.{name}" for name in names)
        if isinstance(node, ast.Import | ast.ImportFrom) and not inside:
            names = {node.module} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
            found.extend(f"{node.lineno}: {name}" for name in names & MODULES)
        if isinstance(node, ast.keyword | ast.Constant) and not inside:
            name = node.arg if isinstance(node, ast.keyword) else node.value
            if isinstance(name, str) and name in ARGUMENTS:
                found.append(f"{getattr(node, 'lineno', '?')}: {name}=")
        if isinstance(node, ast.If | ast.IfExp):
            test = ast.unparse(node.test)
            asks = any(word in test for word in ASKING)
            for child in ast.iter_child_nodes(node):
                visit(child, inside or (asks and child is not node.test))
            return
        if isinstance(node, ast.FunctionDef) and node.name in guarded:
            inside = True
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return found


def called_guarded(tree: ast.Module) -> set[str]:
    """Functions that are called only under such an `if`, or from such functions."""
    calls: dict[str, list[bool]] = {}

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            calls.setdefault(node.func.id, []).append(inside)
        if isinstance(node, ast.If):
            asks = any(word in ast.unparse(node.test) for word in ASKING)
            for child in ast.iter_child_nodes(node):
                visit(child, inside or (asks and child is not node.test))
            return
        if isinstance(node, ast.FunctionDef):
            inside = node.name in names
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    names: set[str] = set()
    while True:
        calls.clear()
        visit(tree, False)
        more = {name for name, where in calls.items() if all(where)}
        if more == names:
            return names
        names = more


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_a_system_lacks_is_called_unguarded(path):
    assert unguarded(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("code, found", [
    ("import os\nos.sched_getaffinity(0)", ["2: os.sched_getaffinity"]),
    ("import os\nif hasattr(os, 'fork'):\n    os.fork()", []),
    ("import os\nif hasattr(os, 'fork'):\n    go()\ndef go():\n    inner()\ndef inner():\n    os.fork()", []),
    ("import os\ngo()\nif hasattr(os, 'fork'):\n    go()\ndef go():\n    os.fork()", ["6: os.fork"]),
    ("import fcntl", ["1: fcntl"]),
    ("from os import fork", ["1: os.fork"]),
    ("import sys, signal\nx = signal.SIGKILL if sys.platform != 'win32' else signal.SIGTERM", []),
    ("run(pass_fds=(1,))", ["1: pass_fds="]),
])
def test_what_is_unguarded_is_found(code, found):
    assert unguarded(ast.parse(code)) == found


def test_without_what_macos_lacks_the_cores_of_the_machine_count(monkeypatch):
    assert 1 <= usable_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_without_sysconf_nothing_is_said_of_memory(monkeypatch):
    assert memory_bytes() > 2**28
    monkeypatch.setattr(os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError("unrecognized name")))
    assert memory_bytes() is None
    monkeypatch.delattr(os, "sysconf")
    assert memory_bytes() is None


@pytest.mark.parametrize("lacks", ["nothing", "the function", "the file system's part"])
@pytest.mark.parametrize("size", [0, 5, 20])
def test_room_is_reserved_with_zeros(lacks, size, tmp_path, monkeypatch):
    monkeypatch.setattr(platforms, "CHUNK", 8)
    if lacks == "the function":
        monkeypatch.delattr(os, "posix_fallocate")
    elif lacks != "nothing":
        def unable(descriptor, start, count):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        monkeypatch.setattr(os, "posix_fallocate", unable)
    with open(tmp_path / "values.u8", "wb") as file:
        reserve(file, size)
    assert (tmp_path / "values.u8").read_bytes() == bytes(size)


def test_a_full_disk_is_noticed_either_way(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(full))
    with open(tmp_path / "a", "wb") as file, pytest.raises(OSError) as caught:
        reserve(file, 10)
    assert caught.value is full
    monkeypatch.delattr(os, "posix_fallocate")
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as file, pytest.raises(OSError) as caught:
            try:
                reserve(file, 10)
            finally:
                file.raw.close()
        assert caught.value.errno == errno.ENOSPC
