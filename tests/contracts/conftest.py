"""Contract tests: every component that has a yaml keeps the contract of its group, found by globbing.

A component of your own, outside this repository, is tested in the same way:

    NDR_PLUGINS=FOLDER python -m pytest tests/contracts -k NAME_OF_ITS_YAML
"""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pipelines.runs import plugins
from pipelines.runs.config import CONFIGS, build, plain

# an argument of a test -> the group whose yaml it goes through
GROUPS = {
    "bottleneck_name": "autoencoder/bottleneck",
    "likelihood_name": "autoencoder/likelihood",
    "autoencoder_name": "autoencoder",
    "prior_name": "prior",
}


def yaml_files(group: str) -> dict[str, Path]:
    """Of a group every yaml by its name, the project's and those of the user's folders."""
    plugins.activate()
    folders = [Path(CONFIGS), *plugins.config_folders()]
    return {path.stem: path for folder in folders for path in sorted((folder / group).glob("*.yaml"))}


def pytest_generate_tests(metafunc):
    for argument, group in GROUPS.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, yaml_files(group))


@pytest.fixture(scope="session")
def component():
    """component(group, name, **facts) builds what a yaml describes, with these facts, in float64."""

    def make(group: str, name: str, **facts):
        tree = OmegaConf.to_container(OmegaConf.load(yaml_files(group)[name]), resolve=False)
        torch.manual_seed(0)
        return build(plain(OmegaConf.create({"tree": tree, "facts": facts}))["tree"]).double()

    return make


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
