"""Clicks at the borders between codes: how much rougher waves are there than elsewhere."""

import torch
from torch import Tensor

from pipelines.metrics.base import Metric, Pairs, number
from pipelines.metrics.waves import mono


class Clicks(Metric):
    """The median over clips, of originals and of reconstructions."""

    kinds = ("audio",)
    rows = (("clicks_real", "roughness at code borders: originals", ".2f"),
            ("clicks_reconstructions", "roughness at code borders: reconstructions", ".2f"))

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        hop = pairs.facts["hop_length"]
        borders = torch.arange(hop, pairs.real.shape[-1], hop)
        return {"clicks_real": click_score(pairs.real, pairs.lengths, borders),
                "clicks_reconstructions": click_score(pairs.made, pairs.lengths, borders)}

    def summary(self, values: dict[str, Tensor]) -> dict[str, float | None]:
        return {key: number(own.nanmedian()) for key, own in values.items()}


def click_score(waves: Tensor, lengths: Tensor, borders: Tensor) -> Tensor:
    """How much rougher waves are at `borders` than elsewhere: about 1 without clicks, large with clicks.

    borders: int64 (m,), the first sample after each border, the same for all clips, such as multiples of the hop
    length. The score is the mean square of the second difference x[n-1] - 2 x[n] + x[n+1] at the two samples next
    to the borders, over that at all other samples. The loudness of speech varies, so few borders per clip give scores
    far from 1: compare with the scores of the originals. NaN if no border lies in the clip or the rest is silent.
    """
    clips = mono(waves, lengths)
    rough = (clips[:, 2:] - 2 * clips[:, 1:-1] + clips[:, :-2]).square()
    centres = torch.arange(1, clips.shape[1] - 1)
    inside = centres < lengths.cpu()[:, None] - 1  # all three samples belong to the clip
    at = torch.isin(centres, torch.cat([borders.cpu() - 1, borders.cpu()]))
    beside, elsewhere = inside & at, inside & ~at
    mean_at = torch.where(beside, rough, 0).sum(1) / beside.sum(1)
    mean_elsewhere = torch.where(elsewhere, rough, 0).sum(1) / elsewhere.sum(1)
    return torch.where(mean_elsewhere > 0, mean_at / mean_elsewhere, torch.nan)
