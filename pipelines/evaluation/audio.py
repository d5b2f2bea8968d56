"""What `evaluate.py` measures of audio: bit rates of the codes, spectra, intelligibility, and accuracies of
classifiers.

Classifiers, one for each label, are trained on real recordings alone. They are applied to real held-out clips, to their
reconstructions, to conversions (the words stay, another speaker is asked for), and to samples of the prior.
"""

import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.data.spoken_words import SpokenWords
from pipelines.evaluation.audio_classifier import classify, log_mel, summaries, train_audio_classifier
from pipelines.evaluation.classifier import accuracy
from pipelines.evaluation.local_features import LocalFeatures, digest
from pipelines.evaluation.measured import Measured, Subject
from pipelines.evaluation.reconstructions import reconstruction_figures, reconstruction_rows
from pipelines.files.errors import InputError
from pipelines.generation.conversion import convert, other_classes
from pipelines.generation.walk import one_thread
from pipelines.media.audio import comparison
from pipelines.metrics.phonemes import PhonemeAccuracy, frame_labels, phoneme_accuracy
from pipelines.splits.base import Batch, Data
from pipelines.splits.order import spread
from stage1_vqvae.bottlenecks.base import Quantizer

SHOWN = 5  # clips in the figure of originals, reconstructions and conversions
MU_LAW_BITS = 8  # per sample, without any model


def check(subject: Subject) -> None:
    """Raises InputError for latents that are not codes."""
    bottleneck = subject.loaded.stage1.module.bottleneck
    if not isinstance(bottleneck, Quantizer):
        raise InputError(f"{subject.run.stage1}: expected codes of audio, found {type(bottleneck).__name__}")


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """{"audio": ...}, `rows` names each figure; with evaluate.classifier and labels the classifiers' accuracies too."""
    data, rate = subject.data, subject.data.sample_rate_hz
    hop, num_codes = data.shape[-1] // measured.codes.shape[1], subject.loaded.stage1.module.bottleneck.num_codes
    codes_per_second, rate_prior = rate / hop * measured.codes.shape[-1], shared["bits_per_dim"]["rate_prior"]
    result = {
        "bits_per_symbol": float(measured.nll_nats.sum() / measured.sizes.sum() / math.log(2)),
        "code_bits_per_second_uniform": codes_per_second * math.log2(num_codes),
        "code_bits_per_second_prior": None if rate_prior is None else rate_prior * rate,
        "mu_law_bits_per_second": float(rate * MU_LAW_BITS),
        **reconstruction_figures(measured, subject, None, {"sample_rate_hz": rate, "hop_length": hop}),
        "phonemes": None,
        "classifiers": None,
    }
    if isinstance(data, SpokenWords):
        result["phonemes"] = asdict(phonemes(measured, data, subject.split_name, hop, num_codes))
    if subject.options.classifier and data.label_names:
        result["classifiers"] = classifiers(measured, subject)
    return {"audio": result}


def phonemes(measured: Measured, data: SpokenWords, split: str, hop_length: int, num_codes: int) -> PhonemeAccuracy:
    """The paper's experiment (section 4.3): how well single codes name the phonemes that are spoken."""
    clips = zip(data.phonemes(split), measured.real.sum(1).tolist(), strict=True)
    labels = [frame_labels(spoken, count, hop_length) for spoken, count in clips]
    return phoneme_accuracy(measured.codes[..., 0], labels, num_codes)


def classifiers(measured: Measured, subject: Subject) -> dict:
    """For each label the accuracy of its classifier, on conversions and samples against the class that was asked
    for."""
    stage1, stage2, data, split = subject.loaded.stage1, subject.loaded.stage2, subject.data, subject.split
    options, seed = subject.options, subject.seed
    lengths = measured.sizes
    real = split.batch(torch.arange(len(split)))
    models = [trained(subject, column) for column in range(len(data.label_names))]
    heard: list[list[float]] = [[] for _ in models]  # accuracies on the conversions of each turn, per label
    made = None
    for turn in range(conversions(subject)):
        asked = other_classes(real.labels.cpu(), data.label_names, data.classes, stage1.condition_on, seed, turn)
        converted = convert(stage1, measured.codes, asked[:, stage1.decoder_columns], lengths, seed, options.batch_size)
        for column, model in enumerate(models):
            heard[column].append(accuracy(classify(model, converted, lengths), asked[:, column]))
    if stage2 is not None and options.samples:
        made = subject.samples(options.samples)
    found = {}
    for column, (name, model) in enumerate(zip(data.label_names, models, strict=True)):
        true = real.labels[:, column].cpu()
        found[name] = {
            "real": accuracy(classify(model, real.x.cpu(), lengths), true),
            "reconstructions": accuracy(classify(model, measured.reconstructions, lengths), true),
            "conversions": math.fsum(heard[column]) / len(heard[column]) if heard[column] else None,
            "samples": None if made is None or name not in made.label_names
            else accuracy(classify(model, made.x, made.lengths), made.label(name)),
        }
    return found


def conversions(subject: Subject) -> int:
    """How many other classes each clip is converted to: `evaluate.conversions`, or as many as there are."""
    data, changed = subject.data, subject.loaded.stage1.condition_on
    others = max((len(data.classes[data.label_names.index(name)]) - 1 for name in changed), default=0)
    return min(subject.options.conversions, others)


def trained(subject: Subject, column: int) -> nn.Module:
    """The classifier of one label, trained once for all figures, on one thread of a CPU."""
    def train() -> nn.Module:
        with one_thread():
            return train_audio_classifier(subject.data.split("train").to(subject.device), column,
                                          len(subject.data.classes[column]), subject.data.sample_rate_hz,
                                          subject.device)

    return subject.once(f"audio classifier {column}", train)


def rows(result: dict) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    found = result["audio"]
    table = [
        ("bits per mu-law symbol", found["bits_per_symbol"], ".3f"),
        ("bits/s: mu-law", found["mu_law_bits_per_second"], ".0f"),
        ("bits/s: codes, uniform prior", found["code_bits_per_second_uniform"], ".0f"),
        ("bits/s: codes, learned prior", found["code_bits_per_second_prior"], ".0f"),
        *reconstruction_rows("audio", found),
    ]
    if found["phonemes"]:
        spoken = found["phonemes"]
        table += [("phoneme accuracy from codes", spoken["accuracy"], ".1%"),
                  ("phoneme accuracy: commonest phoneme", spoken["baseline"], ".1%"),
                  ("phoneme accuracy, normalised", spoken["normalised"], ".3f")]
    for name, accuracies in (found["classifiers"] or {}).items():
        table += [(f"{name} accuracy: {source}", value, ".1%") for source, value in accuracies.items()]
    return table


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """Spectrograms of originals, reconstructions and, where the decoder is conditioned on labels, conversions."""
    run, split, stage1 = subject.run, subject.split, subject.loaded.stage1
    example = stage1.example
    chosen = spread(SHOWN, len(split))
    batch, lengths = split.batch(chosen), measured.sizes[chosen]
    clips = {"original": batch.x.cpu(), "reconstruction": measured.reconstructions[chosen]}
    captions = {"original": [_words(example.classes, row) for row in batch.labels.tolist()]}
    if stage1.condition_on:
        asked = other_classes(batch.labels.cpu(), example.label_names, example.classes, stage1.condition_on, seed=0)
        clips["conversion"] = convert(stage1, measured.codes[chosen], asked[:, stage1.decoder_columns], lengths, 0,
                                      len(chosen))
        captions["conversion"] = [_words(example.classes, row) for row in asked.tolist()]
    waves = {name: [wave[0, :length] for wave, length in zip(x, lengths.tolist(), strict=True)]
             for name, x in clips.items()}
    path = run.figures / "spectrograms.png"
    comparison(path, waves, captions, subject.data.sample_rate_hz)
    return {"spectrograms": path}


FEATURES = "log-mel powers", ""  # what `features` are, and their unit in words


def features(x: Tensor, lengths: Tensor, data: Data) -> Tensor:
    """Waves (n, 1, t) -> float32 (n, d), in which clips are compared: log-mel powers of frames of 10 ms, at one
    loudness."""
    return log_mel(x.cpu(), lengths.cpu(), data.sample_rate_hz).flatten(1)


def rows_of_item(data: Data) -> int:
    """Rows of local features that an item gives."""
    return 1


def local_features(subject: Subject, held_out: Batch) -> list[LocalFeatures]:
    """The classifiers of all labels, in whose features clips are compared, with their accuracies on `held_out` clips;
    none without labels."""
    def of_label(column: int) -> LocalFeatures:
        model = trained(subject, column)

        def extract(x: Tensor, lengths: Tensor | None) -> Tensor:
            return summaries(model, x, whole_lengths(x, lengths)).double()

        seen = classify(model, held_out.x, whole_lengths(held_out.x, held_out.lengths))
        return LocalFeatures(subject.data.label_names[column], accuracy(seen, held_out.labels[:, column].cpu()),
                             digest(model), extract)

    return [of_label(column) for column in range(len(subject.data.label_names))]


def whole_lengths(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The lengths (n,) of waves (n, 1, t), all of which are whole where none are given."""
    return torch.full((len(x),), x.shape[-1]) if lengths is None else lengths.cpu()


def draw_rows(path: Path, rows: dict[str, tuple[Tensor, Tensor]], data: Data) -> None:
    """One row of spectrograms for each name."""
    waves = {name: [wave[0, :length] for wave, length in zip(clips, lengths.tolist(), strict=True)]
             for name, (clips, lengths) in rows.items()}
    comparison(path, waves, {}, data.sample_rate_hz)


def _words(classes: tuple[tuple[str, ...], ...], row: list[int]) -> str:
    return " ".join(names[number] for names, number in zip(classes, row, strict=True))
