"""Sampling: cached equals naive, samples do not depend on one another, and draws follow the rule."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn
from torch.nn import functional

from stage2_prior import compiled, pixelcnn, sampling, triton_compiler
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import Prior, Stepper
from stage2_prior.rule import Rule
from stage2_prior.sampling import draw, sample, sample_naive

N, GRID = 5, (3, 5)


class SteppedPixelCNN(GatedPixelCNN):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


@pytest.fixture(params=["compiled", "stepped"])
def stepped(request) -> bool:
    return request.param == "stepped"


def uniforms_for(prior: GatedPixelCNN, n: int = N, grid: tuple[int, int] = GRID, seed: int = 1) -> Tensor:
    shape = (n, *grid, prior.num_codebooks) if prior.num_codebooks > 1 else (n, *grid)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conditions_for(prior: GatedPixelCNN, n: int = N, grid: tuple[int, int] = GRID) -> dict[str, Tensor]:
    """Labels and local in the shapes that the prior expects, different for each sample."""
    generator = torch.Generator().manual_seed(2)
    conditions = {}
    if prior.num_classes:
        columns = [torch.arange(n) % count for count in prior.num_classes]
        conditions["labels"] = torch.stack(columns, dim=1)
    if prior.local_channels:
        dtype = prior.embeddings[0].weight.dtype
        conditions["local"] = torch.randn(n, prior.local_channels, *grid, generator=generator, dtype=dtype)
    return conditions


PRIORS = {
    "plain": {},
    "one layer": {"num_layers": 1},
    "wide kernels": {"kernel_size": 5, "first_kernel_size": 3},
    "labels": {"num_classes": (3, 2)},
    "local": {"local_channels": 2},
    "codebooks": {"num_codebooks": 3, "num_codes": 4},
    "all": {"num_codebooks": 2, "num_classes": (4,), "local_channels": 3},
}
RULES = {
    "plain": {},
    "cool": {"temperature": 0.7},
    "hot": {"temperature": 3.0},
    "argmax": {"temperature": 0.0},
    "top-k": {"top_k": 3},
    "top-1": {"top_k": 1},
    "top-p": {"top_p": 0.8},
    "all": {"temperature": 1.5, "top_k": 4, "top_p": 0.9},
}


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_equals_naive_for_every_kind_of_prior(tiny, stepped, options):
    prior = tiny(**options)
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    expected = sample_naive(prior, uniforms, **conditions)
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    assert torch.equal(sample(prior, uniforms, **conditions), expected)
    assert len(expected.flatten(1).unique(dim=0)) == N  # the samples differ,
    assert len(expected.unique()) > prior.num_codes // 2  # and use most codes


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_probabilities_are_exact(tiny, edge, stepped, options):
    """To 1e-9, by uniforms at the upper edge of each code's interval: a code is a coarse sign of a wrong feature."""
    prior = tiny(**options)
    conditions = conditions_for(prior)
    codes = torch.randint(prior.num_codes, uniforms_for(prior).shape, generator=torch.Generator().manual_seed(5))
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9, **conditions), **conditions), codes)
    assert not torch.equal(sample(prior, edge(prior, codes, -1e-9, **conditions), **conditions), codes)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("known", ["none", "prefix", "row", "scattered"])
def test_cached_equals_naive_for_every_rule_and_known_codes(tiny, stepped, rule, known):
    prior = tiny(num_codebooks=2)
    uniforms = uniforms_for(prior)
    given = None
    if known != "none":
        given = torch.randint(7, uniforms.shape, generator=torch.Generator().manual_seed(3))
        number = torch.arange(150).reshape(5, 3, 5, 2)
        free = {"prefix": number % 30 >= 9, "row": (number % 30) // 10 != 1, "scattered": number % 3 > 0}[known]
        given = given.masked_fill(free, -1)
    expected = sample_naive(prior, uniforms, **rule, known=given)
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    before = None if given is None else given.clone()
    codes = sample(prior, uniforms, **rule, known=given)
    assert torch.equal(codes, expected)
    if given is not None:
        assert torch.equal(given, before)  # the caller's tensor is left alone
        assert torch.equal(codes[given >= 0], given[given >= 0])
        assert not torch.equal(codes, sample(prior, uniforms, **rule))


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_probabilities_are_exact_with_too_many_codes_for_tables(tiny, edge, monkeypatch, options):
    prior = tiny(**options)
    conditions = conditions_for(prior)
    codes = torch.randint(prior.num_codes, uniforms_for(prior).shape, generator=torch.Generator().manual_seed(5))
    assert len(prior.compiled_loop().weights.first_vertical) == 0
    monkeypatch.setattr(pixelcnn, "TABLES", 0)
    assert len(prior.compiled_loop().weights.tables_above) == 0
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9, **conditions), **conditions), codes)


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (6, 1), (7, 4), (3, 41)])
def test_cached_equals_naive_on_any_grid(tiny, stepped, grid):
    prior = tiny()
    uniforms = uniforms_for(prior, grid=grid)
    expected = sample_naive(prior, uniforms)
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    assert torch.equal(sample(prior, uniforms), expected)


def test_a_known_prefix_continues_the_same_sample(tiny, stepped):
    prior = tiny()
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    uniforms = uniforms_for(prior)
    codes = sample(prior, uniforms)
    prefix = codes.masked_fill(torch.arange(15).reshape(GRID) >= 7, -1)
    assert torch.equal(sample(prior, uniforms, known=prefix), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batchmates(tiny, monkeypatch, dtype):
    """To the bit, in float32 as well: rows, blocks and threads may fall as they like."""
    prior = tiny(num_classes=(3,), local_channels=2).to(dtype)
    uniforms, conditions = uniforms_for(prior, n=13), conditions_for(prior, n=13)
    together = sample(prior, uniforms, **conditions)
    for i in range(13):
        alone = sample(prior, uniforms[i : i + 1], **{name: x[i : i + 1] for name, x in conditions.items()})
        assert torch.equal(alone[0], together[i])
    for size, threads in ((2, 1), (5, 2), (32, 3)):
        monkeypatch.setattr(sampling, "BLOCK", size)
        torch.set_num_threads(threads)
        assert torch.equal(sample(prior, uniforms, **conditions), together)
    order = torch.arange(12, -1, -1)
    backwards = sample(prior, uniforms[order], **{name: x[order] for name, x in conditions.items()})
    assert torch.equal(backwards, together[order])


def test_a_sample_going_by_steps_does_not_depend_on_its_batchmates(tiny):
    prior = tiny()
    prior.__class__ = SteppedPixelCNN
    uniforms = uniforms_for(prior, n=7)
    together = sample(prior, uniforms)
    for i in range(7):
        assert torch.equal(sample(prior, uniforms[i : i + 1])[0], together[i])


def test_no_samples_and_strided_uniforms(tiny):
    prior = tiny()
    assert sample(prior, uniforms_for(prior, n=0)).shape == (0, *GRID)
    uniforms = uniforms_for(prior, grid=(5, 3))
    assert torch.equal(sample(prior, uniforms.mT), sample(prior, uniforms.mT.contiguous()))


@pytest.mark.parametrize("function", [sample, sample_naive])
def test_sampling_is_done_in_evaluation_mode_and_puts_each_mode_back(tiny, function):
    prior = tiny(dropout=0.5)
    uniforms = uniforms_for(prior)
    expected = function(prior.eval(), uniforms)
    prior.train()
    prior.layers[1].eval()
    modes = [module.training for module in prior.modules()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(function(prior, uniforms), expected)
    assert [module.training for module in prior.modules()] == modes
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_the_same_uniforms_give_the_same_codes_and_others_do_not(tiny):
    prior = tiny()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = sample(prior, uniforms_for(prior))
    assert torch.equal(sample(prior, uniforms_for(prior)), first)
    assert not torch.equal(sample(prior, uniforms_for(prior, seed=8)), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_in_float32_next_to_no_code_differs_from_naive(tiny, stepped):
    prior = tiny(num_codes=64, channels=32, num_layers=6).float()
    uniforms = uniforms_for(prior, n=32, grid=(6, 6))
    expected = sample_naive(prior, uniforms)
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    differs = sample(prior, uniforms) != expected
    # Logits of about 2 agree to about 1e-6, so each of 63 edges of the CDF moves by up to 1e-6: a draw falls between
    # its two places with a probability of up to 6e-5, in one of 32 * 36 draws with one of 0.07. Two samples: 0.002.
    assert differs.flatten(1).any(1).sum() <= 1


def test_samples_are_distributed_as_the_prior_says(tiny):
    """All 3^4 grids of 2 x 2 codes by their exact probabilities, a chi-squared test with false alarms of 1e-6."""
    prior = tiny(num_codes=3, num_classes=(2,))
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    n = 40_000
    for label in range(2):
        with torch.no_grad():
            expected = n * prior.log_prob(grids, torch.full((81, 1), label)).exp()
        codes = sample(prior, uniforms_for(prior, n, (2, 2), seed=label), torch.full((n, 1), label))
        found = torch.bincount(codes.flatten(1) @ torch.tensor([27, 9, 3, 1]), minlength=81)
        cell = (expected < 5).long() * 81 + (expected >= 5) * torch.arange(81)  # rare grids share one: expected >= 5
        none = torch.zeros(82, dtype=torch.float64)
        found, expected = (none.index_add(0, cell, counts.double()) for counts in (found, expected))
        used = expected > 0
        statistic = ((found - expected)[used] ** 2 / expected[used]).sum().item()
        assert used.sum() > 20
        assert statistic < chi2.isf(1e-6, df=int(used.sum()) - 1)


# A row and a column that can be recorded.


@pytest.mark.parametrize(("options", "rule"), [
    pytest.param(options, RULES[rule], id=f"{name}-{rule}", marks=() if rule == "all" else pytest.mark.slow)
    for name, options in PRIORS.items() for rule in ("plain", "argmax", "all")])
def test_a_row_and_a_column_recorded_once_are_right_for_all(tiny, recordings, options, rule):
    prior = tiny(**options)
    uniforms, conditions = uniforms_for(prior, grid=(4, 5)), conditions_for(prior, grid=(4, 5))
    known = torch.full(uniforms.shape, -1)
    known[:, 0], known[1, 2, 3], known[:, 3] = 2, 3, 1  # the first row, a position, the last row
    known[0, 3, 4] = -1
    for given in (None, known):
        expected = sample_naive(prior, uniforms, **conditions, **rule, known=given)
        prior.__class__ = SteppedPixelCNN
        assert torch.equal(sample(prior, uniforms, **conditions, **rule, known=given), expected)
    assert len(recordings) == 4


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (6, 1), (7, 4)])
def test_recorded_on_any_grid(tiny, recordings, grid):
    prior = tiny()
    uniforms = uniforms_for(prior, grid=grid)
    expected = sample_naive(prior, uniforms)
    prior.__class__ = SteppedPixelCNN
    assert torch.equal(sample(prior, uniforms), expected)
    assert len(recordings) == (grid[0] > 1) + (grid[0] * grid[1] > 1)


@pytest.fixture(params=["kernel", "recorded"])
def on_cuda(request, monkeypatch) -> None:
    """Both ways of drawing on a GPU: by the kernel for rows where it applies, and by recorded steps alone."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if request.param == "recorded":
        monkeypatch.setattr(triton_compiler, "pixelcnn", lambda device: None)


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("grid", [(sampling.WARM_UP - 1, 1), (7, 5)])
def test_on_cuda_equals_naive_and_the_cpu(tiny, on_cuda, options, grid):
    prior = tiny(**options)
    uniforms, conditions = uniforms_for(prior, grid=grid), conditions_for(prior, grid=grid)
    known = torch.full_like(uniforms, -1, dtype=torch.int64)
    known[:, 1], known[2:, 0] = 1, 2
    for given, rule in itertools.product((None, known), (RULES["plain"], RULES["argmax"], RULES["all"])):
        expected = sample(prior.cpu(), uniforms, **conditions, **rule, known=given)
        there = {name: x.cuda() for name, x in conditions.items()}
        there |= {**rule, "known": None if given is None else given.cuda()}
        prior.cuda()
        assert torch.equal(sample(prior, uniforms.cuda(), **there).cpu(), expected)
        assert torch.equal(sample_naive(prior, uniforms.cuda(), **there).cpu(), expected)
    assert triton_compiler._failure is None


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_on_cuda_probabilities_are_exact(tiny, edge, on_cuda, options):
    prior = tiny(**options).cuda()
    conditions = {name: x.cuda() for name, x in conditions_for(prior, grid=(7, 5)).items()}
    codes = torch.randint(prior.num_codes, uniforms_for(prior, grid=(7, 5)).shape).cuda()
    assert torch.equal(sample(prior, edge(prior, codes, 1e-9, **conditions), **conditions), codes)


def test_on_cuda_in_float32_next_to_no_code_differs_from_naive(tiny, on_cuda):
    prior = tiny(num_codes=512, channels=64, num_layers=6, head_channels=256).float().cuda()
    uniforms = uniforms_for(prior, n=32, grid=(6, 6)).cuda()
    codes = sample(prior, uniforms)
    differs = codes != sample_naive(prior, uniforms)
    # As on a CPU, with 511 edges of the CDF that move by up to 1e-6: 0.6 of 1,152 draws at worst, so at most 4 samples
    # (in 1 of 3,000 runs more). One code that differs changes those after it, in its own sample only.
    assert differs.flatten(1).any(1).sum() <= 4
    assert torch.equal(sample(prior, uniforms), codes)  # no race: the same again


def test_on_cuda_broken_weights_are_an_error_and_no_memory_is_kept(tiny, on_cuda):
    prior = tiny().cuda()
    uniforms = uniforms_for(prior, grid=(8, 5)).cuda()
    sample(prior, uniforms)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        sample(prior, uniforms)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before  # recordings hold memory of their own, which goes with them
    with torch.no_grad():
        prior.heads[0][3].bias[2] = torch.nan
    with pytest.raises(ValueError, match="expected finite numbers, found NaN"):
        sample(prior, uniforms)


class Bigram(Prior):
    """The smallest prior there is: a code depends on the one before it in raster order. For grids of any axes."""

    def __init__(self, grid_axes: int, num_codebooks: int) -> None:
        super().__init__(num_codes=5, num_codebooks=num_codebooks, num_classes=(), local_channels=0)
        self.grid_axes = grid_axes
        self.table = nn.Embedding(6, 5, dtype=torch.float64)  # row 5: nothing before

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        before = functional.pad(codes.flatten(1)[:, :-1], (1, 0), value=5)
        return self.table(before).unflatten(1, codes.shape[1:]).movedim(-1, 1)

    def stepper(self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None) -> Stepper:
        return BigramStepper(self.table)


class BigramStepper(Stepper):
    def __init__(self, table: nn.Embedding) -> None:
        self.table = table

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        number = np.ravel_multi_index(position, codes.shape[1:])
        return self.table(codes.flatten(1)[:, number - 1] if number else torch.full((len(codes),), 5))


@pytest.mark.parametrize("shape", [(11,), (2, 3, 4)])
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_a_prior_may_have_any_number_of_axes_and_no_compiled_loop(shape, num_codebooks):
    torch.manual_seed(0)
    prior = Bigram(len(shape), num_codebooks)
    shape = (3, *shape, num_codebooks) if num_codebooks > 1 else (3, *shape)
    uniforms = torch.rand(shape, dtype=torch.float64)
    codes = sample(prior, uniforms, top_k=4)
    assert torch.equal(codes, sample_naive(prior, uniforms, top_k=4))
    assert prior.log_prob(codes).shape == (3,)
    with pytest.raises(ValueError, match="uniforms: expected shape"):
        sample(prior, uniforms[0])


# Both forms of `draw`: for tensors, and compiled for one sample.


def draw_compiled(logits: Tensor, uniforms: Tensor, rule: Rule) -> Tensor:
    top_k = logits.shape[1] if rule.top_k is None else rule.top_k
    top_p = np.inf if rule.top_p is None else rule.top_p
    cdf = np.empty(logits.shape[1])
    rows = zip(logits.numpy(), uniforms.tolist(), strict=True)
    return torch.tensor([compiled.draw(row, u, float(rule.temperature), top_k, top_p, cdf) for row, u in rows])


@pytest.fixture(params=[draw, draw_compiled], ids=["tensors", "compiled"])
def drawing(request) -> Callable[[list[float], float, Rule], int]:
    def one(masses: list[float], u: float, rule: Rule) -> int:
        logits = torch.tensor([masses], dtype=torch.float64).log()
        return request.param(logits, torch.tensor([u], dtype=torch.float64), rule).item()

    return one


BELOW_ONE = 1 - 2**-53  # the largest uniform number


@pytest.mark.parametrize(
    ("masses", "u", "code"),
    [
        ([1, 1, 1, 1], 0.0, 0),
        ([1, 1, 1, 1], 0.25, 1),  # cdf > u, so an edge belongs to the upper code
        ([1, 1, 1, 1], 0.25 - 2**-54, 0),
        ([1, 1, 1, 1], 0.75, 3),
        ([1, 1, 1, 1], BELOW_ONE, 3),
        ([0, 0, 1, 1], 0.0, 2),  # a code without mass is never drawn, at neither end
        ([1, 1, 0, 0], BELOW_ONE, 1),
        ([1, 0, 1, 0], 0.5, 2),
        ([0, 0, 1, 0], 0.7, 2),
        ([2, 4, 2], 0.25, 1),  # masses need not add up to 1
        ([2, 4, 2], 0.75, 2),
    ],
)
def test_draw_takes_the_first_code_whose_cdf_is_over_u(drawing, masses, u, code):
    assert drawing(masses, u, Rule()) == code


@pytest.mark.parametrize(
    ("masses", "rule", "codes"),
    [
        ([1, 4, 2, 4, 2], Rule(top_k=1), {1}),  # ties go to the lower code
        ([1, 4, 2, 4, 2], Rule(top_k=2), {1, 3}),
        ([1, 4, 2, 4, 2], Rule(top_k=3), {1, 2, 3}),  # exactly three
        ([1, 4, 2, 4, 2], Rule(top_k=5), {0, 1, 2, 3, 4}),
        ([1, 2, 1, 4], Rule(top_p=0.4), {3}),  # 4 of 8: it crosses 0.4 and is kept
        ([1, 2, 1, 4], Rule(top_p=0.5), {3}),  # it reaches 0.5: nothing more is needed
        ([1, 2, 1, 4], Rule(top_p=0.51), {1, 3}),
        ([1, 2, 1, 4], Rule(top_p=0.76), {0, 1, 3}),
        ([1, 2, 1, 4], Rule(top_p=1.0), {0, 1, 2, 3}),
        ([1, 1, 1, 1], Rule(top_p=0.5), {0, 1}),
        ([1, 2, 1, 4], Rule(top_p=1e-9), {3}),
        ([1, 2, 1, 4], Rule(top_k=2, top_p=0.6), {3}),  # of the two left, 4 of 6 is over 0.6
        ([1, 2, 1, 4], Rule(top_k=2, top_p=0.7), {1, 3}),
        ([1, 2, 1, 4], Rule(temperature=0.5, top_p=0.7), {3}),  # temperature first: 16 of 22
        ([1, 4, 2, 4, 2], Rule(temperature=0.0), {1}),
        ([1, 4, 2, 4, 2], Rule(temperature=1e-300), {1, 3}),
        ([0, 0, 3, 0], Rule(temperature=0.0), {2}),
    ],
)
def test_draw_keeps_what_the_rule_says(drawing, masses, rule, codes):
    assert {drawing(masses, (i + 0.5) / 64, rule) for i in range(64)} == codes


@pytest.mark.parametrize("rule", [Rule(), Rule(temperature=0.6), Rule(top_k=4), Rule(top_p=0.7), Rule(1.7, 6, 0.9)])
@pytest.mark.parametrize("function", [draw, draw_compiled], ids=["tensors", "compiled"])
def test_draw_inverts_the_distribution(function, rule):
    """Evenly spaced uniforms hit each code as often as its probability says, give or take one at either end."""
    logits = torch.tensor([0.3, -1.0, 2.0, 1.1, -0.4, 0.9, 1.6, 0.0], dtype=torch.float64)
    n = 20_000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    found = torch.bincount(function(logits.expand(n, 8), grid, rule), minlength=8)
    p = (logits / rule.temperature).softmax(0)
    ranked = p.argsort(descending=True)[: rule.top_k]
    if rule.top_p is not None:
        share = p[ranked] / p[ranked].sum()
        ranked = ranked[share.cumsum(0) - share < rule.top_p]
    kept = torch.zeros(8, dtype=torch.float64).index_fill(0, ranked, 1.0) * p
    assert (found - n * kept / kept.sum()).abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_of_draw_agree(dtype):
    """On 400 random rows a rule, with many ties (rounded logits) and impossible codes."""
    generator = torch.Generator().manual_seed(4)
    for rule in [*(Rule(**rule) for rule in RULES.values()), Rule(top_p=1.0), Rule(top_k=40)]:
        logits = (torch.randn(400, 40, generator=generator, dtype=dtype) * 3).round(decimals=0) + 1000.0
        logits[torch.rand(400, 40, generator=generator) < 0.2] = -torch.inf
        uniforms = torch.rand(400, generator=generator, dtype=torch.float64)
        codes = draw(logits, uniforms, rule)
        assert torch.equal(draw_compiled(logits, uniforms, rule), codes)
        assert logits.gather(1, codes[:, None]).isfinite().all()


@pytest.mark.parametrize("function", [sample, sample_naive])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_are_an_error(tiny, stepped, function, temperature):
    prior = tiny()
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    with torch.no_grad():
        prior.heads[0][3].bias[2] = torch.nan
    with pytest.raises(ValueError, match="expected finite numbers, found NaN"):
        function(prior, uniforms_for(prior), temperature=temperature)


def test_progress_goes_up_to_the_number_of_positions(tiny, stepped):
    prior = tiny(num_codebooks=2)
    prior.__class__ = SteppedPixelCNN if stepped else GatedPixelCNN
    for function in (sample, sample_naive):
        calls = []
        function(prior, uniforms_for(prior), progress=lambda done, total: calls.append((done, total)))
        done = [call[0] for call in calls]
        assert len(calls) >= 3 and done == sorted(set(done))
        assert calls[-1] == (N * 15, N * 15) and {call[1] for call in calls} == {N * 15}


def test_an_error_in_progress_stops_all_threads(tiny, monkeypatch):
    """As an interrupt from the keyboard does: blocks that have begun stop after their row, others do not begin."""
    prior = tiny()
    monkeypatch.setattr(sampling, "BLOCK", 1)
    rows = []
    original = compiled.draw_row
    monkeypatch.setattr(compiled, "draw_row", lambda *arguments: rows.append(arguments[0]) or original(*arguments))

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(prior, uniforms_for(prior, n=50, grid=(40, 2)), progress=fail)
    assert len(rows) < 50 * 40 / 4


U = torch.zeros(2, *GRID, dtype=torch.float64)


@pytest.mark.parametrize("function", [sample, sample_naive])
@pytest.mark.parametrize(
    ("uniforms", "options", "message"),
    [
        (U.float(), {}, "uniforms: expected dtype torch.float64, found torch.float32"),
        (U + 1, {}, r"uniforms: expected values in \[0, 1\), found \[1.0, 1.0\]"),
        (U - 0.1, {}, r"uniforms: expected values in \[0, 1\), found \[-0.1, -0.1\]"),
        (U + torch.nan, {}, "uniforms: expected values"),
        (U[0], {}, r"uniforms: expected shape \(b, grid0, grid1\), found \(3, 5\)"),
        (U, {"labels": None}, r"labels: expected shape \(2, 1\), found none"),
        (U, {"labels": torch.tensor([[0], [3]])}, r"labels: column 0: expected classes in \[0, 3\), found 3"),
        (U, {"labels": torch.zeros(1, 1, dtype=torch.int64)}, r"labels: expected shape \(2, 1\), found \(1, 1\)"),
        (U, {"temperature": -1.0}, "temperature: expected a finite number of 0 or more, found -1.0"),
        (U, {"temperature": torch.inf}, "temperature: expected a finite number"),
        (U, {"temperature": torch.nan}, "temperature: expected a finite number"),
        (U, {"top_k": 0}, "top_k: expected 1 to 7 codes, found 0"),
        (U, {"top_k": 8}, "top_k: expected 1 to 7 codes, found 8"),
        (U, {"top_p": 0.0}, r"top_p: expected a probability in \(0, 1\], found 0.0"),
        (U, {"top_p": 1.1}, "top_p: expected a probability"),
        (U, {"known": torch.zeros(2, 3, 5)}, "known: expected torch.int64"),
        (U, {"known": torch.zeros(2, 5, 3, dtype=torch.int64)}, r"known: expected torch.int64 \(2, 3, 5\)"),
        (U, {"known": torch.full((2, 3, 5), 7)}, r"known: expected values in \[-1, 7\), found \[7, 7\]"),
        (U, {"known": torch.full((2, 3, 5), -2)}, r"known: expected values in \[-1, 7\), found \[-2, -2\]"),
        (U.to("meta"), {}, "uniforms: expected on the prior's device cpu, found meta"),
    ],
)
def test_arguments_are_checked(tiny, function, uniforms, options, message):
    prior = tiny(num_classes=(3,))
    options = {"labels": torch.zeros(2, 1, dtype=torch.int64), **options}
    with pytest.raises(ValueError, match=message):
        function(prior, uniforms, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_is_refused(tiny, dtype):
    prior = tiny().to(dtype)
    with pytest.raises(ValueError, match=f"expected parameters of torch.float32 or .* on a CPU, found {dtype}"):
        sample(prior, uniforms_for(prior))
