"""WaveNet as a density (receptive field, normalisation), and its three ways of sampling."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_prior import compiled, sampling, triton_compiler, wavenet
from stage2_prior.sampling import sample, sample_naive
from stage2_prior.wavenet import WaveNet

N, LENGTH = 5, 23  # longer than the receptive field (11), and no multiple of anything


class SteppedWaveNet(WaveNet):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


@pytest.fixture(params=[WaveNet, SteppedWaveNet], ids=["compiled", "stepped"])
def kind(request) -> type[WaveNet]:
    return request.param


def uniforms_for(prior: WaveNet, n: int = N, length: int = LENGTH) -> Tensor:
    shape = (n, length, prior.num_codebooks) if prior.num_codebooks > 1 else (n, length)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def conditions_for(prior: WaveNet, n: int = N, length: int = LENGTH) -> dict[str, Tensor]:
    """Labels and local in the shapes that the prior expects, different for each sample."""
    generator = torch.Generator().manual_seed(2)
    conditions = {}
    if prior.num_classes:
        conditions["labels"] = torch.stack([torch.arange(n) % count for count in prior.num_classes], dim=1)
    if prior.local_channels:
        dtype = prior.embeddings[0].weight.dtype
        conditions["local"] = torch.randn(n, prior.local_channels, length, generator=generator, dtype=dtype)
    return conditions


# The receptive field.


@pytest.mark.parametrize(("num_codebooks", "kernel_size", "length"), [(1, 2, 23), (3, 2, 16), (1, 3, 31), (2, 3, 25)])
def test_gradient_reaches_every_earlier_position_in_the_receptive_field_and_no_other(
    tiny_wavenet, num_codebooks, kernel_size, length
):
    prior = tiny_wavenet(num_codebooks=num_codebooks, kernel_size=kernel_size)
    embedded, within = [], []
    for tables, outputs in ((prior.embeddings, embedded), (prior.within, within)):
        for table in tables:
            table.register_forward_hook(lambda module, inputs, output, outputs=outputs: outputs.append(output))
    logits = prior(torch.randint(7, (1, length, num_codebooks) if num_codebooks > 1 else (1, length)))
    logits = logits if num_codebooks > 1 else logits[..., None]
    direction = torch.randn(7, dtype=torch.float64)
    positions = torch.arange(length)
    for t, j in itertools.product(range(length), range(num_codebooks)):
        gradients = torch.autograd.grad(
            direction @ logits[0, :, t, j], embedded + within, retain_graph=True, materialize_grads=True
        )
        reached = [gradient[0].abs().amax(-1) > 0 for gradient in gradients]
        visible = (positions < t) & (positions >= t - prior.receptive_field)
        for table in reached[:num_codebooks]:  # the last position is embedded for nobody
            assert torch.equal(table, visible[: len(table)]), t
        for i, table in enumerate(reached[num_codebooks:]):
            assert torch.equal(table, (positions == t) & (i < j)), (t, i, j)
    assert visible.sum() == prior.receptive_field < length - 1  # so both ends of it were met


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_changing_one_code_changes_no_earlier_logits(tiny_wavenet, num_codebooks):
    """The same law without looking inside: position by position, codebook fastest, the code itself included."""
    prior = tiny_wavenet(num_codebooks=num_codebooks)
    shape = (11, num_codebooks) if num_codebooks > 1 else (11,)
    count = math.prod(shape)
    codes = torch.randint(7, shape)
    changed = (codes.flatten() + torch.eye(count, dtype=torch.int64)) % 7  # row i: code i is another
    with torch.no_grad():
        logits = prior(torch.cat((codes[None], changed.reshape(count, *shape)))).movedim(1, -1).flatten(1, -2)
    # (changed code, code whose logits moved); rounding may depend on the place in the batch
    moved = ((logits[1:] - logits[0]).abs() > 1e-9).any(-1)
    assert torch.equal(moved, ~torch.ones_like(moved).tril())


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_local_conditions_its_own_position_and_later_ones(tiny_wavenet, kernel_size):
    prior = tiny_wavenet(local_channels=2, kernel_size=kernel_size)
    local = torch.randn(1, 2, 31, dtype=torch.float64, requires_grad=True)
    logits = prior(torch.randint(7, (1, 31)), local=local)
    gradient = torch.autograd.grad(logits[0, :, 27].square().sum(), local)[0][0].abs().amax(0) > 0
    reach = sum((kernel_size - 1) * layer.dilation for layer in prior.layers[1:])  # from the first layer's gates on
    positions = torch.arange(31)
    assert torch.equal(gradient, (positions <= 27) & (positions >= 27 - reach))


def test_receptive_field_of_the_defaults():
    assert WaveNet(4, residual_channels=1, gate_channels=2, skip_channels=1).receptive_field == 1 + 4 * 1023
    assert WaveNet(4, residual_channels=1, gate_channels=2, skip_channels=1, kernel_size=3).receptive_field == 8185


@pytest.mark.parametrize(("kernel_size", "dilation", "local"), [(2, 4, False), (3, 2, True), (2, 16, True)])
def test_a_layer_is_equation_2_and_so_is_its_gradient(kernel_size, dilation, local):
    torch.manual_seed(0)
    layer = wavenet.GatedLayer(3, 8, kernel_size, dilation, False, (5,), 2 if local else 0, dropout=0.0).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 9, 2, dtype=torch.float64, requires_grad=True) if local else None
    labels = torch.tensor([[1], [4]])

    def by_convolution(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        kernel = layer.dilated.weight.unflatten(1, (kernel_size, 3)).movedim(1, 2)
        padded = F.pad(x.mT, (dilation * (kernel_size - 1), 0))
        sums = F.conv1d(padded, kernel, layer.dilated.bias, dilation=dilation).mT + layer.tables[0](labels)
        f, g = (sums if h is None else sums + h @ layer.local.weight.T).chunk(2, dim=-1)
        units = torch.tanh(f) * torch.sigmoid(g)
        return x + units @ layer.out.weight.T + layer.out.bias, units

    def with_gradients(result: tuple[Tensor, Tensor]) -> tuple:
        loss = sum((part * torch.arange(1.0, part.numel() + 1).reshape(part.shape)).sum() for part in result)
        return result, torch.autograd.grad(loss, [x, *([] if h is None else [h]), *layer.parameters()])

    expected = with_gradients(by_convolution(x, h))
    torch.testing.assert_close(with_gradients(layer(x, labels, h)), expected, rtol=1e-10, atol=1e-9)


# The density.


@pytest.mark.parametrize(
    ("num_codes", "num_codebooks", "shape", "num_classes"),
    [(3, 1, (5,), ()), (2, 1, (8,), (2,)), (2, 2, (4, 2), (3, 2)), (2, 3, (3, 3), ())],
)
def test_probabilities_of_all_sequences_add_up_to_one(tiny_wavenet, num_codes, num_codebooks, shape, num_classes):
    prior = tiny_wavenet(num_codes=num_codes, num_codebooks=num_codebooks, num_classes=num_classes)
    every = torch.tensor(list(itertools.product(range(num_codes), repeat=math.prod(shape)))).reshape(-1, *shape)
    for label in itertools.product(*map(range, num_classes)):
        labels = torch.tensor(label).expand(len(every), -1) if label else None
        with torch.no_grad():
            probability = prior.log_prob(every, labels).exp()
        assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
        assert probability.max() > 3 / len(every)  # and they are not all the same


def test_every_label_column_matters(tiny_wavenet):
    prior = tiny_wavenet(num_classes=(3, 2))
    labels = torch.tensor(list(itertools.product(range(3), range(2))))
    logits = prior(torch.randint(7, (1, 12)).expand(6, 12), labels)
    for one, other in itertools.combinations(logits, 2):
        assert (one - other).abs().amax(0).min() > 1e-4  # at each position


def test_an_untrained_prior_is_finite_and_close_to_uniform():
    torch.manual_seed(0)
    prior = WaveNet(num_codes=64, num_layers=12, dilation_cycle=6)
    loss = -prior.log_prob(torch.randint(64, (4, 200))) / 200
    loss.sum().backward()
    assert loss.mean().item() == pytest.approx(math.log(64), abs=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())


def test_autocast_keeps_the_likelihood_in_float32(tiny_wavenet):
    prior = tiny_wavenet(num_classes=(3,), local_channels=2).float()
    codes, labels, local = torch.randint(7, (4, 30)), torch.randint(3, (4, 1)), torch.randn(4, 2, 30)
    exact = prior.log_prob(codes, labels, local)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prior(codes, labels, local).dtype == torch.bfloat16
        rough = prior.log_prob(codes, labels, local)
    assert rough.dtype == torch.float32
    rough.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
    # bfloat16 carries 8 bits, 0.4 %; logits of about 2 are off by about 0.02 each, up to 30 of them add up
    torch.testing.assert_close(rough, exact, rtol=0, atol=1.5)
    assert not torch.equal(rough, exact)


# Sampling: cached equals naive, and samples do not depend on one another.

PRIORS = {
    "plain": {},
    "one layer": {"num_layers": 1},
    "kernel 3": {"kernel_size": 3},
    "far": {"dilation_cycle": 5},  # a dilation over compiled.AT_ONCE / N
    "labels": {"num_classes": (3, 2)},
    "local": {"local_channels": 2},
    "codebooks": {"num_codebooks": 3, "num_codes": 4},
    "wide": {"residual_channels": 70, "gate_channels": 36, "skip_channels": 65, "num_codes": 80},  # several panels
    "all": {"num_codebooks": 2, "num_classes": (4,), "local_channels": 3, "kernel_size": 3, "dilation_cycle": 4},
}
RULES = {
    "plain": {},
    "cool": {"temperature": 0.7},
    "argmax": {"temperature": 0.0},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.8},
    "all": {"temperature": 1.5, "top_k": 4, "top_p": 0.9},
}


@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
def test_cached_equals_naive_for_every_kind_of_prior(tiny_wavenet, kind, options):
    prior = tiny_wavenet(**options)
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    expected = sample_naive(prior, uniforms, **conditions)
    prior.__class__ = kind
    assert torch.equal(sample(prior, uniforms, **conditions), expected)
    assert len(expected.flatten(1).unique(dim=0)) == N  # the samples differ,
    assert len(expected.unique()) > prior.num_codes // 2  # and use most codes


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("known", ["none", "prefix", "scattered", "all"])
def test_cached_equals_naive_for_every_rule_and_known_codes(tiny_wavenet, kind, rule, known):
    prior = tiny_wavenet(num_codebooks=2, local_channels=1)
    uniforms, conditions = uniforms_for(prior, length=14), conditions_for(prior, length=14)
    number = torch.arange(N * 28).reshape(N, 14, 2)
    free = {"none": number >= 0, "prefix": number % 28 >= 9, "scattered": number % 3 > 0, "all": number < 0}[known]
    given = torch.randint(7, uniforms.shape, generator=torch.Generator().manual_seed(3)).masked_fill(free, -1)
    expected = sample_naive(prior, uniforms, **conditions, **rule, known=given)
    prior.__class__ = kind
    before = given.clone()
    codes = sample(prior, uniforms, **conditions, **rule, known=given)
    assert torch.equal(codes, expected)
    assert torch.equal(given, before)  # the caller's tensor is left alone
    assert torch.equal(codes[~free], given[~free])


@pytest.mark.parametrize("n", [1, 3, 5, 16])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_cached_equals_naive_for_any_number_and_length(tiny_wavenet, kind, n, length):
    """40 positions of one sample are three lots of compiled.AT_ONCE, with dilations up to as many."""
    prior = tiny_wavenet(num_classes=(3,), local_channels=2, dilation_cycle=5)
    uniforms, conditions = uniforms_for(prior, n, length), conditions_for(prior, n, length)
    expected = sample_naive(prior, uniforms, **conditions)
    prior.__class__ = kind
    assert torch.equal(sample(prior, uniforms, **conditions), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batchmates(tiny_wavenet, monkeypatch, dtype):
    """To the bit, in float32 as well, whatever the block: the codes, and the logits that they are drawn from."""
    monkeypatch.setattr(wavenet, "SPAN", 16)
    prior = tiny_wavenet(num_classes=(3,), local_channels=2, dilation_cycle=5, residual_channels=40).to(dtype)
    uniforms, conditions = uniforms_for(prior, 13, 40), conditions_for(prior, 13, 40)
    original, last = compiled.draw_positions, []

    def spy(start: int, *arguments) -> bool:
        fine = original(start, *arguments)
        last.append(torch.from_numpy(arguments[-1].logits.copy()))  # of the span's last position
        return fine

    monkeypatch.setattr(compiled, "draw_positions", spy)
    together, logits = sample(prior, uniforms, **conditions), list(last)
    assert len(logits) == 3 and len(logits[0]) == 13
    for i in range(13):
        last.clear()
        alone = sample(prior, uniforms[i : i + 1], **{name: x[i : i + 1] for name, x in conditions.items()})
        assert torch.equal(alone[0], together[i])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(last, logits, strict=True))
    for size, threads in ((2, 1), (5, 2), (32, 3)):
        monkeypatch.setattr(sampling, "BLOCK", size)
        torch.set_num_threads(threads)
        assert torch.equal(sample(prior, uniforms, **conditions), together)
    order = torch.arange(12, -1, -1)
    backwards = sample(prior, uniforms[order], **{name: x[order] for name, x in conditions.items()})
    assert torch.equal(backwards, together[order])


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_a_product_are_to_the_bit_those_of_single_rows(monkeypatch, capability, fitted, dtype):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    rng = np.random.default_rng(0)
    for outputs in (1, 16, 33, 80):
        x, weight = rng.normal(size=(7, 50)).astype(dtype), rng.normal(size=(outputs, 45)).astype(dtype)
        packed = compiled.pack(torch.from_numpy(weight), fitted)
        out = rng.normal(size=(7, packed.shape[0] * packed.shape[2])).astype(dtype)
        rows = [row.copy() for row in out]
        expected = out[:, :outputs] + x[:, :45].astype(np.float64) @ weight.T
        compiled.multiply(x, packed, out)
        np.testing.assert_allclose(out[:, :outputs], expected, rtol=0, atol=450 * np.finfo(dtype).eps)
        for i, row in enumerate(rows):
            compiled.multiply(x[i : i + 1], packed, row[None])
            np.testing.assert_array_equal(out[i], row)
        if fitted and capability == "AVX512":
            assert out.shape[1] - outputs < compiled.HALF // np.dtype(dtype).itemsize


def test_in_float32_next_to_no_code_differs_from_naive(tiny_wavenet, kind):
    prior = tiny_wavenet(num_codes=64, residual_channels=32, gate_channels=64, num_layers=8, dilation_cycle=4).float()
    uniforms = uniforms_for(prior, 32, 36)
    expected = sample_naive(prior, uniforms)
    prior.__class__ = kind
    differs = sample(prior, uniforms) != expected
    # Logits of about 2 agree to about 1e-6, so each of 63 edges of the CDF moves by up to 1e-6: a draw falls between
    # its two places with a probability of up to 6e-5, in one of 32 * 36 draws with one of 0.07. Two samples: 0.002.
    assert differs.any(1).sum() <= 1


@pytest.mark.parametrize("function", [sample, sample_naive])
def test_sampling_is_done_without_dropout_and_puts_each_mode_back(tiny_wavenet, kind, function):
    prior = tiny_wavenet(dropout=0.5)
    prior.__class__ = kind
    uniforms = uniforms_for(prior, length=8)
    expected = function(prior.eval(), uniforms)
    prior.train()
    prior.layers[1].eval()
    modes = [module.training for module in prior.modules()]
    assert torch.equal(function(prior, uniforms), expected)
    assert [module.training for module in prior.modules()] == modes
    codes = torch.randint(7, (2, 9))
    assert not torch.equal(prior(codes), prior(codes))  # while training does drop


def test_progress_is_reported_every_span_and_can_stop_the_loop(tiny_wavenet, monkeypatch):
    monkeypatch.setattr(wavenet, "SPAN", 16)
    prior = tiny_wavenet(num_codebooks=2)
    calls = []
    codes = sample(prior, uniforms_for(prior, 1, 40), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(16, 40), (32, 40), (40, 40)]
    monkeypatch.setattr(wavenet, "SPAN", 256)
    assert torch.equal(sample(prior, uniforms_for(prior, 1, 40)), codes)  # where the spans end makes no difference

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    spans = []
    original = compiled.draw_positions
    monkeypatch.setattr(
        compiled, "draw_positions", lambda *arguments: spans.append(arguments[0]) or original(*arguments)
    )
    with pytest.raises(KeyboardInterrupt):
        sample(prior, uniforms_for(prior, 1, 200_000), progress=interrupt)
    assert len(spans) < 200_000 / 256 / 4


@pytest.mark.parametrize("function", [sample, sample_naive])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_are_an_error(tiny_wavenet, kind, function, temperature):
    prior = tiny_wavenet()
    prior.__class__ = kind
    with torch.no_grad():
        prior.layers[2].dilated.bias[3] = torch.nan
    with pytest.raises(ValueError, match="expected finite numbers, found NaN"):
        function(prior, uniforms_for(prior, length=4), temperature=temperature)


# A step that can be recorded.


def test_a_step_recorded_once_is_right_for_every_position(tiny_wavenet, recordings):
    prior = tiny_wavenet(**PRIORS["all"])
    uniforms, conditions = uniforms_for(prior), conditions_for(prior)
    known = torch.full(uniforms.shape, -1)
    known[:, :4], known[1, 9] = 2, 3
    options = {"temperature": 1.2, "top_k": 5, "top_p": 0.95, "known": known}
    expected = sample_naive(prior, uniforms, **conditions, **options)
    prior.__class__ = SteppedWaveNet
    assert torch.equal(sample(prior, uniforms, **conditions, **options), expected)
    assert len(recordings) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("length", [sampling.WARM_UP - 1, LENGTH])
@pytest.mark.parametrize("kernel", [True, False])
def test_on_cuda_equals_naive(tiny_wavenet, monkeypatch, options, length, kernel):
    if not kernel:
        monkeypatch.setattr(triton_compiler, "wavenet", lambda device: None)
    prior = tiny_wavenet(**options).cuda()
    uniforms = uniforms_for(prior, length=length).cuda()
    conditions = {name: x.cuda() for name, x in conditions_for(prior, length=length).items()}
    known = torch.full_like(uniforms, -1, dtype=torch.int64)
    known[:, : sampling.WARM_UP + 2] = 1  # some before the step is recorded, and some after
    for given, rule in itertools.product((None, known), ({}, RULES["argmax"], RULES["all"])):
        expected = sample_naive(prior, uniforms, **conditions, **rule, known=given)
        assert torch.equal(sample(prior, uniforms, **conditions, **rule, known=given), expected)
    assert triton_compiler._failure is None


# Refused input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes: expected 1 or more, found 0"),
        ({"num_codebooks": 0}, "num_codebooks: expected 1 or more, found 0"),
        ({"residual_channels": 0}, "residual_channels: expected 1 or more, found 0"),
        ({"skip_channels": 0}, "skip_channels: expected 1 or more, found 0"),
        ({"num_layers": 0}, "num_layers: expected 1 or more, found 0"),
        ({"dilation_cycle": 0}, "dilation_cycle: expected 1 or more, found 0"),
        ({"gate_channels": 7}, "gate_channels: expected an even number of 2 or more, found 7"),
        ({"gate_channels": 0}, "gate_channels: expected an even number of 2 or more, found 0"),
        ({"kernel_size": 1}, "kernel_size: expected 2 or more, found 1"),
        ({"num_classes": (3, 0)}, "num_classes: expected 1 or more, found 0"),
        ({"local_channels": -1}, "local_channels: expected 0 or more, found -1"),
        ({"dropout": 1.0}, "dropout: expected a probability"),
    ],
)
def test_construction_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        WaveNet(**options)


CODES, LABELS = torch.zeros(2, 9, 2, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)
LOCAL = torch.zeros(2, 5, 9)


@pytest.mark.parametrize(
    ("codes", "labels", "local", "message"),
    [
        (CODES[..., 0], LABELS, LOCAL, r"codes: expected shape \(b, grid0, 2\), found \(2, 9\)"),
        (CODES[:, :0], LABELS, LOCAL[..., :0], r"codes: expected shape \(b, grid0, 2\), found \(2, 0, 2\)"),
        (CODES.int(), LABELS, LOCAL, "codes: expected dtype torch.int64, found torch.int32"),
        (CODES + 7, LABELS, LOCAL, r"codes: expected values in \[0, 7\), found \[7, 7\]"),
        (CODES, None, LOCAL, r"labels: expected shape \(2, 1\), found none"),
        (CODES, LABELS + 3, LOCAL, r"labels: column 0: expected classes in \[0, 3\), found 3"),
        (CODES, LABELS, None, r"local: expected shape \(2, 5, 9\), found none"),
        (CODES, LABELS, LOCAL[..., 1:], r"local: expected floats \(2, 5, 9\), found torch.float32 \(2, 5, 8\)"),
    ],
)
def test_input_is_checked(tiny_wavenet, codes, labels, local, message):
    prior = tiny_wavenet(num_codebooks=2, num_classes=(3,), local_channels=5).float()
    assert prior.log_prob(CODES, LABELS, LOCAL).shape == (2,)
    with pytest.raises(ValueError, match=message):
        prior(codes, labels, local)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_is_refused(tiny_wavenet, dtype):
    prior = tiny_wavenet().to(dtype)
    with pytest.raises(ValueError, match=f"expected parameters of torch.float32 or .* on a CPU, found {dtype}"):
        sample(prior, uniforms_for(prior))
