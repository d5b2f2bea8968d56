"""What a configuration says of a stage's data: read once, each wrong value named."""

from pathlib import Path

import pytest

from pipelines.files.errors import InputError
from pipelines.runs.example import CodeSpec, Example, example_of
from pipelines.splits.base import Data

PATH = Path("run/stage1/config.yaml")
EXAMPLE = {"data": "fsdd", "kind": "audio", "shape": [1, 8192], "label_names": ["digit", "speaker"],
           "classes": [["0", "1"], ["theo"]], "facts": {"sample_rate_hz": 8000}}
CODES = {"grid": [128], "num_codes": 64, "num_codebooks": 1, "label_names": ["digit"], "classes": [["0", "1"]],
         "label_counts": [[3, 0]], "extraction": "ab" * 32, "data": "fsdd", "shape": [1, 8192],
         "length_counts": [[0, 34, 1], [0, 41, 2]]}


def test_they_come_back_as_they_were_written():
    example = Example.from_config({"example": EXAMPLE}, PATH)
    assert example.shape == (1, 8192) and example.classes == (("0", "1"), ("theo",))
    assert example.facts == {"sample_rate_hz": 8000} and example.to_config() == EXAMPLE
    spec = CodeSpec.from_config({"codes": CODES}, PATH)
    assert spec.grid == spec.item_shape == (128,) and spec.length_counts == ((0, 34, 1), (0, 41, 2))
    assert spec.to_config() == CODES
    several = CodeSpec.from_config({"codes": CODES | {"num_codebooks": 2, "length_counts": None}}, PATH)
    assert several.item_shape == (128, 2) and several.length_counts is None


@pytest.mark.parametrize("kind, facts", [
    ("image", {}), ("codes", {"parent": {"stage1_hash": "ab" * 32, "extraction": "cd" * 32}}),
    ("video", {"action_names": ["left"]}), ("theirs", {"anything": [1]}),
])
def test_each_kind_has_its_own_facts(kind, facts):
    assert Example.from_config({"example": EXAMPLE | {"kind": kind, "facts": facts}}, PATH).facts == facts


@pytest.mark.parametrize("key, value", [
    ("data", 3), ("kind", None), ("shape", []), ("shape", [1, 0]), ("shape", [1, True]), ("shape", "1x2"),
    ("label_names", ["digit", "digit"]), ("label_names", "digit"), ("classes", [["0", "1"]]), ("classes", 3),
    ("classes", [["1", "0"], ["theo"]]), ("classes", [[], ["theo"]]), ("facts", []), ("facts", ...), ("kind", ...),
    ("facts.sample_rate_hz", 0), ("facts.sample_rate_hz", "8000"), ("more", 1),
])
def test_wrong_values_of_an_example(changed, key, value):
    with pytest.raises(InputError, match=r"^run/stage1/config.yaml: example.*: expected .*, found") as error:
        Example.from_config({"example": changed(EXAMPLE, key, value)}, PATH)
    assert value is ... or key == "more" or f"example.{key}" in str(error.value)


@pytest.mark.parametrize("parent", [{"stage1_hash": "ab" * 32}, {"stage1_hash": "ab" * 32, "extraction": "no"}, None])
def test_a_parent_without_its_hashes(parent):
    with pytest.raises(InputError, match=r"example\.facts\.parent.*: expected"):
        Example.from_config({"example": EXAMPLE | {"kind": "codes", "facts": {"parent": parent}}}, PATH)


def test_a_fact_that_is_asked_for_and_not_there_is_named():
    example = Example.from_config({"example": EXAMPLE | {"facts": {}}}, PATH)
    with pytest.raises(InputError, match="^run/stage1/config.yaml: example.facts.sample_rate_hz: expected a value"):
        _ = example.facts["sample_rate_hz"]


@pytest.mark.parametrize("key, value", [
    ("grid", [0]), ("num_codes", 1), ("num_codes", 2.0), ("num_codebooks", 0), ("label_counts", [[3]]), ("data", 1),
    ("label_counts", [[3, -1]]), ("extraction", "short"), ("shape", None), ("length_counts", []),
    ("length_counts", ...), ("length_counts", [[0, 34]]), ("length_counts", [[2, 34, 1]]),
    ("length_counts", [[0, 129, 1]]), ("length_counts", [[0, 34, 0]]), ("more", 1),
])
def test_wrong_values_of_codes(changed, key, value):
    with pytest.raises(InputError, match=r"^run/stage1/config.yaml: codes.*: expected .*, found") as error:
        CodeSpec.from_config({"codes": changed(CODES, key, value)}, PATH)
    assert value is ... or key == "more" or f"codes.{key}" in str(error.value)


@pytest.mark.parametrize("read, key", [(Example, "example"), (CodeSpec, "codes")])
@pytest.mark.parametrize("config", [{}, {"example": 3, "codes": 3}, {"example": [], "codes": []}])
def test_without_the_section(read, key, config):
    with pytest.raises(InputError, match=f"^run/stage1/config.yaml: {key}: expected exactly"):
        read.from_config(config, PATH)


def test_what_is_noted_of_data_is_what_is_read():
    class Clips(Data):
        name, kind, shape, sample_rate_hz = "clips", "audio", (1, 64), 8000
        label_names, classes, saved_facts = ("speaker",), (("theo", "yves"),), {"sample_rate_hz": 8000}

        def _split(self, name):
            raise NotImplementedError

    example = example_of(Clips())
    assert example == Example.from_config({"example": example.to_config()}, PATH)
    assert example.facts == {"sample_rate_hz": 8000}
