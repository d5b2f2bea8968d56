"""The size of items as lossless files."""

import torch

from pipelines.media.lossless import audio_bits, clip_bits, image_bits


def test_noise_takes_its_bits_and_flat_images_next_to_none():
    noise = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sizes = image_bits(torch.cat([noise, torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)]))
    assert sizes.dtype == torch.float64 and (sizes[:2] > 8 * noise[0].numel()).all() and sizes[2] < 1000
    assert image_bits(noise[:, :1]).tolist() == sorted(image_bits(noise[:, :1]).tolist()[:1]) + [
        image_bits(noise[1:, :1]).item()], "each on its own"
    clips = noise[:, :, None].expand(-1, -1, 4, -1, -1)
    assert torch.equal(clip_bits(clips), 4 * sizes[:2])


def test_audio_is_counted_without_its_padding():
    levels = torch.randint(0, 256, (2, 4096), generator=torch.Generator().manual_seed(0))
    sizes = audio_bits(levels, torch.tensor([4096, 1024]), 8000)
    assert sizes[0] > 8 * 4096 and 8 * 1024 < sizes[1] < sizes[0] / 2
    assert audio_bits(torch.full((1, 4096), 128), torch.tensor([4096]), 8000) < sizes[1]
