"""The audio classifier: it learns the classes, and ignores padding and loudness."""

import math

import pytest
import torch

from pipelines.data.audio import AudioSplit
from pipelines.data.audio_files import FULL_SCALE
from pipelines.evaluation import audio_classifier as probing

RATE, LENGTH = 8000, 2000
CPU = torch.device("cpu")


def tones(number: int, seed: int) -> AudioSplit:
    """Clips of 60 to 250 ms at any loudness in some noise; column 1 says 500 Hz (0) or 900 Hz (1), column 0 nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (number, 2), generator=generator)
    lengths = torch.randint(480, LENGTH, (number,), generator=generator)
    waves = []
    for label, length in zip(labels[:, 1].tolist(), lengths.tolist(), strict=True):
        phase, level = torch.rand(2, generator=generator).tolist()
        wave = torch.sin(2 * math.pi * ((500, 900)[label] * torch.arange(length) / RATE + phase))
        waves.append((0.05 + 0.8 * level) * (wave + 0.05 * torch.randn(length, generator=generator)))
    starts = lengths.cumsum(0) - lengths
    return AudioSplit((torch.cat(waves) * FULL_SCALE).clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16), labels,
                      lengths=lengths, starts=starts, bounds=torch.stack([starts, starts + lengths], 1), crop=512,
                      length=LENGTH)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(probing, "STEPS", 25)
    monkeypatch.setattr(probing, "BATCH", 16)


@pytest.fixture(scope="module")
def untrained() -> probing.AudioClassifier:
    torch.manual_seed(0)
    return probing.AudioClassifier(3, RATE).eval()


def test_it_tells_two_tones_apart(few_steps):
    model = probing.train_audio_classifier(tones(64, 0), 1, 2, RATE, CPU)
    assert not model.training
    test = tones(250, 1)
    batch = test.batch(torch.arange(250))
    heard = probing.classify(model, batch.x, batch.lengths)
    assert heard.dtype == torch.int64 and torch.equal(heard, batch.labels[:, 1])  # column 0 would be half right
    assert torch.equal(probing.classify(model, 0.003 * batch.x, batch.lengths), heard)


def test_padding_is_not_heard(untrained):
    batch = tones(8, 2).batch(torch.arange(8))
    expected = untrained(batch.x, batch.lengths)
    torch.manual_seed(1)
    longer = torch.cat([batch.x, torch.zeros(8, 1, 777)], 2)
    after = torch.arange(longer.shape[-1]) >= batch.lengths[:, None, None]
    longer = torch.where(after, torch.randn(longer.shape), longer)  # a decoder may put anything there
    torch.testing.assert_close(untrained(longer, batch.lengths), expected, atol=1e-4, rtol=0)
    for place, length in enumerate(batch.lengths.tolist()):  # alone and without padding
        alone = untrained(batch.x[place : place + 1, :, :length], batch.lengths[place : place + 1])
        torch.testing.assert_close(alone, expected[place : place + 1], atol=1e-4, rtol=0)


def test_loudness_and_offset_are_not_heard_but_the_last_sample_is(untrained):
    batch = tones(8, 3).batch(torch.arange(8))
    expected = untrained(batch.x, batch.lengths)
    torch.testing.assert_close(untrained(0.01 * batch.x + 0.2, batch.lengths), expected, atol=1e-4, rtol=0)
    x = batch.x.clone()
    x[torch.arange(8), 0, batch.lengths - 1] += 1
    assert ((untrained(x, batch.lengths) - expected).abs().amax(1) > 1e-4).all()


def test_silence_has_logits(untrained):
    assert untrained(torch.zeros(2, 1, 900), torch.tensor([900, 1])).isfinite().all()


def test_training_repeats(monkeypatch):
    monkeypatch.setattr(probing, "STEPS", 3)
    monkeypatch.setattr(probing, "BATCH", 4)
    split = tones(10, 4)
    first, again, other = (
        probing.train_audio_classifier(split, 1, 2, RATE, CPU, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_a_clip_is_moved_and_made_louder_whole(monkeypatch):
    monkeypatch.setattr(probing, "SNR_DB", (200.0, 200.0))
    monkeypatch.setattr(probing, "GAIN_DB", (20.0, 20.0))
    torch.manual_seed(0)
    waves, lengths = torch.rand(50, 1, 300) + 0.1, torch.randint(100, 300, (50,))
    moved, longer = probing.augmented(waves, lengths, RATE)
    assert moved.shape == (50, 1, 300 + 2 * 400) and (longer - lengths <= 800).all()
    loud = moved[:, 0].abs() > 0.5
    starts = loud.int().argmax(1)
    # 50 draws of 401 starts: about 3 pairs are equal; 20 such pairs have a probability below 1e-10
    assert starts.unique().numel() > 30 and starts.max() <= 400
    for wave, length, result, start, end in zip(waves, lengths, moved, starts, longer, strict=True):
        torch.testing.assert_close(result[0, start : start + length], 10 * wave[0, :length])
        assert start + length <= end and (result[0, end:] == 0).all()


def test_noise_has_the_power_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(probing, "SNR_DB", (10.0, 10.0))
    monkeypatch.setattr(probing, "GAIN_DB", (0.0, 0.0))
    monkeypatch.setattr(probing, "SHIFT_S", 0.0)
    torch.manual_seed(0)
    wave, lengths = torch.sin(torch.arange(60_000.0))[None, None], torch.tensor([50_000])
    noisy, _ = probing.augmented(wave, lengths, RATE)
    noise = (noisy - wave)[..., :50_000].square().mean()
    # the mean of 50,000 squares of normal numbers deviates by sqrt(2 / 50,000) = 0.6 % of itself: 5 % is 8 of them
    assert noise.item() == pytest.approx(0.5 / 10, rel=0.05) and (noisy[..., 50_000:] == 0).all()


def test_one_run_of_real_frames_is_blanked():
    torch.manual_seed(0)
    frames = torch.randint(20, 61, (200,))
    x = torch.where(probing.mask(frames, 60), torch.rand(200, 40, 60), 0)
    blanked = probing.blanked(x, frames)
    changed = (blanked != x).any(1)
    # A run of u * m frames, u uniform and m = 0.15 * (20 to 60), covers no frame with probability 1 / (2 m), on average
    # 0.09. Fewer than 0.7 of 200 clips would be 10 deviations of sqrt(0.09 * 0.91 / 200) = 0.02 away.
    assert (changed.sum(1) <= 0.15 * frames + 1).all() and changed.any(1).float().mean() > 0.7
    assert (changed.int().diff(dim=1).abs().sum(1) <= 2).all()  # in one piece
    assert not changed[~probing.mask(frames, 60)[:, 0]].any()
    place = changed.any(1).nonzero()[0, 0]
    mean = x[place, :, : frames[place]].mean(1)
    torch.testing.assert_close(blanked[place][:, changed[place]], mean[:, None].expand(-1, changed[place].sum()))
