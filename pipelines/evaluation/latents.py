"""Figures of what latents mean: the plane of two dimensions, traversals, the codebook (plot_latents.py).

Axes: n images, d latent dimensions, *grid positions, g codebooks.
"""

from pathlib import Path

import torch
from einops import repeat
from torch import Tensor

from pipelines.evaluation.measured import batches
from pipelines.files.errors import InputError
from pipelines.generation.decoding import pixel_uniforms
from pipelines.media.images import image_grid, image_pairs, write_image
from pipelines.media.plots import plot_plane
from pipelines.runs.store import TrainedStage
from pipelines.splits.base import Data, Split
from pipelines.splits.noise import generator
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.codebook import perplexity, usage
from stage1_vqvae.precision import full_float32

PLANE = 20  # decodings per side
ROWS, COLUMNS = 8, 11  # of traversals: latents, values of each
CODES, CODES_PER_ROW = 64, 16  # the most used ones of a codebook
MOST = 0.01, 0.99  # quantiles over the split between which a latent is varied


def plot_latents(stage1: TrainedStage, data: Data, out: Path, split_name: str | None, example: int, seed: int,
                 batch_size: int) -> dict[str, Path | str]:
    """Writes the figures below `out`. Returns the path of each, or why it was left out, by its title."""
    split = data.split(split_name or ("test" if "test" in data.splits else "validation"))
    if not 0 <= example < len(split):
        raise InputError(f"example: expected 0 to {len(split) - 1}, found {example}")
    painter = Painter(stage1, seed, batch_size)
    latents = painter.encode(split)
    out.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path | str] = {"traversals": draw_traversals(painter, latents, example, out)}
    if painter.has_codes:
        made |= draw_codebooks(painter, latents, example, out)
    else:
        made["codebook"] = f"left out: expected codes, found {type(stage1.module.bottleneck).__name__}"
    if not painter.has_codes and latents[0].numel() == 2:
        names = data.classes[0] if data.label_names else ()
        made |= draw_plane(painter, latents, split.labels[:, 0] if names else None, names, out)
    else:
        found = f"{latents[0].numel()} {'codes' if painter.has_codes else 'dimensions'}"
        made["plane"] = f"left out: expected latents of two dimensions, found {found}"
    return made


class Painter:
    """Images to latents, without noise, and back: z_q (n, d, *grid), or codes int64 (n, *grid, g) where there are some.

    An autoregressive decoder takes the same random numbers for all images, which then differ by their latents alone."""

    def __init__(self, stage1: TrainedStage, seed: int, batch_size: int):
        self.stage1, self.model, self.batch_size = stage1, stage1.module, batch_size
        self.device = next(self.model.parameters()).device
        self.has_codes = isinstance(self.model.bottleneck, Quantizer)
        self.grid = tuple(self.model.latent_grid(stage1.example.shape))
        self.uniforms = pixel_uniforms(stage1, [generator(seed, 0)])

    @torch.no_grad()
    @full_float32()
    def encode(self, split: Split) -> Tensor:
        """A whole split, on the CPU."""
        parts = []
        for _, batch in batches(split.to(self.device), self.batch_size, "encoding"):
            latent = self.model.bottleneck(self.model.embed(batch.x))
            parts.append((latent.codes.reshape(len(batch.x), *self.grid, -1) if self.has_codes else latent.z_q).cpu())
        return torch.cat(parts)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents on any grid -> uint8 (n, c, h, w), on the CPU."""
        parts = []
        for part in latents.split(self.batch_size):
            part, uniforms = part.to(self.device), None
            if self.uniforms is not None:
                grid = part.shape[1:-1] if self.has_codes else part.shape[2:]
                height, width = (size * n // whole for size, n, whole in
                                 zip(self.uniforms.shape[1:], grid, self.grid, strict=True))
                uniforms = repeat(self.uniforms[0, :height, :width], "h w -> n h w", n=len(part)).contiguous()
            if self.has_codes:
                codes = part if part.shape[-1] > 1 else part[..., 0]
                parts.append(self.model.decode(codes, uniforms=uniforms).cpu())
            else:
                parts.append(self.model.decode_latent(part, uniforms=uniforms).cpu())
        return torch.cat(parts)


def draw_plane(painter: Painter, latents: Tensor, labels: Tensor | None, names: tuple[str, ...], out: Path) -> dict:
    """Latents (n, 2, 1, ..): the scatter, and the decodings of its rectangle, the first to the right, the second up."""
    points = latents.flatten(1)
    box = quantiles(points)
    right, up = (torch.linspace(*box[:, axis].tolist(), PLANE) for axis in (0, 1))
    rows = torch.cartesian_prod(up.flip(0), right).flip(1)  # from the top left, in the order of an image grid
    paths = {"scatter": out / "latent_scatter.png", "plane": out / "latent_plane.png"}
    plot_plane(paths["scatter"], points, box, labels, names)
    decoded = painter.decode(rows.view(-1, *latents.shape[1:]).to(latents.dtype))
    write_image(paths["plane"], image_grid(decoded, PLANE))
    return paths


def draw_traversals(painter: Painter, latents: Tensor, example: int, out: Path) -> Path:
    """One row for each of the latents that vary most over the split: the example with that latent at its usual values,
    all else unchanged. Dimensions go from low to high; codes are the most used ones of the codebook."""
    flat = latents.flatten(1)
    rows = min(ROWS, flat.shape[1])
    if painter.has_codes:
        variety = [perplexity(usage(codes, painter.model.bottleneck.num_codes)) for codes in flat.unbind(1)]
        chosen = torch.stack(variety).topk(rows).indices
        values = [most_used(painter, latents, book)[:COLUMNS] for book in (chosen % latents.shape[-1]).tolist()]
    else:
        chosen = flat.std(0).topk(rows).indices
        low, high = quantiles(flat[:, chosen])
        values = [torch.linspace(*ends, COLUMNS) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    varied = []
    for latent, own in zip(chosen, values, strict=True):
        copies = flat[example].repeat(len(own), 1)
        copies[:, latent] = own.to(copies.dtype)
        varied.append(copies)
    decoded = painter.decode(torch.cat(varied).view(-1, *latents.shape[1:]))
    write_image(out / "traversals.png", image_grid(decoded, len(values[0])))
    return out / "traversals.png"


def draw_codebooks(painter: Painter, codes: Tensor, example: int, out: Path) -> dict[str, Path]:
    """The codes of each codebook, the most used first: decoded on their own above decoded in context. The other
    codebooks keep the codes that the example has in its middle."""
    paths, books = {}, codes.shape[-1]
    middle = tuple(size // 2 for size in painter.grid)
    for book in range(books):
        shown = most_used(painter, codes, book)[:CODES]
        context = codes[example].repeat(len(shown), *[1] * len(codes.shape[1:]))
        context[(slice(None), *middle, book)] = shown
        alone = context[(slice(None), *(slice(place, place + 1) for place in middle))]
        images, patches = painter.decode(context), painter.decode(alone)
        factors = [whole // size for whole, size in zip(images.shape[2:], patches.shape[2:], strict=True)]
        patches = repeat(patches, "n c h w -> n c (h f1) (w f2)", f1=factors[0], f2=factors[1])
        title = "codebook" if books == 1 else f"codebook {book + 1}"
        paths[title] = out / f"{title.replace(' ', '_')}.png"
        captions = ("on its own", "in context")
        write_image(paths[title], image_pairs(patches, images, CODES_PER_ROW, captions))
    return paths


def most_used(painter: Painter, codes: Tensor, book: int) -> Tensor:
    """All codes of a codebook, by their use over the split."""
    return usage(codes[..., book].flatten(), painter.model.bottleneck.num_codes).argsort(descending=True, stable=True)


def quantiles(values: Tensor) -> Tensor:
    """(n, m) -> (2, m) float64: between them lies most of each column."""
    return values.double().quantile(torch.tensor(MOST, dtype=torch.float64), dim=0)
