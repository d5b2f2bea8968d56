"""docs/tokens.md as an outsider follows it: its commands and its Python run, block after block, as they stand."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "tokens.md"


@pytest.mark.slow  # trains another package
def test_the_guide(tmp_path, command, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|sh)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "sh", "python", "python", "sh", "python"]
    for kind, text in blocks:
        if kind == "python":
            exec(text, {})
            continue
        for line in text.splitlines():
            python, script, *words = shlex.split(line, comments=True)
            assert python == "python" and script.startswith("pipelines/")
            few = ["train.steps=20", "train.validate_every=10"] if "train_stage2" in script else []
            result = command(Path(script).stem, *words, *few, cwd=tmp_path)
            if "import_codes" in script:
                assert "train 540, validation 60 items of 4x4; 10 classes of digit" in result.stdout
    assert np.load("sevens/samples.npy").shape == (64, 4, 4) and Path("sevens.png").stat().st_size > 1000
    assert Path("back/items.npy").read_bytes() == Path("tokens.npy").read_bytes()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("[4, 4], K = 64: ") and "torch.Size([4, 4, 4])" in printed[-2]
