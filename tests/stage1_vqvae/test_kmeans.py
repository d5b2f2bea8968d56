"""Lloyd's iterations on clusters that are known."""

import pytest
import torch

from stage1_vqvae.bottlenecks.kmeans import kmeans, kmeans_in_cells
from stage1_vqvae.bottlenecks.vq import MOST_CENTRES, EMAQuantizer


def inertia(z, centres):
    return torch.cdist(z, centres).square().amin(1).mean().item()


def test_separate_clusters_are_found():
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(8, 4, generator=generator) * 20
    z = (middles[:, None] + 0.1 * torch.randn(8, 50, 4, generator=generator)).flatten(0, 1)
    for seed in range(5):
        torch.manual_seed(seed)
        # 0.04 = 4 dimensions x 0.1^2; one cluster missed would cost some 50
        assert inertia(z, kmeans(z, 16, iterations=20)) < 0.05


def test_more_iterations_do_not_make_it_worse():
    z = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for iterations in (0, 1, 3, 10):
        torch.manual_seed(0)
        results.append(inertia(z, kmeans(z, 64, iterations)))
    # seeds are encodings, off the centres of their cells: ten iterations leave 0.78 of their error here
    assert results == sorted(results, reverse=True) and results[-1] < 0.85 * results[0]


def test_as_many_centres_as_encodings_and_equal_encodings():
    z = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert inertia(z, kmeans(z, 16)) < 1e-12
    assert torch.equal(kmeans(torch.ones(10, 3), 4), torch.ones(4, 3))
    with pytest.raises(ValueError, match="expected at least 17 encodings, found 16"):
        kmeans(z, 17)


def test_centres_within_cells_are_near_those_of_k_means_and_far_better_than_encodings():
    z = torch.randn(4 * 300, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    whole, cells = inertia(z, kmeans(z, 300)), inertia(z, kmeans_in_cells(z, 300, most=40))
    # here 0.044 and 0.048, against 0.099 of encodings: most of their difference is gained
    assert whole < cells < whole + 0.25 * (inertia(z, z[:300]) - whole)
    torch.manual_seed(0)
    assert inertia(z, kmeans_in_cells(z, 300, most=300)) == whole


@pytest.mark.parametrize("alike", [0.0, 0.95, 1.0])
def test_cells_have_all_centres_between_them_also_of_encodings_that_cannot_be_divided(alike):
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    z[: int(alike * 200)] = 1.0
    z = z[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    torch.manual_seed(0)
    assert kmeans_in_cells(z, 101, most=8).shape == (101, 2)
    assert inertia(z, kmeans_in_cells(z, 200, most=8)) < 1e-3  # a centre for each
    with pytest.raises(ValueError, match="expected at least 201 encodings, found 200"):
        kmeans_in_cells(z, 201, most=8)


def test_a_codebook_too_large_for_k_means_starts_within_cells():
    """K = 65,536 did not get past its start in five minutes: the time of k-means grows with K^2."""
    quantizer = EMAQuantizer(num_codes=MOST_CENTRES + 8, dim=2)
    assert quantizer.encodings_to_initialise == 4 * quantizer.num_codes
    assert EMAQuantizer(num_codes=MOST_CENTRES, dim=2).encodings_to_initialise == 32 * MOST_CENTRES
    z = torch.randn(quantizer.encodings_to_initialise, 2)
    torch.manual_seed(0)
    quantizer.initialise(z)
    assert not quantizer.needs_initialisation
    torch.manual_seed(0)
    assert torch.equal(quantizer.codebook[0], kmeans_in_cells(z, quantizer.num_codes, MOST_CENTRES))
