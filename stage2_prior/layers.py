"""Lists of modules whose type is known, and what every conditional layer does with labels.

Axes: b batch, c channels, L label columns.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Layers(nn.ModuleList, Generic[M]):
    """An `nn.ModuleList`; a type checker knows what it holds."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...

        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]


def embed_labels(tables: Layers[nn.Embedding], labels: Tensor | None) -> list[Tensor]:
    """The row (b, c) of each label column's table for labels int64 (b, L); none for an unconditional prior."""
    return [] if labels is None else [table(labels[:, column]) for column, table in enumerate(tables)]
