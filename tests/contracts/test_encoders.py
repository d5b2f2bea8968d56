"""Every configs/autoencoder/*.yaml: encoder and decoder fit each other and the data; no example sees its batchmates."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from pipelines.runs.config import FACT, build, composed
from pipelines.runs.facts import complete
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.receptive_field import NotLocal
from stage1_vqvae.tiles import Tiled, filled_up

# Examples of sequences, images, grids of codes and video, none of them square. Each pair takes one at least.
SHAPES = [(1, 128), (1, 8, 12), (3, 8, 12), (3, 4, 8, 12)]


class Examples:
    """A data set of this shape with one label."""

    kind, label_names, classes, variance = "any", ("who",), (("a", "b", "c"),), 4000.0
    facts = {"sample_rate_hz": 8000, "num_codes": 16}

    def __init__(self, shape):
        self.shape = shape


class Pair:
    """An autoencoder of one composition, examples that it takes, and what its decoder needs besides."""

    def __init__(self, name, shape):
        cfg = composed(["~experiment", f"autoencoder={name}"])
        if "num_classes" in FACT.findall(OmegaConf.to_yaml(cfg.autoencoder)):
            cfg = composed(["~experiment", f"autoencoder={name}", "decoder_condition_on=[who]"])
        config = complete(cfg, Examples(shape))
        torch.manual_seed(0)
        self.model = build(config).double()
        generator = torch.Generator().manual_seed(1)
        levels = torch.randint(0, Examples.facts["num_codes"], (3, *shape), generator=generator)
        self.x = self.model.likelihood.from_levels(levels)
        self.labels = torch.tensor([[0], [2], [1]]) if cfg.decoder_condition_on else None
        self.uniforms = torch.rand(3, *shape[1:], generator=generator, dtype=torch.float64)

    def evaluate(self, rows, drawn=False):
        labels = None if self.labels is None else self.labels[rows]
        return self.model.evaluate(self.x[rows], labels, self.uniforms[rows] if drawn else None)


@pytest.fixture(scope="module")
def pairs():
    """pairs(name): the composition on each of SHAPES that it takes."""
    made = {}

    def of(name):
        if name not in made:
            made[name], refused = [], []
            for shape in SHAPES:
                try:
                    pair = Pair(name, shape)
                    pair.evaluate(slice(1))
                    made[name].append(pair)
                except Exception as error:  # another number of axes or channels: nothing says how that is refused
                    refused.append(f"{shape}: {error}")
            assert made[name], f"{name} takes none of the examples; {refused}"
        return made[name]

    return of


def test_shapes_go_through_and_come_back(pairs, autoencoder_name):
    for pair in pairs(autoencoder_name):
        result = pair.evaluate(slice(None), drawn=True)
        assert result.reconstruction.shape == pair.x.shape and result.reconstruction.dtype == pair.x.dtype
        bottleneck, grid = pair.model.bottleneck, pair.model.latent_grid(pair.x.shape[1:])
        assert result.z_e.shape == (3, bottleneck.in_dim, *grid)
        assert result.latent.z_q.shape == (3, bottleneck.dim, *grid)
        if isinstance(bottleneck, Quantizer):
            made = pair.model.decode(pair.model.encode(pair.x), pair.labels, pair.uniforms)
            assert torch.equal(made, result.reconstruction)


def test_batchmates_do_not_matter(pairs, autoencoder_name):
    for pair in pairs(autoencoder_name):
        whole, alone = pair.evaluate(slice(None)), pair.evaluate(slice(1, 2))
        torch.testing.assert_close(whole.z_e[1:2], alone.z_e)
        torch.testing.assert_close(whole.nll_nats[1:2], alone.nll_nats)


def test_every_weight_has_a_gradient(pairs, autoencoder_name):
    for pair in pairs(autoencoder_name):
        output = pair.model.train()(pair.x, pair.labels, step=1)
        assert output.loss.isfinite()
        output.loss.backward()
        missing = [name for name, weight in pair.model.named_parameters() if weight.grad is None]
        assert not missing


def test_the_decoder_reads_the_latents(pairs, autoencoder_name):
    """At every position: another latent there changes what the decoder says."""
    for pair in pairs(autoencoder_name):
        z_q = pair.evaluate(slice(1)).latent.z_q.clone().requires_grad_()
        labels = None if pair.labels is None else pair.labels[:1]
        with torch.enable_grad():
            params = pair.model._predict(z_q, pair.x[:1], labels).params
            pull = torch.randn(params.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            (params * pull).sum().backward()
        assert (z_q.grad.abs().amax(1) > 0).all()


ONE_SIZE = {"dense", "dense_video", "codes"}  # parts of their names: networks that take one size of data alone


def test_data_of_any_size_pass_in_tiles_as_in_one_pass(pairs, autoencoder_name):
    """Or their size is refused."""
    for pair in pairs(autoencoder_name):
        shape = tuple(pair.x.shape[1:])
        whole, tiled = Tiled(pair.model, shape), Tiled(pair.model, shape, at_once=1)
        try:
            strides = whole.strides
            fields = whole.encoder
        except NotLocal:
            assert any(part in autoencoder_name for part in ONE_SIZE), autoencoder_name
            with pytest.raises(NotLocal):
                whole.encode(pair.x.repeat(1, 1, *[3] * (len(shape) - 1)))
            continue
        counts = [2 * max(field.before, field.after) + 4 for field in fields]
        tiled.at_once = math.prod((count // 2 + 1) * stride for count, stride in zip(counts, strides, strict=True))
        size = [count * stride - (stride > 1) for count, stride in zip(counts, strides, strict=True)]
        levels = torch.randint(0, 16, (1, shape[0], *size), generator=torch.Generator().manual_seed(0))
        x = pair.model.likelihood.from_levels(levels)
        x = filled_up(x, strides)
        z_q = pair.model.latents(x)
        torch.testing.assert_close(tiled.latents(x), z_q)
        if isinstance(pair.model.decoder, AutoregressiveDecoder):
            continue  # drawn in one pass, or in chunks: tests/stage1_vqvae/test_tiles.py
        labels = None if pair.labels is None else pair.labels[:1]
        torch.testing.assert_close(tiled.decode_latents(z_q, labels), pair.model.decode_latent(z_q, labels),
                                   rtol=1e-7, atol=1)  # a level: that of a pixel half-way between two
