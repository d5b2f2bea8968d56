"""What tests of saved configurations share."""

from collections.abc import Callable
from copy import deepcopy

import pytest


@pytest.fixture
def changed() -> Callable[[dict, str, object], dict]:
    """changed(tree, key, value): the tree with another value at a dotted key; `...` removes it."""

    def change(tree: dict, key: str, value: object) -> dict:
        tree = deepcopy(tree)
        *outer, last = key.split(".")
        inner = tree
        for name in outer:
            inner = inner[name]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        return tree

    return change
