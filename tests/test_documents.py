"""Documents: links lead somewhere, examples run, every metric is described, words are those of the field."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.codes import write_codes
from pipelines.data.digits import Digits

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# What this project's text once said, and a reader who does not know it has to decode.
UNCLEAR = re.compile(r"\btold\b|\bwants a\b|\bOn wish\b")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document):
    for link in LINK.findall(document.read_text()):
        path, _, heading = link.partition("#")
        if re.match(r"https?:|mailto:", path):
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {link}"
        if heading:
            assert heading in anchors(target.read_text()), f"{document.name}: {link}"


def anchors(text: str) -> set[str]:
    """Names that GitHub gives to headings: lower case, punctuation gone, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_metric_is_described():
    described = (ROOT / "docs" / "metrics.md").read_text()
    for path in sorted(ROOT.glob("pretrained/*/metrics.json")):
        for key in keys(json.loads(path.read_text())):
            assert f"`{key}`" in described or f"`{key}." in described, f"{path.parent.name}: {key}"


def keys(figures: dict) -> set[str]:
    """Names of figures at any depth, without names of stages, labels and actions."""
    found = set(figures) - {"stage1", "stage2", "digit", "speaker", "class", "forward", "left", "right"}
    return found.union(*(keys(value) for value in figures.values() if isinstance(value, dict)))


def test_the_example_reads_codes_without_the_project(tmp_path):
    """docs/formats.md: in an interpreter of its own (-I: neither the present folder nor PYTHONPATH)."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "formats.md").read_text(), re.DOTALL)
    assert "pipelines" not in example
    write_codes(tmp_path / "runs/digits/codes", Digits(), lambda batch: {"codes": batch.x[:, 0, ::2, ::2].long() // 4},
                num_codes=64, num_codebooks=1, stage1_hash="0" * 64, shard_size=500)
    result = subprocess.run([sys.executable, "-I", "-c", example], cwd=tmp_path, capture_output=True, text=True,
                            timeout=60)
    assert result.stdout.strip() == "(1438, 4, 4) uint8 (1438, 1)", result.stderr


def test_commands_and_configurations_named_in_documents_exist():
    for document in DOCUMENTS:
        text = document.read_text()
        if document.name == "CHANGELOG.md":  # names what is gone too
            continue
        for script in re.findall(r"python (pipelines/\w+\.py|benchmarks/\w+\.py)", text):
            assert (ROOT / script).is_file(), f"{document.name}: {script}"
        for name in re.findall(r"EXPERIMENT=(\w+)", text):
            assert (ROOT / "configs" / "experiment" / f"{name}.yaml").is_file(), f"{document.name}: {name}"
        for name in re.findall(r"\b(?:SET|STUDY)=([a-z]\w*)", text):
            assert (ROOT / "configs" / "compare" / f"{name}.yaml").is_file(), f"{document.name}: {name}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_text_needs_no_decoding():
    """The texts of the project, code included; this file quotes what it looks for."""
    listed = subprocess.run(["git", "ls-files", "*.py", "*.md", "*.yaml"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = [f"{name}:{number}: {line.strip()}" for name in listed.stdout.split()
             if (ROOT / name).is_file() and name != "tests/test_documents.py"
             for number, line in enumerate((ROOT / name).read_text().splitlines(), 1) if UNCLEAR.search(line)]
    assert not found, "\n".join(found)
