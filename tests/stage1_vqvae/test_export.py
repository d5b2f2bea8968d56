"""torch.export of encoders and decoders: graphs without Python, for any batch size, that give the same values."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from stage1_vqvae.audio import CepstralEncoder, SoundEncoder, SoundUpsampler
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.bottlenecks.bsq import BSQ
from stage1_vqvae.bottlenecks.fsq import FSQ
from stage1_vqvae.bottlenecks.residual import Residual
from stage1_vqvae.bottlenecks.simvq import SimVQ
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.base import Likelihood
from stage1_vqvae.likelihoods.gaussian import Gaussian
from stage1_vqvae.likelihoods.mu_law import MuLaw

BATCH = {0: torch.export.Dim("batch", min=1, max=1024)}


class Encode(nn.Module):
    """Data to codes."""

    def __init__(self, model: Autoencoder):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x)


class Decode(Encode):
    """Codes to data."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model.decode(x)


def image(bottleneck: Quantizer) -> tuple[Autoencoder, Tensor]:
    sizes = {"hidden": 8, "outer_hidden": 8, "residual_hidden": 4, "num_residual_blocks": 1, "num_downsamplings": 1,
             "mixing_convolution": True}
    model = Autoencoder(ImageEncoder(3, 4, **sizes), bottleneck, ImageDecoder(3, 4, **sizes), Gaussian(1.0))
    return model, torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8)


def audio(bottleneck: Quantizer) -> tuple[Autoencoder, Tensor]:
    """With the upsampler as a plain decoder: one that draws sample by sample is a loop, and no graph."""
    likelihood: Likelihood = MuLaw()
    encoder = SoundEncoder(1, 4, hidden=8, strides=(2, 2), num_residual_blocks=1)
    decoder = SoundUpsampler(4, likelihood.params_per_value, hidden=8, channels=8, factors=(4,), num_residual_blocks=1)
    return Autoencoder(encoder, bottleneck, decoder, likelihood), torch.rand(3, 1, 32) * 2 - 1


def cepstra(bottleneck: Quantizer) -> tuple[Autoencoder, Tensor]:
    model, x = audio(bottleneck)
    model.encoder = CepstralEncoder(4, hidden=8, hop_length=4, window_length=16, sample_rate_hz=8000, num_bands=8,
                                    num_coefficients=5, num_residual_blocks=1)
    return model, x


BOTTLENECKS = {"ema": lambda: EMAQuantizer(16, 4), "product": lambda: EMAQuantizer(16, 4, num_codebooks=2),
               "fsq": lambda: FSQ([5, 4], 4), "bsq": lambda: BSQ(4, 4), "simvq": lambda: SimVQ(num_codes=16, dim=4),
               "residual": lambda: Residual(16, 4, num_codebooks=2)}


@pytest.mark.parametrize(("make", "bottleneck"), [
    *((image, bottleneck) for bottleneck in BOTTLENECKS),
    *(pytest.param(audio, bottleneck, marks=() if bottleneck == "ema" else pytest.mark.slow)
      for bottleneck in BOTTLENECKS), (cepstra, "ema")])
def test_encoder_and_decoder_export_with_a_dynamic_batch(make, bottleneck):
    torch.manual_seed(0)
    model, x = make(BOTTLENECKS[bottleneck]())
    model.eval()
    codes = model.encode(x)
    assert len(codes.unique()) > 1
    for network, given in ((Encode(model), x), (Decode(model), codes)):
        program = torch.export.export(network.eval(), (given,), dynamic_shapes=(BATCH,))
        for batch in (given, given[:1], torch.cat([given] * 3)):
            torch.testing.assert_close(program.module()(batch), network(batch))


def test_codes_out_of_range_are_still_refused_outside_of_a_graph():
    model, x = image(EMAQuantizer(16, 4))
    with pytest.raises(ValueError, match=r"expected codes in 0..15, found 0..16"):
        model.decode(torch.arange(17).expand(1, 1, 17))


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="requires onnxscript")
@pytest.mark.slow
@pytest.mark.parametrize("make", [audio, cepstra])
def test_encoder_and_decoder_of_audio_export_to_onnx(make, tmp_path):
    """Of images: tests/pipelines/test_export_model.py, which runs the files too."""
    model, x = make(EMAQuantizer(16, 4))
    model.eval()
    for number, (network, given) in enumerate(((Encode(model), x), (Decode(model), model.encode(x)))):
        torch.onnx.export(network.eval(), (given,), tmp_path / f"{number}.onnx", dynamo=True, dynamic_shapes=(BATCH,))
        assert (tmp_path / f"{number}.onnx").stat().st_size > 1000
