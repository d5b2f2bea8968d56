"""Sampling and likelihoods never use TF32, whatever the process allows elsewhere, and leave that as it was."""

import pytest
import torch

from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.precision import full_float32
from stage2_prior.sampling import sample_naive


def settings() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture(autouse=True)
def tf32_allowed():
    before = settings()
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


def test_every_product_of_sampling_and_of_likelihoods_is_of_float32():
    prior = GatedPixelCNN(8, channels=4, num_layers=1, head_channels=4)
    codes, uniforms, seen = torch.zeros(2, 2, 3, dtype=torch.int64), torch.full((2, 2, 3), 0.5).double(), []
    prior.register_forward_hook(lambda *_: seen.append(settings()))
    for run in (lambda: prior.log_prob(codes), lambda: prior.code_nats(codes), lambda: sample_naive(prior, uniforms)):
        seen.clear()
        run()
        assert seen and set(seen) == {("ieee", "ieee")}
        assert settings() == ("tf32", "tf32")


def test_a_forward_pass_alone_keeps_the_settings():
    """Training in float32 is the loop's affair."""
    prior, seen = GatedPixelCNN(8, channels=4, num_layers=1, head_channels=4), []
    prior.register_forward_hook(lambda *_: seen.append(settings()))
    prior(torch.zeros(2, 2, 3, dtype=torch.int64))
    assert seen == [("tf32", "tf32")]


def test_an_error_leaves_the_settings_as_they_were():
    with pytest.raises(RuntimeError, match="stop"), full_float32():
        raise RuntimeError("stop")
    assert settings() == ("tf32", "tf32")


def test_values_are_checked_where_nothing_waits_for_them():
    """On a device without values a forward pass goes through; a likelihood looks at them and fails there."""
    with torch.device("meta"):
        prior = GatedPixelCNN(8, channels=4, num_layers=1, head_channels=4, num_classes=(3,))
        codes, labels = torch.zeros(2, 2, 3, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64)
        prior.check(codes, labels, None)
        with pytest.raises(RuntimeError):
            prior.log_prob(codes, labels)
    for bad_codes, bad_labels, message in ((8, 0, r"codes: expected values in \[0, 8\)"), (0, 3, "labels: column 0")):
        with pytest.raises(ValueError, match=message):
            prior.check(torch.full((2, 2, 3), bad_codes), torch.full((2, 1), bad_labels), None)
