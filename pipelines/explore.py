"""A run in the browser: its codes, samples and fillings to play with, and all runs side by side.

    python pipelines/explore.py --run mnist
    python pipelines/explore.py --run photos --data-root ~/Pictures --no-browser

Prints the address, opens the browser there, and serves this machine alone until Ctrl-C; nothing is sent elsewhere.
docs/explorer.md says what each page shows. Needs the extra explorer: pip install '.[explorer]'
"""

import argparse
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands.flags import VerbParser, add_data_flag, check_flags, folder
from pipelines.files.errors import InputError, one_line_errors
from pipelines.files.places import expanded

if TYPE_CHECKING:
    from pipelines.api import TrainedRun

HOST = "127.0.0.1"
EXTRA = {"starlette", "uvicorn", "anyio"}  # packages that the extra installs


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", type=expanded, help="a run's folder, a name under runs/, or a pretrained name, tried "
                        "in this order (default: the run whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    add_data_flag(parser)
    parser.add_argument("--port", type=int, default=7860, help="of the address; 0: any that is free (default: 7860)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    check_flags(arguments)
    try:
        import uvicorn

        from pipelines.explorer.server import Explorer, build_app
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise InputError(f"explore: expected the package {error.name}, found none; install the extra: "
                         "pip install '.[explorer]'") from None

    def open_run() -> "TrainedRun":
        from pipelines.api import load

        return load(arguments.run, arguments.device, arguments.runs_dir)

    def failed() -> None:
        server.should_exit = True

    listening = listen(arguments.port)
    explorer = Explorer(open_run, arguments.run or "the run trained last", arguments.runs_dir, arguments.data_root)
    server = uvicorn.Server(uvicorn.Config(
        build_app(explorer), log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False,
        proxy_headers=False, limit_concurrency=256, timeout_graceful_shutdown=2))
    address = f"http://{HOST}:{listening.getsockname()[1]}"
    print(f"explorer: {address} (Ctrl-C ends it)", flush=True)
    if not arguments.no_browser and has_screen():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    explorer.start(failed)
    try:
        server.run(sockets=[listening])
    finally:
        explorer.stop()
    if explorer.failure is not None:
        raise InputError(explorer.failure)


def listen(port: int) -> socket.socket:
    """A socket of this machine alone. Raises InputError for a port that is none, or taken."""
    if not 0 <= port < 2**16:
        raise InputError(f"--port: expected a number from 0 to {2**16 - 1}, found {port}")
    listening = socket.socket()
    if os.name != "nt":  # there it would let two servers share the port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)  # at once: a browser that is quicker than the server waits, and is not refused
    except OSError as error:
        raise InputError(f"--port: expected one that is free (0 finds one), found {port}: {error.strerror}") from None
    return listening


def has_screen() -> bool:
    """Whether a browser would have a window: without one, a text browser would take the terminal."""
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
