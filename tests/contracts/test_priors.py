"""Every configs/prior/*.yaml keeps the contract of stage2_prior/prior.py, at the sizes that its yaml gives.

Causality is tested by changing codes: they are integers, and a prior may read them in any way. Weights are disturbed a
little first, so that layers that start at zero take part.
"""

import itertools

import pytest
import torch

from stage2_prior.sampling import sample, sample_naive

GRIDS = {1: (6,), 2: (2, 3), 3: (2, 1, 3)}  # six positions on as many axes as a prior's grids have
HALVES = {1: (3,), 2: (1, 3), 3: (3, 1, 1)}  # three, for two codebooks
SIZES = {"num_codes": 5, "num_codebooks": 1, "num_classes": [], "local_channels": 0}
CONDITIONED = {"num_classes": [3, 2], "local_channels": 2}


@pytest.fixture(params=[1, 2], ids=["one codebook", "two codebooks"])
def codebooks(request):
    return request.param


@pytest.fixture
def prior(component, prior_name):
    """prior(**sizes) -> the prior and its grid."""

    def make(**sizes):
        sizes = SIZES | sizes
        axes = component("prior", prior_name, **SIZES, grid=[1, 1, 1]).grid_axes
        grid = (GRIDS if sizes["num_codebooks"] == 1 else HALVES)[axes]
        module = component("prior", prior_name, **sizes, grid=list(grid)).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return module.requires_grad_(False), grid

    return make


def shape_of(module, grid, batch):
    return (batch, *grid, module.num_codebooks) if module.num_codebooks > 1 else (batch, *grid)


def random_codes(module, grid, batch=2, seed=0):
    return torch.randint(module.num_codes, shape_of(module, grid, batch), generator=torch.Generator().manual_seed(seed))


def conditions(module, grid, batch=2):
    generator = torch.Generator().manual_seed(2)
    labels = torch.stack([torch.randint(count, (batch,), generator=generator) for count in module.num_classes], 1)
    return labels, torch.randn(batch, module.local_channels, *grid, generator=generator, dtype=torch.float64)


def test_shapes_sizes_and_refusals(prior, codebooks):
    module, grid = prior(num_codebooks=codebooks, **CONDITIONED)
    codes, (labels, local) = random_codes(module, grid), conditions(module, grid)
    assert module.num_codes == 5 and module.num_codebooks == codebooks
    assert list(module.num_classes) == [3, 2] and module.local_channels == 2
    assert module(codes, labels, local).shape == (2, 5, *codes.shape[1:])
    assert module.log_prob(codes, labels, local).shape == (2,)
    for wrong in ((codes + 5, labels, local), (codes[0], labels, local), (codes.int(), labels, local),
                  (codes, None, local), (codes, labels + 3, local), (codes, labels, None), (codes, labels, local[:1])):
        with pytest.raises(ValueError, match="expected"):
            module(*wrong)


def test_a_code_is_seen_by_all_later_ones_and_by_no_earlier_one(prior, codebooks):
    """On this small grid every earlier position is within reach."""
    module, grid = prior(num_codebooks=codebooks)
    codes = random_codes(module, grid, batch=1)
    before = module(codes).flatten(2)[0]  # (k, positions and codebooks)
    for place in range(codes.numel()):
        changed = codes.clone()
        changed.view(-1)[place] = (changed.view(-1)[place] + 1) % module.num_codes
        difference = (module(changed).flatten(2)[0] - before).abs().amax(0)
        assert (difference[: place + 1] == 0).all(), f"logits at or before code {place} see it"
        assert (difference[place + 1 :] > 0).all(), f"code {place} is not seen by all later ones"


def test_probabilities_of_all_codes_of_a_tiny_grid_sum_to_one(prior, codebooks):
    module, grid = prior(num_codes=2, num_codebooks=codebooks)
    places = random_codes(module, grid, batch=1).numel()
    every = torch.tensor(list(itertools.product((0, 1), repeat=places))).view(shape_of(module, grid, 2**places))
    log_prob = module.log_prob(every)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.unique().numel() > places  # it is not uniform


def test_cached_sampling_is_naive_sampling_and_knows_no_batchmates(prior, codebooks):
    module, grid = prior(num_codebooks=codebooks, **CONDITIONED)
    labels, local = conditions(module, grid, batch=4)
    uniforms = torch.rand(shape_of(module, grid, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = sample(module, uniforms, labels, local)
    assert torch.equal(drawn, sample_naive(module, uniforms, labels, local))
    order = torch.tensor([2, 0])
    assert torch.equal(sample(module, uniforms[order], labels[order], local[order]), drawn[order])
    known = torch.where(torch.rand(drawn.shape, generator=torch.Generator().manual_seed(4)) < 0.5, drawn, -1)
    assert torch.equal(sample(module, uniforms, labels, local, known=known), drawn)
    assert (drawn != drawn[:1]).any()


def test_log_prob_knows_no_batchmates(prior, codebooks):
    module, grid = prior(num_codebooks=codebooks, **CONDITIONED)
    codes, (labels, local) = random_codes(module, grid, batch=3), conditions(module, grid, batch=3)
    whole = module.log_prob(codes, labels, local)
    alone = torch.cat([module.log_prob(codes[i : i + 1], labels[i : i + 1], local[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=0)


def test_every_label_and_local_channel_matters(prior):
    module, grid = prior(**CONDITIONED)
    codes, (labels, local) = random_codes(module, grid), conditions(module, grid)
    before = module(codes, labels, local)
    for column, count in enumerate(module.num_classes):
        other = labels.clone()
        other[:, column] = (other[:, column] + 1) % count
        assert ((module(codes, other, local) - before).abs().amax(1) > 0).all()
    for channel in range(module.local_channels):
        other = local.clone()
        other[:, channel] += 1.0
        assert ((module(codes, labels, other) - before).abs().amax(1) > 0).all()


def test_training_moves_every_weight(component, prior_name):
    axes = component("prior", prior_name, **SIZES, grid=[1, 1, 1]).grid_axes
    grid = tuple(size + 1 for size in GRIDS[axes])  # two rows at least, for weights that read the row above
    module = component("prior", prior_name, **SIZES | CONDITIONED, grid=list(grid)).float().train()
    codes, (labels, local) = random_codes(module, grid), conditions(module, grid)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    start = {name: weight.clone() for name, weight in module.named_parameters()}
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = -module.log_prob(codes, labels, local.float()).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not [name for name, weight in module.named_parameters() if torch.equal(weight, start[name])]
