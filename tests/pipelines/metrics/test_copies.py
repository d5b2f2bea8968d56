"""Nearest items, and whether samples are copies of training items."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from pipelines.metrics import nearest
from pipelines.metrics.copies import copying, credits, quantiles
from pipelines.metrics.nearest import code_distances, code_rows, feature_distances, nearest_items
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.sampling import sample_naive


def random_codes(count: int, num_codes: int, *shape: int, seed: int = 0):
    return torch.randint(num_codes, (count, *shape), generator=torch.Generator().manual_seed(seed))


def distances(queries, items) -> torch.Tensor:
    return torch.cat(list(code_distances(queries, items)))


@pytest.mark.parametrize("num_codes", [3, 300, 2**24])
@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 2, 2), (600,)])  # of images, of clips with codebooks, long
def test_code_distances_are_those_of_a_loop_over_pairs(num_codes, shape, monkeypatch):
    items, queries = random_codes(7, num_codes, *shape), random_codes(5, num_codes, *shape, seed=1)
    queries[2], queries[3, 0] = items[4], items[1, 0]
    expected = torch.tensor([[(query != item).double().mean() for item in items] for query in queries])
    found = distances(code_rows(queries), code_rows(items))
    torch.testing.assert_close(found, expected.float())
    assert found[2, 4] == 0
    monkeypatch.setattr(nearest, "BLOCK", 4)
    monkeypatch.setattr(nearest, "MOST", 14)
    assert torch.equal(distances(code_rows(queries), code_rows(items)), found), "in blocks of any size"


def test_padding_of_both_counts_nowhere_and_that_of_one_as_different():
    items, queries = random_codes(6, 4, 9, 2), random_codes(4, 4, 9, 2, seed=1)
    sizes, own = torch.tensor([1, 9, 4, 5, 7, 2]), torch.tensor([3, 9, 2, 6])

    def distance(query, item, length, other):
        common, longest = min(length, other), max(length, other)
        return ((query[:common] != item[:common]).sum() / 2 + longest - common) / longest

    expected = torch.tensor([[distance(query, item, int(length), int(other)) for item, other in zip(items, sizes)]
                             for query, length in zip(queries, own)])
    torch.testing.assert_close(distances(code_rows(queries, own), code_rows(items, sizes)), expected)


def test_feature_distances_are_roots_of_mean_squares():
    x, y = torch.rand(3, 20), torch.rand(4, 20)
    torch.testing.assert_close(feature_distances(x, y), (x[:, None] - y).square().mean(2).sqrt(), atol=1e-5, rtol=1e-4)


def test_the_standard_error_is_that_of_all_choices_of_training_items():
    """Enumerated: which 3 of 7 items are the training items is a random choice, if nothing is copied."""
    credit = credits(torch.tensor([[1, 2, 1, 3, 4, 5, 6], [9, 1, 8, 1, 1, 7, 9], [2, 2, 2, 2, 2, 2, 1.0]]))
    assert credit.tolist() == pytest.approx([0.5, 1 / 3, 0.5, 1 / 3, 1 / 3, 0, 1])
    shares = []
    for chosen in combinations(range(7), 3):
        order = [*chosen, *(item for item in range(7) if item not in chosen)]
        shares.append(copying(credit[order], 3).share)
    shares, found = torch.tensor(shares, dtype=torch.float64), copying(credit, 3)
    assert found.expected == pytest.approx(float(shares.mean())) == pytest.approx(3 / 7)
    assert found.standard_error == pytest.approx(float(shares.std(correction=0)))


def test_a_prior_that_was_overfit_to_200_items_is_found_out():
    """Codes without any structure: whatever a prior knows of its training items beyond their frequencies is theirs
    alone. Without copying, 4 standard errors are exceeded once in 30,000 times; seeds are fixed."""
    items = random_codes(400, 4, 3, 3)
    torch.manual_seed(0)
    prior = GatedPixelCNN(num_codes=4, channels=32, num_layers=3, first_kernel_size=5)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    uniforms = torch.rand(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for steps in (3, 100):
        for _ in range(steps):
            loss = F.cross_entropy(prior(items[:200]), items[:200])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            samples = sample_naive(prior, uniforms)
        found.append(copying(credits(distances(code_rows(samples), code_rows(items))), 200))
    assert [one.expected for one in found] == [0.5, 0.5]
    assert abs(found[0].share - 0.5) < 4 * found[0].standard_error
    assert found[1].share > 0.5 + 6 * found[1].standard_error


def test_quantiles_of_distances():
    found = quantiles(torch.cat([torch.zeros(10), torch.arange(1.0, 92.0)]))
    assert found["identical"] == pytest.approx(10 / 101) and found["median"] == 41 and found["lowest_5_percent"] == 0


@pytest.mark.parametrize("size", [1, 7, 50])
def test_items_in_parts_have_the_nearest_of_all_and_the_first_of_equal_ones(size):
    generator = torch.Generator().manual_seed(0)
    items, queries = (torch.randint(0, 3, (count, 5), generator=generator) for count in (50, 12))
    numbers, shares = nearest_items(code_rows(queries), map(code_rows, items.split(size)))
    every = (queries[:, None] != items).sum(2)
    assert torch.equal(numbers, torch.tensor([row.tolist().index(int(row.min())) for row in every]))
    assert torch.equal(shares, every.amin(1) / 5)
