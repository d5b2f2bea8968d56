"""Constant offset of waves, which recordings do not have."""

from torch import Tensor

from pipelines.metrics.base import Metric, Pairs
from pipelines.metrics.waves import mono


class DCOffset(Metric):
    """The largest offset of any clip."""

    kinds = ("audio",)
    rows = (("dc_offset_largest", "largest DC offset", ".4f"),)

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        return {"dc_offset_largest": dc_offset(pairs.made, pairs.lengths).abs()}

    def summary(self, values: dict[str, Tensor]) -> dict[str, float | None]:
        return {key: float(own.max()) for key, own in values.items()}


def dc_offset(waves: Tensor, lengths: Tensor) -> Tensor:
    """The mean sample of each clip, full scale = 1; about 0 in recordings."""
    return mono(waves, lengths).sum(1) / lengths.cpu()
