"""Which other class an item is converted to."""

import torch

from pipelines.generation.conversion import other_classes

NAMES, CLASSES = ("digit", "speaker"), (("0", "1"), ("ann", "bob", "cyd", "dan"))


def test_turns_give_each_other_class_once_and_leave_what_is_not_changed():
    labels = torch.stack([torch.arange(40) % 2, torch.arange(40) % 4], 1)
    turns = [other_classes(labels, NAMES, CLASSES, ["speaker"], 0, turn) for turn in range(3)]
    speakers = torch.stack([labels, *turns])[..., 1]
    assert torch.equal(speakers.sort(0).values, torch.arange(4)[:, None].expand(4, 40))
    assert all(torch.equal(turn[:, 0], labels[:, 0]) for turn in turns)
    assert torch.equal(turns[0], other_classes(labels, NAMES, CLASSES, ["speaker"], 0))
    assert len(((turns[0] - labels)[:, 1] % 4).unique()) == 3  # the first of them is drawn for each item
    assert not torch.equal(turns[0], other_classes(labels, NAMES, CLASSES, ["speaker"], 1))


def test_a_label_of_one_class_stays():
    labels = torch.zeros(3, 1, dtype=torch.int64)
    assert torch.equal(other_classes(labels, ("who",), (("ann",),), ["who"], 0, 2), labels)
