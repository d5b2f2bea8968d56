"""Evaluation never uses TF32, whatever the process allows elsewhere, and leaves that as it was."""

import pytest
import torch
from torch import nn

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.gaussian import Gaussian
from stage1_vqvae.precision import full_float32

SIZES = dict(hidden=4, outer_hidden=4, residual_hidden=4, num_residual_blocks=1, num_downsamplings=1,
             mixing_convolution=False)


def settings() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture(autouse=True)
def tf32_allowed():
    before = settings()
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


def test_every_product_of_an_evaluation_is_of_float32():
    bottleneck = EMAQuantizer(num_codes=8, dim=4, initialise_from_data=False)
    model = Autoencoder(ImageEncoder(1, 4, **SIZES), bottleneck, ImageDecoder(1, 4, **SIZES), Gaussian(variance=1.0))
    seen = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda *_: seen.append(settings()))
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    codes = model.encode(x)
    z_q = bottleneck.lookup(codes)
    for run in (lambda: model.encode(x), lambda: model.decode(codes), lambda: model.evaluate(x),
                lambda: model.nll_nats(x, z_q), lambda: model.decode_latent(z_q)):
        seen.clear()
        run()
        assert seen and set(seen) == {("ieee", "ieee")}
        assert settings() == ("tf32", "tf32")


def test_an_error_leaves_the_settings_as_they_were():
    with pytest.raises(RuntimeError, match="stop"), full_float32():
        raise RuntimeError("stop")
    assert settings() == ("tf32", "tf32")
