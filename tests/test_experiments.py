"""Every yaml is complete: components list exactly the arguments of what they build, experiments build and run."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions
from pipelines.runs.config import CONFIGS, build, composed, find_target
from pipelines.runs.facts import check_prior, complete, complete_prior
from pipelines.training.settings import Settings
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage2_prior.sampling import sample

GROUPS = ("data", "autoencoder", "prior")
COMPONENTS = sorted(path for group in GROUPS for path in (Path(CONFIGS) / group).rglob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (Path(CONFIGS) / "experiment").glob("*.yaml"))
BOTTLENECKS = sorted(path.stem for path in (Path(CONFIGS) / "autoencoder" / "bottleneck").glob("*.yaml"))
CLASSES = tuple("0123456789")


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
        given = {key for key in node if not key.startswith("_")} - {"defaults", "bottlenecks"}  # no arguments
        if node.get("_partial_"):  # the rest is given when it is called
            assert given <= parameters, node["_target_"]
            continue
        assert given | (defaults if node is tree else set()) == parameters, node["_target_"]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_training_yaml_lists_every_setting(stage):
    given = set(OmegaConf.load(Path(CONFIGS) / "train" / f"{stage}.yaml")) - {"defaults"}
    assert given == set(Settings.__dataclass_fields__)


class Example:
    """The data set of an experiment without its files: one example of the size that class and configuration tell."""

    variance, num_codes, facts = 4000.0, 512, {"sample_rate_hz": 8000, "num_codes": 512}

    def __init__(self, cfg):
        data = find_target(cfg.data._target_, trusted_only=False)
        self.kind = getattr(data, "kind", "video" if cfg.data.get("clip_length") else "image")
        self.label_names, self.classes, self.actions = ("class",), (CLASSES,), None
        if self.kind == "audio":  # two codes of the encoder's are enough
            self.label_names = tuple(cfg.decoder_condition_on)
            self.classes = (CLASSES,) * len(self.label_names)
            self.shape = (1, 2 * math.prod(cfg.autoencoder.encoder.strides))
            self.x = torch.rand(1, *self.shape) - 0.5
        elif self.kind == "codes":
            self.shape = (1, 21, 21)  # those of doom
            self.x = torch.randint(0, self.num_codes, (1, *self.shape))
        else:
            size = cfg.data.get("size") or 84  # else Doom's
            self.shape = getattr(data, "shape", (cfg.data.get("channels", 3), size, size))
            if self.kind == "video":  # two frames
                self.shape, self.actions = (3, 2, *self.shape[1:]), torch.tensor([[0, 2]])
            self.x = torch.randint(0, 256, (1, *self.shape), dtype=torch.uint8)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_builds_and_the_stages_that_it_has_run(experiment):
    cfg = composed([f"experiment={experiment}"])
    data = Example(cfg)
    autoencoder = build(complete(cfg, data))
    labels = torch.tensor([[1] * len(cfg.decoder_condition_on)]) if cfg.decoder_condition_on else None
    autoencoder(data.x, labels).loss.backward()
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())
    drawn = isinstance(autoencoder.decoder, AutoregressiveDecoder)
    uniforms = torch.rand(1, *data.shape[1:], dtype=torch.float64) if drawn else None
    assert autoencoder.evaluate(data.x, labels, uniforms).reconstruction.shape == data.x.shape
    quantizer = autoencoder.bottleneck
    if not isinstance(quantizer, Quantizer):
        return
    codes = autoencoder.encode(data.x)
    local = None if data.actions is None else local_actions(data.actions, 3, codes.shape[1]).float()
    sizes = {"num_codes": quantizer.num_codes, "num_codebooks": quantizer.num_codebooks, "num_classes": [10],
             "local_channels": 0 if local is None else local.shape[1], "grid": list(codes.shape[1:])}
    prior = build(complete_prior(cfg, sizes))
    check_prior(prior, sizes)
    labels = torch.tensor([[3]])
    if local is not None:
        local = local.expand(-1, -1, *codes.shape[1:4])
    assert prior.log_prob(codes, labels, local).shape == (1,)
    # a few positions are enough to see that it samples: all but the last row of the grid are given
    known = codes.clone()
    known[:, -1] = -1
    drawn = sample(prior, torch.rand(codes.shape, dtype=torch.float64), labels=labels, local=local, known=known)
    assert drawn.shape == codes.shape and bool((drawn[:, :-1] == codes[:, :-1]).all())


def settings_of_bottlenecks(experiment: str) -> dict[str, dict]:
    """Of an experiment, before they are applied to the chosen one."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("main", overrides=[f"experiment={experiment}"])
    return OmegaConf.to_container(cfg.autoencoder.get("bottlenecks", OmegaConf.create({})))


@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])  # composing takes 0.2 s each
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_of_images_takes_every_bottleneck_and_sets_no_other(experiment, half):
    if Example(composed([f"experiment={experiment}"])).kind != "image":
        return  # lengths of audio, and codes of codes, require a constant rate
    settings = settings_of_bottlenecks(experiment)
    assert set(settings) <= set(BOTTLENECKS)
    for number, bottleneck in enumerate(BOTTLENECKS):
        if (number + EXPERIMENTS.index(experiment)) % 2 != half:
            continue
        cfg = composed([f"experiment={experiment}", f"autoencoder/bottleneck={bottleneck}"])
        path = Path(CONFIGS) / "autoencoder" / "bottleneck" / f"{bottleneck}.yaml"
        own = OmegaConf.to_container(OmegaConf.load(path))
        found, expected = OmegaConf.to_container(cfg.autoencoder.bottleneck), own | settings.get(bottleneck, {})
        assert set(found) == set(own)
        assert {key: value for key, value in found.items() if value != expected[key]}.keys() <= {"dim"}  # any one's
        config = complete(cfg, Example(cfg))
        with torch.device("meta"):
            build(config)


@pytest.mark.parametrize("overrides, found", [
    (["autoencoder.bottleneck.num_codes=7"], {"num_codes": 7, "decay": 0.95, "commitment_weight": 1.0}),
    (["autoencoder.bottleneck.decay=0.99"], {"num_codes": 512, "decay": 0.99}),  # the yaml's own value
    (["autoencoder.bottleneck={decay: 0.5, dim: 8}"], {"decay": 0.5, "dim": 8, "commitment_weight": 1.0}),
    (["++autoencoder.bottleneck.decay=0.5"], {"decay": 0.5}),
    (["autoencoder/bottleneck=gradient", "autoencoder.bottleneck.dim=8"], {"dim": 8, "commitment_weight": 0.25}),
])
def test_the_command_line_is_stronger_than_an_experiments_settings_of_a_bottleneck(overrides, found):
    bottleneck = composed(["experiment=imagenet128", *overrides]).autoencoder.bottleneck
    assert {key: bottleneck[key] for key in found} == found


def test_a_setting_that_the_bottleneck_lacks_is_refused_in_one_line():
    with pytest.raises(InputError, match="autoencoder.bottlenecks.ema: expected one of num_codes, .*, found 'levels'"):
        composed(["experiment=imagenet128", "+autoencoder.bottlenecks.ema.levels=[3]"])


def test_only_facts_that_are_asked_for_are_computed_and_others_are_refused():
    class Costly(Example):
        variance = property(lambda self: pytest.fail("nobody asked for the variance"))

    cfg = composed(["experiment=mnist_vqvae"])  # its likelihood has a scale of its own
    assert complete(cfg, Costly(cfg))["encoder"]["in_channels"] == 1
    cfg = composed(["experiment=mnist_vqvae", "autoencoder.encoder.hidden=${facts.hiden}"])
    with pytest.raises(InputError, match=r"autoencoder.encoder.hidden: expected a fact among in_channels, .*'hiden'"):
        complete(cfg, Example(cfg))
    sizes = {"num_codes": 3, "num_codebooks": 1, "num_classes": [], "local_channels": 0}
    cfg = composed(["prior.channels=${facts.width}"])
    with pytest.raises(InputError, match=f"^prior.channels: expected a fact among {', '.join(sizes)}, found 'width'$"):
        complete_prior(cfg, sizes)


def test_a_data_set_may_have_facts_of_its_own():
    class Wide(Example):
        facts = {"width": 24}

    cfg = composed(["experiment=mnist", "autoencoder.encoder.hidden=${facts.width}"])
    assert complete(cfg, Wide(cfg))["decoder"]["hidden"] == 24


def test_a_prior_of_other_sizes_than_the_codes_is_refused():
    cfg = composed(["experiment=mnist", "prior.num_codes=9", "prior.num_layers=1", "prior.channels=2"])
    sizes = {"num_codes": 5, "num_codebooks": 1, "num_classes": [10], "local_channels": 0}
    with pytest.raises(InputError, match="prior: num_codes: expected 5 as the codes have, found 9"):
        check_prior(build(complete_prior(cfg, sizes)), sizes)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_says_its_command(experiment):
    header = (Path(CONFIGS) / "experiment" / f"{experiment}.yaml").read_text()
    assert f"EXPERIMENT={experiment}" in header or "make demo" in header
