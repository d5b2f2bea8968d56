"""What only the data know of an autoencoder's configuration: channels, classes, variance."""

import torch
from omegaconf import DictConfig, OmegaConf

from pipelines.files.errors import InputError
from pipelines.runs.config import build, plain
from pipelines.splits.base import Data, label_columns
from stage1_vqvae.likelihoods import Likelihood


def complete(cfg: DictConfig, data: Data) -> dict:
    """The autoencoder's configuration with what only the data know in the place of each `???`."""
    columns = label_columns("decoder_condition_on", plain(cfg.decoder_condition_on), data.label_names)
    autoencoder = OmegaConf.to_container(cfg.autoencoder, resolve=False)
    facts = {"in_channels": data.shape[0], "num_classes": [len(data.classes[column]) for column in columns], **data.facts}
    facts |= {"variance": data.variance} if autoencoder["likelihood"].get("variance") == "???" else {}
    fill_in(autoencoder, facts)
    tree = OmegaConf.create({"autoencoder": autoencoder}).autoencoder
    likelihood, bottleneck = build(plain(tree.likelihood)), build(plain(tree.bottleneck))
    facts = {"out_channels": data.shape[0] * likelihood.params_per_value, "dim": bottleneck.in_dim}
    if autoencoder["encoder"].get("grid") == "???":
        facts["grid"] = encoded_grid(plain(tree.encoder.encoder), likelihood, data.shape)
    fill_in(autoencoder, facts)
    return plain(OmegaConf.create({"autoencoder": autoencoder}))["autoencoder"]


def encoded_grid(encoder: dict, likelihood: Likelihood, shape: tuple[int, ...]) -> list[int]:
    """The positions that an encoder makes of an example (c, *grid). Raises InputError for one that does not fit it."""
    example = likelihood.to_network(likelihood.from_levels(torch.zeros(1, *shape, dtype=torch.int64)))
    with torch.device("meta"):
        try:
            return list(build(encoder)(example.to("meta")).shape[2:])
        except ValueError as error:
            raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None


def fill_in(tree: dict, facts: dict) -> None:
    """Sets each key without a value (`???`), at any depth, that `facts` has."""
    for key, value in tree.items():
        if isinstance(value, dict):
            fill_in(value, facts)
        elif value == "???" and key in facts:
            tree[key] = facts[key]
