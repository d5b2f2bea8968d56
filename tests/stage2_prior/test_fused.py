"""Fused layers compute what the plain ones do: values, gradients, masks, and NaN; on any number of threads."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage2_prior import compiler, fused, pixelcnn, prior, wavenet
from stage2_prior import training_kernels as kernels
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import nats

double = partial(torch.randn, dtype=torch.float64)


@pytest.fixture
def plainly(monkeypatch):
    """Calls a function with PyTorch's own operations, as on a GPU."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            for module in (pixelcnn, prior, wavenet):
                patch.setattr(module, "ready", lambda device, dtype: False)
            return function(*arguments)

    return call


def value_and_gradients(model: GatedPixelCNN, codes: Tensor, labels: Tensor | None, local: Tensor | None):
    inputs = [*model.parameters()] + ([] if local is None else [local])
    loss = -model.log_prob(codes, labels, local).mean()
    return [loss, *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("grid", [(5, 4), (1, 6), (6, 1), (2, 2)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1},
        {"kernel_size": 5, "first_kernel_size": 3},
        {"num_codebooks": 2},
        {"num_classes": (3,), "local_channels": 2},
        {"channels": 5, "dropout": 0.3},
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_plain_layers(tiny, plainly, grid, options):
    model = tiny(**options)
    shape = (9, *grid) if model.num_codebooks == 1 else (9, *grid, model.num_codebooks)
    codes = torch.randint(7, shape)
    labels = torch.randint(3, (9, 1)) if model.num_classes else None
    local = double(9, 2, *grid, requires_grad=True) if model.local_channels else None

    def run():
        torch.manual_seed(0)  # of dropout's mask
        return value_and_gradients(model.train(), codes, labels, local)

    for ours, theirs in zip(run(), plainly(run), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_look_up_of_codes_is_their_convolution(tiny, monkeypatch):
    model, codes = tiny(), torch.randint(7, (9, 5, 4))
    looked_up = value_and_gradients(model, codes, None, None)
    monkeypatch.setattr(pixelcnn, "PER_CODE", 1e9)
    monkeypatch.setattr(fused, "convolve_codes", None)  # it would fail
    for ours, theirs in zip(looked_up, value_and_gradients(model, codes, None, None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("reach", "first", "biased", "dropped"), [*itertools.product((0, 1), *[(False, True)] * 3)])
def test_gates_have_the_gradients_of_their_differences(reach, first, biased, dropped):
    p = 3
    beside = double(2, 3, 4, 2 * p) if first else F.pad(double(2, 3, 4, p), (0, 0, 2, 0))
    parameters = [double(2 * p, 2 * p, 1, 1), double(2 * p), double(2 * p, p, 1, 3), double(p, p, 1, 1), double(p)]
    inputs = [double(2, 3, 4, 2 * p), beside, double(2, 2 * p, 1, 4) if biased else None, *parameters]
    if first:
        inputs[5] = None
    kept = double(2, 3, 4, p) > 0 if dropped else None

    def gates(seen, beside, bias, *weights):
        outputs = fused.Gates.apply(seen, beside, bias, kept, 2.0, reach, *weights)
        return tuple(x for x in outputs if x is not None)

    assert torch.autograd.gradcheck(gates, [x if x is None else x.requires_grad_() for x in inputs])


def test_look_ups_likelihoods_and_rows_of_gates_have_the_gradients_of_their_differences():
    codes = torch.randint(5, (2, 3, 4))
    up, left = torch.tensor([0, 1, 1, 2]), torch.tensor([1, -1, 2, 0])
    look_up = partial(fused.LookUp.apply, codes)
    tables = double(4, 5, 3, requires_grad=True), double(3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda table, bias: look_up(table, bias, up, left, torch.float64), tables)
    logits = double(24, 5, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: fused.Nats.apply(x, codes.flatten()), (logits,))
    assert torch.autograd.gradcheck(fused.Gate.apply, (double(2, 3, 8, requires_grad=True),))


def test_bfloat16_differs_from_float64_by_its_rounding():
    """One rounding of the result: a unit in the last of 8 bits, 2^-8; the exponentials' 2e-6 cannot be seen."""
    sums = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([-1e4, 1e4, 0.0]))).bfloat16()
    pairs = torch.stack((sums, sums.flip(0)), -1)
    exact = torch.tanh(pairs[:, :1].double()) * torch.sigmoid(pairs[:, 1:].double())
    torch.testing.assert_close(fused.Gate.apply(pairs).double(), exact, rtol=2**-8, atol=1e-6)
    logits = (torch.randn(500, 77) * 5).bfloat16()
    codes = torch.randint(77, (500,))
    expected = F.cross_entropy(logits.double(), codes, reduction="none")
    torch.testing.assert_close(nats(logits, codes).double(), expected, rtol=1e-5, atol=1e-5)
    assert nats(logits, codes).dtype == torch.float32


def test_gradients_in_bfloat16_are_as_near_those_in_float64_as_plain_ones(tiny, plainly):
    model, codes = tiny(channels=32, num_layers=5), torch.randint(7, (16, 6, 6))
    exact = value_and_gradients(model, codes, None, None)
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        fused_ones = value_and_gradients(model, codes, None, None)
        plain_ones = plainly(value_and_gradients, model, codes, None, None)
    ours, theirs, truth = (
        torch.cat([gradient.double().flatten() for gradient in gradients[1:]])
        for gradients in (fused_ones, plain_ones, exact)
    )
    assert 0 < (ours - truth).norm() < 1.1 * (theirs - truth).norm()


@pytest.mark.parametrize("per_code", [0, math.inf])
def test_parameters_may_be_bfloat16_themselves(tiny, per_code, monkeypatch):
    monkeypatch.setattr(pixelcnn, "PER_CODE", per_code)
    codes = torch.randint(7, (16, 6, 6))
    model = tiny(channels=32).bfloat16()
    rounded = value_and_gradients(model, codes, None, None)
    exact = value_and_gradients(model.double(), codes, None, None)
    assert rounded[1].dtype == torch.bfloat16
    torch.testing.assert_close(rounded[0].double(), exact[0], rtol=0.02, atol=0)  # features have 8 bits


def test_results_do_not_depend_on_the_number_of_threads(tiny):
    model, codes = tiny().float(), torch.randint(7, (13, 5, 4))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(value_and_gradients(model, codes, None, None)[0])
        assert torch.get_num_threads() == threads  # numba's own threads do not set PyTorch's
    sums, table = torch.randn(7, 5, 4, 6), torch.zeros(2, 7, 6)
    tables = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        taps = torch.tensor([1, 0]).numpy(), torch.tensor([0, 1]).numpy()
        out = table.clone()
        kernels.run(kernels.look_up_gradient, codes[:7].numpy(), sums, *taps, out)
        tables.append(out)
    assert torch.equal(*tables)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_weight_gives_a_broken_likelihood(tiny, bad):
    for precision in (torch.float64, torch.float32):
        model = tiny().to(precision)
        with torch.no_grad():
            model.layers[1].vertical.weight[0, 0, 0, 0] = bad
            model.heads[0][3].bias[0] = bad
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.float32):
            assert not model.log_prob(torch.randint(7, (4, 5, 4))).isfinite().any()


def test_where_kernels_do_not_compile_plain_layers_serve_and_one_line_says_so(tiny, monkeypatch, caplog):
    expected = tiny()(torch.zeros(9, 5, 4, dtype=torch.int64))
    monkeypatch.setattr(compiler, "_ready", set())
    monkeypatch.setattr(compiler, "_failure", None)
    monkeypatch.setattr(compiler, "_reported", False)
    monkeypatch.setattr(kernels, "gate", lambda *arguments: 1 / 0)
    for _ in range(2):
        torch.testing.assert_close(tiny()(torch.zeros(9, 5, 4, dtype=torch.int64)), expected, rtol=1e-10, atol=1e-12)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "numba cannot compile (ZeroDivisionError"
    ]


def test_other_devices_and_precisions_have_no_kernels():
    assert compiler.ready(torch.device("cpu"), torch.bfloat16)
    assert not compiler.ready(torch.device("cuda"), torch.float32)
    assert not compiler.ready(torch.device("cpu"), torch.float16)


def test_a_fused_stack_calls_no_plain_layer(tiny, monkeypatch):
    monkeypatch.setattr(pixelcnn.GatedLayer, "forward", nn.Module.forward)  # raises NotImplementedError
    tiny()(torch.zeros(9, 5, 4, dtype=torch.int64))
