"""Audio of any length: in windows as in one piece."""

from functools import partial

import pytest
import torch
from torch import nn

from stage1_vqvae.audio import SoundEncoder, SoundUpsampler
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.likelihoods.mu_law import MuLaw
from stage1_vqvae.windows import in_windows
from stage2_prior.sampling import sample
from stage2_prior.wavenet import WaveNet

CODES = 40


def awake(network: nn.Module) -> nn.Module:
    """With residual branches that start at zero filled, in float64."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def encoder(strides=(2, 2, 3), blocks=2) -> SoundEncoder:
    return awake(SoundEncoder(1, 4, hidden=8, strides=strides, num_residual_blocks=blocks))


def upsampler(factors=(3, 4), blocks=2) -> SoundUpsampler:
    return awake(SoundUpsampler(4, 6, hidden=8, channels=5, factors=factors, num_residual_blocks=blocks))


@pytest.mark.parametrize(("network", "per_code"), [
    (encoder(), 12), (encoder((2,) * 6, 0), 64), (encoder((1, 5), 3), 5), (upsampler(), 1),
    (upsampler((4, 4, 4), 0), 1), (upsampler((5, 1), 3), 1)])
def test_nothing_beyond_its_reach_moves_an_output_and_what_is_within_does(network, per_code):
    """Seen from an output in the middle: inputs move it up to `reach` codes away, as a change of the input shows."""
    x = torch.randn(1, 1 if per_code > 1 else 4, CODES * per_code, dtype=torch.float64)
    plain, moved = network(x), set()
    made = plain.shape[-1] // CODES
    own = slice(CODES // 2 * made, (CODES // 2 + 1) * made)
    for code in range(CODES):
        changed = x.clone()
        changed[..., code * per_code : (code + 1) * per_code] += torch.randn_like(x[..., :per_code])
        if not torch.equal(network(changed)[..., own], plain[..., own]):
            moved.add(code - CODES // 2)
    assert max(map(abs, moved)) in (network.reach, network.reach - 1)  # a stride's windows may fall short of one side


@pytest.mark.parametrize("window", [1, 3, 7, CODES, 1000])
@pytest.mark.parametrize(("network", "per_code"), [(encoder(), 12), (upsampler(), 1)])
def test_windows_give_what_the_whole_gives(network, per_code, window):
    x = torch.randn(2, 1 if per_code > 1 else 4, CODES * per_code, dtype=torch.float64)
    whole, longest = network(x), []

    def watched(part):
        longest.append(part.shape[-1] // per_code)
        return network(part)

    torch.testing.assert_close(in_windows(watched, x, per_code, window, network.reach), whole, rtol=1e-12, atol=1e-12)
    assert max(longest) <= window + 2 * network.reach
    with pytest.raises(AssertionError):  # less context is not enough
        torch.testing.assert_close(in_windows(network, x, per_code, 3, network.reach - 2), whole, rtol=1e-6, atol=1e-6)


def test_an_autoencoder_of_audio_codes_and_draws_in_windows_as_in_one_piece():
    torch.manual_seed(0)
    wavenet = WaveNet(256, residual_channels=4, gate_channels=8, skip_channels=8, num_layers=3, local_channels=6)
    decoder = AutoregressiveDecoder(upsampler(), wavenet, partial(sample, temperature=1.0))
    model = awake(Autoencoder(encoder(), EMAQuantizer(16, 4), decoder, MuLaw()))
    x = torch.rand(1, 1, 12 * CODES, dtype=torch.float64) * 2 - 1
    codes = model.encode(x)
    assert torch.equal(model.encode(x, window=5, per_code=12), codes) and len(codes.unique()) > 3
    uniforms = torch.rand(1, 12 * CODES - 5, dtype=torch.float64)
    assert torch.equal(model.decode(codes, None, uniforms, window=5), model.decode(codes, None, uniforms))
