"""Lloyd's iterations on clusters that are known."""

import pytest
import torch

from stage1_vqvae.bottlenecks.kmeans import kmeans
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


def test_a_codebook_too_large_for_k_means_starts_at_encodings():
    """K = 65,536 did not get past its start in five minutes: the time of k-means grows with K^2."""
    quantizer = EMAQuantizer(num_codes=MOST_CENTRES + 8, dim=2)
    assert quantizer.encodings_to_initialise == 4 * quantizer.num_codes
    assert EMAQuantizer(num_codes=MOST_CENTRES, dim=2).encodings_to_initialise == 32 * MOST_CENTRES
    z = torch.randn(quantizer.encodings_to_initialise, 2)
    quantizer.initialise(z)
    assert torch.equal(quantizer.codebook[0], z[: quantizer.num_codes]) and not quantizer.needs_initialisation
