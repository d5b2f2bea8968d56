"""The Python of README.md and of docs/tour.ipynb runs, block after block, as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300  # README's blocks take 20 s alone on a core


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder after `make demo`, with far fewer steps: runs/digits is there."""
    folder = tmp_path_factory.mktemp("user")
    steps = [f"{stage}.{setting}" for stage in ("stage1", "stage2")
             for setting in ("steps=20", "validate_every=20", "log_every=20")]
    for verb in ("train_stage1", "extract_codes", "train_stage2"):
        run(folder, "-m", f"pipelines.{verb}", "experiment=digits", *steps)
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                            timeout=LIMIT_S)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_readme(folder):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    (folder / "readme.py").write_text("\n".join(blocks) + "\nassert images.shape == (16, 1, 8, 8)\n")
    printed = run(folder, "readme.py")
    assert printed.startswith("image (1, 28, 28) (7, 7) 128 ('0', '1', ")
    assert len(list((folder / "samples").glob("0*.png"))) == 16 and (folder / "samples" / "grid.png").exists()


def test_tour(folder):
    """Its outputs are kept in the file, small, and what they print is what is printed now."""
    path = ROOT / "docs" / "tour.ipynb"
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5 and all(cell["outputs"] for cell in cells) and path.stat().st_size < 400_000
    code = []
    for cell in cells:
        code += ["".join(cell["source"]), 'print("<end of cell>")']
    (folder / "tour.py").write_text("\n".join(code))
    printed = run(folder, "tour.py").split("<end of cell>\n")
    for cell, found in zip(cells, printed, strict=False):
        kept = "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")
        # figures depend on the machine in their last digits, and a folder on where the project is
        assert shape(found) == shape(kept)


def shape(text: str) -> list[str]:
    """Words of a text, with numbers and paths replaced by their kind."""
    return [re.sub(r"\S*/\S+", "PATH", re.sub(r"-?\d+(\.\d+)?", "N", word)) for word in text.split()]
