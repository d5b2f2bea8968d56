"""Squared errors of images: what NMSE and PSNR are made of."""

from torch import Tensor


def squared_errors(made: Tensor, real: Tensor) -> Tensor:
    """uint8 (n, ...) -> mean squared error of each item in levels, (n,) float64."""
    return (made.double() - real).square().flatten(1).mean(1)
