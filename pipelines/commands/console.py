"""The console command `ndr`: `ndr sample --n 64` is `python -m pipelines.sample --n 64`.

A verb is a file of the package `pipelines` that can be run as a script; there is no list of them to keep.
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path

from pipelines.commands.help import columns

PACKAGE = Path(__file__).resolve().parents[1]


def verbs() -> dict[str, str]:
    """{"train-stage1": the first paragraph of its docstring, ...}, sorted by name; no verb is imported."""
    found = {}
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body):
            found[path.stem.replace("_", "-")] = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
    return found


def main() -> None:
    """Runs the verb that the first argument names; without one, or with --help, lists the verbs."""
    known = verbs()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(listing(known))
        return
    verb = sys.argv[1].replace("_", "-")
    if verb not in known:
        nearest = difflib.get_close_matches(verb, known, n=1, cutoff=0.5)
        expected = nearest[0] if nearest else f"one of {', '.join(known)}"
        print(f"error: ndr: expected {expected}, found {sys.argv[1]!r}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"ndr {verb}", *sys.argv[2:]]
    runpy.run_module(f"pipelines.{verb.replace('-', '_')}", run_name="__main__")


def listing(known: dict[str, str]) -> str:
    return "\n".join([
        "usage: ndr COMMAND [...]", "", columns(known), "",
        "`ndr COMMAND --help` says more. Runs are written to runs/; data are read from $DATA_ROOT, else from data/.",
    ])


if __name__ == "__main__":
    main()
