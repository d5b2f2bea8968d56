"""Continuation of clips (arXiv 1711.00937, section 4.4): the prior draws the codes of the frames after a context,
conditioned on actions where the data have some, and the decoder turns them into frames.

The context is encoded on its own, so its codes depend on no later frame, whatever the encoder.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions
from pipelines.generation.decoding import decode
from pipelines.runs.store import TrainedStage
from pipelines.splits.noise import draws, generator
from stage2_prior.sampling import sample


def predict(stage1: TrainedStage, stage2: TrainedStage, context: Tensor, frames: int, actions: Tensor | None,
            labels: Tensor, seed: int, batch_size: int, **truncation) -> Tensor:
    """Clips uint8 (n, c, t, h, w), t = `frames`, on the CPU: the decoded context, and the frames drawn after it.

    context: uint8 (n, c, k, h, w). actions: int64 (n, t), of all frames of a clip; None for a run without actions.
    labels: (n, L) of the data.
    Clip i is a function of `seed`, i and its own row alone. `truncation`: temperature, top_k, top_p.
    Raises InputError for a context or a length that is not a whole number of frames of codes."""
    spec, device = stage2.codes, next(stage1.module.parameters()).device
    stride = spec.shape[1] // spec.grid[0]
    for name, count in (("context", context.shape[2]), ("context and prediction", frames)):
        if count % stride:
            raise InputError(f"{name}: expected a multiple of {stride} frames, which one frame of codes covers, found "
                             f"{count}")
    columns, decoder_columns = stage2.prior_columns, stage1.decoder_columns
    shape, local = [frames // stride, *spec.item_shape[1:]], None
    if actions is not None:
        local = local_actions(actions, len(stage1.example.facts["action_names"]), shape[0])
        local = local.expand(-1, -1, *shape[:3]).float()
    parts = []
    for rows in _batches(len(context), batch_size):
        own = [generator(seed, number) for number in rows.tolist()]
        uniforms, given = draws(own, *shape).to(device), labels[rows]
        known = torch.full(uniforms.shape, -1, device=device)
        with torch.inference_mode():
            seen = stage1.module.encode(context[rows].to(device))
        known[:, : seen.shape[1]] = seen
        try:
            drawn = sample(stage2.module, uniforms, labels=given[:, columns].to(device) if columns else None,
                           local=None if local is None else local[rows].to(device), known=known, **truncation)
        except ValueError as error:
            raise InputError(f"sampling: {error}") from None
        parts.append(decode(stage1, drawn, given[:, decoder_columns] if decoder_columns else None, None, own))
    return torch.cat(parts)


def _batches(count: int, batch_size: int) -> Iterator[Tensor]:
    with tqdm(total=count, desc="predicting", unit="clip", leave=False, dynamic_ncols=True, disable=None) as bar:
        for rows in torch.arange(count).split(batch_size):
            yield rows
            bar.update(len(rows))
