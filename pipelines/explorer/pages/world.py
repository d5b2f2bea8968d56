"""World: a walk with the arrow keys; on each key the prior draws the next frame."""

import time
from typing import Any

from torch import Tensor

from pipelines.api import TrainedRun
from pipelines.explorer.items import clip, real_data
from pipelines.explorer.page import Arguments, Context, Page, call, png
from pipelines.files.errors import InputError
from pipelines.generation.walk import Walk

LARGEST_SEED = 2**53 - 1  # what JavaScript holds exactly
PATIENCE_S = 6.0  # for held-out clips, which may still be read or made
FILM = 200  # frames that are kept of a walk, for its film
ARROWS = {"ArrowUp": ("forward", "up"), "ArrowLeft": ("left",), "ArrowRight": ("right",),
          "ArrowDown": ("back", "backward", "backwards", "down")}


class World(Page):
    name, title, place = "world", "World", 50

    def why_not(self, run: TrainedRun) -> str | None:
        if run.kind != "video":
            return f"this run is on {run.kind}: only the prior of a run on video draws frame after frame"
        if run.stage2 is None:
            return "this run has no prior to draw frames from: make stage2 trains one"
        return None

    @call
    def about(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """Which key leads where, and what a frame is conditioned on."""
        walk = context.run.walk()
        real_data(context, 0)  # they are read while the user looks at the page
        return {"keys": [{"key": key, "action": action} for key, action in keys_of(walk.actions)],
                "window": walk.window * walk.stride, "frames_per_step": walk.stride}

    @call
    def begin(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """A new walk of this tab, from the first frames of a held-out clip or, without `clip`, from nothing."""
        walk = context.run.walk(seed=arguments.integer("seed", 0, LARGEST_SEED, 0),
                                temperature=arguments.number("temperature", 0, 100, 1.0),
                                top_p=arguments.number("top_p", 0, 1) if arguments.has("top_p") else None)
        answer: dict[str, Any] = {"frames": [], "clips": None, "why": None}
        frames: list[Tensor] = []
        if arguments.has("clip"):
            number, data = arguments.integer("clip", 0, LARGEST_SEED), real_data(context, PATIENCE_S)
            if isinstance(data, str):
                answer["why"] = f"Begun from nothing, for lack of held-out clips: {data}"
            else:
                given = self._clip(walk, data, number)
                frames = list(given.movedim(1, 0))
                answer |= {"frames": [png(frame) for frame in frames], "clips": len(data.split("validation"))}
        context.session["walk"], context.session["film"] = walk, frames
        return answer

    @call
    def step(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The next frames, and how long they took, in seconds."""
        walk = self._walk(context)
        start = time.perf_counter()
        drawn = list(walk.step(arguments.text("action") if arguments.has("action") else None).movedim(1, 0))
        made = {"frames": [png(frame) for frame in drawn]}
        film = context.session["film"]
        film += drawn
        del film[:-FILM]
        return made | {"seconds": time.perf_counter() - start}

    @call
    def film(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The last frames of the walk as one moving image."""
        self._walk(context)
        import torch

        frames = context.session["film"]
        if not frames:
            raise InputError("film: expected a walk of at least one frame, found none: take a step")
        large = torch.stack(frames, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        return {"film": clip(large), "frames": len(frames)}

    @staticmethod
    def _walk(context: Context) -> Walk:
        if "walk" not in context.session:
            raise InputError("walk: expected one that was begun, found none: begin it again")
        return context.session["walk"]

    @staticmethod
    def _clip(walk: Walk, data: Any, number: int) -> Tensor:
        """The first frames of a held-out clip, as many as condition the next one, decoded from their codes."""
        import torch

        split = data.split("validation")
        if number >= len(split):
            raise InputError(f"clip: expected a number below {len(split)}, found {number}")
        batch, count = split.batch(torch.tensor([number])), max(1, walk.window) * walk.stride
        return walk.begin(batch.x[0, :, :count], None if batch.actions is None else batch.actions[0, :count])


def keys_of(actions: list[str]) -> list[tuple[str, str | None]]:
    """The key of each action, as the browser names it: an arrow where there is one for it, else a digit. Without
    actions the arrow upwards alone, for the next frame."""
    if not actions:
        return [("ArrowUp", None)]
    arrows = {name: key for key, names in ARROWS.items() for name in names if name in actions}
    free = iter("123456789abcdefghijklmnopqrstuvwxyz")
    named = ((arrows.get(action) or next(free, None), action) for action in actions)
    return [(key, action) for key, action in named if key is not None]
