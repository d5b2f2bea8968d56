"""Every yaml is complete: components list exactly the arguments of what they build, experiments build and run."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipelines.data.room import Room
from pipelines.generation.actions import local_actions
from pipelines.runs.config import CONFIGS, build, find_target, plain
from pipelines.runs.facts import complete
from pipelines.training.settings import Settings
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage2_prior.sampling import sample

COMPONENTS = sorted(path for group in ("data", "autoencoder", "prior") for path in (Path(CONFIGS) / group).rglob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (Path(CONFIGS) / "experiment").glob("*.yaml"))


def composed(*overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return compose("main", overrides=list(overrides), return_hydra_config=True)


def nodes_with_target(tree):
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for value in tree.values():
            yield from nodes_with_target(value)


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_component_lists_every_argument_and_no_other(path):
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    found = list(nodes_with_target(tree))
    assert found, "a component says what it builds"
    defaults = {str(entry) for item in tree.get("defaults", []) if isinstance(item, dict) for entry in item}
    for node in found:
        parameters = set(inspect.signature(find_target(node["_target_"], trusted_only=False)).parameters)
        given = {key for key in node if not key.startswith("_") and key != "defaults"}
        if node.get("_partial_"):  # the rest is given when it is called
            assert given <= parameters, node["_target_"]
            continue
        assert given | (defaults if node is tree else set()) == parameters, node["_target_"]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_training_yaml_lists_every_setting(stage):
    given = set(OmegaConf.load(Path(CONFIGS) / "train" / f"{stage}.yaml")) - {"defaults"}
    assert given == set(Settings.__dataclass_fields__)


class Images:
    """What an experiment asks of its data, without them."""

    kind, label_names, classes, variance = "image", ("class",), (tuple("0123456789"),), 4000.0

    def __init__(self, cfg):
        name = cfg.hydra.runtime.choices.data
        sizes = {"digits": (1, 8), "cifar10": (3, 32), "image_folder": (3, 128), "doom": (3, 84)}
        channels, size = sizes.get(name, (1, 28))
        self.shape = (channels, size, size)
        self.x = torch.randint(0, 256, (1, *self.shape), dtype=torch.uint8)


class Codes:
    """The same of the codes of another run."""

    kind, label_names, classes, num_codes, shape = "codes", ("class",), (tuple("0123456789"),), 512, (1, 21, 21)

    def __init__(self, cfg):
        self.x = torch.randint(0, self.num_codes, (1, *self.shape))


class Sounds:
    """The same of sound: two codes of the encoder's are enough."""

    kind, sample_rate_hz = "audio", 8000

    def __init__(self, cfg):
        self.label_names = tuple(cfg.decoder_condition_on)
        self.classes = tuple(("a", "b", "c") for _ in self.label_names)
        self.shape = (1, 2 * math.prod(cfg.autoencoder.encoder.strides))
        self.x = torch.rand(1, *self.shape) - 0.5


class Clips:
    """The same of video: two frames of the room, of the size of the data's, with its actions."""

    kind, label_names, classes, variance = "video", (), (), 4000.0

    def __init__(self, cfg):
        size = cfg.data.get("size", 84)
        room = Room(episodes=2, frames=2, size=size, clip_length=2, validation_fraction=0.5)
        self.shape, self.x = room.shape, room.split("train").batch(torch.arange(1)).x
        self.local = local_actions(torch.tensor([[0, 2]]), 3, 2).float()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_builds_and_the_stages_that_it_has_run(experiment):
    cfg = composed(f"experiment={experiment}")
    kind = Sounds if "strides" in cfg.autoencoder.encoder else Clips if cfg.data.get("clip_length") else Images
    data = (Codes if cfg.hydra.runtime.choices.data == "codes" else kind)(cfg)
    autoencoder = build(complete(cfg, data))
    told = torch.tensor([[1] * len(cfg.decoder_condition_on)]) if cfg.decoder_condition_on else None
    autoencoder(data.x, told).loss.backward()
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())
    drawn = isinstance(autoencoder.decoder, AutoregressiveDecoder)
    uniforms = torch.rand(1, *data.shape[1:], dtype=torch.float64) if drawn else None
    assert autoencoder.evaluate(data.x, told, uniforms).reconstruction.shape == data.x.shape
    quantizer = autoencoder.bottleneck
    if not isinstance(quantizer, Quantizer):
        return
    codes = autoencoder.encode(data.x)
    sizes = {"num_codes": quantizer.num_codes, "num_codebooks": quantizer.num_codebooks, "num_classes": [10],
             "local_channels": 3 * (kind is Clips)}
    prior = build(plain(OmegaConf.merge(cfg.prior, sizes)))
    labels, local = torch.tensor([[3]]), None
    if kind is Clips:
        local = data.local.expand(-1, -1, *codes.shape[1:4])
    assert prior.log_prob(codes, labels, local).shape == (1,)
    # a few positions are enough to see that it samples: all but the last row of the grid are given
    known = codes.clone()
    known[:, -1] = -1
    drawn = sample(prior, torch.rand(codes.shape, dtype=torch.float64), labels=labels, local=local, known=known)
    assert drawn.shape == codes.shape and bool((drawn[:, :-1] == codes[:, :-1]).all())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_says_its_command(experiment):
    header = (Path(CONFIGS) / "experiment" / f"{experiment}.yaml").read_text()
    assert f"EXPERIMENT={experiment}" in header or "make demo" in header
