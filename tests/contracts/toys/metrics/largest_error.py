"""A metric in one file: the largest error of an item, in levels."""

from torch import Tensor

from pipelines.metrics.base import Metric, Pairs


class LargestError(Metric):
    kinds = ("image", "texture")
    rows = (("largest_error", "largest error, levels", ".1f"),)

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        return {"largest_error": (pairs.made.double() - pairs.real).abs().flatten(1).amax(1)}
