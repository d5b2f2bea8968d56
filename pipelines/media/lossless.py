"""The size of an item as a lossless file, which estimates its complexity: Serrà et al., "Input complexity and
out-of-distribution detection with likelihood-based generative models" (arXiv 1909.11480), section 3.1, who take the
smallest of several codecs too.

Images are WebP or PNG, whichever is smaller, a clip is one such file per frame, audio is FLAC of the very symbols whose
likelihood is computed. Sizes are those of whole files, headers included: a constant that does not change an order.
"""

import io

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor


def image_bits(images: Tensor) -> Tensor:
    """uint8 (n, c, h, w), c = 1 or 3 -> float64 (n,)."""
    return torch.tensor([8.0 * _image_bytes(image) for image in images.cpu().movedim(1, -1).numpy()],
                        dtype=torch.float64)


def clip_bits(clips: Tensor) -> Tensor:
    """uint8 (n, c, t, h, w) -> float64 (n,)."""
    return torch.stack([image_bits(clip.movedim(1, 0)).sum() for clip in clips])


def audio_bits(levels: Tensor, lengths: Tensor, sample_rate_hz: int) -> Tensor:
    """Symbols int64 (n, t) from 0 to 255, lengths (n,) -> float64 (n,): of FLAC files with 8 bits per sample."""
    sizes = []
    for row, length in zip(levels.cpu().numpy(), lengths.tolist(), strict=True):
        buffer = io.BytesIO()
        # soundfile takes 16 bits and keeps the upper 8
        samples = ((row[:length] - 128) << 8).astype(np.int16)
        soundfile.write(buffer, samples, sample_rate_hz, format="FLAC", subtype="PCM_S8")
        sizes.append(8.0 * len(buffer.getvalue()))
    return torch.tensor(sizes, dtype=torch.float64)


def _image_bytes(pixels: np.ndarray) -> int:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    png, webp = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(webp, "WEBP", lossless=True, quality=100)
    return min(png.tell(), webp.tell())
