"""The page World: keys, walks of tabs, and what begins them."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import load
from pipelines.data.room import Room
from pipelines.explorer.page import Arguments, Context
from pipelines.explorer.pages.world import World, keys_of
from pipelines.files.errors import InputError
from pipelines.runs.find import PRETRAINED


@pytest.fixture(scope="module")
def run():
    return load(PRETRAINED / "room_video", "cpu")


@pytest.fixture
def call(run):
    """call(name, tab="a", **arguments) of the page, with small data in the place of the run's."""
    page, tabs = World(), {"a": {}, "b": {}}
    small = Room(episodes=8, frames=16, size=32, clip_length=16, validation_fraction=0.25)
    shared = {"data": SimpleNamespace(wait=lambda seconds: small)}

    def own(name: str, tab: str = "a", **arguments):
        context = Context(run, Path("runs"), None, tabs[tab], shared)
        return page.calls[name](context, Arguments(arguments, lambda key: None))

    own.shared, own.data = shared, small
    return own


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_a_walk_is_that_of_the_python_api(run, call):
    """The frames of the held-out clip, decoded, and those that the same seed and actions give."""
    clip = call.data.split("validation").batch(torch.tensor([1]))
    begun = call("begin", clip=1, seed=4, temperature=0.7)
    assert (len(begun["frames"]), begun["clips"], begun["why"]) == (4, 2, None)
    walk = run.walk(seed=4, temperature=0.7)
    seen = walk.begin(clip.x[0, :, :4], clip.actions[0, :4])
    for number in range(4):
        np.testing.assert_array_equal(pixels(begun["frames"][number]), seen[:, number].movedim(0, -1))
    for action in ("forward", "right", "right", "left"):
        made = call("step", action=action)
        assert len(made["frames"]) == 1 and made["seconds"] > 0
        np.testing.assert_array_equal(pixels(made["frames"][0]), walk.step(action)[:, 0].movedim(0, -1))
    assert call("film")["frames"] == 8


def test_tabs_walk_on_their_own(call):
    call("begin", clip=0, seed=1)
    first = [call("step", action="forward")["frames"] for _ in range(2)]
    for tab in "ab":
        call("begin", tab, clip=0, seed=1)
    assert [call("step", tab, action="forward")["frames"] for tab in "abba"] == [first[0]] * 2 + [first[1]] * 2


def test_without_data_a_walk_begins_from_nothing_and_says_so(call):
    call.shared["data"] = SimpleNamespace(wait=lambda seconds: "room: expected data, found none")
    begun = call("begin", clip=0)
    assert begun["frames"] == []
    assert begun["why"] == "Begun from nothing, for lack of held-out clips: room: expected data, found none"
    assert pixels(call("step", action="left")["frames"][0]).shape == (32, 32, 3)


def test_what_does_not_fit_is_refused_in_words(call):
    with pytest.raises(InputError, match="^walk: expected one that was begun"):
        call("step", action="forward")
    call("begin")
    with pytest.raises(InputError, match="^film: expected a walk of at least one frame"):
        call("film")
    with pytest.raises(InputError, match="^action: expected one of forward, left, right, found 'jump'$"):
        call("step", action="jump")
    with pytest.raises(InputError, match="^clip: expected a number below 2, found 2$"):
        call("begin", clip=2)


def test_keys(call):
    assert call("about") == {"window": 4, "frames_per_step": 1, "keys": [
        {"key": "ArrowUp", "action": "forward"}, {"key": "ArrowLeft", "action": "left"},
        {"key": "ArrowRight", "action": "right"}]}
    assert keys_of([]) == [("ArrowUp", None)]
    doom = ["forward", "forward_left", "forward_right", "left", "right"]
    assert keys_of(doom) == [("ArrowUp", "forward"), ("1", "forward_left"), ("2", "forward_right"),
                             ("ArrowLeft", "left"), ("ArrowRight", "right")]
    assert len(keys_of([str(number) for number in range(100)])) == 35


def test_the_page_is_of_video_with_a_prior_alone(run):
    assert World().why_not(run) is None
    assert World().why_not(load(PRETRAINED / "mnist", "cpu")).startswith("this run is on image")
