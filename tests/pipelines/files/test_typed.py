"""Settings whose annotations state type and range: what is taken, and what each refusal says."""

import math

import pytest

from pipelines.files.errors import InputError
from pipelines.files.typed import read
from pipelines.runs.settings import Evaluation, Extraction, General
from pipelines.training.settings import Settings


@pytest.mark.parametrize("word, value", [
    ("no", False), ("Off", False), ("n", False), ("FALSE", False), (False, False), (0, False),
    ("yes", True), ("on", True), ("y", True), ("true", True), (True, True), (1, True),
])
def test_words_for_true_and_false(word, value):
    assert Extraction(overwrite=word).overwrite is value


@pytest.mark.parametrize("settings, values, message", [
    (Extraction, {"overwrite": "x"}, "k.overwrite: expected true or false, found 'x'"),
    (Extraction, {"overwrite": None}, "k.overwrite: expected true or false, found None"),
    (Extraction, {"overwrite": 2}, "k.overwrite: expected true or false, found 2"),
    (Extraction, {"views": "x"}, "k.views: expected an integer >= 1, found 'x'"),
    (Extraction, {"views": True}, "k.views: expected an integer >= 1, found True"),
    (Extraction, {"views": 1.0}, "k.views: expected an integer >= 1, found 1.0"),
    (Extraction, {"views": 10**12}, "k.views: expected an integer >= 1 and <= 2147483647, found 1000000000000"),
    (Extraction, {"view": 1}, "k.view: expected k.views, found a key that the configuration lacks"),
    (Extraction, None, "k: expected settings, k.KEY=VALUE, found none"),
    (Evaluation, {"split": 7}, "k.split: expected a name, found 7"),
    (Evaluation, {"actions": "left"}, "k.actions: expected a list of names, as in [first,second], found 'left'"),
    (General, {"condition_on": 5}, "k.condition_on: expected a list of names, as in [first,second], found 5"),
    (General, {"run": ""}, "k.run: expected a name, found ''"),
    (General, {"run": 7}, "k.run: expected a name, found 7"),
    (General, {"seed": 10**5000}, f"k.seed: expected an integer >= 0 and <= {2**63 - 1}, found an integer of thousands "
     "of digits"),
    (General, {"runs_dir": ""}, "k.runs_dir: expected a name, found ''"),
    (General, {"seed": -1}, "k.seed: expected an integer >= 0, found -1"),
    (General, {"seed": 10**23}, f"k.seed: expected an integer >= 0 and <= {2**63 - 1}, found 1{23 * '0'}"),
    (Settings, {"lr": math.nan}, "k.lr: expected a finite number >= 0, found nan"),
    (Settings, {"lr": math.inf}, "k.lr: expected a finite number >= 0, found inf"),
    (Settings, {"lr": "abc"}, "k.lr: expected a finite number >= 0, found 'abc'"),
    (Settings, {"beta2": 1}, "k.beta2: expected a number >= 0 and < 1, found 1"),
    (Settings, {"decay_share": 0}, "k.decay_share: expected a number > 0 and <= 1, found 0"),
    (Settings, {"stpes": 5}, "k.stpes: expected k.steps, found a key that the configuration lacks"),
])
def test_what_is_refused_names_key_expectation_and_value(settings, values, message):
    with pytest.raises(InputError) as caught:
        read(settings, "k", values)
    assert str(caught.value) == message


def test_values_get_their_types():
    assert isinstance(Settings(lr=1).lr, float) and Settings(lr=1) == Settings(lr=1.0)
    assert Evaluation(actions=["left"], split=None) == Evaluation(actions=["left"])
