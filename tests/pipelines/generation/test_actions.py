"""Actions of clips: the prior's local features, and the values of `--actions`."""

from pathlib import Path

import pytest
import torch

from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions, wanted_actions
from stage2_prior.video import GatedPixelCNN3d

NAMES = ["forward", "left", "right"]


def test_a_frame_of_codes_is_told_the_action_that_led_to_it():
    actions = torch.tensor([[0, 2, 1, 1]])
    local = local_actions(actions, 3, code_frames=4)
    assert local.shape == (1, 3, 4, 1, 1) and local.dtype == torch.uint8
    assert torch.equal(local[0, :, :, 0, 0].T, torch.eye(3, dtype=torch.uint8)[actions[0]])


def test_where_time_is_compressed_it_is_told_those_of_the_frames_that_it_covers_in_order():
    local = local_actions(torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]]), 3, code_frames=2)
    assert local.shape == (2, 6, 2, 1, 1)
    first, second = local[:, :3, :, 0, 0].argmax(1), local[:, 3:, :, 0, 0].argmax(1)
    assert first.tolist() == [[0, 1], [2, 0]] and second.tolist() == [[2, 1], [2, 1]]
    assert (local.sum(1) == 2).all()


@pytest.mark.parametrize("code_frames", [6, 3])
def test_an_action_changes_its_frame_of_codes_and_no_earlier_one(code_frames):
    """On the grid of codes, which may have fewer frames than the clip."""
    torch.manual_seed(0)
    frames, covered = 6, 6 // code_frames
    prior = GatedPixelCNN3d(num_codes=5, channels=8, num_layers=2, first_kernel_size=3, num_temporal_layers=2,
                            local_channels=3 * covered, head_channels=16).double()
    codes, actions = torch.randint(5, (1, code_frames, 2, 3)), torch.randint(3, (1, frames))

    def logits(actions: torch.Tensor) -> torch.Tensor:
        local = local_actions(actions, 3, code_frames).double().expand(-1, -1, -1, 2, 3)
        return prior(codes, local=local)[0].detach()

    plain = logits(actions)
    for t in range(frames):
        changed = actions.clone()
        changed[0, t] = (changed[0, t] + 1) % 3
        moved = ((logits(changed) - plain).abs() > 1e-9).any(0).flatten(1).any(1)
        assert not moved[: t // covered].any() and moved[t // covered]


def test_an_action_by_name_holds_throughout():
    assert wanted_actions("right", NAMES, 4).tolist() == [2, 2, 2, 2]


def test_a_file_has_an_action_a_line(tmp_path):
    path = tmp_path / "walk.txt"
    path.write_text("\ufeffleft\r\n right \r\nforward\n", encoding="utf-8")
    assert wanted_actions(str(path), NAMES, 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize(("content", "message"), [
    (b"left\nright\n", "expected 3 lines, one action per frame, found 2"),
    (b"left\nright\nleft\nleft\n", "expected 3 lines, one action per frame, found 4"),
    (b"left\nup\nright\n", "line 2: expected one of forward, left, right, found 'up'"),
    (b"left\n\nright\n", "expected an action in each line, found none in line 2"),
    (b"", "expected 3 lines, one action per frame, found 0"),
    (b"\xff\xfe\x00left", "expected text, found"),
])
def test_files_that_do_not_fit_are_named(content, message, tmp_path):
    path = tmp_path / "walk.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        wanted_actions(str(path), NAMES, 3)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("wanted", ["up", "", "."])
def test_what_is_neither_an_action_nor_a_file_is_named(wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="^actions: expected one of forward, left, right, or a file of them, found"):
        wanted_actions(wanted, NAMES, 3)
    Path("left").write_text("right\n")
    assert wanted_actions("left", NAMES, 1).tolist() == [1]  # a name before a file
