"""The figures that evaluate.py measured, each with its unit, the direction that is better, and what it says."""

import math
from collections.abc import Iterator
from typing import Any

from pipelines.reporting.html import Html, join, table, tag
from pipelines.reporting.subject import LeftOut, Reported

TITLE, ORDER = "Figures", 10

LOWER, HIGHER, NEITHER = "lower", "higher", ""
# Keys of metrics.json: title, unit, which way is better, what the figure says. The order is that of the table.
FIGURES: dict[str, tuple[str, str, str, str]] = {
    "bits_per_dim.total_prior": (
        "bound, learned prior", "bits/dim", LOWER,
        "An upper bound on -log2 p(x) per pixel channel or audio sample: distortion plus the rate under the prior "
        "of stage 2."),
    "bits_per_dim.total_uniform": (
        "bound, uniform prior", "bits/dim", LOWER,
        "The same bound if all codes were equally likely, as in training stage 1."),
    "bits_per_dim.total_normal": (
        "bound, N(0, I)", "bits/dim", LOWER,
        "Negative ELBO of a VAE."),
    "bits_per_dim.distortion": (
        "distortion", "bits/dim", LOWER,
        "Bits of the data given their latents."),
    "bits_per_dim.rate_prior": (
        "rate, learned prior", "bits/dim", LOWER,
        "Bits of the codes under stage 2."),
    "bits_per_dim.rate_uniform": (
        "rate, uniform prior", "bits/dim", LOWER,
        "Bits of the codes if all were equally likely."),
    "bits_per_dim.rate_normal": (
        "rate, N(0, I)", "bits/dim", LOWER,
        "KL of the posterior to a standard normal."),
    "bounds.elbo.bits_per_dim": (
        "negative ELBO, sampled", "bits/dim", LOWER,
        "The bound with one posterior sample."),
    "bounds.multi_sample.bits_per_dim": (
        "multi-sample bound", "bits/dim", LOWER,
        "The importance-weighted bound, which is tighter."),
    "bounds.kl_bits": (
        "KL to the prior", "bits/item", NEITHER,
        "Information in the latents of one item."),
    "bounds.nmse_drawn": (
        "NMSE, drawn latents", "", LOWER,
        "Mean squared error of reconstructions from drawn latents, not the likeliest, over the variance of the data."),
    "psnr_db": (
        "PSNR", "dB", HIGHER,
        "Peak signal-to-noise ratio of reconstructions."),
    "ssim": (
        "SSIM", "", HIGHER,
        "Structural similarity of reconstructions: 1 is identical."),
    "nmse": (
        "NMSE", "", LOWER,
        "Mean squared error of reconstructions over the variance of the data."),
    "classifier.real": (
        "classifier: real images", "%", HIGHER,
        "Accuracy, on held-out images, of a classifier trained on real ones: the ceiling of the next two."),
    "classifier.reconstructions": (
        "classifier: reconstructions", "%", HIGHER,
        "Its accuracy on reconstructions: whether they keep the class."),
    "classifier.samples": (
        "classifier: samples", "%", HIGHER,
        "Its accuracy on samples, against the class they are conditioned on."),
    "audio.bits_per_symbol": (
        "bits per symbol", "bits", LOWER,
        "Bits of one audio sample given codes and earlier samples; 8 without a model."),
    "audio.log_spectral_distance_db": (
        "log-spectral distance", "dB", LOWER,
        "Difference of the spectra of originals and reconstructions."),
    "audio.stoi": (
        "STOI", "", HIGHER,
        "Predicted intelligibility of reconstructions, about 0 to 1."),
    "audio.stoi_share": (
        "recordings with a STOI", "%", NEITHER,
        "Share of recordings that are long enough for it."),
    "audio.dc_offset_largest": (
        "largest DC offset", "", LOWER,
        "Largest mean of a reconstruction; 1 is full scale."),
    "audio.clicks_real": (
        "clicks, real", "", NEITHER,
        "Largest jump from sample to sample, over those of speech; of real recordings."),
    "audio.clicks_reconstructions": (
        "clicks, reconstructions", "", LOWER,
        "The same of reconstructions; better near that of real recordings."),
    "audio.code_bits_per_second_prior": (
        "bit rate of the codes, learned prior", "bits/s", LOWER,
        "What the codes take under stage 2."),
    "audio.code_bits_per_second_uniform": (
        "bit rate of the codes, uniform prior", "bits/s", LOWER,
        "What the codes take if all are equally likely."),
    "audio.mu_law_bits_per_second": (
        "bit rate of mu-law", "bits/s", NEITHER,
        "8 bits per audio sample, without a model."),
    "audio.phonemes.accuracy": (
        "phonemes from codes", "%", HIGHER,
        "How often a single code names the phoneme."),
    "audio.phonemes.baseline": (
        "commonest phoneme", "%", NEITHER,
        "What guessing the commonest phoneme reaches."),
    "audio.phonemes.normalised": (
        "phonemes, normalised", "", HIGHER,
        "0: no better than guessing, 1: perfect."),
    "codes.perplexity": (
        "perplexity of the codes", "codes", NEITHER,
        "How many codes, equally used, would be as diverse. Low values waste the codebook, unless the rate was "
        "weighed against distortion."),
    "codes.used": (
        "codes used", "codes", NEITHER,
        "Codes that occur in the split."),
    "codes.num_codes": (
        "codes in the codebook", "codes", NEITHER,
        "The size K of the codebook."),
    "codes.codes_per_example": (
        "codes per item", "codes", NEITHER,
        "The number of latent positions, on average."),
    "codes.unigram_bits": (
        "codes: unigram", "bits/code", NEITHER,
        "Bits per code from frequencies alone."),
    "codes.bigram_bits": (
        "codes: bigram", "bits/code", NEITHER,
        "Bits per code given the preceding one, from counts."),
    "codes.prior_bits": (
        "codes: learned prior", "bits/code", LOWER,
        "Bits per code under stage 2, held-out items: below the bigram's, or stage 2 learned little."),
    "codes.prior_bits_train": (
        "codes: learned prior, training items", "bits/code", NEITHER,
        "The same on training items: far below the held-out figure means overfitting."),
    "copies.data.share": (
        "samples nearest to a training item, in data space", "%", NEITHER,
        "Well above the next figure: samples copy training items."),
    "copies.data.expected": (
        "expected without copying, in data space", "%", NEITHER,
        "Share of training items among all items."),
    "copies.data.standard_error": (
        "standard error, in data space", "%", NEITHER,
        "Of the share without copying."),
    "copies.codes.share": (
        "samples nearest to a training item, by codes", "%", NEITHER,
        "The same, counting codes that differ."),
    "copies.codes.expected": (
        "expected without copying, by codes", "%", NEITHER,
        "Share of training items among all items."),
    "copies.codes.standard_error": (
        "standard error, by codes", "%", NEITHER,
        "Of the share without copying."),
    "files.bytes_per_item": (
        "compressed file, per item", "bytes", LOWER,
        "Real file of many items over their number."),
    "files.bytes_alone": (
        "compressed file of one item", "bytes", LOWER,
        "A file of its own, header included."),
    "files.over_prior": (
        "file over the prior's bits", "", LOWER,
        "1 is the limit that the prior sets."),
    "latents.mean_norm": (
        "mean norm of z_e", "", NEITHER,
        "Length of the encoder's output per position."),
    "latents.shuffled.distortion_shuffled": (
        "distortion, shuffled latents", "bits/dim", NEITHER,
        "Bits of the data given another item's latents: near the distortion, latents are ignored."),
    "latents.shuffled.nats_saved": (
        "saved by the item's own latents", "nats/item", HIGHER,
        "0: the decoder ignores them."),
    "frame_nats.own": (
        "nats per frame: own codes", "nats", LOWER,
        "-log p of an item given its own codes."),
    "frame_nats.shuffled": (
        "nats per frame: shuffled codes", "nats", NEITHER,
        "Given another item's codes."),
    "frame_nats.unconditional": (
        "nats per frame: unconditional decoder", "nats", NEITHER,
        "Without codes."),
}
# Keys that say what was measured, repeat another figure, or are the details of one.
NOT_SHOWN = ("format", "run", "data", "split", "items", "stage1_step", "stage2_step", "training_seconds", "latents",
             "copies", "files", "classifier.label", "classifier.num_samples", "bounds.samples", "bounds.elbo",
             "bounds.multi_sample", "video", "frame_nats", "classifiers", "audio.classifiers", "audio.phonemes",
             "quality")
SOURCES = {"real": "real recordings", "accuracy": "from the codes", "guess": "commonest class"}
# Of a set of items against held-out ones: title, which way is better, what the figure says.
QUALITY = {
    "frechet_local_features": (
        "Fréchet distance, local features", LOWER,
        "Between Gaussians fitted to the features of both sets, in those of a small network trained on the same data: "
        "no FID, and without a meaning but beside that of training items."),
    "precision": ("precision", HIGHER, "Share of the set within the manifold of held-out items: whether items are "
                  "realistic."),
    "recall": ("recall", HIGHER, "Share of held-out items within the manifold of the set: whether all kinds occur."),
    "density": ("density", HIGHER, "Like precision, but outliers count little; 1 for real items."),
    "coverage": ("coverage", HIGHER, "Share of held-out items with one of the set near them; 0.97 for real items."),
}
SETS = {"samples": "samples", "reconstructions": "reconstructions", "real": "training items"}
VIDEO = {"prediction": "predicted frames", "mean": "mean of several predictions", "last_frame": "last frame repeated",
         "reconstruction": "decoded true codes"}


def section(reported: Reported) -> Html:
    found = reported.figures
    if found is None:
        raise LeftOut("the run was not evaluated; make evaluate measures it")
    words = (f"Measured on {found['items']:,} items of the {found['split']} split of {found['data']}, with the "
             f"checkpoints of step {found['stage1_step']:,} of stage 1"
             + (f" and step {found['stage2_step']:,} of stage 2." if found["stage2_step"] is not None else "."))
    rows = [[(join(title, tag("div", meaning, class_="soft")), title), (with_unit(value, unit), value), better]
            for title, value, unit, better, meaning in measured(found)]
    return join(tag("p", words), table(["figure", "value", "better"], rows, numbers={1}))


def measured(figures: dict[str, Any]) -> Iterator[tuple[str, float, str, str, str]]:
    """Title, value, unit, direction and meaning of each figure that there is: those of FIGURES in their order, those of
    classifiers and predictions, and figures of metrics of the user's own by their keys."""
    there = dict(flat(figures))
    for key, (title, unit, better, meaning) in FIGURES.items():
        if key in there:
            yield title, there[key], unit, better, meaning
    for name in ("audio.classifiers.", "classifiers."):
        for key, value in there.items():
            if key.startswith(name):
                label, _, source = key.removeprefix(name).partition(".")
                better = NEITHER if source in ("real", "guess") else HIGHER
                yield (f"{label}: {SOURCES.get(source, source)}", value, "%", better,
                       f"How often a classifier finds the right {label}.")
    yield from quality(figures.get("quality") or {})
    video = figures.get("video") or {}
    for way, title in VIDEO.items():
        for kind, unit in (("psnr_db", "dB"), ("ssim", "")):
            if steps := video.get(f"{way}_{kind}"):
                name = "PSNR" if kind == "psnr_db" else "SSIM"
                better = HIGHER if way in ("prediction", "mean") else NEITHER
                yield (f"{title}: {name}", math.fsum(steps) / len(steps), unit, better,
                       f"Mean over {len(steps)} frames after a context of {video['context']}, against the recorded "
                       "ones.")
    for key, value in there.items():
        if key not in FIGURES and not any(key == name or key.startswith(f"{name}.") for name in NOT_SHOWN):
            yield key, value, "", NEITHER, "Of a metric of your own."


def quality(found: dict[str, Any]) -> Iterator[tuple[str, float, str, str, str]]:
    """The same of the key `quality`, one network after the other."""
    for task, network in found.get("networks", {}).items():
        yield (f"network of local features: {task}", network["accuracy"], "%", NEITHER,
               f"Its accuracy on held-out items. Figures of two runs can be compared only if both are in the features "
               f"of this network, {network['digest']}, of {found['num_items']:,} items of each set.")
        for key, (title, better, meaning) in QUALITY.items():
            for name, words in SETS.items():
                if (own := network.get(name)) is not None:
                    yield (f"{title}: {words}, by {task}", own[key], "", NEITHER if name == "real" else better,
                           meaning if name == "samples" else "The same of the " + words + ".")


def flat(tree: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Numbers under their dotted keys; of several codebooks, or of an estimate with its error, the mean."""
    for key, value in tree.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            yield from [(name, value["mean"])] if isinstance(value.get("mean"), float) else flat(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def with_unit(value: float, unit: str) -> Html:
    """The figure in words, its unit after it."""
    return join(in_words(value, unit), tag("span", f" {unit}", class_="soft") if unit not in ("", "%") else None)


def in_words(value: float, unit: str) -> str:
    """As many digits as the figure is worth."""
    if unit == "%":
        return f"{value:.1%}"
    if isinstance(value, int) or (value == round(value) and abs(value) >= 10):
        return f"{value:,.0f}"
    digits = {"bits/dim": 4, "bits/code": 3, "dB": 2, "bytes": 1, "bits/item": 1, "s": 0, "bits/s": 0, "codes": 1}
    return f"{value:,.{digits[unit]}f}" if unit in digits else f"{value:.4g}"
