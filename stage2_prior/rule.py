"""How logits become the distribution that a code is drawn from: temperature, then top-k, then top-p."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Temperature first (0 = argmax), then top-k (ties to the lower code), then top-p (keeps the code crossing p)."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def check(self, num_codes: int) -> None:
        """Raises ValueError unless the rule can be applied to `num_codes` codes."""
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number of 0 or more, found {self.temperature}")
        if self.top_k is not None and not 1 <= self.top_k <= num_codes:
            raise ValueError(f"top_k: expected 1 to {num_codes} codes, found {self.top_k}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p: expected a probability in (0, 1], found {self.top_p}")
