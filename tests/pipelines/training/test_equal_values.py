"""The share of equal values of a batch, which tells data that hold nothing."""

import pytest
import torch

from pipelines.training.autoencoder import equal_values


@pytest.mark.parametrize(("share", "shape"), [(1.0, (4, 1, 8, 8)), (0.75, (4, 3, 8, 8)), (0.9, (50, 3, 64, 64))])
def test_it_is_the_share_of_the_commonest_level_where_that_has_more_than_half(share, shape):
    """Of 600,000 values every 9th is looked at: the share of 0.9 is then known to within 0.01 (eight deviations)."""
    generator = torch.Generator().manual_seed(0)
    black = torch.rand(shape, generator=generator) < share
    levels = torch.where(black, 0, torch.randint(1, 256, shape, generator=generator))
    assert float(equal_values(levels)) == pytest.approx(float((levels == 0).double().mean()), abs=0.01)


def test_every_column_of_an_image_is_looked_at():
    """Images of 128 x 128 of which only column 5 is black: a step of 128 would see it always or never."""
    levels = torch.full((40, 1, 128, 128), 7)
    levels[..., 5] = 0
    assert float(equal_values(levels)) == pytest.approx(127 / 128, abs=1e-3)
