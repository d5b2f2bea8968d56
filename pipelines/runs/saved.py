"""Modules from saved configurations, which are not trusted: compared with the weights before they take memory or time.

A configuration may ask for 10**12 codes or 10**9 layers, leave out arguments or give a list for a number. So the module
is first built on the meta device, where tensors have shapes and no values, with as many parts as its weights allow.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from pipelines.files.checks import expect
from pipelines.files.errors import InputError
from pipelines.runs.config import build
from pipelines.runs.unfilled import unfilled
from pipelines.training.checkpoint import check_weights
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Bottleneck
from stage1_vqvae.likelihoods.base import Likelihood

LARGEST = 2**31  # of a number in a component's configuration; of a size no more than there are stored values, or
LEAST = 2**20  # this, for rates and windows
COUNT = 2**16  # of what is built one after the other
OF_TENSORS = {"num_codes", "num_codebooks", "num_classes"}  # counts that are sizes of tensors
PARTS = 8  # modules, parameters and buffers for each stored tensor: activations and containers have none
SPARE = 1000  # more of them, and bytes of tensors that are not stored, such as windows and masks
SPARE_BYTES = 2**26


def build_saved(tree: Any, path: Path, key: str, kind: type, weights: dict[str, Tensor], source: Path,
                check: Callable[[Any], Any]) -> tuple[nn.Module, Any]:
    """The module that the section `key` of the configuration `path` describes, a `kind`, with the tensors `weights`,
    which were read from `source`; and what `check` returns for the module.

    Raises InputError, before memory is taken, where it cannot be built or where its tensors are not these."""
    stored = sum(tensor.numel() for tensor in weights.values())
    _check_numbers(tree, stored, path, key)
    with unfilled(), _limited(PARTS * len(weights) + SPARE, path, key):
        empty = _built(tree, path, key)
    expect(path, key, type(empty).__name__, isinstance(empty, kind), f"a component that is a {kind.__name__}")
    check_weights(empty, weights, source)
    needed = sum(tensor.numel() for tensor in [*empty.parameters(), *empty.buffers()])
    if needed > stored + SPARE_BYTES / 4:
        raise InputError(f"{path}: {key}: expected a component of {stored} values as in {source.name}, found one that "
                         f"takes {needed}")
    module = _built(tree, path, key)
    module.load_state_dict(weights)
    return module, check(module)


def check_autoencoder(model: Autoencoder, shape: tuple[int, ...], labels: int, path: Path) -> tuple[int, ...]:
    """The grid of the latents of an item of `shape` (c, *grid), found with a batch of none or on
    the meta device: neither time nor memory is taken, whatever the shapes.

    labels: how many condition the decoder. Raises InputError where encoder, bottleneck, decoder and likelihood fit
    neither each other nor such an item."""
    parts = {"encoder": nn.Module, "bottleneck": Bottleneck, "decoder": nn.Module, "likelihood": Likelihood}
    for name, kind in parts.items():
        found = getattr(model, name)
        expect(path, f"autoencoder.{name}", type(found).__name__, isinstance(found, kind),
               f"a component that is a {kind.__name__}")
    try:
        try:
            grid, decoded = _shapes(model, shape, labels, batch=0)
        except RuntimeError:  # of a layer that asks for a batch, such as a reshape to -1
            grid, decoded = _shapes(copy.deepcopy(model).to("meta"), shape, labels, batch=1)
    except Exception as error:  # whatever a layer makes of another shape
        raise InputError(f"{path}: autoencoder: expected one that fits items of shape {shape}, found: "
                         f"{_first_line(error)}") from None
    expected = (shape[0] * model.likelihood.params_per_value, *shape[1:])
    fits = decoded[1:] == expected[1:] if isinstance(model.decoder, AutoregressiveDecoder) else decoded == expected
    expect(path, "autoencoder.decoder", decoded, fits, f"an output of shape {expected}")
    return grid


def _shapes(model: Autoencoder, shape: tuple[int, ...], labels: int, batch: int
            ) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The grid of the latents of an item, and the shape of what the decoder makes of them, without the batch."""
    device = model.likelihood.scale.device
    given = (torch.zeros(batch, labels, dtype=torch.int64, device=device),) if labels else ()
    decoder = model.decoder.upsampler if isinstance(model.decoder, AutoregressiveDecoder) else model.decoder
    with torch.no_grad():
        grid = tuple(model.latent_grid(shape, batch))
        decoded = decoder(torch.zeros(batch, model.bottleneck.dim, *grid, device=device), *given)
    return grid, tuple(decoded.shape[1:])


def _built(tree: Any, path: Path, key: str) -> Any:
    try:
        return build(tree, trusted_only=True)
    except InputError as error:
        raise InputError(f"{path}: {key}: {error}") from None
    except Exception as error:  # whatever a constructor makes of arguments that it was never meant to get
        raise InputError(f"{path}: {key}: expected arguments that fit the component, found: "
                         f"{_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _check_numbers(tree: Any, stored: int, path: Path, key: str, name: str = "") -> None:
    """Raises InputError for a number that no component with so many stored values has as its argument `name`."""
    if isinstance(tree, dict):
        for inner, value in tree.items():
            _check_numbers(value, stored, path, f"{key}.{inner}", inner)
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            _check_numbers(value, stored, path, f"{key}[{place}]", name)
    elif isinstance(tree, int | float):
        largest = (LARGEST if name.endswith("steps") or isinstance(tree, float)
                   else COUNT if name.startswith("num_") and name not in OF_TENSORS else max(stored, LEAST))
        expect(path, key, tree, math.isfinite(tree) and abs(tree) <= largest, f"a number of at most {largest}")


@contextmanager
def _limited(parts: int, path: Path, key: str) -> Iterator[None]:
    """Raises InputError once more modules, parameters and buffers than `parts` are registered."""
    left = parts

    def count(*registered: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError(f"expected a component of at most {parts} modules and tensors, as its weights have, found "
                             "more")

    handles = [registration.register_module_module_registration_hook(count),
               registration.register_module_parameter_registration_hook(count),
               registration.register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
