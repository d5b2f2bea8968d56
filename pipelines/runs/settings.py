"""The settings of configs/main.yaml besides those of training and of the components, each of one type and range."""

from dataclasses import dataclass, field

from pipelines.files.typed import Count, CountOrZero, Seed, Size, Typed


@dataclass
class Extraction(Typed):
    """extract.*"""

    views: Count = 1
    batch_size: Count = 256
    shard_size: Count = 8192
    overwrite: bool = False
    other_data: bool = False
    device: str = "auto"


@dataclass
class Evaluation(Typed):
    """evaluate.*"""

    split: str | None = None
    batch_size: Count = 64
    samples: CountOrZero = 1000
    bound_samples: CountOrZero = 50
    unconditional: str | None = None
    context: Count = 6
    predictions: CountOrZero = 64
    prediction_temperature: Size = 1.0
    prediction_samples: Count = 1
    actions: list[str] | None = None
    conversions: CountOrZero = 1
    classifier: bool = True
    copies: CountOrZero = 256
    quality: CountOrZero = 1000
    other_data: bool = False
    device: str = "auto"


@dataclass
class General(Typed):
    """The settings at the top."""

    runs_dir: str = "runs"
    run: str | None = None  # None: the experiment's name, which `~experiment` leaves out
    seed: Seed = 0
    decoder_condition_on: list[str] = field(default_factory=list)
    condition_on: list[str] | None = None
    condition_on_length: bool = True
    split_codes: Count | None = None
