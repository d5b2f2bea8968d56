"""Encoder, bottleneck, decoder and likelihood together."""

import copy
import math

import pytest
import torch
from einops import rearrange
from torch import nn

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.identity import Identity
from stage1_vqvae.bottlenecks.vimco import VIMCO
from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.categorical import Categorical
from stage1_vqvae.likelihoods.gaussian import Gaussian

NETWORK = {
    "hidden": 8,
    "outer_hidden": 4,
    "residual_hidden": 4,
    "num_residual_blocks": 1,
    "num_downsamplings": 2,
    "mixing_convolution": True,
}


def build(quantizer=EMAQuantizer, likelihood=Gaussian, beta=1.0, **kwargs):
    torch.manual_seed(0)
    likelihood = Gaussian(variance=4000.0) if likelihood is Gaussian else likelihood()
    bottleneck = quantizer(**{"num_codes": 16, "dim": 6} | kwargs)
    return Autoencoder(
        ImageEncoder(3, 6, **NETWORK),
        bottleneck,
        ImageDecoder(3 * likelihood.params_per_value, 6, **NETWORK),
        likelihood,
        beta,
    )


def images(batch=4, seed=0):
    return torch.randint(0, 256, (batch, 3, 8, 12), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.mark.parametrize("quantizer", [EMAQuantizer, GradientQuantizer])
@pytest.mark.parametrize("likelihood", [Gaussian, Categorical])
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_encode_and_decode_are_evaluate(quantizer, likelihood, num_codebooks):
    model, x = build(quantizer, likelihood, num_codebooks=num_codebooks), images()
    result = model.evaluate(x)
    codes = model.encode(x)
    assert codes.shape == (4, 2, 3) + ((3,) if num_codebooks > 1 else ()) and codes.dtype == torch.int64
    assert torch.equal(codes, result.latent.codes)
    reconstruction = model.decode(codes)
    assert reconstruction.dtype == torch.uint8 and torch.equal(reconstruction, result.reconstruction)
    assert result.nll_nats.shape == (4,) and not result.nll_nats.requires_grad


def test_the_loss_is_objective_plus_rate_a_dimension_plus_auxiliary():
    model, x = build(beta=0.5, num_codebooks=2).double().eval(), images()
    output = model(x)
    params = model.decoder(output.latent.z_q)
    nmse = ((params + 0.5) * 255 - x).square().flatten(1).mean(1) / 4000
    torch.testing.assert_close(output.params, params)
    torch.testing.assert_close(output.objective, nmse)
    rate = 2 * 3 * 2 * math.log(16)
    torch.testing.assert_close(output.loss, nmse.mean() + 0.5 * rate / (3 * 8 * 12) + output.latent.loss)


def test_beta_grows_over_its_first_steps_and_is_whole_without_a_step():
    model, x = build(beta=0.5).double().eval(), images()
    model.beta_warmup_steps = 10
    rate = 2 * 3 * math.log(16) / (3 * 8 * 12)
    for step, beta in ((0, 0.0), (4, 0.2), (10, 0.5), (99, 0.5), (None, 0.5)):
        output = model(x, step=step)
        torch.testing.assert_close(output.bound, output.objective + beta * rate)


def test_several_samples_of_an_example_are_weighed_by_their_probability():
    """The bound is that of separate decodings: minus the log of the mean of p(x | z) p(z) / q(z | x)."""
    model, x = build(VIMCO, Categorical, num_samples=3).double().train(), images()
    torch.manual_seed(0)
    output = model(x)
    latent = output.latent
    log_f = []
    for row in range(12):
        nats = model.likelihood.nll_nats(model.decoder(latent.z_q[row : row + 1]), x[row // 3 : row // 3 + 1])
        log_f.append(-nats - latent.rate_nats[row])
    log_f = torch.stack(log_f).view(4, 3)
    torch.testing.assert_close(output.bound * 288, math.log(3) - log_f.logsumexp(1))
    torch.testing.assert_close(output.objective * 288, -(log_f + latent.rate_nats.view(4, 3)).mean(1))


def test_lengths_need_a_rate_that_is_the_same_at_each_position():
    model = build(VIMCO, num_samples=2)
    with pytest.raises(ValueError, match="lengths: expected a bottleneck with the same rate .*, found VIMCO"):
        model._counted_rate(model.bottleneck(model.embed(images())), images(), torch.tensor([8, 4, 4, 8]))


def test_a_categorical_objective_is_the_exact_nll():
    model, x = build(likelihood=Categorical).double().eval(), images()
    torch.testing.assert_close(model(x).objective * 3 * 8 * 12, model.evaluate(x).nll_nats)


@pytest.mark.parametrize("quantizer", [EMAQuantizer, GradientQuantizer])
def test_duplicating_the_batch_leaves_the_loss(quantizer):
    model, x = build(quantizer).double().eval(), images()
    torch.testing.assert_close(model(x).loss, model(torch.cat([x, x])).loss, rtol=1e-12, atol=0)


def test_permuting_the_batch_permutes_everything():
    model, x = build(), images()
    order = torch.tensor([2, 0, 3, 1])
    plain, permuted = model.evaluate(x), model.evaluate(x[order])
    assert torch.equal(plain.latent.codes[order], permuted.latent.codes)
    assert torch.equal(plain.reconstruction[order], permuted.reconstruction)
    torch.testing.assert_close(plain.nll_nats[order], permuted.nll_nats)


@pytest.mark.parametrize("training", [True, False])
def test_using_the_model_does_not_train_it(training):
    """Twice the same bytes, each module's mode as before, no buffer moved: also when it is called while training."""
    model, x = build().train(training), images()
    model.decoder.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    first, again = model.encode(x), model.encode(x)
    model.evaluate(x)
    model.decode(first)
    assert torch.equal(first, again)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("quantizer", [EMAQuantizer, GradientQuantizer])
@pytest.mark.parametrize("likelihood", [Gaussian, Categorical])
def test_every_parameter_learns_and_the_objective_falls(quantizer, likelihood):
    model, x = build(quantizer, likelihood), images(8)
    model.bottleneck.initialise(rearrange(model.embed(x).detach(), "b d h w -> (b h w) d"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    objectives = []
    for step in range(25):
        optimizer.zero_grad()
        output = model(x, step=step)
        output.loss.backward()
        if step == 5:  # residual branches start at zero: their inner weights have a gradient from the second step on
            assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimizer.step()
        model.bottleneck.after_step(optimizer)
        objectives.append(output.objective.mean().item())
        assert output.loss.isfinite()
    assert objectives[-1] < 0.995 * objectives[0]  # of noise only the mean can be learned


def test_autocast_loss_is_close_to_float32():
    model, x = build().eval(), images()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert found.params.dtype == torch.bfloat16 and found.loss.dtype == found.latent.z_q.dtype == torch.float32
    # bfloat16 keeps 8 bits, 0.4 %; a code that flips between near neighbours changes little
    torch.testing.assert_close(found.loss, expected.loss, rtol=0.02, atol=0)


def test_a_bottleneck_without_codes_trains_but_has_nothing_to_encode():
    model, x = build(), images()
    model.bottleneck = Identity(6)
    model(x).loss.backward()
    assert model.evaluate(x).latent.codes is None and not model.bottleneck.needs_initialisation
    model.bottleneck.after_step(torch.optim.SGD(model.parameters(), lr=0.1))
    for attempt in (lambda: model.encode(x), lambda: model.decode(torch.zeros(4, 2, 3).long())):
        with pytest.raises(ValueError, match="expected a bottleneck with codes, found Identity"):
            attempt()
    with pytest.raises(ValueError, match="expected a bottleneck that is initialised from data, found Identity"):
        model.bottleneck.initialise(torch.zeros(9, 6))


def test_nothing_normalises_over_the_batch():
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in build().modules())
