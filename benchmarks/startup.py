"""How long verbs take to print --help and to refuse a flag, and `import pipelines`. Targets: 0.5, 0.5, 0.15 s.

    python benchmarks/startup.py

Each figure is the fastest of `TRIES` processes, the interpreter's own start included, which is shown last.
"""

import subprocess
import sys
import time

from pipelines.commands.console import verbs

TRIES = 5


def seconds(*arguments: str) -> float:
    """Of the fastest of `TRIES` processes `python arguments`."""
    taken = []
    for _ in range(TRIES):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    print(f"{'verb':<18}{'--help, s':>12}{'refused flag, s':>18}")
    for verb in verbs():
        module = f"pipelines.{verb.replace('-', '_')}"
        shown, refused = seconds("-m", module, "--help"), seconds("-m", module, "--refused")
        print(f"{verb:<18}{shown:>12.3f}{refused:>18.3f}", flush=True)
    print(f"{'import pipelines':<18}{seconds('-c', 'import pipelines'):>12.3f}")
    print(f"{'python alone':<18}{seconds('-c', ''):>12.3f}")


if __name__ == "__main__":
    main()
