"""Every configs/autoencoder/bottleneck/*.yaml keeps the contract of stage1_vqvae/bottlenecks/base.py."""

import copy
import functools
import math

import pytest
import torch

from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from stage1_vqvae.bottlenecks.base import Quantizer

GRIDS = [(7,), (3, 5), (2, 3, 4)]


@pytest.fixture(scope="module")
def made(component):
    """In float64: the sum over a batch is then almost the same to the bit for another number of rows."""

    @functools.cache
    def make(name):
        module = component("autoencoder/bottleneck", name)
        initialise(module, torch.float64)
        return module

    return make


@pytest.fixture
def bottleneck(made, bottleneck_name):
    return copy.deepcopy(made(bottleneck_name))


def initialise(module, dtype):
    if module.needs_initialisation:
        wanted = module.encodings_to_initialise // 8  # enough here, and faster
        module.initialise(torch.randn(wanted, module.dim, dtype=dtype))


class Images:
    """The data set that an autoencoder is completed for."""

    kind, label_names, classes, variance, shape, facts = "image", (), (), 4000.0, (1, 8, 12), {}

    @classmethod
    def batch(cls):
        return torch.randint(0, 256, (4, *cls.shape), generator=torch.Generator().manual_seed(0)).byte()


def encodings(module, grid, batch=3, dtype=torch.float64):
    return torch.randn(batch, module.in_dim, *grid, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("grid", GRIDS)
def test_shapes_types_and_lookup(bottleneck, grid):
    module = bottleneck.eval()
    latent = module(encodings(module, grid))
    assert latent.z_q.shape == (3, module.dim, *grid) and latent.rate_nats.shape == (3,) and latent.loss.shape == ()
    assert latent.z_q.dtype == latent.rate_nats.dtype == latent.loss.dtype == torch.float64
    assert latent.rate_nats.isfinite().all() and (latent.rate_nats >= 0).all()
    if not isinstance(module, Quantizer):
        assert latent.codes is None
        return
    assert latent.codes.shape == (3, *grid) + ((module.num_codebooks,) if module.num_codebooks > 1 else ())
    assert latent.codes.dtype == torch.int64 and 0 <= latent.codes.min() and latent.codes.max() < module.num_codes
    assert len(latent.codes.unique()) > 1
    assert torch.equal(module.lookup(latent.codes), latent.z_q)
    rate = math.prod(grid) * module.num_codebooks * math.log(module.num_codes)
    torch.testing.assert_close(latent.rate_nats, torch.full((3,), rate, dtype=torch.float64))
    for wrong in (-1, module.num_codes):
        with pytest.raises(ValueError, match=rf"expected codes in 0..{module.num_codes - 1}, found"):
            module.lookup(torch.full_like(latent.codes, wrong))


def test_encodings_of_another_width_are_refused(bottleneck):
    expected = rf"expected encodings \(b, {bottleneck.in_dim}, \*grid\), found \(2, {bottleneck.in_dim + 1}, 3\)"
    with pytest.raises(ValueError, match=expected):
        bottleneck(torch.randn(2, bottleneck.in_dim + 1, 3))


def test_evaluation_is_without_noise_and_batchmates(bottleneck):
    module = bottleneck.eval()
    z, order = encodings(module, (3, 5)), torch.tensor([2, 0, 1])
    latent, again, permuted = module(z), module(z), module(z[order])
    assert torch.equal(latent.z_q, again.z_q)
    torch.testing.assert_close(latent.z_q[order], permuted.z_q, rtol=1e-12, atol=1e-12)
    assert not torch.equal(latent.z_q, permuted.z_q)
    if latent.codes is not None:
        assert torch.equal(latent.codes, again.codes) and torch.equal(latent.codes[order], permuted.codes)


def test_positions_are_independent(bottleneck):
    """z_q, codes and rate are those of the positions on their own."""
    module = bottleneck.eval()
    z = encodings(module, (3, 5))
    whole, parts = module(z), [module(z[:, :, row]) for row in range(3)]
    torch.testing.assert_close(whole.z_q, torch.stack([part.z_q for part in parts], 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.rate_nats, sum(part.rate_nats for part in parts))
    if module.rate_is_constant:
        assert len(torch.stack([part.rate_nats for part in parts]).unique()) == 1


def test_loss_and_rate_do_not_grow_with_the_batch(bottleneck):
    module = bottleneck.eval()
    z = encodings(module, (3, 5))
    once, twice = module(z), module(torch.cat([z, z]))
    torch.testing.assert_close(once.loss, twice.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([once.rate_nats, once.rate_nats]), twice.rate_nats)


def test_a_gradient_reaches_every_encoding(bottleneck):
    """Straight-through or another: of a distortion that depends on z_q, through the bound that training minimises."""
    module = bottleneck.train()
    z = encodings(module, (3, 5)).requires_grad_()
    torch.manual_seed(0)
    latent = module(z, step=1)
    samples = len(latent.z_q) // len(z)
    pull = torch.randn(latent.z_q.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    costs = (latent.z_q * pull).flatten(1).sum(1) / 100 + latent.rate_nats / 100
    bound = latent.bound(costs, 100)
    assert bound.shape == (3,) and latent.rate_nats.shape == (3 * samples,)
    (bound.mean() + latent.loss).backward()
    assert z.grad.isfinite().all() and (z.grad.abs().amax(1) > 0).all()


def test_noise_is_a_function_of_the_uniforms(bottleneck):
    if not bottleneck.validation_draws:
        return  # validated without noise, which test_evaluation_is_without_noise_and_batchmates holds
    module = bottleneck.eval()
    z = encodings(module, (3, 5))
    uniforms = torch.rand(3, module.validation_draws, 3, 5, dtype=torch.float64)
    noisy = module(z, uniforms=uniforms)
    assert torch.equal(noisy.z_q, module(z, uniforms=uniforms).z_q) and not torch.equal(noisy.z_q, module(z).z_q)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(module(z[order], uniforms=uniforms[order]).z_q, noisy.z_q[order])


def test_what_is_logged_is_finite_and_use_adds_up(bottleneck):
    module = bottleneck.eval()
    z = encodings(module, (3, 5))
    latent = module(z)
    figures = module.figures(z, latent)
    counts = None if latent.codes is None else module.usage(latent.codes)
    if counts is not None:
        assert counts.sum() == latent.codes.numel()
        parts = module.usage(latent.codes[:1]) + module.usage(latent.codes[1:])
        assert torch.equal(parts, counts)
        figures |= module.usage_figures(counts)
    assert all(figure.shape == () and figure.isfinite() for figure in figures.values())
    assert isinstance(module.settled_from, int) and module.settled_from >= 0
    assert {id(codebook) for codebook in module.codebooks()} <= {id(weight) for weight in module.parameters()}


def test_autocast_does_not_lower_the_precision(bottleneck):
    module = bottleneck.float().eval()
    z = encodings(module, (3, 5), dtype=torch.bfloat16)
    expected = module(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = module(z)
    if expected.codes is None and torch.equal(found.z_q, z):
        return  # an identity has nothing to compute
    assert torch.equal(found.z_q, expected.z_q) and found.z_q.dtype == found.rate_nats.dtype == torch.float32
    assert torch.equal(found.rate_nats, expected.rate_nats)


def test_training_moves_every_weight_and_depends_on_the_seed_alone(bottleneck_name):
    cfg = composed(["~experiment", f"autoencoder/bottleneck={bottleneck_name}", "autoencoder.encoder.hidden=8",
                    "autoencoder.encoder.outer_hidden=8"])
    config, x = complete(cfg, Images), Images.batch()

    def trained():
        torch.manual_seed(0)
        model = build(config)
        initialise(model.bottleneck, torch.float32)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        start = {name: parameter.clone() for name, parameter in model.named_parameters()}
        for step in range(1, 4):
            torch.manual_seed(step)
            optimizer.zero_grad()
            output = model(x, step=step)
            output.loss.backward()
            optimizer.step()
            model.bottleneck.after_step(optimizer)
            assert output.objective.shape == output.bound.shape == (4,) and output.loss.isfinite()
            torch.testing.assert_close(output.loss, output.bound.mean() + output.auxiliary)
        for name, parameter in model.named_parameters():
            assert parameter.isfinite().all() and not torch.equal(parameter, start[name]), name
        return model

    first, second = trained(), trained()
    for (key, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    if isinstance(first.bottleneck, Quantizer):
        assert torch.equal(first.decode(first.encode(x)), first.evaluate(x).reconstruction)


def test_latents_with_a_prior_are_drawn_from_it(bottleneck):
    """Mean 0 within 5 standard errors: exceeded by chance once in 1.7 million tests."""
    module = bottleneck.eval()
    uniforms = torch.rand(64, max(module.prior_draws, 1), 10, 10, dtype=torch.float64,
                          generator=torch.Generator().manual_seed(3))
    if not module.prior_draws:
        with pytest.raises(ValueError, match="expected latents with a prior to sample from"):
            module.from_prior(uniforms)
        return
    z_q = module.from_prior(uniforms)
    assert z_q.shape == (64, module.dim, 10, 10)
    assert abs(z_q.mean()) < 5 / z_q.numel() ** 0.5 * z_q.std()
    torch.testing.assert_close(module.from_prior(uniforms, 0.5).std(), z_q.std() / 2)


def test_the_code_of_least_distance_is_the_encoder_s(bottleneck):
    """Codebook after codebook, given the codes before it; quantisers that choose otherwise say so."""
    module = bottleneck.eval()
    z = encodings(module, (2, 3))
    rows = z.flatten(2).mT.flatten(0, 1)
    if not isinstance(module, Quantizer):
        return
    if type(module).distances is Quantizer.distances:
        with pytest.raises(ValueError, match="by distance, found"):
            module.distances(rows, torch.zeros(6, 0, dtype=torch.int64))
        return
    codes = torch.zeros(len(rows), 0, dtype=torch.int64)
    for _ in range(module.num_codebooks):
        distances = module.distances(rows, codes)
        assert distances.shape == (len(rows), module.num_codes)
        codes = torch.cat([codes, distances.argmin(1, keepdim=True)], 1)
    assert torch.equal(codes, module(z).codes.reshape(len(rows), -1))
    one_further = (codes[:, -1:] + 1) % module.num_codes
    assert (distances.gather(1, one_further) > distances.gather(1, codes[:, -1:])).all()
