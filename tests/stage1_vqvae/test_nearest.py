"""The nearest-neighbour search against NumPy in float64."""

import numpy as np
import pytest
import torch

from stage1_vqvae.bottlenecks import nearest
from stage1_vqvae.bottlenecks.nearest import nearest_codes


def squared_distances(z, codebooks):
    """(n, g, d), (g, k, d) -> (n, g, k), in float64 and term by term."""
    z, codebooks = z.double().numpy(), codebooks.double().numpy()
    return ((z[:, :, None] - codebooks[None]) ** 2).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, g, k, d", [(1, 1, 1, 1), (999, 1, 512, 64), (5000, 3, 97, 7), (4097, 2, 130, 2)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_nearest_but_for_rounding(n, g, k, d, dtype, offset):
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(n, g, d, generator=generator, dtype=dtype) + offset
    codebooks = torch.randn(g, k, d, generator=generator, dtype=dtype) + offset
    codes = nearest_codes(z, codebooks)
    assert codes.shape == (n, g) and codes.dtype == torch.int64
    distances = squared_distances(z, codebooks)
    chosen = np.take_along_axis(distances, codes.numpy()[..., None], -1)[..., 0]
    # |z|^2 + |e|^2 bounds the terms that are rounded, a few units in the last place each
    size = (z.double().square().sum(-1).numpy() + codebooks.double().square().sum(-1).max().item()).max()
    assert (chosen - distances.min(-1)).max() <= 8 * torch.finfo(dtype).eps * size
    # a near-tie within rounding is rarer than k eps = 6e-5 per vector and codebook
    assert (codes.numpy() == distances.argmin(-1)).mean() > 0.999


def test_ties_go_to_the_lower_code():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 1, 16, generator=generator)
    codebook = torch.randn(1, 40, 16, generator=generator)
    doubled = torch.cat([codebook, codebook, codebook[:, :13]], 1)  # each code two or three times
    codes = nearest_codes(z, doubled)
    assert (codes < 40).all() and torch.equal(codes, nearest_codes(z, codebook))


def test_the_order_of_memory_and_of_blocks_does_not_matter(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(600, 2, 8, generator=generator)
    codebooks = torch.randn(2, 64, 8, generator=generator)
    codes = nearest_codes(z, codebooks)
    assert torch.equal(nearest_codes(z.permute(2, 1, 0).contiguous().permute(2, 1, 0), codebooks), codes)
    monkeypatch.setitem(nearest.BLOCK_BYTES, "cpu", 64 * 4 * 7)
    for rows in (7, 28, 60):  # at a time, and a rest, with 64, 16 and 7 codes
        monkeypatch.setattr(nearest, "FEWEST_ROWS", rows)
        assert torch.equal(nearest_codes(z, codebooks), codes)
        assert torch.equal(nearest_codes(z[:0], codebooks), codes[:0])
        doubled = torch.cat([codebooks, codebooks], 1)
        assert torch.equal(nearest_codes(z.round(), doubled.round()), nearest_codes(z.round(), codebooks.round()))


def test_memory_stays_far_below_all_distances():
    """16,384 x 2,048 distances would take 128 MiB: no single allocation is larger than a block of them."""
    from torch.profiler import ProfilerActivity, profile

    z, codebooks = torch.randn(16384, 1, 2), torch.randn(1, 2048, 2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as events:
        nearest_codes(z, codebooks)
    largest = max(event.self_cpu_memory_usage for event in events.events())
    assert 0 < largest < 8 * 2**20
