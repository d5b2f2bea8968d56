"""Known values."""

import pytest
import torch

from stage1_vqvae.codebook import dead_codes, perplexity, usage


def test_usage_counts_codes_of_any_shape():
    codes = torch.tensor([[[0, 2], [2, 2]], [[5, 0], [2, 5]]])
    assert usage(codes, 7).tolist() == [2, 0, 4, 0, 0, 2, 0]
    assert dead_codes(usage(codes, 7)).tolist() == [1, 3, 4, 6]


def test_perplexity():
    assert perplexity(torch.tensor([3, 3, 0, 3, 3])).item() == pytest.approx(4, rel=1e-12)
    assert perplexity(torch.tensor([0, 9, 0])).item() == 1
    # two thirds and one third: exp(-(2/3 log 2/3 + 1/3 log 1/3)) = 3 / 2^(2/3)
    assert perplexity(torch.tensor([20, 10])).item() == pytest.approx(3 / 2 ** (2 / 3), rel=1e-12)
    assert perplexity(torch.tensor([[1, 1], [1, 0]])).tolist() == pytest.approx([2, 1])


def test_perplexity_is_of_the_whole_not_a_mean_of_parts():
    first, second = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert perplexity(usage(first, 2) + usage(second, 2)).item() == pytest.approx(2)


def test_usage_leaves_out_what_is_not_real():
    codes, real = torch.tensor([[0, 2, 2], [1, 2, 0]]), torch.tensor([[True, True, False], [True, False, False]])
    assert usage(codes, 4, real).tolist() == [1, 1, 1, 0]
    assert usage(codes, 4, torch.ones_like(real)).tolist() == usage(codes, 4).tolist()
