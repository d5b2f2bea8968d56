"""Short-time objective intelligibility (Taal et al., 2011), as torchmetrics and pystoi compute it."""

import torch
from torch import Tensor

from pipelines.metrics.base import Metric, Pairs
from pipelines.metrics.waves import mono


class STOI(Metric):
    kinds = ("audio",)
    rows = (("stoi", "STOI", ".3f"), ("stoi_share", "STOI: fraction of clips long enough", ".1%"))

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        values, measurable = stoi(pairs.real, pairs.made, pairs.facts["sample_rate_hz"], pairs.lengths)
        return {"stoi": values, "stoi_share": measurable.double()}


def stoi(real: Tensor, made: Tensor, sample_rate_hz: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Short-time objective intelligibility, about 0 to 1 (Taal et al. 2011), and bool (b,): whether a clip has a value.

    It compares segments of 30 frames, 0.4 s, of speech, ignoring frames 40 dB below the loudest. A clip with less
    speech has no value: NaN and False; means must exclude it.
    """
    from pystoi.stoi import N  # these packages take a third of a second to import
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

    values = torch.full((len(real),), torch.nan, dtype=torch.float64)
    for place, (ours, theirs) in enumerate(zip(mono(real, lengths), mono(made, lengths), strict=True)):
        length = int(lengths[place])
        ours, theirs = ours[:length], theirs[:length]
        if speech_frames(ours, sample_rate_hz) >= N:
            values[place] = short_time_objective_intelligibility(theirs, ours, sample_rate_hz)
    return values, ~values.isnan()


def speech_frames(wave: Tensor, sample_rate_hz: int) -> int:
    """Number of frames of a wave (t,) that STOI compares, 0 in silence. It needs 30; pystoi gives 1e-5 for fewer."""
    from pystoi.stoi import DYN_RANGE, FS, N_FRAME
    from pystoi.utils import remove_silent_frames, resample_oct

    sound = wave.double().numpy()
    if sample_rate_hz != FS:
        sound = resample_oct(sound, FS, sample_rate_hz)
    if len(sound) <= N_FRAME or not sound.any():
        return 0
    kept, _ = remove_silent_frames(sound, sound, DYN_RANGE, N_FRAME, N_FRAME // 2)
    return len(range(0, len(kept) - N_FRAME, N_FRAME // 2))
