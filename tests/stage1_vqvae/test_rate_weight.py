"""`rate_weight`: the choice of codes by distance and frequency, against its formula and by what it is for."""

import numpy as np
import pytest
import torch

from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer
from stage1_vqvae.codebook import perplexity, usage


def trained(kind, rate_weight: float, num_codebooks: int = 1):
    """A quantiser after 150 steps on encodings of which most lie near the origin, and those encodings (n, d, 1)."""
    torch.manual_seed(0)
    quantizer = kind(num_codes=16, dim=4, num_codebooks=num_codebooks, rate_weight=rate_weight, decay=0.9).double()
    z = torch.randn(1000, 4, 1, dtype=torch.float64)
    z[:700] *= 0.2
    quantizer.initialise(z[..., 0])
    quantizer.train()
    if isinstance(quantizer, GradientQuantizer):
        optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    for _ in range(150):
        latent = quantizer(z)
        if isinstance(quantizer, GradientQuantizer):
            optimizer.zero_grad()
            latent.loss.backward()
            optimizer.step()
    return quantizer.eval(), z


@pytest.mark.parametrize("kind", [EMAQuantizer, GradientQuantizer])
@pytest.mark.parametrize("rate_weight", [0.4, -0.4])
def test_codes_minimise_distance_and_rate(kind, rate_weight):
    quantizer, z = trained(kind, rate_weight, num_codebooks=2)
    codes = quantizer(z).codes[:, 0].numpy()
    counts, error = quantizer.counts.numpy(), quantizer.error.numpy()
    moved = 0
    for group in range(2):
        vectors = z[:, 2 * group : 2 * group + 2, 0].numpy()
        distances = np.square(vectors[:, None] - quantizer.codebook[group].detach().numpy()[None]).sum(-1)
        p = np.maximum(counts[group] / counts[group].sum(), 0.01 / 16)
        best = (distances - rate_weight * error[group] * np.log(p)).argmin(1)
        assert (codes[:, group] == best).all()
        moved += (best != distances.argmin(1)).sum()
    assert moved > 20, "the rate decides often enough to be seen"


def test_the_error_is_the_moving_mean_of_the_squared_distance():
    quantizer, z = trained(EMAQuantizer, 0.1)
    quantizer.train()
    before, latent = quantizer.error.clone(), quantizer(z)
    mean = (latent.z_q.detach() - z).square().sum(1).mean()
    assert torch.allclose(quantizer.error, 0.9 * before + 0.1 * mean)


@pytest.mark.parametrize("kind", [EMAQuantizer, GradientQuantizer])
def test_it_trades_bits_for_distortion_both_ways(kind):
    figures = {}
    for rate_weight in (-0.5, 0.0, 0.5):
        quantizer, z = trained(kind, rate_weight)
        latent = quantizer(z)
        error = (latent.z_q - z).detach().square().mean()
        figures[rate_weight] = (float(perplexity(usage(latent.codes, 16))), float(error))
    assert figures[-0.5][0] > figures[0.0][0] > figures[0.5][0]
    assert figures[0.5][1] > figures[0.0][1]


def test_without_it_no_error_is_tracked_and_the_nearest_code_is_chosen():
    quantizer, z = trained(EMAQuantizer, 0.0)
    assert quantizer.error == 0
    assert (quantizer(z).codes[:, 0] == torch.cdist(z[..., 0], quantizer.codebook[0]).argmin(1)).all()


def test_a_code_that_was_never_used_can_still_be_chosen():
    """Its frequency counts as 0.01 / K, not 0: a vector that lies on it takes it."""
    quantizer, _ = trained(EMAQuantizer, 0.5)
    quantizer.counts[0, 3] = 0
    quantizer.codebook[0, 3] = 50.0
    assert quantizer(torch.full((1, 4, 1), 50.0, dtype=torch.float64)).codes.item() == 3


def test_the_weight_grows_with_the_step_and_stays_for_evaluation():
    quantizer = EMAQuantizer(num_codes=4, dim=2, rate_weight=0.8, rate_warmup_steps=10)
    z = torch.randn(8, 2, 3)
    for step, expected in ((1, 0.08), (5, 0.4), (10, 0.8), (50, 0.8)):
        quantizer.train()(z, step=step)
        quantizer.eval()(z)
        assert torch.isclose(quantizer.rate_now, torch.tensor(expected))
    assert "rate_now" in quantizer.state_dict()
