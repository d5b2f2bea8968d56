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
from pipelines.runs.store import run_of
from pipelines.training.settings import Settings, Stage1Settings
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


@pytest.mark.parametrize("stage, settings", [("stage1", Stage1Settings), ("stage2", Settings)])
def test_training_yaml_lists_every_setting(stage, settings):
    given = set(OmegaConf.load(Path(CONFIGS) / "train" / f"{stage}.yaml")) - {"defaults"}
    assert given == set(settings.__dataclass_fields__)


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
            encoder = cfg.autoencoder.encoder
            self.shape = (1, 2 * (math.prod(encoder.strides) if "strides" in encoder else encoder.hop_length))
            self.x = torch.rand(1, *self.shape) - 0.5
        elif self.kind == "codes":
            self.shape = (1, 21, 21)  # those of doom
            self.x = torch.randint(0, self.num_codes, (1, *self.shape))
        else:
            size = cfg.data.get("size") or 84  # else that of Doom
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


PARTS = 6  # by default each experiment takes one in six bottlenecks: composing takes 0.2 s each


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_takes_every_bottleneck_and_sets_no_other(experiment, part):
    image = Example(composed([f"experiment={experiment}"])).kind == "image"
    settings = settings_of_bottlenecks(experiment)
    assert set(settings) <= set(BOTTLENECKS)
    for number, bottleneck in enumerate(BOTTLENECKS):
        if (number + EXPERIMENTS.index(experiment)) % PARTS != part:
            continue
        cfg = composed([f"experiment={experiment}", f"autoencoder/bottleneck={bottleneck}"])
        path = Path(CONFIGS) / "autoencoder" / "bottleneck" / f"{bottleneck}.yaml"
        own = OmegaConf.to_container(OmegaConf.load(path))
        found, expected = OmegaConf.to_container(cfg.autoencoder.bottleneck), own | settings.get(bottleneck, {})
        assert set(found) == set(own)
        assert {key: value for key, value in found.items() if value != expected[key]}.keys() <= {"dim"}  # any one's
        if image:  # lengths of audio, and codes of codes, require a constant rate
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


def component(path: str) -> dict:
    """What a component's yaml says."""
    return OmegaConf.to_container(OmegaConf.load(Path(CONFIGS) / f"{path}.yaml"))


@pytest.mark.parametrize("experiment, group, name, key", [
    ("digits", "autoencoder/encoder", "image_paper", "autoencoder.encoder"),
    ("digits", "autoencoder/encoder", "image_dense", "autoencoder.encoder"),
    ("fsdd", "autoencoder/decoder", "image", "autoencoder.decoder"),
    ("mnist", "prior", "wavenet", "prior"),
    ("mnist", "autoencoder/likelihood", "logistic_mixture", "autoencoder.likelihood"),
])
def test_an_experiments_settings_of_a_component_hold_for_that_component_only(experiment, group, name, key):
    swapped = OmegaConf.select(composed([f"experiment={experiment}", f"{group}={name}"]), key)
    assert OmegaConf.to_container(swapped) == component(f"{group}/{name}")


def test_another_networks_settings_are_its_own_and_the_command_line_is_stronger():
    paper = composed(["experiment=digits", "autoencoder=paper", "autoencoder.encoder.hidden=7"]).autoencoder
    assert (paper.encoder.hidden, paper.encoder.num_downsamplings, paper.decoder.hidden) == (7, 2, 7)
    with pytest.raises(InputError, match="autoencoder.encoder.hidden: expected autoencoder.encoder"):
        composed(["experiment=digits", "autoencoder/encoder=image_dense", "autoencoder.encoder.hidden=7"])


def test_settings_of_the_data_hold_for_other_data_that_have_them():
    assert composed(["experiment=fsdd", "data=audio_folder"]).data.crop == 2048
    assert set(composed(["experiment=imagenet128", "data=mnist"]).data) == set(component("data/mnist"))
    assert composed(["experiment=imagenet128", "data=mnist"]).data.flip is True


@pytest.mark.parametrize("override, words", [
    ("train.stpes=5", "train: expected"), ("stage1.stpes=5", "stage1.stpes: expected stage1.steps, found a key"),
    ("data=nope", "data: expected one of audio_folder, "), ("data=nmist", "data: expected mnist, found 'nmist'"),
    ("stage1.lr=abc", "stage1.lr: expected a finite number >= 0, found 'abc'"),
    ("data=null", "data: expected data=NAME"),
    ("~data", "data: expected data=NAME with one of"), ("seed=null", "seed: expected an integer >= 0, found None"),
    ("runs_dir=null", "runs_dir: expected a name"),
    ("evaluate.judge=7", "evaluate.judge: expected evaluate."),
    ("extract.views=x", "extract.views: expected an integer"),
    ("autoencoder.bottleneck.dim=0", "autoencoder.bottleneck.dim: expected an integer >= 1, found 0"),
    ("autoencoder.bottleneck.dim=-1", "autoencoder.bottleneck.dim: expected an integer >= 1, found -1"),
    ("autoencoder.encoder.hidden=0", "autoencoder.encoder.hidden: expected an integer >= 1, found 0"),
    ("autoencoder.encoder=null", "autoencoder.encoder: expected autoencoder/encoder=NAME with one of audio, "),
    ("autoencoder.beta=nan", "autoencoder.beta: expected a finite number, found nan"),
    ("prior.num_layers=1000000000", "prior.num_layers: expected an integer <= 1000"),
    ("condition_on=5", "condition_on: expected a list of names"), ("VQ-VAE", "VQ-VAE: expected KEY=VALUE"),
])
def test_what_does_not_fit_is_refused_in_one_line_that_names_the_nearest_key(override, words):
    with pytest.raises(InputError) as caught:
        composed([override])
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_run_without_a_name_is_refused_where_it_is_needed():
    for overrides in (["run=null"], ["~experiment"]):
        with pytest.raises(InputError, match="^run: expected a name, found none"):
            run_of(composed(overrides))


@pytest.mark.parametrize("value", ["~/x", "$HOME/x", "a=b", "été (2024)", "a b,c", "it's", "back\\", "1e5", "[x",
                                   "'quoted'"])
def test_a_path_is_taken_as_it_was_typed(value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = composed(["data=image_folder", f"data.root={value}", f"run={value}"])
    expected = value.replace("~", "/home/me").replace("$HOME", "/home/me").replace("'quoted'", "quoted")
    assert found.data.root == expected


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
