"""Every configs/autoencoder/bottleneck/*.yaml keeps the contract of base.py: a new one is tested without an edit here."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipelines.runs.config import CONFIGS, build
from pipelines.runs.facts import complete
from stage1_vqvae.bottlenecks.base import Quantizer

NAMES = sorted(path.stem for path in (Path(CONFIGS) / "autoencoder" / "bottleneck").glob("*.yaml"))
GRIDS = [(7,), (3, 5), (2, 3, 4)]


class Images:
    """What a configuration asks of its data."""

    kind, label_names, classes, variance, shape = "image", (), (), 4000.0, (1, 8, 12)


def images(batch=4):
    return torch.randint(0, 256, (batch, *Images.shape), generator=torch.Generator().manual_seed(0)).byte()


def bottleneck(name):
    """As its yaml has it, ready for use, in float64: a sum over rows of another number stays the same to the bit nearly."""
    torch.manual_seed(0)
    module = build(OmegaConf.load(Path(CONFIGS) / "autoencoder" / "bottleneck" / f"{name}.yaml")).double()
    if module.needs_initialisation:
        module.initialise(torch.randn(4 * module.num_codes, module.dim, dtype=torch.float64))
    return module


def autoencoder(name):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("main", overrides=["~experiment", f"autoencoder/bottleneck={name}",
                                         "autoencoder.encoder.hidden=8", "autoencoder.encoder.outer_hidden=8"])
    torch.manual_seed(0)
    return build(complete(cfg, Images()))


def encodings(module, grid, batch=3, dtype=torch.float64):
    return torch.randn(batch, module.in_dim, *grid, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_shapes_types_and_lookup(name, grid):
    module = bottleneck(name).eval()
    z = encodings(module, grid)
    latent = module(z)
    assert latent.z_q.shape == (3, module.dim, *grid) and latent.rate_nats.shape == (3,) and latent.loss.shape == ()
    assert latent.z_q.dtype == latent.rate_nats.dtype == latent.loss.dtype == torch.float64
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


@pytest.mark.parametrize("name", NAMES)
def test_encodings_of_another_width_are_refused(name):
    module = bottleneck(name)
    with pytest.raises(ValueError, match=rf"expected encodings \(b, {module.in_dim}, \*grid\), found \(2, {module.in_dim + 1}, 3\)"):
        module(torch.randn(2, module.in_dim + 1, 3))


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_without_noise_and_batchmates(name):
    module = bottleneck(name).eval()
    z, order = encodings(module, (3, 5)), torch.tensor([2, 0, 1])
    latent, again, permuted = module(z), module(z), module(z[order])
    assert torch.equal(latent.z_q, again.z_q)
    torch.testing.assert_close(latent.z_q[order], permuted.z_q, rtol=1e-12, atol=1e-12)
    if latent.codes is not None:
        assert torch.equal(latent.codes, again.codes) and torch.equal(latent.codes[order], permuted.codes)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_rate_do_not_grow_with_the_batch(name):
    module = bottleneck(name).eval()
    z = encodings(module, (3, 5))
    once, twice = module(z), module(torch.cat([z, z]))
    torch.testing.assert_close(once.loss, twice.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([once.rate_nats, once.rate_nats]), twice.rate_nats)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_lower_the_precision(name):
    module = bottleneck(name).float().eval()
    z = encodings(module, (3, 5), dtype=torch.bfloat16)
    expected = module(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = module(z)
    if name != "identity":  # has nothing to compute
        assert torch.equal(found.z_q, expected.z_q) and found.z_q.dtype == found.rate_nats.dtype == torch.float32
        assert torch.equal(found.rate_nats, expected.rate_nats)


@pytest.mark.parametrize("name", NAMES)
def test_training_moves_every_weight_and_depends_on_the_seed_alone(name):
    def trained():
        model, x = autoencoder(name), images()
        if model.bottleneck.needs_initialisation:
            torch.manual_seed(3)
            model.bottleneck.initialise(torch.randn(2 * model.bottleneck.num_codes, model.bottleneck.dim))
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
        for name_, parameter in model.named_parameters():
            assert parameter.isfinite().all() and not torch.equal(parameter, start[name_]), name_
        return model

    first, second, x = trained(), trained(), images()
    for (key, value), other in zip(first.state_dict().items(), second.state_dict().values()):
        assert torch.equal(value, other), key
    result = first.evaluate(x)
    assert torch.equal(result.reconstruction, second.evaluate(x).reconstruction)
    if isinstance(first.bottleneck, Quantizer):
        assert torch.equal(first.decode(first.encode(x)), result.reconstruction)
    else:
        assert torch.equal(first.decode_latent(result.latent.z_q), result.reconstruction)
