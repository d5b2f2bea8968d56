"""The pieces of machine code, each against PyTorch."""

import numpy as np
import pytest
import torch
from numba import njit

from stage2_prior import compiled

ULP = {np.float32: 6e-8, np.float64: 1.1e-16}


@pytest.fixture(params=["AVX512", "AVX2"])
def capability(request, monkeypatch) -> str:
    """Both widths of a tile are right on every machine; only one is fast."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "depth", "outputs"), [(1, 3, 5), (3, 9, 70), (4, 1, 1), (7, 7, 64), (12, 70, 130)])
def test_multiply_adds_the_product(capability, dtype, rows, depth, outputs):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(rows, depth + 3)).astype(dtype), rng.normal(size=(outputs, depth)).astype(dtype)
    packed = compiled.pack(torch.from_numpy(weight))
    assert packed.shape[2] * packed.itemsize == {"AVX512": 256, "AVX2": 64}[capability]
    start = rng.normal(size=(rows, packed.shape[0] * packed.shape[2])).astype(dtype)
    out = start.copy()
    compiled.multiply(x, packed, out)
    expected = start[:, :outputs] + x[:, :depth].astype(np.float64) @ weight.T
    np.testing.assert_allclose(out[:, :outputs], expected, rtol=0, atol=ULP[dtype] * 10 * depth)
    np.testing.assert_array_equal(out[:, outputs:], start[:, outputs:])


@pytest.mark.parametrize(("dtype", "samples", "columns"), [(np.float32, 3, 5), (np.float64, 1, 4), (np.float64, 2, 1)])
def test_correlating_pairs_of_columns_gives_the_same_sums(dtype, samples, columns):
    """The second chunk of a row, of two rows of kernels; the ring's newest row comes before its oldest."""
    rng, p, n, start = np.random.default_rng(0), 6, 10, 2 * samples
    weight = torch.from_numpy(rng.normal(size=(2, 3, n, p)).astype(dtype))
    ring = rng.normal(size=(2, (2 + columns + 3) * samples, p)).astype(dtype)
    plain, paired = compiled.pack(weight), compiled.pack(compiled.for_pairs(weight))
    before = rng.normal(size=(columns * samples, plain.shape[2] * plain.shape[4])).astype(dtype)
    expected, found = before.copy(), before.copy()
    compiled.correlate(ring, 4, start, samples, plain, expected)
    pairs = (columns + 1) // 2 * samples
    workspace = np.full((4, pairs, p), np.nan, dtype), np.full((4, pairs, before.shape[1]), np.nan, dtype)
    compiled.correlate_pairs(ring, 4, start, samples, paired, workspace, found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=200 * ULP[dtype])
    assert np.abs(expected - before)[:, :n].max() > 1


@njit
def exponentials(x, out):
    for i in range(len(x)):
        out[i] = compiled.exp(x[i])


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 80), (np.float64, 700)])
def test_exp_is_exact_to_a_few_units_in_the_last_place(dtype, most):
    x = np.concatenate((np.linspace(-most, most, 20_001), np.linspace(-1, 1, 2_001), [0.0])).astype(dtype)
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.longdouble)).astype(np.float64), rtol=4 * ULP[dtype], atol=0)
    assert out[-1] == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gate_is_tanh_times_sigmoid(dtype):
    extremes = [-1e4, -30, 30, 1e4, -np.inf, np.inf]
    f, g = np.meshgrid(np.concatenate((np.linspace(-4, 4, 33), extremes)), [-1e4, -50, -3, 0, 2, 99])
    sums = np.concatenate((f, g), axis=1).astype(dtype)
    gated = np.empty((6, 39), dtype)
    compiled.gate(sums, gated)
    np.testing.assert_allclose(gated, np.tanh(f) / (1 + np.exp(np.minimum(-g, 700))), rtol=0, atol=4 * ULP[dtype])


def test_gate_passes_on_what_is_not_a_number():
    gated = np.empty((1, 2))
    compiled.gate(np.array([[np.nan, 0.0, 0.0, np.nan]]), gated)
    assert np.isnan(gated).all()
