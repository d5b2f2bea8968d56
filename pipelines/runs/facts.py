"""What only the data know of an autoencoder's or a prior's configuration: channels, classes, variance, codes.

A component's yaml asks for a fact by name, whatever its own argument is called: `in_channels: ${facts.in_channels}`.
Only facts that are asked for are computed.
"""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from pipelines.files.errors import InputError
from pipelines.files.platforms import memory_bytes
from pipelines.runs.config import FACT, build, find_target, plain
from pipelines.runs.unfilled import unfilled
from pipelines.splits.base import Data, label_columns
from stage1_vqvae.likelihoods.base import Likelihood
from stage2_prior.prior import Prior
from stage2_prior.split import sub_codes_of

COPIES = 4  # of the weights in training: themselves, the gradient, Adam's two moments
SPLIT = "stage2_prior.split.SplitCodes"
Makers = dict[str, Callable[[DictConfig], Any]]  # of each fact: from the tree with the facts before it to its value


def complete(cfg: DictConfig, data: Data) -> dict:
    """The autoencoder's configuration with every `${facts.NAME}` resolved.

    in_channels      channels of the data
    data_grid        positions of an example
    num_classes      of each label in decoder_condition_on
    variance         of all values of the training split; a pass over it
    bottleneck_dim   channels that the chosen bottleneck reads
    latent_dim       channels of z_q, which the decoder reads
    out_channels     in_channels times the parameters per value of the chosen likelihood
    encoded_grid     positions of the output of autoencoder.encoder.encoder

    and the data set's own (`Data.facts`): sample_rate_hz of audio, num_codes of codes. Raises InputError for another
    name.
    """
    columns = label_columns("decoder_condition_on", plain(cfg.decoder_condition_on), data.label_names)
    makers: Makers = {
        "in_channels": lambda tree: data.shape[0],
        "data_grid": lambda tree: list(data.shape[1:]),
        "num_classes": lambda tree: [len(data.classes[column]) for column in columns],
        "variance": lambda tree: data.variance,
        **_given(data.facts),
        "bottleneck_dim": lambda tree: _bottleneck(tree).in_dim,
        "latent_dim": lambda tree: _bottleneck(tree).dim,
        "out_channels": lambda tree: data.shape[0] * build(plain(tree.autoencoder.likelihood)).params_per_value,
        "encoded_grid": lambda tree: encoded_grid(
            plain(tree.autoencoder.encoder.encoder), build(plain(tree.autoencoder.likelihood)), data.shape),
    }
    return _resolve("autoencoder", cfg.autoencoder, makers)


def check_planned_shape(cfg: DictConfig) -> None:
    """Raises InputError for items that the encoder cannot divide into positions, before the data are read, where their
    settings alone say how large these will be."""
    settings = plain(cfg.data)
    target = find_target(settings.get("_target_"), trusted_only=False)
    planned = target.planned_shape(settings) if isinstance(target, type) and issubclass(target, Data) else None
    if planned is None:
        return
    shape = planned
    parts = OmegaConf.create({name: cfg.autoencoder[name] for name in ("encoder", "bottleneck", "likelihood")})
    makers: Makers = {
        "in_channels": lambda tree: shape[0],
        "data_grid": lambda tree: list(shape[1:]),
        "variance": lambda tree: 1.0,  # no shape depends on it
        "bottleneck_dim": lambda tree: build(plain(tree.autoencoder.bottleneck)).in_dim,
        "encoded_grid": lambda tree: encoded_grid(
            plain(tree.autoencoder.encoder.encoder), build(plain(tree.autoencoder.likelihood)), shape),
    }
    resolved = _resolve("autoencoder", parts, makers)
    example = _network_units(build(resolved["likelihood"]), shape)
    try:
        with torch.inference_mode():  # not on `meta`, where a first convolution imports for a second
            build(resolved["encoder"])(example)
    except ValueError as error:
        raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None


def _bottleneck(tree: DictConfig) -> Any:
    """The bottleneck, without memory for its codebook."""
    with unfilled():
        return build(plain(tree.autoencoder.bottleneck))


def complete_prior(cfg: DictConfig, sizes: dict[str, Any]) -> dict:
    """The prior's configuration with every `${facts.NAME}` resolved, NAME being one of `sizes`; else InputError.

    Where codes are split (`split_codes`), it is that of `SplitCodes` around a prior of the sub-codes."""
    num_codes, books = sizes["num_codes"], sizes["num_codebooks"]
    try:
        parts, values = sub_codes_of(num_codes, cfg.split_codes)
    except ValueError as error:
        raise InputError(f"split_codes: {error}") from None
    own = _resolve("prior", cfg.prior, _given(sizes | {"num_codes": values, "num_codebooks": parts * books}))
    return own if parts == 1 else {"_target_": SPLIT, "num_codes": num_codes, "num_codebooks": books, "prior": own}


def check_prior(prior: Prior, sizes: dict[str, Any]) -> None:
    """Raises InputError where a prior was given other sizes than those of the codes that it is to model."""
    for name in ("num_codes", "num_codebooks", "num_classes", "local_channels"):
        found, expected = getattr(prior, name), sizes[name]
        if (list(found) if isinstance(found, tuple) else found) != expected:
            raise InputError(f"prior: {name}: expected {expected} as the codes have, found {found}; sizes are not set, "
                             f"they are asked for: ${{facts.{name}}}")


def check_memory(key: str, config: dict, copies: int) -> None:
    """Raises InputError where a component's weights, in so many copies, would not fit into memory; none is taken."""
    with unfilled():
        weights = sum(tensor.numel() for tensor in build(config).state_dict().values())
    memory, wanted = memory_bytes(), 4 * copies * weights
    if memory is not None and wanted > memory:
        raise InputError(f"{key}: expected weights that fit into memory with their gradients and moments, "
                         f"{memory / 1e9:.0f} GB, found {weights} weights, {wanted / 1e9:.3g} GB")


def encoded_grid(encoder: dict, likelihood: Likelihood, shape: tuple[int, ...]) -> list[int]:
    """The positions that an encoder makes of an example (c, *grid). Raises InputError for one that does not fit it."""
    example = _network_units(likelihood, shape)
    with unfilled():
        try:
            return list(build(encoder)(example.to("meta")).shape[2:])
        except ValueError as error:
            raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None


def _network_units(likelihood: Likelihood, shape: tuple[int, ...]) -> torch.Tensor:
    """An example of the lowest level, as the encoder reads it: (1, *shape)."""
    return likelihood.to_network(likelihood.from_levels(torch.zeros(1, *shape, dtype=torch.int64)))


def _given(facts: dict[str, Any]) -> Makers:
    def maker(value: Any) -> Callable[[DictConfig], Any]:
        return lambda tree: value

    return {name: maker(value) for name, value in facts.items()}


def _resolve(key: str, node: DictConfig, makers: Makers) -> dict:
    """A node of the configuration as plain data, with the facts that it asks for, made in the order of `makers`."""
    tree = OmegaConf.to_container(node, resolve=False)
    asked = _asked(tree, key)
    for name, where in asked.items():
        if name not in makers:
            raise InputError(f"{where}: expected a fact among {', '.join(makers)}, found {name!r}")
    root = OmegaConf.create({key: tree, "facts": {}})
    for name, make in makers.items():
        if name in asked:
            root.facts[name] = make(root)
    return plain(root)[key]


def _asked(tree: Any, key: str) -> dict[str, str]:
    """The facts that a tree asks for, at any depth, and where each is asked for."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: where for part, value in items for name, where in _asked(value, f"{key}.{part}").items()}
    return {name: key for name in FACT.findall(tree)} if isinstance(tree, str) else {}
