"""The format of the files that a run consists of, and how those of earlier formats become those of the present one.

    config.yaml, state.json, metrics.json     key `format`
    codes/manifest.json                       key `version`

All four count in one number. A file without it is of format 1. Files are migrated when they are read, one step after
the other, and stay as they are on the disk; a newer file is refused. A key that a class gained since gets its old
behaviour here, so that no other code has to know what earlier versions wrote. Each step is tested on a frozen run
(`tests/golden/formatN`), and CHANGELOG.md says what changed.

What a step may not change: the keys of `train` and `data` in which a run that goes on may differ from before
(`runs/store.py`), since they are written back into configurations of earlier formats.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.files.checks import expect, is_integer
from pipelines.files.errors import InputError

FORMAT = 4

CONFIG, STATE, CODES, FIGURES = "config", "state", "codes", "figures"  # the four files, as above


def format_of(content: dict, path: Path, file: str) -> int:
    """The format of what was read from `path`. Raises InputError for one that is newer than this code."""
    key = "version" if file == CODES else "format"
    found = content.get(key, 1)
    expect(path, key, found, is_integer(found, 1), f"an integer from 1 to {FORMAT}")
    if found > FORMAT:
        raise InputError(f"{path}: {key}: expected up to {FORMAT}, found {found}: a newer version wrote it; "
                         "upgrade to read it")
    return found


def migrated(content: dict, path: Path, file: str) -> dict:
    """`content`, which was read from `path`, in the present format, without the key that states it."""
    found = format_of(content, path, file)
    content = {key: value for key, value in content.items() if key != ("version" if file == CODES else "format")}
    for number in range(found, FORMAT):
        content = STEPS[number](content, file)
    return content


def from_1_to_2(content: dict, file: str) -> dict:
    """Components are named where they are defined; every stage says what it is conditioned on; facts that only some
    kinds of data have are apart from the rest; states have checksums."""
    if file == STATE:
        return with_defaults(content, {"stage1_hash": None, "parent_hash": None, "trained_at": None, "checksums": None})
    if file == CONFIG:
        content = _components(content, RENAMED, GAINED_1)
        content = with_defaults(content, {"condition_on": []})
        if isinstance(content.get("train"), dict):
            content["train"] = with_defaults(content["train"], {"decay_share": 1.0})
        if isinstance(example := content.get("example"), dict):
            common = ("data", "kind", "shape", "label_names", "classes")
            facts = {key: value for key, value in example.items() if key not in common}
            content["example"] = {key: example[key] for key in common if key in example} | {"facts": facts}
        if "prior" in content:
            content = with_defaults(content, {"condition_on_length": False})
            if isinstance(content.get("codes"), dict):
                content["codes"] = with_defaults(content["codes"], {"length_counts": None, "extraction": None})
    if file == FIGURES:
        content = _renamed(content, FIGURE_NAMES)
    return content


def from_2_to_3(content: dict, file: str) -> dict:
    """metrics.json says whether samples are copies of training items, and how large compressed files are."""
    return with_defaults(content, {"copies": None, "files": None}) if file == FIGURES else content


def from_3_to_4(content: dict, file: str) -> dict:
    """Stage 1 says when its encoder is frozen, FSQ how it bounds, and a bottleneck that draws codes what its logits and
    gradients are; metrics.json has the error of reconstructions from drawn latents beside their bounds."""
    if file == CONFIG and "autoencoder" in content:
        content = content | {"autoencoder": _components(content["autoencoder"], {}, GAINED_3)}
        if isinstance(content.get("train"), dict):
            content["train"] = with_defaults(content["train"], {"freeze_encoder_at": 0.0})
    if file == FIGURES and isinstance(bounds := content.get("bounds"), dict):
        content = content | {"bounds": with_defaults(bounds, {"nmse_drawn": None})}
    return content


STEPS: dict[int, Callable[[dict, str], dict]] = {1: from_1_to_2, 2: from_2_to_3, 3: from_3_to_4}

LIKELIHOODS = "stage1_vqvae.likelihoods"
RENAMED = {  # format 1 -> 2
    f"{LIKELIHOODS}.{name}": f"{LIKELIHOODS}.{module}.{name}"
    for module, names in {
        "bernoulli": ["Bernoulli"], "categorical": ["Categorical"], "codes": ["Codes"], "gaussian": ["Gaussian"],
        "logistic": ["Logistic", "LogisticMixture"], "logit_laplace": ["LogitLaplace"], "mu_law": ["MuLaw"],
    }.items() for name in names
}
FIGURE_NAMES = {  # keys of metrics.json, format 1 -> 2
    "judge": "classifier", "samples_judged": "num_samples", "sound": "audio", "probes": "classifiers",
    "probe": "classifiers", "bits_a_symbol": "bits_per_symbol",
    "code_bits_a_second_uniform": "code_bits_per_second_uniform",
    "code_bits_a_second_prior": "code_bits_per_second_prior", "mu_law_bits_a_second": "mu_law_bits_per_second",
    "codes_an_example": "codes_per_example", "nats_gained": "nats_saved", "own_over_others": "own_against_shuffled",
    "own_over_unconditional": "own_against_unconditional",
    "unconditional_over_others": "unconditional_against_shuffled",
    "others": "shuffled",
}
QUANTIZER = {"rate_weight": 0.0, "rate_warmup_steps": 0, "distance": "euclidean", "gradient": "straight_through"}
GAINED_1: dict[str, dict[str, Any]] = {  # while files were of format 1, in which runs from before lack them
    "stage1_vqvae.autoencoder.Autoencoder": {"beta_warmup_steps": 0},
    "stage1_vqvae.audio.SpectralGuide": {"window_length": None},
    "stage1_vqvae.bottlenecks.fsq.FSQ": {"num_codebooks": 1},
    "stage1_vqvae.bottlenecks.vq.EMAQuantizer": QUANTIZER,
    "stage1_vqvae.bottlenecks.vq.GradientQuantizer": QUANTIZER,
    "stage1_vqvae.image.ImageEncoder": {"initial_scale": 1.0},
    "stage1_vqvae.image.ImageDecoder": {"initial_scale": 1.0},
    "stage2_prior.wavenet.WaveNet": {"ordered": False},
}
CATEGORICAL = {"logits": "affine", "commitment_weight": 0.25, "likeliest_from": 0, "likeliest_share": 0.0}
GAINED_3: dict[str, dict[str, Any]] = {
    "stage1_vqvae.bottlenecks.fsq.FSQ": {"bounding": "tanh"},
    "stage1_vqvae.bottlenecks.gumbel.Gumbel": {"hard_from": 0} | CATEGORICAL,
    "stage1_vqvae.bottlenecks.vimco.VIMCO": {"estimator": "vimco"} | CATEGORICAL,
}


def with_defaults(content: dict, defaults: dict) -> dict:
    """`content` and, after it, those of the defaults that it lacks."""
    return content | {key: value for key, value in defaults.items() if key not in content}


def _renamed(tree: Any, names: dict[str, str]) -> Any:
    """Keys renamed at any depth."""
    if isinstance(tree, list):
        return [_renamed(item, names) for item in tree]
    if isinstance(tree, dict):
        return {names.get(key, key): _renamed(value, names) for key, value in tree.items()}
    return tree


def _components(tree: Any, renamed: dict[str, str], gained: dict[str, dict[str, Any]]) -> Any:
    """Renames and completes the components in a configuration, at any depth."""
    if isinstance(tree, list):
        return [_components(item, renamed, gained) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: _components(value, renamed, gained) for key, value in tree.items()}
    if isinstance(target := tree.get("_target_"), str):
        target = renamed.get(target, target)
        tree = with_defaults(tree, gained.get(target, {})) | {"_target_": target}
    return tree
