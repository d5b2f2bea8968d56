"""Video: uint8 (c, t, h, w), clips of frames, with an action for each frame where the data have actions."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError
from pipelines.kinds.base import Items, Kind, Medium, Written, ranges, write_ranking
from pipelines.kinds.image import joined, read_pixels, read_region, reconstructions, with_hidden

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch, Data
    from pipelines.training.log import RunLog


MOST_WIDTH = 128  # pixels of the longer side of a frame on a page
RANGES = re.compile(r"[\d.,\s-]+")  # no name of an image


class Video(Kind):
    name = "video"
    hub_task = "video-to-video"
    any_size = any_grid = True
    sample_flags = ("actions",)
    completes = True

    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        from pipelines.media.images import clip_frames, image_pairs

        made = reconstructions(model, batch, labels)
        log.image(step, "validation", image_pairs(clip_frames(batch.x[:1].cpu()), clip_frames(made[:1].cpu())))

    def code_fields(self, batch: Batch, codes: Tensor, data: Data) -> dict[str, Tensor]:
        from pipelines.generation.actions import local_actions

        if batch.actions is None:
            return {}
        return {"actions": local_actions(batch.actions, len(data.action_names), codes.shape[1])}

    def add_sample_flags(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--actions", metavar="NAME_OR_FILE", help="one action for all frames, or a file with one "
                            "action name per line (default: actions of training clips)")

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        gap = self.gap(loaded, flags)
        if gap is None and flags.get("complete") is not None:
            raise InputError("mask: expected the frames to fill, as 4-8, or an image of the region, found none")
        size = self.size(loaded, flags)
        return ({} if gap is None else {"gap": gap}) | size | self._actions(loaded, flags.get("actions"), size)

    def _actions(self, loaded: LoadedRun, wanted: str | None, size: dict[str, Any]) -> dict[str, Any]:
        """What the prior is conditioned on."""
        import torch

        from pipelines.data.codes import CodeData
        from pipelines.data.manifest import MANIFEST
        from pipelines.generation.actions import local_actions, wanted_actions

        spec, names = loaded.stage2.codes, loaded.stage1.example.facts["action_names"]
        if wanted is not None:
            stride = spec.shape[1] // spec.grid[0]
            frames = size["size"][0] if size else spec.shape[1]
            actions = wanted_actions(wanted, names, frames)[None]
            actions = torch.cat([actions, actions[:, -1:].expand(-1, -frames % stride)], 1)
            return {"local": local_actions(actions, len(names), actions.shape[1] // stride)}
        if not names:
            return {}
        if size and size["size"][0] != spec.shape[1]:
            raise InputError(f"actions: expected NAME or FILE for clips of {size['size'][0]} frames, found none")
        if not (loaded.run.codes / MANIFEST).exists():
            raise InputError(f"actions: expected NAME or FILE for a run without its codes, {loaded.run.codes}, found "
                             "none")
        return {"local": CodeData(loaded.run.codes).split("train").local}

    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        import torch

        from pipelines.media.images import clip_frames, image_grid, write_gif, write_image

        for number, clip in enumerate(samples.x):
            write_gif(folder / f"{number:05d}.gif", {f"sample {number}": clip}, context=0)
        clips = samples.x
        if samples.gap is not None:
            write_ranking(folder, samples, example, [f"{number:05d}.gif" for number in range(len(clips))])
            clips = clips[samples.ranking]
            if samples.gap.count == 1:  # it, and its candidates, the likeliest first
                clips = torch.cat([with_hidden(samples.gap), clips])
        write_image(folder / "grid.png", image_grid(clip_frames(clips), columns=clips.shape[2]))
        return folder / "grid.png"

    def read(self, loaded: LoadedRun, x: Any) -> Items:
        return self._read(loaded, x, any_size=False)

    def read_any(self, loaded: LoadedRun, x: Any, whole: bool = False) -> Items:
        """whole: all frames of a video file, at their own size."""
        return self._read(loaded, x, any_size=True, whole=whole)

    def _read(self, loaded: LoadedRun, x: Any, any_size: bool, whole: bool = False) -> Items:
        """uint8 tensors (c, t, h, w), NumPy arrays (t, h, w, c) or (c, t, h, w), or a path of a .npy file of frames
        (t, h, w, c); with a batch axis in front, or a list of clips. Or a path of a video file: of its frames, at the
        rate of the run's data, the first t, cropped and resized."""
        from pipelines.data.video_files import SUFFIXES
        from pipelines.files.arrays import read_array

        shape = loaded.stage1.example.shape
        if isinstance(x, (str, Path)) and Path(x).suffix.lower() in SUFFIXES:
            rate = loaded.stage1.config["data"].get("frame_rate_hz")
            return Items(read_clip(Path(x), (shape[0], None, None, None) if whole else shape, rate)[None], single=True)
        if isinstance(x, (list, tuple)):
            if not x:
                raise InputError("video: expected at least one clip, found an empty list")
            return Items(joined([self._read(loaded, one, any_size, whole).x for one in x], "video"), single=False)
        if isinstance(x, (str, Path)):
            if not Path(x).is_file():
                raise InputError(f"{x}: expected a video file, or a .npy file of frames (t, h, w, c), found none")
            x = read_array(x)
        return read_pixels(x, shape, "video", "a path", any_size)

    def load_any(self, loaded: LoadedRun, paths: list[Path], whole: bool = False
                 ) -> Iterator[tuple[list[Path], Items]]:
        """whole: each file by itself, with all its frames, at their own size."""
        for group in [[path] for path in paths] if whole else [paths]:
            yield self._load(loaded, group, whole)

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]:
        from pipelines.data.folders import list_files
        from pipelines.data.video_files import SUFFIXES

        if source.is_file():
            return [source]
        if not source.is_dir():
            raise InputError(f"{source}: expected a video file or a folder of them, found nothing")
        suffixes = {*SUFFIXES, ".npy"}
        found = [source / file.path for file in list_files(source, suffixes)]
        if not found:
            raise InputError(f"{source}: expected video files ({', '.join(sorted(suffixes))}), found none")
        return found

    def load_files(self, loaded: LoadedRun, paths: list[Path]) -> tuple[list[Path], Items]:
        return self._load(loaded, paths, whole=False)

    def _load(self, loaded: LoadedRun, paths: list[Path], whole: bool) -> tuple[list[Path], Items]:
        import torch

        from pipelines.data.folders import warn_unreadable

        readable, clips, reasons = [], [], {}
        for path in paths:
            try:
                clips.append(self._read(loaded, path, whole, whole).x)
                readable.append(path)
            except InputError as error:
                reasons[str(path)] = str(error).removeprefix(f"{path}: ")
        if not readable:
            raise InputError(f"{paths[0]}: {reasons[str(paths[0])]}; none of {len(paths)} can be read")
        warn_unreadable("video files", len(paths), reasons)
        return readable, Items(torch.cat(clips), single=False)

    def write_item(self, stem: Path, x: Tensor, example: Example, exact: bool) -> Path:
        import numpy as np

        from pipelines.files.atomic import file_made_whole
        from pipelines.media.images import write_gif

        path = stem.with_name(f"{stem.name}.{'npy' if exact else 'gif'}")
        if exact:
            with file_made_whole(path) as file:
                np.save(file, x.movedim(0, -1).numpy())
        else:
            write_gif(path, {stem.name: x}, context=0)
        return path

    def media(self, x: Tensor, example: Example) -> list[Medium]:
        """Large frames are reduced to `MOST_WIDTH` pixels."""
        from pipelines.media.images import clip_bytes, reduced

        x = reduced(x.movedim(1, 0), MOST_WIDTH).movedim(0, 1)
        return [Medium("image/webp", clip_bytes(x), x.shape[-1])]

    def read_mask(self, loaded: LoadedRun, mask: Any, item: Any, items: Items) -> Tensor:
        """Frames from 0, the last excluded, "4-8" or "0-2,6-8", or pairs of numbers; an image of the region in all
        frames; or booleans (t, h, w), (n, t, h, w), or (h, w) for all frames."""
        import torch

        frames, *size = items.x.shape[2:]
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.ndim > 2:
            if tuple(mask.shape[-3:]) != (frames, *size) or mask.ndim > 4 or not len(mask):
                raise InputError(f"mask: expected booleans of shape {(frames, *size)}, found shape {tuple(mask.shape)}")
            return mask.reshape(-1, frames, *size).cpu()
        if isinstance(mask, torch.Tensor) or (isinstance(mask, (str, Path)) and not RANGES.fullmatch(str(mask))):
            return read_region(mask, tuple(size))[:, None].expand(-1, frames, -1, -1)
        hidden = torch.zeros(1, frames, *size, dtype=torch.bool)
        for start, end in ranges(mask, "frames", frames):
            if start != int(start) or end != int(end):
                raise InputError(f"mask: expected whole frames, found {start:g}-{end:g}")
            hidden[:, int(start) : int(end)] = True
        return hidden

    def local(self, loaded: LoadedRun, actions: str | None, count: int) -> Tensor | None:
        from pipelines.generation.actions import local_actions, wanted_actions
        from pipelines.generation.labels import shown

        names, shape = loaded.stage1.example.facts["action_names"], loaded.stage1.example.shape
        if actions is None and names:
            raise InputError(f"actions: expected one of {shown(names)}, or a file of them, for a prior that is "
                             "conditioned on actions, found none")
        if actions is None:
            return None
        chosen = wanted_actions(actions, names, shape[1])
        return local_actions(chosen[None], len(names), loaded.stage1.grid[0]).expand(count, -1, -1, -1, -1)

    def codec_bits(self, loaded: LoadedRun, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        from pipelines.media.lossless import clip_bits

        return clip_bits(x)

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        """A GIF of each clip, the bits of its codes over every frame beside it; the overview shows of each the frame
        with the most bits."""
        import torch

        from pipelines.media.heat import overlay, overview, scale
        from pipelines.media.images import write_gif

        frames = items.x.shape[2]
        maps = scores.code_map[:, torch.arange(frames) * scores.code_map.shape[1] // frames]
        top, peaks = scale(maps), maps.flatten(2).sum(2).argmax(1)
        for number, (name, words) in enumerate(zip(names, captions, strict=True)):
            clip = items.x[number].movedim(1, 0)
            write_gif(out / f"{number:05d}-{name}.gif",
                      {words: clip.movedim(0, 1).expand(3, -1, -1, -1),
                       "bits of the codes": overlay(clip, maps[number], top).movedim(0, 1)}, context=0)
        rows = torch.arange(len(peaks))
        overview(out / "overview.png", captions, items.x[rows, :, peaks], maps[rows, peaks], top)
        return out / "overview.png"

    def predict(self, loaded: LoadedRun, data_root: Path | None, out: Path, count: int, context: int, frames: int,
                actions: Sequence[str], seed: int, batch_size: int, **truncation: Any) -> Written:
        import torch

        from pipelines.generation.actions import RECORDED, wanted_actions
        from pipelines.generation.continuation import predict
        from pipelines.runs.data import load_data
        from pipelines.splits.order import spread

        names = loaded.stage1.example.facts["action_names"]
        wanted = {name: None if name == RECORDED else wanted_actions(name, names, frames) for name in actions}
        split = load_data(loaded.run, loaded.stage1, data_root).clips("validation", context + frames)
        batch, length = split.batch(spread(count, len(split))), context + frames
        start, rows = time.monotonic(), {"recorded": batch.x}
        for name, chosen in wanted.items():
            given = batch.actions
            if chosen is not None:
                given = torch.cat([given[:, :context], chosen.expand(len(given), -1)], 1)
            title = "predicted" if name == RECORDED else Path(name).stem
            rows[title] = predict(loaded.stage1, loaded.stage2, batch.x[:, :, :context], length, given,
                                  batch.labels, seed, batch_size, **truncation)
        figure = f"{frames} frames after {context} in {time.monotonic() - start:.1f} s"
        return Written(len(batch.x), write_predictions(out, rows, context), figure)

    @property
    def evaluation(self) -> ModuleType:
        from pipelines.evaluation import video

        return video


def read_clip(path: Path, shape: tuple[int | None, ...], frame_rate_hz: float | None) -> Tensor:
    """The first frames of a video file, uint8 `shape` (c, t, h, w); of t, h and w None all, at their own size. Raises
    InputError for a file that cannot be read or has too few frames."""
    from itertools import islice

    import numpy as np
    import torch

    from pipelines.data.image_files import fit_image
    from pipelines.data.video_files import read_video

    channels, count, height, width = shape
    try:
        images = islice(read_video(path, frame_rate_hz), count)
        frames = [fit_image(image, (channels, height, width)) for image in images]
    except Exception as error:  # any error of a decoder means that this file is unreadable
        raise InputError(f"{path}: expected a video file, found one that cannot be read ({error})") from None
    if len(frames) < (count or 1):
        raise InputError(f"{path}: expected {count} frames or more, found {len(frames)}")
    return torch.from_numpy(np.stack(frames, 1))


def write_predictions(out: Path, rows: dict[str, Tensor], context: int) -> Path:
    """A GIF and a strip of each clip, rows by their titles (n, c, t, h, w); all strips in one image, whose path is
    returned."""
    import torch

    from pipelines.media.images import frame_strip, write_gif, write_image

    strips = []
    out.mkdir(parents=True, exist_ok=True)
    for number in range(len(rows["recorded"])):
        own = {name: clips[number] for name, clips in rows.items()}
        strips.append(frame_strip(own, context))
        write_gif(out / f"{number:05d}.gif", own, context)
        write_image(out / f"{number:05d}.png", strips[-1])
    write_image(out / "predictions.png", torch.cat(strips, 1))
    return out / "predictions.png"
