"""Which random seeds there are. Imports neither torch nor NumPy, so that a flag is checked before they are loaded."""

from numbers import Integral

from pipelines.files.errors import InputError
from pipelines.files.typed import LARGEST_SEED


def check_seed(key: str, seed: object) -> None:
    """Raises InputError, naming `key`, for anything but an integer from 0 to LARGEST_SEED."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) <= LARGEST_SEED:
        raise InputError(f"{key}: expected an integer from 0 to {LARGEST_SEED}, found {seed!r}")
