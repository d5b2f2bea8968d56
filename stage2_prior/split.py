"""Codes out of very many as several sub-codes each: two heads of 256 logits in the place of one of 65,536.

A code k of K = B^s is its s digits in base B, the highest first: k = a B + b for s = 2. A prior of sub-codes predicts
them one after the other, p(k) = p(a) p(b | a): as the codes of several codebooks, of which it has s for each of the
codebook's own. Every distribution over K codes can be written so, and likelihoods stay exact.

Axes: b batch, g codebooks, s sub-codes of a code, B values of a sub-code.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor

from stage2_prior.prior import Prior, Stepper, nats

WHOLE_UP_TO = 8192  # codes that one head predicts by default
VALUES = range(32, 1025)  # that a sub-code may have by default


class SplitCodes(Prior):
    """p(codes | labels, local) of num_codes = B^s codes, by a prior with B codes and s num_codebooks codebooks.

    `forward` gives the logits of sub-codes, (b, B, *grid, g s), of which sampling, likelihood and the codec know how to
    make use: those of all K codes would take B^(s - 1) times the products. Temperature, top_k and top_p hold for each
    sub-code. A sample's uniform number draws the first sub-code; those of the others are made of its bits, see
    `sub_uniforms`.
    """

    def __init__(self, prior: Prior, num_codes: int, num_codebooks: int = 1) -> None:
        super().__init__(num_codes, num_codebooks, prior.num_classes, prior.local_channels)
        self.parts = prior.num_codebooks // num_codebooks
        if self.parts * num_codebooks != prior.num_codebooks or prior.num_codes**self.parts != num_codes:
            raise ValueError(f"prior: expected a prior of sub-codes, s of B values for each of {num_codebooks} "
                             f"codebooks with B^s = {num_codes}, found {prior.num_codebooks} of {prior.num_codes}")
        self.prior, self.grid_axes = prior, prior.grid_axes

    @property
    def logits_per_code(self) -> int:
        return self.prior.num_codes * self.parts

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        return self.prior(self.sub_codes(codes), labels, local)

    def nats_of(self, logits: Tensor, codes: Tensor) -> Tensor:
        each = nats(logits, self.sub_codes(codes))
        return self._of_codebooks(reduce(each, "b ... (g s) -> b ... g", "sum", s=self.parts))

    def sub_codes(self, codes: Tensor) -> Tensor:
        """(b, *grid[, g]) -> (b, *grid, g s), the highest digit first; -1, unknown, stays -1 throughout."""
        codes = self._with_codebooks(codes)[..., None]
        return torch.where(codes < 0, -1, codes // self._powers(codes) % self.prior.num_codes).flatten(-2)

    def whole_codes(self, sub_codes: Tensor) -> Tensor:
        """(b, *grid, g s) -> (b, *grid[, g]); -1 where one of a code's sub-codes is."""
        each = rearrange(sub_codes, "b ... (g s) -> b ... g s", s=self.parts)
        codes = (each * self._powers(each)).sum(-1)
        return self._of_codebooks(torch.where((each < 0).any(-1), -1, codes))

    def sub_uniforms(self, uniforms: Tensor) -> Tensor:
        """float64 in [0, 1) (b, *grid[, g]) -> (b, *grid, g s): the number itself, and s - 1 others made of its bits by
        SplitMix64 (Steele, Lea and Flood 2014), so that each sub-code has a number of 53 bits of its own."""
        bits, found = self._with_codebooks(uniforms).view(torch.int64), [self._with_codebooks(uniforms)]
        for number in range(1, self.parts):
            mixed = bits + _signed(0x9E3779B97F4A7C15 * number)
            mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
            mixed = mixed ^ _shifted(mixed, 31)
            found.append(_shifted(mixed, 11).double() * 2.0**-53)
        return torch.stack(found, -1).flatten(-2)

    def stepper(self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None) -> Stepper:
        raise ValueError(f"prior: expected one that gives the logits of all {self.num_codes} codes, found one of "
                         f"{self.parts} sub-codes each")

    def _powers(self, like: Tensor) -> Tensor:
        """B^(s-1), ..., B, 1."""
        powers = [self.prior.num_codes**exponent for exponent in range(self.parts - 1, -1, -1)]
        return torch.tensor(powers, device=like.device)

    def _with_codebooks(self, x: Tensor) -> Tensor:
        return x if self.num_codebooks > 1 else x[..., None]

    def _of_codebooks(self, x: Tensor) -> Tensor:
        return x if self.num_codebooks > 1 else x[..., 0]


def sub_codes_of(num_codes: int, parts: int | None = None) -> tuple[int, int]:
    """How many sub-codes a code has, and of how many values: s and B with B^s = num_codes.

    None: one up to WHOLE_UP_TO codes; beyond, the fewest whose values are among VALUES, and one where there are none.
    Raises ValueError where `num_codes` is no such power of a whole number."""
    if parts is not None:
        values = round(num_codes ** (1 / parts))
        if values**parts != num_codes:
            raise ValueError(f"expected a number of sub-codes s with B^s = {num_codes} for a whole B, found {parts}")
        return parts, values
    for s in range(2, num_codes.bit_length()) if num_codes > WHOLE_UP_TO else ():
        values = round(num_codes ** (1 / s))
        if values**s == num_codes and values in VALUES:
            return s, values
    return 1, num_codes


def _shifted(x: Tensor, places: int) -> Tensor:
    """int64 as 64 bits, shifted to the right with zeros coming in."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    """64 bits as the int64 that has them."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value
