"""A finding: what a rule says of a run, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """A setting, as it is typed, and the value to give it."""

    key: str  # "stage1.lr"
    value: Any
    before: Any = None  # the value of the run; None where it is not known

    @property
    def typed(self) -> str:
        """KEY=VALUE, as a command takes it."""
        return f"{self.key}={_typed(self.value)}"

    def __str__(self) -> str:
        if self.before is None:
            return f"set {self.typed}"
        numbers = [type(value) in (int, float) for value in (self.before, self.value)]
        verb = "set" if not all(numbers) else "raise" if self.value > self.before else "lower"
        return f"{verb} {self.key} from {_typed(self.before)} to {_typed(self.value)}"


@dataclass(frozen=True)
class Finding:
    """Something wrong, in words."""

    evidence: str  # what was found, with numbers
    meaning: str
    changes: tuple[Change, ...] = ()  # any one of these, the likeliest cause first
    other: str = ""  # what else helps, in words
    rule: str = ""  # the rule's name
    stage: str = ""  # "stage1" or "stage2"

    @property
    def advice(self) -> str:
        """What to do, in words."""
        return ", or ".join([*map(str, self.changes), *([self.other] if self.other else [])])

    def __str__(self) -> str:
        return f"{self.evidence}: {self.meaning}; {self.advice}"


def change(settings: Mapping[str, Any], key: str, value: Any) -> Change:
    """To `value`, from what the setting is in the run."""
    return Change(key, value, settings.get(key))


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if value == round(value, 5) else f"{value:.3g}"  # 0.9999, 0.000333, 1e-07
