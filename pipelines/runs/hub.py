"""Runs on a hub of models, through huggingface_hub: `hf://OWNER/NAME`, `hf://OWNER/NAME@REVISION`.

Only what a published run consists of is transferred: configurations, states, weights as safetensors, figures, its card.
A download is kept in the hub's own cache and not written to; offline, what is there is used. HF_ENDPOINT names another
hub, HF_TOKEN is the user's: both are read by huggingface_hub alone.
"""

import re
from pathlib import Path
from typing import Any

from pipelines.files.errors import InputError

PREFIX = "hf://"
NAME = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w.-]+(?:/[\w.-]+)*))?", re.ASCII)
FILES = ["README.md", "metrics.json"] + [  # never a pickle, nor the optimiser's state
    f"{prefix}stage{number}/{name}" for prefix in ("", "*parent/") for number in (1, 2) for name in (
        "config.yaml", "checkpoints/best", "checkpoints/latest", "checkpoints/step-*/model.safetensors",
        "checkpoints/step-*/ema.safetensors", "checkpoints/step-*/state.json")]


def is_hub_name(name: object) -> bool:
    """Whether a run's name is that of a run on a hub."""
    return isinstance(name, str) and name.startswith(PREFIX)


def parse_hub_name(name: str, key: str) -> tuple[str, str | None]:
    """"hf://OWNER/NAME@REVISION" -> "OWNER/NAME" and the revision, None: the newest."""
    found = NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{key}: expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION, found {name!r}")
    return found[1], found[2]


def check_target(name: str) -> str:
    """"hf://OWNER/NAME", where a run is to go, -> "OWNER/NAME". Raises InputError for a name with a revision."""
    repository, revision = parse_hub_name(name, "to")
    if revision is not None:
        raise InputError(f"to: expected hf://OWNER/NAME, found {name!r} with a revision, which the hub chooses")
    return repository


def download(name: str) -> Path:
    """The folder with the files of a run on a hub. Raises InputError where the run, the hub or the extra is missing."""
    repository, revision = parse_hub_name(name, "run")
    hub = _library("run", name)
    try:
        return Path(hub.HfApi().snapshot_download(repository, revision=revision, allow_patterns=FILES))
    except Exception as error:  # of its own, of the network's and of the library of HTTP, which versions change
        raise InputError(f"run: expected a run that can be downloaded, found {name}: {_reason(error)}") from None


def upload(folder: Path, name: str) -> str:
    """Uploads a published run, as one commit that replaces the run that was there, and returns the commit's page.

    A repository that does not exist is made, for its owner's eyes alone. Raises InputError as `download`, and for a
    name with a revision."""
    repository = check_target(name)
    hub = _library("to", name)
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=FILES,
                                     delete_patterns=FILES, commit_message=f"Publish {folder.resolve().name}"))
    except Exception as error:
        raise InputError(f"to: expected a hub that takes the run, found {name}: {_reason(error)}") from None


def _library(key: str, name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(f"{key}: expected the extra [hub] for {name}, found it not installed; pip install "
                         "'neural-discrete-representations[hub]', or here pip install -e '.[hub]'") from None
    return huggingface_hub


def _reason(error: Exception) -> str:
    """The kind of error and its first sentences, without what a hub adds for people with a browser."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
