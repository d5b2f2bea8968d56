"""Hidden parts of items, filled: what is read, what is kept, and what a candidate depends on."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.api import load
from pipelines.files.errors import InputError
from pipelines.generation.filling import Gap, known_codes, pasted
from pipelines.kinds.base import ranges
from pipelines.kinds.image import read_region

LEFT = torch.zeros(28, 28, dtype=torch.bool)
LEFT[:, :14] = True


@pytest.fixture(scope="module")
def mnist():
    return load("mnist", "cpu")


@pytest.fixture(scope="module")
def digit(mnist):
    """A three, uint8 (1, 28, 28)."""
    return mnist.sample(1, digit="3", seed=4).x[0]


@pytest.fixture(scope="module")
def filled(mnist, digit):
    return mnist.sample(3, complete=digit, mask=LEFT, particles=8, sweeps=1, seed=3)


def test_the_visible_part_stays_and_the_hidden_part_is_not_read(mnist, digit, filled):
    assert torch.equal(filled.x[..., ~LEFT], digit[..., ~LEFT].expand(3, -1, -1))
    other = torch.where(LEFT, 255 - digit, digit)
    assert torch.equal(mnist.sample(3, complete=other, mask=LEFT, particles=8, sweeps=1, seed=3).x, filled.x)


def test_a_candidate_depends_on_its_number_and_the_seed_alone(mnist, digit, filled):
    one = mnist.sample(1, complete=digit, mask=LEFT, particles=8, sweeps=1, seed=3)
    by_ones = mnist.sample(3, complete=digit, mask=LEFT, particles=8, sweeps=1, seed=3, batch_size=1)
    assert torch.equal(one.codes, filled.codes[:1]) and torch.equal(by_ones.codes, filled.codes)
    assert len(filled.codes.unique(dim=0)) > 1
    assert not torch.equal(mnist.sample(1, complete=digit, mask=LEFT, particles=8, seed=5).codes, one.codes)


def test_candidates_are_ranked_by_their_bits(mnist, filled, tmp_path):
    labels = torch.tensor([[int(label)] for label in filled.labels["digit"]])
    counts = torch.tensor(mnist._loaded.stage2.codes.label_counts[0]).double()
    nats = -mnist.stage2.log_prob(filled.codes, labels).double() - (counts / counts.sum()).log()[labels[:, 0]]
    torch.testing.assert_close(filled.bits, (nats / np.log(2)).detach())
    filled.save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "candidates.csv").open()))
    assert [row["file"] for row in rows] == [f"{number:05d}.png" for number in filled.ranking]
    assert [float(row["bits"]) for row in rows] == sorted(round(float(bits), 2) for bits in filled.bits)
    assert all(row["digit"] == filled.labels["digit"][number]
               for row, number in zip(rows, filled.ranking, strict=True))
    best = np.asarray(Image.open(tmp_path / rows[0]["file"]))
    assert np.array_equal(best, filled.x[filled.ranking[0], 0].numpy())


def test_the_decoder_shows_the_visible_part_where_it_is_not_pasted(mnist, digit, filled):
    made = mnist.sample(3, complete=digit, mask=LEFT, particles=8, sweeps=1, seed=3, paste=False)
    assert torch.equal(made.codes, filled.codes) and torch.equal(made.x, mnist.decode(made.codes))


def test_a_given_label_is_obeyed_and_others_follow_the_known_codes(mnist, digit):
    given = mnist.sample(4, complete=digit, mask=LEFT, particles=4, digit="8")
    assert given.labels == {"digit": ["8"] * 4}
    corner = torch.zeros(28, 28, dtype=torch.bool)
    corner[:6, :6] = True  # nearly all of the three is visible; its frequency in training is a tenth
    seen = mnist.sample(6, complete=digit, mask=corner, particles=20).labels["digit"]
    assert seen.count("3") >= 5


def test_several_items_have_one_candidate_each(mnist, digit):
    other = mnist.sample(1, digit="0", seed=2).x[0]
    both = mnist.sample(2, complete=torch.stack([digit, other]), mask=LEFT, particles=4, sweeps=0)
    assert torch.equal(both.x[..., ~LEFT], torch.stack([digit, other])[..., ~LEFT]) and both.changed is None
    alone = mnist.sample(1, complete=digit, mask=LEFT, particles=4, sweeps=0)
    assert torch.equal(alone.codes[0], both.codes[0])


def test_known_codes_are_those_that_no_stand_in_changes(mnist, digit):
    stand_ins = mnist.sample(5, seed=9).x
    codes = known_codes(mnist._loaded.stage1, Gap(digit[None], LEFT[None]), stand_ins)[0]
    encoded = torch.stack([mnist.encode(torch.where(LEFT, other, digit)) for other in stand_ins])
    for row in range(7):
        for column in range(7):
            seen = encoded[:, row, column].unique()
            expected = int(seen[0]) if len(seen) == 1 and column > 3 else -1  # of column 3 a half is hidden
            assert codes[row, column] == expected
    assert (codes[:, 4:] >= 0).sum() > 10 and (codes[:, 4:] < 0).any()


def test_masks_are_white_where_an_image_is_filled(tmp_path):
    pixels = np.zeros((6, 4), np.uint8)
    pixels[1, 2], pixels[3, 3] = 255, 100
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    Image.new("L", (4, 6)).save(tmp_path / "same.png")
    Image.new("L", (8, 12)).save(tmp_path / "larger.png")
    expected = torch.from_numpy(pixels)[None] >= 128
    white = pixels >= 128
    for mask in (tmp_path / "mask.png", pixels, Image.fromarray(pixels), white, torch.from_numpy(white)):
        assert torch.equal(read_region(mask, (6, 4), tmp_path / "same.png"), expected)
    with pytest.raises(InputError, match="^mask: expected the size of the image, 8 x 12, found 4 x 6$"):
        read_region(tmp_path / "mask.png", (6, 4), tmp_path / "larger.png")


def test_audio_fades_into_what_is_visible_on_its_side_of_the_edge():
    hidden = torch.tensor([[False] * 4 + [True] * 3 + [False] * 4])
    share = pasted(torch.zeros(1, 1, 11), hidden, torch.ones(1, 1, 11), fade=1)[0, 0]
    assert share.tolist() == [0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0, 0]


def test_ranges():
    assert ranges("0.2-0.35,0.5-0.6", "seconds", 1.0) == [(0.2, 0.35), (0.5, 0.6)]
    assert ranges([(1, 2)], "frames", 8) == [(1.0, 2.0)]
    for mask in ("", "3", "2-1", "-1-2", "0-9", "a-b", 7, [(1,)], [], "nan-1"):
        with pytest.raises(InputError, match="^mask: expected frames as START-END or START-END,START-END, from 0 to 8"):
            ranges(mask, "frames", 8)


@pytest.mark.parametrize("options, words", [
    ({"mask": LEFT}, "^mask: expected an item to complete, found none$"),
    ({"particles": 4}, "^particles: expected a mask of what is to be filled, found none$"),
    ({"complete": "x", "mask": torch.zeros(28, 28, dtype=torch.bool)}, "found nothing hidden$"),
    ({"complete": "x", "mask": torch.ones(3, 3, dtype=torch.bool)}, r"^mask: expected booleans of shape \(28, 28\)"),
    ({"complete": "x", "mask": "nowhere.png"}, "^mask: nowhere.png: expected an image"),
    ({"complete": "x", "mask": LEFT, "keep": 0.5}, "^keep: expected none with a mask, found 0.5$"),
    ({"complete": "x", "mask": LEFT, "particles": 0}, "^particles: expected a number from 1 to 10000, found 0$"),
    ({"complete": "x", "mask": LEFT, "sweeps": -1}, "^sweeps: expected a number from 0 to 10000, found -1$"),
    ({"complete": "x", "mask": LEFT, "sweeps": 1, "top_k": 3}, "^sweeps: expected 0 with temperature, top_k or top_p"),
    ({"complete": "xxx", "mask": LEFT}, "^complete: expected one item, or one for each of 2 samples, found 3$"),
    ({"complete": "xxx", "mask": LEFT.expand(2, -1, -1)}, "^mask: expected one, or one for each of 3 items, found 2$"),
])
def test_what_does_not_fit_is_refused_in_one_line(mnist, digit, options, words):
    if "complete" in options:
        options = options | {"complete": digit if options["complete"] == "x" else [digit] * 3}
    with pytest.raises(InputError, match=words):
        mnist.sample(2, **options)
