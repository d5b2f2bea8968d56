"""Codes drawn given all others: their distribution is the exact one, by enumeration."""

import itertools
import math

import pytest
import torch
from scipy import stats

from stage2_prior.filling import effective_size, fill, stage_ends, systematic

FALSE_ALARM = 1e-5  # of each chi-squared test


def uniforms_of(numbers):
    """Uniforms of items with these numbers: each has a generator of its own, as in the pipelines."""
    own = [torch.Generator().manual_seed(1000 + number) for number in numbers]
    return lambda *shape: torch.stack([torch.rand(*shape, dtype=torch.float64, generator=one) for one in own])


def shared_uniforms(count):
    """As `uniforms_of`, faster, for many items that are alike."""
    own = torch.Generator().manual_seed(0)
    return lambda *shape: torch.rand(count, *shape, dtype=torch.float64, generator=own)


def image_case(tiny):
    """2 x 3 codes of 3, a label of 2 classes that is not given: 2 * 3^3 possibilities."""
    prior = tiny(num_codes=3, num_classes=(2,)).eval()
    known = torch.tensor([[[-1, 1, -1], [2, -1, 0]]])
    return prior, known, {"labels": torch.tensor([[0], [1]]), "log_weights": torch.tensor([0.7, 0.3]).log()}


def sequence_case(tiny_wavenet):
    """6 positions of 2 codebooks of 2 codes, local features, the last position padding: 2^5 possibilities."""
    prior = tiny_wavenet(num_codes=2, num_codebooks=2, local_channels=1).eval()
    known = torch.tensor([[[0, 1], [-1, -1], [1, -1], [-1, 0], [-1, 1], [0, 0]]])
    local = torch.linspace(-1, 1, 6, dtype=torch.float64).view(1, 1, 6)
    return prior, known, {"local": local, "lengths": torch.tensor([5])}


def attention_case(tiny_transformer):
    """As `image_case`, of codes that attend to all earlier ones."""
    return image_case(lambda **options: tiny_transformer(grid=(2, 3), channels=8, **options))


@pytest.fixture(params=["image", "sequence", "attention"])
def case(request, tiny, tiny_wavenet, tiny_transformer):
    if request.param == "attention":
        return attention_case(tiny_transformer)
    return image_case(tiny) if request.param == "image" else sequence_case(tiny_wavenet)


def chi_squared_p(case, **options):
    """Of 500 fillings the p-value against the exact distribution, by enumeration of all codes and labels."""
    prior, known, given = case
    free, counted = (known[0] < 0).nonzero(as_tuple=True), given.get("lengths")
    values = torch.tensor(list(itertools.product(range(prior.num_codes), repeat=len(free[0]))))
    grids = known.repeat(len(values), *[1] * (known.ndim - 1))
    grids[(slice(None), *free)] = values
    local = given["local"].expand(len(values), -1, -1) if "local" in given else None
    lengths = None if counted is None else counted.expand(len(values))
    rows = given.get("labels", torch.zeros(1, 0, dtype=torch.int64))
    weights = given.get("log_weights", torch.zeros(1))
    exact = torch.stack([
        weight + prior.log_prob(grids, row.expand(len(values), -1) if len(row) else None, local, lengths)
        for row, weight in zip(rows, weights, strict=True)
    ], 1).flatten().softmax(0)

    many = {name: x.expand(500, *x.shape[1:]) if name in ("local", "lengths") else x for name, x in given.items()}
    filled = fill(prior, known.expand(500, *known.shape[1:]), shared_uniforms(500), **many, **options)
    codes = filled.codes[(slice(None), *free)]
    number = (codes * prior.num_codes ** torch.arange(codes.shape[1] - 1, -1, -1)).sum(1)
    number = number * len(rows) + (filled.labels[:, 0] if filled.labels is not None else 0)
    seen, expected = torch.bincount(number, minlength=len(exact)).double(), 500 * exact.detach()
    rare = expected < 5  # counted together: the test supposes that no class is rare
    if rare.any():
        seen, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (seen, expected))
    assert len(expected) > 8, "a distribution over many possibilities"
    return stats.chi2.sf(float(((seen - expected) ** 2 / expected).sum()), len(expected) - 1)


@pytest.mark.parametrize("options", [{"particles": 32}, {"particles": 1, "sweeps": 8, "box": 2, "tries": 2}],
                         ids=["particles", "sweeps"])
def test_what_is_filled_has_the_exact_distribution(case, options):
    """A right implementation fails with probability FALSE_ALARM; what particles leave of a bias is below the noise."""
    assert chi_squared_p(case, **options) > FALSE_ALARM


def test_raster_order_has_another_distribution(case):
    """The test above can fail: one particle without sweeps is drawn given earlier codes alone."""
    assert chi_squared_p(case, particles=1) < FALSE_ALARM


def test_known_codes_stay_and_nats_are_those_of_the_prior(case):
    prior, known, given = case
    filled = fill(prior, known, uniforms_of([0]), 8, sweeps=2, box=2, **given)
    assert torch.equal(filled.codes[known >= 0], known[known >= 0]) and (filled.codes >= 0).all()
    nats = -prior.log_prob(filled.codes, filled.labels, given.get("local"), given.get("lengths")).double()
    if filled.labels is not None:
        nats -= given["log_weights"].log_softmax(0)[filled.labels[:, 0]]
    torch.testing.assert_close(filled.nats, nats)
    assert 1 <= filled.effective <= 8 and 0 <= filled.changed <= 1


def test_an_item_is_independent_of_its_batchmates(tiny):
    """Also of those that are weighted in other stages."""
    prior, known, given = image_case(tiny)
    other = torch.tensor([[0, 1, 2], [-1, -1, -1]])
    together = fill(prior, torch.stack([other, known[0], other]), uniforms_of([5, 6, 7]), 8, 2, box=2, **given)
    alone = fill(prior, known, uniforms_of([6]), 8, 2, box=2, **given)
    assert torch.equal(together.codes[1:2], alone.codes) and torch.equal(together.labels[1:2], alone.labels)
    torch.testing.assert_close(together.nats[1:2], alone.nats)
    torch.testing.assert_close(together.effective[1:2], alone.effective)


def test_a_given_label_is_obeyed(tiny):
    prior, known, _ = image_case(tiny)
    filled = fill(prior, known.expand(20, -1, -1), shared_uniforms(20), 4, 1, labels=torch.tensor([[1]]))
    assert (filled.labels == 1).all()


def test_padding_neither_counts_nor_is_drawn(tiny_wavenet):
    prior, known, given = sequence_case(tiny_wavenet)
    other = known.clone()
    other[:, 5] = 1 - other[:, 5]
    first, second = (fill(prior, x, uniforms_of([3]), 8, 2, **given) for x in (known, other))
    assert torch.equal(first.codes[:, :5], second.codes[:, :5]) and torch.equal(first.nats, second.nats)
    assert torch.equal(second.codes[:, 5], other[:, 5])


def test_temperature_0_takes_the_likeliest_codes_of_the_likeliest_particles(tiny):
    prior, known, given = image_case(tiny)
    filled = fill(prior, known.expand(9, -1, -1), shared_uniforms(9), 8, temperature=0.0, **given)
    by_label = {(int(label), tuple(codes.flatten().tolist()))
                for label, codes in zip(filled.labels, filled.codes, strict=True)}
    assert len(by_label) == len(filled.labels.unique()), "one filling per label"


@pytest.mark.parametrize("unknown, evidence, ambiguous, most, ends", [
    ("..##..", "##..##", False, 9, [6]),  # nothing to go on with before the end
    ("..##..", "##..##", True, 9, [2, 6]),  # what precedes says which labels are worth going on with
    ("######", "######", False, 9, [1, 2, 3, 4, 5, 6]),
    ("######", "######", False, 3, [1, 3, 6]),
    ("######", "######", False, 1, [6]),
    ("##..##", "..##..", False, 9, [4, 6]),
    ("......", "######", True, 9, [6]),
])
def test_stages_end_where_evidence_precedes_a_draw(unknown, evidence, ambiguous, most, ends):
    own, given = ([mark == "#" for mark in marks] for marks in (unknown, evidence))
    assert stage_ends(own, given, ambiguous, most) == ends


def test_systematic_draws_are_as_frequent_as_the_weights_to_within_one():
    weights = torch.tensor([[0.05, 0.0, 0.55, 0.4]], dtype=torch.float64)
    for u in (0.0, 0.3, 0.999999):
        counts = torch.bincount(systematic(weights.log(), torch.tensor([u], dtype=torch.float64), 10)[0], minlength=4)
        assert counts[1] == 0 and (counts - 10 * weights[0]).abs().max() <= 1


def test_effective_size():
    log_weights = torch.tensor([[2.0] * 4, [0.0, *[-math.inf] * 3], [0.0, 0.0, -math.inf, -math.inf]])
    torch.testing.assert_close(effective_size(log_weights), torch.tensor([4.0, 1.0, 2.0]))


@pytest.mark.parametrize("options, words", [
    ({"particles": 0}, "particles: expected 1 or more, found 0"),
    ({"sweeps": 1, "temperature": 0.5}, "sweeps: expected 0 with temperature"),
    ({"labels": torch.tensor([[0, 1]])}, r"labels: expected shape \(c, 1\), found \(1, 2\)"),
    ({"log_weights": torch.zeros(3)}, r"log_weights: expected shape \(2,\), found \(3,\)"),
    ({"lengths": torch.tensor([1])}, "known: expected all codes after the length, found -1"),
])
def test_what_does_not_fit_is_refused(tiny, options, words):
    prior, known, given = image_case(tiny)
    with pytest.raises(ValueError, match=words):
        fill(prior, known, shared_uniforms(1), **{"particles": 2} | given | options)


def test_training_mode_is_refused(tiny):
    prior, known, given = image_case(tiny)
    with pytest.raises(ValueError, match="expected evaluation mode"):
        fill(prior.train(), known, shared_uniforms(1), 2, **given)
