"""Modules of which only names and shapes of the weights are wanted: no memory is taken and no number drawn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWING = {"normal_", "uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_", "kaiming_normal_",
           "kaiming_uniform_", "orthogonal_"}


@contextmanager
def unfilled() -> Iterator[None]:
    """Tensors that are made have shapes alone: they are on the meta device. Random initial weights are left out, since
    PyTorch imports its compiler, for a second, to find out that they have no values there."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (),
                           named: dict[str, Any] | None = None) -> Any:
        if getattr(function, "__name__", "") in DRAWING:
            return arguments[0] if arguments else (named or {})["tensor"]
        return function(*arguments, **(named or {}))
