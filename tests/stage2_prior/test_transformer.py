"""The transformer as a density (causality, positions, normalisation), and its three ways of sampling."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_prior import compiled_transformer, sampling, transformer
from stage2_prior.sampling import sample, sample_naive
from stage2_prior.transformer import Transformer

N = 5


class SteppedTransformer(Transformer):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


@pytest.fixture(params=[Transformer, SteppedTransformer], ids=["compiled", "stepped"])
def kind(request) -> type[Transformer]:
    return request.param


def shape_of(prior: Transformer, n: int = N) -> tuple[int, ...]:
    return (n, *prior.waves_grid, prior.num_codebooks) if prior.num_codebooks > 1 else (n, *prior.waves_grid)


def uniforms_for(prior: Transformer, n: int = N) -> Tensor:
    return torch.rand(shape_of(prior, n), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def conditions_for(prior: Transformer, n: int = N) -> dict[str, Tensor]:
    """Labels and local in the shapes that the prior expects, different for each sample."""
    conditions = {}
    if prior.num_classes:
        conditions["labels"] = torch.stack([torch.arange(n) % count for count in prior.num_classes], dim=1)
    if prior.local_channels:
        conditions["local"] = torch.randn(n, prior.local_channels, *prior.waves_grid, dtype=prior.start.dtype,
                                          generator=torch.Generator().manual_seed(2))
    return conditions


PRIORS = {
    "images": {},
    "a sequence, labels": {"grid": (11,), "num_classes": (3, 2)},
    "video, local, one block": {"grid": (3, 2, 3), "local_channels": 2, "num_layers": 1, "channels": 24},
    "all": {"grid": (2, 2, 3), "num_codebooks": 2, "num_classes": (4,), "local_channels": 3, "channels": 24},
}


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_gradient_reaches_every_earlier_code_and_no_other(tiny_transformer, options):
    prior, embedded = tiny_transformer(**options), []
    for table in prior.embeddings:
        table.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    logits = prior(torch.randint(7, shape_of(prior, 1)), **conditions_for(prior, 1)).flatten(2)
    direction = torch.randn(7, dtype=torch.float64)
    for step in range(logits.shape[2]):
        found = torch.autograd.grad(direction @ logits[0, :, step], embedded, retain_graph=True, materialize_grads=True)
        reached = torch.stack([gradient[0].abs().amax(-1) > 0 for gradient in found], -1).flatten()
        assert torch.equal(reached, torch.arange(len(reached)) < step)


def test_local_conditions_its_own_position_and_later_ones(tiny_transformer):
    prior = tiny_transformer(num_codebooks=2, local_channels=2)
    local = conditions_for(prior, 1)["local"].requires_grad_()
    logits = prior(torch.randint(7, shape_of(prior, 1)), local=local).flatten(2, 3)
    for position, book in itertools.product((0, 7), (0, 1)):
        (gradient,) = torch.autograd.grad(logits[0, :, position, book].square().sum(), local, retain_graph=True)
        reached = gradient[0].abs().amax(0).flatten() > 0
        assert torch.equal(reached, torch.arange(15) <= position)


@pytest.mark.parametrize("grid", [(9,), (3, 4), (3, 2, 4)])
def test_the_score_of_a_query_and_a_key_depends_on_their_offset_alone(tiny_transformer, grid):
    """The offset from the code that is read to the one that is predicted; the first step reads none."""
    prior = tiny_transformer(grid=grid, channels=24)
    steps = math.prod(grid)
    qkv = torch.randn(1, 1, 72, dtype=torch.float64).expand(1, steps, 72)  # the same at all steps
    cos, sin = prior.rotations(grid, qkv.device, qkv.dtype)
    q, k, v = transformer._Heads.apply(qkv, cos, sin, 2)
    assert torch.equal(v[0, :, 0], v[0, :, -1])
    scores, at = (q @ k.mT)[0, 1], torch.cartesian_prod(*map(torch.arange, grid)).view(steps, -1)
    found: dict[tuple[int, ...], set[float]] = {}
    for predicted, step in itertools.product(range(steps), range(1, steps)):
        offset = tuple((at[predicted] - at[step - 1]).tolist())
        found.setdefault(offset, set()).add(round(float(scores[predicted, step]), 9))
    assert all(len(values) == 1 for values in found.values())
    assert len(set.union(*found.values())) == len(found) > steps, "each offset has a score of its own"


def test_probabilities_of_all_grids_add_up_to_one(tiny_transformer):
    prior = tiny_transformer(num_codes=2, grid=(2, 2), num_codebooks=2, num_classes=(2,))
    every = torch.tensor(list(itertools.product(range(2), repeat=8))).view(-1, 2, 2, 2)
    for label in range(2):
        log_prob = prior.log_prob(every, torch.full((256, 1), label))
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_padding_does_not_count(tiny_transformer):
    prior = tiny_transformer(grid=(9,), num_codebooks=2)
    codes = torch.randint(7, (3, 9, 2))
    lengths = torch.tensor([9, 4, 1])
    cropped = torch.cat([prior.log_prob(codes[i : i + 1, :length]) for i, length in enumerate(lengths)])
    torch.testing.assert_close(prior.log_prob(codes, lengths=lengths), cropped)


def test_an_untrained_prior_is_nearly_uniform():
    torch.manual_seed(0)
    prior = Transformer(64, grid=(8, 8), num_classes=(3,))
    nats = -prior.log_prob(torch.randint(64, (4, 8, 8)), torch.tensor([[0], [1], [2], [0]])) / 64
    # logits are sums of 128 products: standard deviation 0.1, and E[log sum exp] is 0.1^2 / 2 above log 64
    torch.testing.assert_close(nats, torch.full_like(nats, math.log(64)), atol=0.06, rtol=0)


# Layers that have gradients of their own.


@pytest.mark.parametrize("steps", [5, 8, 11])
def test_attention_by_products_is_attention(monkeypatch, steps):
    monkeypatch.setattr(transformer, "CHUNK", 4)
    qkv = torch.randn(3, 2, 3, steps, 4, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, steps, 4, dtype=torch.float64)
    found, expected = transformer._Attention.apply(*qkv), F.scaled_dot_product_attention(*qkv, is_causal=True, scale=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, qkv, upstream)[0] for out in (found, expected)))


def test_gradients_of_heads_and_units(tiny_transformer):
    prior = tiny_transformer(channels=16, num_layers=1)
    cos, sin = prior.rotations((3, 5), torch.device("cpu"), torch.float64)
    qkv = torch.randn(2, 15, 48, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: transformer._Heads.apply(x, cos, sin, 2), qkv)
    assert torch.autograd.gradcheck(transformer._SquaredReLU.apply, qkv[0, :2].detach().requires_grad_())


def test_in_bfloat16_likelihood_and_gradient_are_nearly_those_of_float32(tiny_transformer):
    prior = tiny_transformer(**PRIORS["all"]).float()
    codes, conditions = torch.randint(7, shape_of(prior)), conditions_for(prior)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            nats = -prior.log_prob(codes, **conditions).mean()
        found.append((nats, torch.cat([g.flatten() for g in torch.autograd.grad(nats, list(prior.parameters()))])))
    (exact, gradient), (rounded, other) = found
    assert abs(rounded - exact) < 0.01 * exact  # a bfloat16 has 8 bits
    assert F.cosine_similarity(gradient, other, dim=0) > 0.99


def test_training_drops_and_sampling_does_not(tiny_transformer, kind):
    prior = tiny_transformer(dropout=0.5).train()
    codes = torch.randint(7, shape_of(prior))
    assert not torch.equal(prior(codes), prior(codes))
    prior.__class__ = kind
    uniforms = uniforms_for(prior)
    drawn = sample(prior, uniforms)
    assert prior.training
    assert torch.equal(drawn, sample_naive(prior.eval(), uniforms))


# Sampling.


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("known", ["none", "prefix", "slice", "scattered"])
def test_cached_equals_naive(tiny_transformer, kind, options, known):
    prior = tiny_transformer(**options)
    uniforms, conditions, given = uniforms_for(prior), conditions_for(prior), None
    rule = {"temperature": 1.5, "top_k": 5, "top_p": 0.95} if known == "scattered" else {}
    if known != "none":
        given = torch.randint(7, uniforms.shape, generator=torch.Generator().manual_seed(3))
        number = torch.arange(given[0].numel()).view(given.shape[1:]).expand_as(given)
        free = {"prefix": number >= 7, "slice": number // (given[0, 0].numel()) != 1, "scattered": number % 3 > 0}
        given[1:] = given[1:].masked_fill(free[known][1:], -1)  # all of the first are known
    expected = sample_naive(prior, uniforms, **conditions, **rule, known=given)
    prior.__class__ = kind
    assert torch.equal(sample(prior, uniforms, **conditions, **rule, known=given), expected)
    assert len(expected.flatten(1).unique(dim=0)) == N and len(expected.unique()) >= 5


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_probabilities_are_exact(tiny_transformer, edge, kind, options):
    """To 1e-9, by uniforms at the upper edge of each code's interval: a code is a coarse sign of a wrong feature."""
    prior = tiny_transformer(**options)
    conditions = conditions_for(prior)
    codes = torch.randint(7, shape_of(prior), generator=torch.Generator().manual_seed(5))
    uniforms = [edge(prior, codes, gap, **conditions) for gap in (1e-9, -1e-9)]
    prior.__class__ = kind
    assert torch.equal(sample(prior, uniforms[0], **conditions), codes)
    assert not torch.equal(sample(prior, uniforms[1], **conditions), codes)


def test_panels_of_processors_without_avx512(tiny_transformer, monkeypatch, edge):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    prior = tiny_transformer(grid=(4, 9))
    codes = torch.randint(7, shape_of(prior), generator=torch.Generator().manual_seed(5))
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9)), codes)
    assert prior.compiled_loop()._state(1, (4, 9), None, None, 36).keys.shape[-1] == 8  # 64 bytes


def test_where_all_is_known_nothing_is_computed(tiny_transformer):
    prior = tiny_transformer()
    codes = torch.randint(7, shape_of(prior))
    with torch.no_grad():
        prior.norm.weight.fill_(torch.nan)
    assert torch.equal(sample(prior, uniforms_for(prior), known=codes), codes)


def test_steps_recorded_once_are_right_for_every_position(tiny_transformer, recordings):
    prior = tiny_transformer(**PRIORS["all"])
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    known = torch.full(uniforms.shape, -1)
    known[:, 0, 0], known[1, 1, 0, 2] = 2, 3
    expected = sample_naive(prior, uniforms, **conditions, known=known)
    prior.__class__ = SteppedTransformer
    assert torch.equal(sample(prior, uniforms, **conditions, known=known), expected)
    assert len(recordings) == 3  # a frame, a row, where there is nothing to do, and a step


def test_another_grid_than_that_of_the_waves(tiny_transformer, kind):
    prior = tiny_transformer(grid=(2, 3), num_codebooks=2)
    uniforms = torch.rand(2, 4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = sample_naive(prior, uniforms)
    prior.__class__ = kind
    assert torch.equal(sample(prior, uniforms), expected)


@pytest.fixture
def last_logits(monkeypatch) -> list[Tensor]:
    """The logits (s, k) of the last step of each span that the compiled loop drew."""
    original, found = compiled_transformer.draw_steps, []

    def spy(*arguments) -> bool:
        fine = original(*arguments)
        found.append(torch.from_numpy(arguments[-1].logits.copy()))
        return fine

    monkeypatch.setattr(compiled_transformer, "draw_steps", spy)
    return found


def test_samples_are_to_the_bit_independent_of_batchmates_and_blocks(tiny_transformer, monkeypatch, last_logits):
    """In float32, where another order of a sum would show in the logits. Alone, a known prefix goes through the blocks
    in longer pieces than beside others that know less of it."""
    monkeypatch.setattr(transformer, "SPAN", 64)
    prior = tiny_transformer(grid=(5, 9), num_classes=(3,), local_channels=2, channels=72).float()
    uniforms, conditions = uniforms_for(prior, 9), conditions_for(prior, 9)
    known = torch.randint(7, shape_of(prior, 9))
    known.flatten(1)[torch.arange(45) >= 10 + 4 * torch.arange(9)[:, None]] = -1
    together, logits = sample(prior, uniforms, **conditions, known=known), last_logits[0]
    assert len(last_logits) == 1 and logits.std() > 0.1
    for i in range(9):
        alone = sample(prior, uniforms[i : i + 1], **{name: x[i : i + 1] for name, x in conditions.items()},
                       known=known[i : i + 1])
        assert torch.equal(alone[0], together[i])
        assert torch.equal(last_logits[-1][0], logits[i])
    monkeypatch.setattr(sampling, "BLOCK", 4)
    torch.set_num_threads(2)
    assert torch.equal(sample(prior, uniforms, **conditions, known=known), together)


def test_known_codes_go_through_together_and_give_the_bits_of_single_steps(tiny_transformer, last_logits):
    prior = tiny_transformer(grid=(4, 20), num_codebooks=2)
    codes = torch.randint(7, shape_of(prior, 1))
    known = codes.clone()
    known[0, -1, -1, -1] = -1
    sample(prior, uniforms_for(prior, 1), known=known)
    stepper = prior.compiled_loop().stepper(1, (4, 20), None, None)
    for position in itertools.product(range(4), range(20), range(2)):
        logits = stepper.step(codes, position)
    assert torch.equal(last_logits[-1][:, :7], logits) and logits.std() > 0.1


@torch.no_grad()
def test_caches_take_memory_for_the_steps_that_condition_a_draw(tiny_transformer):
    prior = tiny_transformer(grid=(8, 16), channels=32, num_layers=3).float()
    state = prior.compiled_loop()._state(2, (8, 16), None, None, 40)
    whole = 3 * 2 * 32 * 4  # bytes per step: of 3 blocks and 2 samples 32 numbers
    assert 40 * whole <= state.keys.nbytes <= 64 * whole  # in whole panels
    assert state.values.nbytes == 40 * whole
    stepper = prior.stepper(2, (8, 16), None, None)
    assert stepper.keys.nbytes == stepper.values.nbytes == 128 * whole


def test_progress_is_reported_every_span(tiny_transformer, monkeypatch):
    prior = tiny_transformer(grid=(40,), num_codebooks=2)
    calls = []
    codes = sample(prior, uniforms_for(prior, 1), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(32, 40), (40, 40)]
    monkeypatch.setattr(transformer, "SPAN", 7)
    assert torch.equal(sample(prior, uniforms_for(prior, 1)), codes)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_are_an_error(tiny_transformer, kind, temperature):
    prior = tiny_transformer()
    prior.__class__ = kind
    with torch.no_grad():
        prior.blocks[1].qkv.weight[3] = torch.nan
    with pytest.raises(ValueError, match="expected finite numbers, found NaN"):
        sample(prior, uniforms_for(prior), temperature=temperature)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_on_cuda_equals_naive(tiny_transformer, options):
    prior = tiny_transformer(**options).cuda()
    uniforms = uniforms_for(prior).cuda()
    conditions = {name: x.cuda() for name, x in conditions_for(prior).items()}
    known = torch.full_like(uniforms, -1, dtype=torch.int64)
    known[:, 0] = 1
    for given in (None, known):
        expected = sample_naive(prior, uniforms, **conditions, known=given)
        assert torch.equal(sample(prior, uniforms, **conditions, known=given), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_is_refused(tiny_transformer, dtype):
    prior = tiny_transformer().to(dtype)
    with pytest.raises(ValueError, match=f"expected parameters of torch.float32 or .* on a CPU, found {dtype}"):
        sample(prior, uniforms_for(prior))


@pytest.mark.parametrize(("options", "message"), [
    ({"grid": ()}, r"grid: expected the positions of one axis or more, found \[\]"),
    ({"grid": (3, 0)}, r"grid: expected the positions of one axis or more, found \[3, 0\]"),
    ({"channels": 0}, "channels: expected 1 or more, found 0"),
    ({"num_layers": 0}, "num_layers: expected 1 or more, found 0"),
    ({"expansion": 0}, "expansion: expected 1 or more, found 0"),
    ({"num_heads": 3}, "num_heads: expected a divisor of channels 20 that leaves a head an even .*, found 3"),
    ({"num_heads": 4}, "num_heads: expected a divisor of channels 20 that leaves a head an even .*, found 4"),
    ({"num_heads": 10}, "a head an even number of 4 dimensions or more, two for each axis, found 10"),
    ({"dropout": 1.0}, "dropout: expected a probability"),
])  # fmt: skip
def test_construction_is_checked(tiny_transformer, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_transformer(**options)
