"""Data sets that torchvision reads in their publisher's files: opened with errors that tell how to get them."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from pipelines.errors import InputError


def open_published(dataset: type, root: str, folder: Path, download: bool) -> tuple[Any, Any]:
    """The publisher's training and test part of a torchvision data set, whose files lie in `folder` below `root`.

    Raises InputError where they are missing, damaged or cannot be fetched. torchvision unpickles the files of CIFAR-10;
    it does so only after their checksums were found to be the publisher's.
    """
    try:
        return tuple(dataset(root, train=train, download=download) for train in (True, False))
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError, URLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{folder}: expected the published files of {dataset.__name__}, found none that can be read ({reason}); "
            "name the folder above it with data.root=FOLDER, or fetch them with data.download=true"
        ) from error


def sorted_classes(published: list[str], targets: Any) -> tuple[tuple[str, ...], Tensor]:
    """Class names in alphabetical order and the labels (n, 1) int64 that index them, from the publisher's order."""
    names = tuple(sorted(published))
    places = torch.tensor([names.index(name) for name in published])
    return names, places[torch.as_tensor(targets, dtype=torch.int64)][:, None]
