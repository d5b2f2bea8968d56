"""One latent vector for all of an example."""

import pytest
import torch

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.gaussian import Gaussian
from stage1_vqvae.bottlenecks.identity import Identity
from stage1_vqvae.dense import DenseDecoder, DenseEncoder
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.gaussian import Gaussian as GaussianLikelihood

NETWORK = {
    "hidden": 8,
    "outer_hidden": 8,
    "residual_hidden": 4,
    "num_residual_blocks": 1,
    "num_downsamplings": 2,
    "mixing_convolution": True,
}


def model(bottleneck):
    torch.manual_seed(0)
    encoder = DenseEncoder(ImageEncoder(1, 5, **NETWORK), features=5, grid=[2, 3], dim=bottleneck.in_dim)
    decoder = DenseDecoder(ImageDecoder(1, 5, **NETWORK), features=5, grid=[2, 3], dim=bottleneck.dim)
    return Autoencoder(encoder, bottleneck, decoder, GaussianLikelihood(4000.0))


def images(batch=64):
    return torch.randint(0, 256, (batch, 1, 8, 12), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("kind", [Identity, Gaussian])
def test_two_numbers_describe_an_image(kind):
    autoencoder, x = model(kind(2)), images()
    z = autoencoder.embed(x)
    assert z.shape == (64, autoencoder.bottleneck.in_dim, 1, 1)
    assert autoencoder.latent_grid((1, 8, 12)) == (1, 1)
    result = autoencoder.evaluate(x)
    assert result.latent.z_q.shape == (64, 2, 1, 1) and result.reconstruction.shape == x.shape
    autoencoder(x).loss.backward()
    for part in (autoencoder.encoder.linear, autoencoder.decoder.linear):
        assert part.weight.grad.abs().min() > 0, "all features and positions count"


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"expected features and grid \(5, 2, 3\) of the encoder, found \(5, 3, 2\)"):
        model(Identity(2)).embed(images().mT)
