"""What `evaluate.py` measures of sound: rates of the codes, spectra, intelligibility, and what probes hear.

Probes are small classifiers, one for each label, trained on real recordings alone. They listen to real held-out clips, to
their reconstructions, to conversions (what is said stays, another speaker is asked for), and to samples of the prior.
"""

import math
from dataclasses import asdict
from pathlib import Path

import torch

from pipelines.data.spoken_words import SpokenWords
from pipelines.evaluation.audio_classifier import probe, train_probe
from pipelines.evaluation.classifier import accuracy
from pipelines.evaluation.measured import Measured, Subject, spread
from pipelines.files.errors import InputError
from pipelines.generation.conversion import convert, other_classes
from pipelines.generation.samples import generate
from pipelines.media.audio import comparison
from pipelines.metrics.phonemes import PhonemeAccuracy, frame_labels, phoneme_accuracy
from pipelines.metrics.spectra import click_score, dc_offset, log_spectral_distance, stoi
from stage1_vqvae.bottlenecks.base import Quantizer

SHOWN = 5  # clips in the picture of originals, reconstructions and conversions
MU_LAW_BITS = 8  # a sample, without any model


def check(subject: Subject) -> None:
    """Raises InputError for latents that are no codes."""
    bottleneck = subject.stage1.module.bottleneck
    if not isinstance(bottleneck, Quantizer):
        raise InputError(f"{subject.run.stage1}: expected codes of sound, found {type(bottleneck).__name__}")


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """{"sound": ...}, `rows` names each figure; with evaluate.judge and labels the probes' word too."""
    data, split, rate = subject.data, subject.split, subject.data.sample_rate_hz
    hop, num_codes = data.shape[-1] // measured.codes.shape[1], subject.stage1.module.bottleneck.num_codes
    samples, made, lengths = split.batch(torch.arange(len(split))).x.cpu(), measured.reconstructions, measured.sizes
    borders = torch.arange(hop, data.shape[-1], hop)
    clear, measurable = stoi(samples, made, rate, lengths)
    clicks = [click_score(waves, lengths, borders) for waves in (samples, made)]
    codes_a_second, rate_prior = rate / hop * measured.codes.shape[-1], shared["bits_per_dim"]["rate_prior"]
    result = {
        "bits_a_symbol": float(measured.nll_nats.sum() / lengths.sum() / math.log(2)),
        "code_bits_a_second_uniform": codes_a_second * math.log2(num_codes),
        "code_bits_a_second_prior": None if rate_prior is None else rate_prior * rate,
        "mu_law_bits_a_second": float(rate * MU_LAW_BITS),
        "log_spectral_distance_db": float(log_spectral_distance(samples, made, rate, lengths).mean()),
        "stoi": float(clear[measurable].mean()) if measurable.any() else None,
        "stoi_share": float(measurable.double().mean()),
        "dc_offset_largest": float(dc_offset(made, lengths).abs().max()),
        "clicks_real": float(clicks[0].nanmedian()),
        "clicks_reconstructions": float(clicks[1].nanmedian()),
        "phonemes": None,
        "probes": None,
    }
    if isinstance(data, SpokenWords):
        result["phonemes"] = asdict(phonemes(measured, data, subject.split_name, hop, num_codes))
    if subject.options.judge and data.label_names:
        result["probes"] = listen(measured, subject)
    return {"sound": result}


def phonemes(measured: Measured, data: SpokenWords, split: str, hop_length: int, num_codes: int) -> PhonemeAccuracy:
    """The paper's experiment (section 4.3): how well single codes name the phonemes that are spoken."""
    counts = measured.real.sum(1).tolist()
    labels = [frame_labels(spoken, count, hop_length) for spoken, count in zip(data.phonemes(split), counts, strict=True)]
    return phoneme_accuracy(measured.codes[..., 0], labels, num_codes)


def listen(measured: Measured, subject: Subject) -> dict:
    """For each label the share of clips that its probe hears as they are, or as was asked for."""
    stage1, stage2, data, split = subject.stage1, subject.stage2, subject.data, subject.split
    options, seed, device = subject.options, subject.seed, subject.device
    rate, lengths = data.sample_rate_hz, measured.sizes
    real = split.batch(torch.arange(len(split)))
    told = stage1.config["condition_on"]
    converted = asked = made = None
    if told:
        asked = other_classes(real.labels.cpu(), data, told, seed)
        converted = convert(stage1, measured.codes, asked, lengths, seed, options.batch_size)
    if stage2 is not None and options.samples:
        made = generate(stage1, stage2, options.samples, seed, options.batch_size, device)
    verdicts = {}
    for column, (name, classes) in enumerate(zip(data.label_names, data.classes, strict=True)):
        model = train_probe(data.split("train").to(device), column, len(classes), rate, device)
        true = real.labels[:, column].cpu()
        wanted = true if asked is None else asked[:, column]
        verdicts[name] = {
            "real": accuracy(probe(model, real.x.cpu(), lengths), true),
            "reconstructions": accuracy(probe(model, measured.reconstructions, lengths), true),
            "conversions": None if converted is None else accuracy(probe(model, converted, lengths), wanted),
            "samples": None if made is None or name not in made.label_names
            else accuracy(probe(model, made.x, made.lengths), made.label(name)),
        }
    return verdicts


def rows(result: dict) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    found = result["sound"]
    table = [
        ("bits a mu-law symbol", found["bits_a_symbol"], ".3f"),
        ("bits a second: mu-law", found["mu_law_bits_a_second"], ".0f"),
        ("bits a second: codes, uniform prior", found["code_bits_a_second_uniform"], ".0f"),
        ("bits a second: codes, learned prior", found["code_bits_a_second_prior"], ".0f"),
        ("log-spectral distance, dB", found["log_spectral_distance_db"], ".2f"),
        ("STOI", found["stoi"], ".3f"),
        ("STOI: share of clips long enough", found["stoi_share"], ".1%"),
        ("largest DC offset", found["dc_offset_largest"], ".4f"),
        ("roughness at code borders: real", found["clicks_real"], ".2f"),
        ("roughness at code borders: made", found["clicks_reconstructions"], ".2f"),
    ]
    if found["phonemes"]:
        spoken = found["phonemes"]
        table += [("phonemes: right by code", spoken["accuracy"], ".1%"), ("phonemes: always the commonest",
                  spoken["baseline"], ".1%"), ("phonemes: share of the way", spoken["normalised"], ".3f")]
    for name, verdict in (found["probes"] or {}).items():
        table += [(f"{name} heard: {kind}", value, ".1%") for kind, value in verdict.items()]
    return table


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """Spectrograms of originals, reconstructions and, of a decoder that is told labels, conversions."""
    run, split, stage1 = subject.run, subject.split, subject.stage1
    run.figures.mkdir(parents=True, exist_ok=True)
    example = stage1.config["example"]
    chosen = spread(SHOWN, len(split))
    batch, lengths = split.batch(chosen), measured.sizes[chosen]
    clips = {"original": batch.x.cpu(), "reconstruction": measured.reconstructions[chosen]}
    captions = {"original": [_words(example, row) for row in batch.labels.tolist()]}
    if stage1.config["condition_on"]:
        asked = other_classes(batch.labels.cpu(), example, stage1.config["condition_on"], seed=0)
        clips["conversion"] = convert(stage1, measured.codes[chosen], asked, lengths, 0, len(chosen))
        captions["conversion"] = [_words(example, row) for row in asked.tolist()]
    waves = {name: [wave[0, :length] for wave, length in zip(x, lengths.tolist())] for name, x in clips.items()}
    path = run.figures / "spectrograms.png"
    comparison(path, waves, captions, example["facts"]["sample_rate_hz"])
    return {"spectrograms": path}


def _words(example: dict, row: list[int]) -> str:
    return " ".join(names[number] for names, number in zip(example["classes"], row, strict=True))
