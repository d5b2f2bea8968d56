"""The codebook: how often each code occurs, and what each one looks like, decoded alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.evaluation.shared import code_pieces
from pipelines.reporting.charts import bar_chart
from pipelines.reporting.html import Html, join, picture, tag
from pipelines.reporting.subject import ITEM_BYTES, LeftOut, Reported, encoded
from pipelines.splits.base import code_lengths
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.codebook import perplexity, usage

TITLE, ORDER = "Codebook", 50

COUNTED = 1000  # held-out items whose codes are counted where none were extracted
FIELD = 5  # positions each way of the grid that is filled with one code
SEEN = 3  # of these what is shown: the border of the field would show in the others
MOST_CODES = 512  # shown, those used most
TILE = 30  # CSS pixels


def section(reported: Reported) -> Html:
    quantizer = reported.quantizer
    counts, parts = None, []
    try:
        counts, where = code_counts(reported)
        parts += [use(book, number, len(counts), where) for number, book in enumerate(counts[:4])]
        if len(counts) > 4:
            parts.append(tag("p", f"The first 4 of {len(counts)} codebooks are shown.", class_="soft"))
    except LeftOut as reason:
        parts.append(tag("p", f"How often codes are used is left out: {reason}.", class_="out"))
    try:
        unknown = torch.zeros(quantizer.num_codebooks, quantizer.num_codes, dtype=torch.int64)
        parts += alone(reported, unknown if counts is None else counts)
    except LeftOut as reason:
        parts.append(tag("p", f"Codes decoded alone are left out: {reason}.", class_="out"))
    return join(parts)


def code_counts(reported: Reported) -> tuple[Tensor, str]:
    """How often each code of each codebook occurs, int64 (g, k), without padding; and where, in words."""
    num_codes, books = reported.quantizer.num_codes, reported.quantizer.num_codebooks
    if (found := reported.codes) is not None:
        train = found.split("train")
        counts = torch.zeros(books, num_codes, dtype=torch.int64)
        for codes, real in code_pieces(train)():
            counts += torch.stack([usage(book, num_codes, real) for book in codes.unbind(-1)])
        return counts, f"the {len(train):,} extracted training items"
    batch = reported.held_out_items(COUNTED)
    codes = encoded(reported, reported.as_read(batch))
    lengths, where = code_lengths(batch, codes.shape[1]), f"{len(codes):,} held-out items"
    codes = codes.reshape(len(codes), -1, books)
    whole = torch.full((len(codes),), codes.shape[1]) if lengths is None else lengths
    real = torch.arange(codes.shape[1]) < whole[:, None]
    return torch.stack([usage(book, num_codes, real) for book in codes.unbind(-1)]), where


def use(counts: Tensor, number: int, books: int, where: str) -> Html:
    """The frequencies of one codebook, in descending order."""
    shares = (counts.double() / counts.sum()).sort(descending=True).values
    used, size = int((counts > 0).sum()), len(counts)
    name = f"Codebook {number + 1} of {books}: " if books > 1 else ""
    words = (f"{name}{used:,} of {size:,} codes occur in {where}; perplexity {float(perplexity(counts)):.1f}, the "
             "number of equally used codes that would be as diverse.")
    return join(tag("p", words), tag("div", bar_chart(
        (100 * shares).tolist(), "code, by falling frequency", "% of positions",
        level=("all codes equally often", 100 / size)), class_="charts"))


@torch.inference_mode()
def alone(reported: Reported, counts: Tensor) -> list[Html]:
    """A small image for each code: the middle of what the decoder makes of a grid that holds this code alone."""
    stage1 = reported.loaded.stage1
    if reported.kind.name not in ("image", "video"):
        raise LeftOut(f"a code of {reported.kind.name} is no image")
    if isinstance(stage1.module.decoder, AutoregressiveDecoder):
        raise LeftOut("the decoder draws pixels one by one, so a code has no single appearance")
    if stage1.condition_on:
        raise LeftOut(f"the decoder is conditioned on {' and '.join(stage1.condition_on)} too")
    parts = []
    for book, own in enumerate(counts[:2]):
        order = own.argsort(descending=True, stable=True)[:MOST_CODES]
        images = fields(reported, order, book, counts.argmax(1))
        total, tiles = float(own.sum()), []
        media = [reported.kind.media(image, stage1.example)[0] for image in images]
        for code, medium in zip(order.tolist(), media, strict=True):
            share = f", {float(own[code]) / total:.2%} of positions" if total else ""
            tiles.append(picture(medium.mime, medium.content, f"code {code}{share}", TILE, pixelated=True))
        if sum(len(medium.content) for medium in media) > ITEM_BYTES:
            raise LeftOut("they would take more than the page has room for")
        name = f"Codebook {book + 1} of {len(counts)}: e" if len(counts) > 1 else "E"
        rest = "" if len(order) == len(own) else f" The {len(order)} codes used most, of {len(own):,}."
        others = "; other codebooks at their commonest code" if len(counts) > 1 else ""
        words = (f"{name}ach code decoded alone, by falling frequency: the middle of a grid that holds only this "
                 f"code{others}.")
        parts += [tag("p", words + rest), tag("div", tiles, class_="codes")]
    return parts


def fields(reported: Reported, order: Sequence[int] | Tensor, book: int, commonest: Tensor) -> list[Tensor]:
    """Data units (c, ...) of the middle of a field of each code."""
    stage1 = reported.loaded.stage1
    grid, shape = stage1.grid, stage1.example.shape
    field = tuple(min(FIELD, size) for size in grid[-2:])
    made = []
    for part in torch.as_tensor(order).split(reported.batch_size):
        codes = commonest.expand(len(part), *grid[:-2], *field, len(commonest)).clone()
        codes[..., book] = part.view(-1, *[1] * len(grid))
        x = stage1.module.decode((codes[..., 0] if len(commonest) == 1 else codes).to(reported.loaded.device)).cpu()
        made.append(x if x.ndim == 4 else x[:, :, :1])  # of a clip the first frame
    x = torch.cat(made)
    for axis, (positions, size, whole) in enumerate(zip(field, grid[-2:], shape[-2:]), start=x.ndim - 2):
        hop, middle = whole // size, min(SEEN, positions)
        x = x.narrow(axis, (positions - middle) // 2 * hop, middle * hop)
    return list(x)
