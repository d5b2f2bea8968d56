"""Model cards: read by the hubs' own parser, made of the run's files alone, terms given or unknown."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipelines import publish
from pipelines.files.errors import InputError
from pipelines.runs.card import Terms, flat, known_terms
from pipelines.runs.figures import read_figures
from pipelines.runs.find import PRETRAINED, run_names
from pipelines.runs.store import Run, load_stage1, stage1_hash

ROOT = PRETRAINED.parent
CPU = torch.device("cpu")


def script(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["publish", *map(str, words)])
        publish.main(publish.parse_arguments())


@pytest.fixture
def mine(tmp_path) -> Path:
    shutil.copytree(PRETRAINED / "mnist", tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def parser():
    return pytest.importorskip("huggingface_hub", reason="requires the extra [hub]").ModelCard


@pytest.mark.parametrize("name", run_names(PRETRAINED))
def test_cards_of_pretrained_runs_are_valid_and_say_what_was_measured(name, parser):
    card = parser.load(PRETRAINED / name / "README.md", ignore_metadata_errors=False)
    figures, data = read_figures(Run(PRETRAINED / name)), card.data
    assert data.license in ("mit", "other") and data.library_name == "neural-discrete-representations"
    assert data.model_name == name and data.datasets == [figures["data"]]
    measured = {found.metric_name: found.metric_value for found in data.eval_results}
    assert measured == dict(flat(figures)) and measured["codes.perplexity"] == figures["codes"]["perplexity"]
    assert {(found.dataset_name, found.dataset_split) for found in data.eval_results} == {
        (figures["data"], figures["split"])}
    assert "unknown" not in card.content and "pipelines/evaluate.py" in card.text
    assert all(f"## {heading}" in card.text for heading in ("What it is", "Data and licences", "Figures", "Limits"))
    assert parser(str(card)).data.to_dict() == data.to_dict()


@pytest.mark.parametrize("name", ["mnist", "fsdd"])
def test_cards_of_pretrained_runs_are_those_that_the_tool_writes(name, tmp_path):
    shutil.copytree(PRETRAINED / name, tmp_path / name)
    script("--run", tmp_path / name, "--card")
    assert (tmp_path / name / "README.md").read_text() == (PRETRAINED / name / "README.md").read_text()
    terms = known_terms(Run(PRETRAINED / name))
    assert None not in vars(terms).values(), "from pretrained/LICENSE.md"


def test_the_example_of_a_card_runs(monkeypatch):
    text = (PRETRAINED / "mnist" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert 'load("FOLDER")' in example
    known: dict = {}
    exec(example.replace('"FOLDER"', repr(str(PRETRAINED / "mnist"))), known)
    assert known["codes"].shape == (2, 7, 7) and known["samples"].labels == {"digit": ["0", "0"]}


def test_what_nobody_gave_is_unknown_and_what_was_given_stays(mine, tmp_path, parser, capsys):
    (mine / "README.md").unlink()
    script("--run", mine, "--out", tmp_path / "first")
    card = parser.load(tmp_path / "first" / "README.md")
    assert card.data.license == card.data.data_license == card.data.data_credit == "unknown"
    assert "Licence of the data: unknown." in card.text and "Made by: unknown." in card.text
    assert capsys.readouterr().err.count("not given: the card says that it is unknown") == 3
    script("--run", tmp_path / "first", "--card", "--license", "cc-by-4.0", "--data-license", "mine: # 'all'")
    script("--run", tmp_path / "first", "--card", "--data-credit", "me --- and: you")
    script("--run", tmp_path / "first", "--out", tmp_path / "second")
    assert known_terms(Run(tmp_path / "second")) == Terms("cc-by-4.0", "mine: # 'all'", "me --- and: you")
    assert parser.load(tmp_path / "second" / "README.md").data.data_license == "mine: # 'all'"
    assert (tmp_path / "second" / "README.md").read_text().count("\n# second\n") == 1


def test_a_card_has_no_place_of_this_machine_and_changes_nothing_else(mine, tmp_path, monkeypatch):
    def content() -> dict:
        return {path: path.read_bytes() for path in mine.rglob("*") if path.is_file() and path.name != "README.md"}

    before, known = content(), stage1_hash(load_stage1(Run(mine), CPU))
    monkeypatch.chdir(tmp_path)
    script("--run", "mine", "--card")
    assert content() == before and stage1_hash(load_stage1(Run(mine), CPU)) == known
    for place in (str(tmp_path), str(Path.home()), str(ROOT)):
        assert place not in (mine / "README.md").read_text()


def test_without_figures_the_card_says_that_nothing_was_measured(mine, parser):
    (mine / "metrics.json").unlink()
    shutil.rmtree(mine / "stage2")
    script("--run", mine, "--card")
    card = parser.load(mine / "README.md")
    assert card.data.eval_results is None and "Nothing was measured" in card.text and "no stage 2" in card.text


def test_names_that_no_hub_takes_stay_out_of_the_metadata(mine, parser):
    path = mine / "stage1/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["example"]["data"] = "my | pictures: *2024*\n# x"
    path.write_text(yaml.safe_dump(config))
    shutil.rmtree(mine / "stage2")
    script("--run", mine, "--card")
    card = parser.load(mine / "README.md")
    assert card.data.datasets is None and card.data.eval_results[0].dataset_type == "other"
    assert "\n# x" not in card.text, "a line break in a name begins no heading"


@pytest.mark.parametrize("words, said", [
    ([], "publish: expected --out FOLDER, --to hf://OWNER/NAME or --card, found none"),
    (["--card", "--out", "x"], "--card: expected no --out beside it"),
    (["--card", "--license", "My Licence"], "--license: expected an identifier"),
    (["--card", "--data-credit", "a\nb"], "--data_?-?credit: expected a line of text"),
    (["--to", "someone/x"], "--to: expected hf://OWNER/NAME"),
])
def test_what_is_asked_wrongly_takes_one_line(mine, words, said):
    before = (mine / "README.md").read_bytes()
    with pytest.raises(InputError, match=said):
        script("--run", mine, *words)
    assert (mine / "README.md").read_bytes() == before


@pytest.mark.parametrize("text", ["# mine\n", "---\nlicense: mit\n---\n# mine", "---\n- x\n---\n", "---\na: *a\n---\n"])
def test_a_readme_that_is_no_card_is_not_replaced(mine, text):
    (mine / "README.md").write_text(text)
    with pytest.raises(InputError, match=r"README.md: expected a card that publish.py wrote"):
        script("--run", mine, "--card")
    assert (mine / "README.md").read_text() == text
