"""Normalised mean squared error: MSE over one scalar variance of all training values (1 for the mean image)."""

from torch import Tensor

from pipelines.metrics.base import Metric, Pairs
from pipelines.metrics.squares import squared_errors


class NMSE(Metric):
    kinds = ("image", "video")
    rows = (("nmse", "NMSE", ".4f"),)

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        assert pairs.variance is not None
        return {"nmse": squared_errors(pairs.made, pairs.real) / pairs.variance}
