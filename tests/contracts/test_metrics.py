"""What every metric of reconstructions keeps, the project's and those in the user's folders: found by globbing."""

import pytest
import torch

from pipelines.evaluation.reconstructions import all_metrics, metrics_of, reconstruction_rows
from pipelines.kinds import all_kinds
from pipelines.metrics.base import Pairs, number

RATE, HOP = 8000, 64


def pytest_generate_tests(metafunc):
    if "metric" in metafunc.fixturenames:
        cases = {f"{type(metric).__name__}-{kind}": (metric, kind) for metric in all_metrics() for kind in metric.kinds}
        metafunc.parametrize("metric, kind", cases.values(), ids=cases)


def pairs(kind: str, exact: bool = False) -> Pairs:
    """Four items of a kind, and reconstructions with errors, or without."""
    generator = torch.Generator().manual_seed(1)
    if kind == "audio":
        time = torch.arange(8192) / RATE
        real = torch.stack([0.3 * torch.sin(2 * torch.pi * (200 + 90 * item) * time) for item in range(4)])[:, None]
        real = real * (0.2 + torch.rand(real.shape, generator=generator))
        lengths = torch.tensor([8192, 8000, 7000, 8192])
        noise = 0.1 * torch.randn(real.shape, generator=generator)
        return Pairs(real, real if exact else real + noise, lengths, None, {"sample_rate_hz": RATE, "hop_length": HOP})
    shape = (4, 3, 6, 16, 20) if kind == "video" else (4, 1, 16, 20)
    real = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    noise = torch.randint(-20, 21, shape, generator=generator)
    made = real if exact else (real.long() + noise).clamp(0, 255).to(torch.uint8)
    return Pairs(real, made, torch.full((4,), real[0].numel()), 5000.0)


def rows(found: Pairs, items: list[int]) -> Pairs:
    return Pairs(found.real[items], found.made[items], found.lengths[items], found.variance, found.facts)


def test_an_item_s_values_are_its_own(metric, kind):
    found = pairs(kind)
    whole, some = metric.measure(found), metric.measure(rows(found, [2, 0]))
    for key, values in whole.items():
        assert values.shape == (4,), key
        torch.testing.assert_close(some[key].double(), values[[2, 0]].double(), equal_nan=True, rtol=1e-5, atol=1e-7)


def test_its_rows_are_its_figures_and_errors_change_them(metric, kind):
    made, exact = (metric.summary(metric.measure(pairs(kind, exact))) for exact in (False, True))
    assert [key for key, _, _ in metric.rows] == list(made)
    assert all(value is None or isinstance(value, float) for value in made.values())
    assert any(made[key] != exact[key] for key in made)


def test_figures_of_a_kind_have_names_of_their_own():
    for kind in all_kinds():
        keys = [key for metric in metrics_of(kind) for key, _, _ in metric.rows]
        assert len(keys) == len(set(keys)), kind
        assert len(reconstruction_rows(kind, dict.fromkeys(keys))) == len(keys)


def test_known_values():
    """Errors of 2 levels everywhere: 4 / 5000, and 10 log10(255^2 / 4) = 42.11 dB; equal images have SSIM 1."""
    images = torch.arange(2 * 256).remainder(200).to(torch.uint8).view(2, 1, 16, 16)
    found = {}
    for metric in metrics_of("image"):
        found |= metric.measure(Pairs(images, images + 2, torch.full((2,), 256), 5000.0))
    assert found["nmse"].tolist() == [0.0008] * 2
    assert found["psnr_db"].tolist() == pytest.approx([42.110] * 2, abs=1e-3)
    assert all(0.9 < value < 1 for value in found["ssim"].tolist())
    small = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)  # smaller than SSIM's window of 11 pixels
    (ssim,) = [metric for metric in metrics_of("image") if metric.rows[0][0] == "ssim"]
    equal = ssim.measure(Pairs(images, images, torch.full((2,), 256), 1.0))["ssim"]
    assert equal.tolist() == pytest.approx([1.0] * 2, abs=1e-5)  # float32
    assert ssim.summary(ssim.measure(Pairs(small, small, torch.full((2,), 64), 1.0))) == {"ssim": None}


def test_a_figure_without_a_value_is_none():
    assert number(torch.tensor(torch.nan)) is None and number(torch.tensor(2.5)) == 2.5
