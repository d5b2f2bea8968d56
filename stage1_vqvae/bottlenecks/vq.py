"""Vector quantisation: nearest codebook vector, straight-through gradient.

van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning" (arXiv 1711.00937). `GradientQuantizer`
learns the codebook by equation 3, `EMAQuantizer` by the moving averages of appendix A.1, with the Laplace smoothing of
Sonnet's VectorQuantizerEMA. With `num_codebooks` g > 1 the dimensions are split into g groups, each with its own
codebook (product quantisation): at each position g codes.

Beyond the paper, both start at the k-means centres of encodings and both revive codes that are not used. Optionally:
cosine distance, and the rotation trick or DiVeQ for the gradient.

Axes: b batch, n vectors (positions of all examples), g codebooks, k codes, d dimension of one codebook.
"""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from stage1_vqvae.bottlenecks.base import CodebookQuantizer, Latent, nmse
from stage1_vqvae.bottlenecks.gaussian import normal
from stage1_vqvae.bottlenecks.kmeans import kmeans_in_cells
from stage1_vqvae.bottlenecks.nearest import nearest_codes, squared_distances
from stage1_vqvae.bottlenecks.sums import sums_by_code
from stage1_vqvae.collectives import from_first_rank, global_uniforms, learn_from_sum, rank_and_world
from stage1_vqvae.schedules import progress

ENCODINGS_PER_CODE = 32  # gathered for the initialisation from data: k-means is then stable
# Larger codebooks start at the centres of k-means within cells: the time of k-means grows with K^2, from a few seconds
# here to a minute on two cores at K = 8,192, as long as a thousand updates, and more than an hour at K = 65,536.
MOST_CENTRES = 2048
DRAWN_PER_CODE = 4  # encodings gathered for each code of these
DIRECTION_NOISE = 1e-3  # of DiVeQ, the standard deviation that its authors' package has
GRADIENTS = "straight_through", "rotation", "diveq"


class _Quantise(torch.autograd.Function):
    """Vectors z and their entries e, both (n, g, d) -> e and twice mean (z - e)^2, each with a gradient of its own.

    The stop-gradients of equation 3 in one place: the gradient of e goes to z unchanged (straight-through, section
    3.2) or through `rotated_back`, that of the first mean to z only (commitment), of the second to e only (codebook).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, e: Tensor, rotate: bool) -> tuple[Tensor, Tensor, Tensor]:
        difference = z - e
        ctx.save_for_backward(difference, *((z, e) if rotate else ()))
        distance = difference.square().mean()
        return e.view_as(e), distance, distance.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, straight: Tensor, commitment: Tensor, codebook: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        difference, *both = ctx.saved_tensors
        if both:
            straight = rotated_back(straight, *both)
        scale = 2 / difference.numel()
        to_z = torch.addcmul(straight, difference, commitment * scale)
        return to_z, difference * (codebook * -scale) if ctx.needs_input_grad[1] else None, None


def rotated_back(gradient: Tensor, z: Tensor, e: Tensor) -> Tensor:
    """The rotation trick (Fifty et al., arXiv 2410.06424, section 4.2), all (..., d): the gradient of e, for z.

    e = |e| / |z| R z with R the rotation of z onto e in their plane. With both factors taken as constant the gradient
    is |e| / |z| R^T g, and R = I - 2 r r^T + 2 e' z'^T where z' and e' are the unit vectors and r that of z' + e'.
    """
    least = torch.finfo(z.dtype).eps  # a zero vector has no direction
    length_z, length_e = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=least) for x in (z, e))
    unit_z, unit_e = z / length_z, e / length_e
    r = F.normalize(unit_z + unit_e, dim=-1)
    along_r, along_e = ((gradient * x).sum(-1, keepdim=True) for x in (r, unit_e))
    return length_e / length_z * (gradient - 2 * r * along_r + 2 * unit_z * along_e)


def diveq(z: Tensor, e: Tensor, noise: Tensor) -> Tensor:
    """DiVeQ (Vali, Bäckström and Solin, arXiv 2509.26469), all (..., d): z plus an error of the length |e - z|, in the
    direction of e - z + noise, which counts as a constant.

    So z_q is e but for the noise, and its gradient reaches z and, through the length of the error, the codebook."""
    error = e - z
    direction = F.normalize(error.detach() + noise, dim=-1)
    return z + torch.linalg.vector_norm(error, dim=-1, keepdim=True) * direction


@dataclass(eq=False, repr=False)  # settings are listed once, and inherited; modules compare by identity
class VectorQuantizer(CodebookQuantizer):
    """The base of both ways of learning a codebook: search, initialisation, and the revival of dead codes.

    A code is dead when its moving count of uses falls below `revive_threshold` N / K, where N is the number of vectors
    in a global batch and N / K the count of an average code. After the optimiser's step a dead code is moved onto an
    encoding of that step's global batch and given the count N / K, and its optimiser state is zeroed. 0: codes are
    never revived.

    `rate_weight` r makes the choice of a code depend on its frequency p_k, also a moving average: the code minimises
    |z - e_k|^2 - r D log p_k, where D is the moving mean of |z - e|^2, so r has no unit. r > 0 is entropy-constrained
    quantisation (Chou, Lookabaugh and Gray, 1989): fewer bits at more distortion. r < 0 is competitive learning with a
    conscience (DeSieno, 1988): codes are used more evenly. r = 0 is the paper's nearest code. r grows linearly from 0
    over the first `rate_warmup_steps`: a large r from the start would leave an untrained codebook with few codes.

    distance="cosine" (Yu et al., arXiv 2110.04627): encodings and entries are scaled to unit length. The nearest code
    is then the one at the smallest angle, and z_q has unit length in the dimensions of each codebook.

    gradient="rotation": the gradient of z_q reaches z by the rotation trick, see `rotated_back`.

    gradient="diveq": in training z_q is that of `diveq`, which differs from the codebook entry by noise of standard
    deviation `DIRECTION_NOISE` per dimension and gives a learned codebook its gradient; in eval mode it is the entry.
    As published DiVeQ has no auxiliary losses: commitment_weight=0 and, of a codebook learned by gradient,
    codebook_weight=0. Where these are given they are added all the same; a codebook of moving averages, which no
    gradient reaches, learns as ever.
    """

    num_codes: int = 512
    dim: int = 64
    num_codebooks: int = 1
    _: KW_ONLY
    decay: float = 0.99
    commitment_weight: float = 0.25
    revive_threshold: float = 0.05
    initialise_from_data: bool = True
    rate_weight: float = 0.0
    rate_warmup_steps: int = 0
    distance: Literal["euclidean", "cosine"] = "euclidean"
    gradient: Literal["straight_through", "rotation", "diveq"] = "straight_through"

    def __post_init__(self) -> None:
        super().__init__(self.num_codes, self.dim, self.num_codebooks)
        if self.distance not in ("euclidean", "cosine"):
            raise ValueError(f"expected distance=euclidean or distance=cosine, found {self.distance}")
        if self.gradient not in GRADIENTS:
            raise ValueError(f"expected gradient={' or gradient='.join(GRADIENTS)}, found {self.gradient}")
        self.cosine = self.distance == "cosine"
        self.rotate = self.gradient == "rotation"
        shape = self.num_codebooks, self.num_codes
        self.counts: Tensor
        self.rate_now: Tensor
        self.error: Tensor
        self.initialised: Tensor
        self.register_buffer("counts", torch.zeros(shape))  # moving counts of uses per batch; 0: new
        self.register_buffer("rate_now", torch.tensor(0.0 if self.rate_warmup_steps else self.rate_weight))
        self.register_buffer("error", torch.zeros(self.num_codebooks))  # moving mean of |z - e|^2; 0: none seen
        self.register_buffer("initialised", torch.tensor(not self.initialise_from_data))
        self._candidates: Tensor | None = None  # (g, m, d): this step's encodings for dead codes, m <= K
        self._average_count = 0.0  # N / K of this step

    @property
    def settled_from(self) -> int:
        """While the weight of the rate still grows, errors are lower than they will be."""
        return self.rate_warmup_steps

    @property
    def encodings_to_initialise(self) -> int:
        return (ENCODINGS_PER_CODE if self.num_codes <= MOST_CENTRES else DRAWN_PER_CODE) * self.num_codes

    def vectors(self) -> Tensor:
        return F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook

    @property
    def needs_initialisation(self) -> bool:
        return not self.initialised.item()

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Sets each codebook to the k-means centres of encodings (n, dim), n >= num_codes, better 4 num_codes, in an
        order of no meaning; above `MOST_CENTRES` codes to those found within cells."""
        z = rearrange(z.to(self.codebook.dtype), "n (g d) -> g n d", g=self.num_codebooks)
        if self.cosine:
            z = F.normalize(z, dim=-1)
        self.codebook.copy_(torch.stack([kmeans_in_cells(group, self.num_codes, MOST_CENTRES) for group in z]))
        from_first_rank(self.codebook.data)
        self.counts.zero_()
        self.initialised.fill_(True)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """z (b, dim, *grid), any floating type: computed in the dtype of the codebook, float32 or float64.
        uniforms (b, dim, *grid): DiVeQ's noise."""
        self._check(z)
        with torch.autocast(z.device.type, enabled=False):
            vectors = rearrange(z.to(self.codebook.dtype), "b (g d) ... -> (b ...) g d", g=self.num_codebooks)
            if self.cosine:
                vectors = F.normalize(vectors, dim=-1)
            if self.training and self.rate_warmup_steps and step is not None:
                self.rate_now.fill_(self.rate_weight * progress(step, self.rate_warmup_steps))
            codebook = self.vectors()
            codes = nearest_codes(vectors.detach(), codebook.detach(), self.costs())
            entries = self._entries(codes, codebook)
            z_q, commitment, distance = _Quantise.apply(  # type: ignore[no-untyped-call]
                vectors, entries, self.rotate
            )
            if self.gradient == "diveq" and (self.training or uniforms is not None):
                z_q = diveq(vectors, entries, self._direction_noise(z, uniforms))
            loss = self.commitment_weight * commitment + self._codebook_loss(distance)
            if self.training:
                self._observe(vectors.detach(), codes, entries.detach())
        return self._latent(z_q, codes, z.shape[0], z.shape[2:], loss)

    def _direction_noise(self, z: Tensor, uniforms: Tensor | None) -> Tensor:
        """(n, g, d)."""
        if uniforms is None:
            uniforms = global_uniforms(*z.shape, device=z.device)
        noise = DIRECTION_NOISE * normal(uniforms).to(self.codebook.dtype)
        return rearrange(noise, "b (g d) ... -> (b ...) g d", g=self.num_codebooks)

    def distances(self, z: Tensor, earlier: Tensor) -> Tensor:
        """In the dimensions of the codebook."""
        own = z.to(self.codebook.dtype).chunk(self.num_codebooks, 1)[earlier.shape[1]]
        if self.cosine:
            own = F.normalize(own, dim=-1)
        return squared_distances(own, self.vectors()[earlier.shape[1]])

    def figures(self, z: Tensor, latent: Latent) -> dict[str, Tensor]:
        """Also `z_q nmse`, and how far the codes are behind the encodings: see `codebook_lag`."""
        assert latent.codes is not None
        vectors, entries = (rearrange(x.detach().float(), "b (g d) ... -> (b ...) g d", g=self.num_codebooks)
                            for x in (z, latent.z_q))
        if self.cosine:
            vectors = F.normalize(vectors, dim=-1)
        codes = self._flat(latent.codes.reshape(-1, self.num_codebooks)).flatten()
        lag = codebook_lag(vectors.flatten(0, 1), entries.flatten(0, 1), codes, self.num_codebooks * self.num_codes)
        found = {"z_q nmse": nmse(vectors.flatten(1), entries.flatten(1)), "codebook lag": lag}
        return super().figures(z, latent) | found

    def costs(self) -> Tensor | None:
        """- r D log p_k, (g, k), where the choice depends on frequencies; these are clamped to at least 0.01 / K."""
        if not self.rate_weight:
            return None
        p = self.counts / self.counts.sum(1, keepdim=True)  # 0 / 0 before the first batch
        p = torch.where(self.counts.sum(1, keepdim=True) > 0, p, 1 / self.num_codes).clamp(min=0.01 / self.num_codes)
        return -self.rate_now * self.error[:, None] * p.log()

    @abstractmethod
    def _codebook_loss(self, distance: Tensor) -> Tensor | float:
        """The weighted loss of the codebook; `distance` () is mean (z - e)^2 as a function of e."""

    @abstractmethod
    def _update(self, count: Tensor, total: Tensor) -> None:
        """Updates statistics from the number (g, k) and sum (g, k, d) of each code's vectors in the global batch."""

    @torch.no_grad()
    def _observe(self, z: Tensor, codes: Tensor, entries: Tensor) -> None:
        """Counts and sums per code, and encodings drawn for dead codes, over the global batch, in one all-reduce.

        Every rank holds an equal share of the batch and draws the same random numbers.
        """
        rank, world = rank_and_world()
        n, (g, k, d) = len(z), self.codebook.shape
        flat = self._flat(codes)
        count = z.new_zeros(g * k).scatter_add_(0, flat.flatten(), z.new_ones(n * g))
        total = sums_by_code(z.flatten(0, 1), flat.flatten(), g * k)
        chosen = torch.randperm(n * world, device=z.device)[:k] - rank * n  # without replacement: no two codes alike
        mine = (chosen >= 0) & (chosen < n)
        candidates = torch.where(mine[:, None, None], z[chosen.clamp(0, n - 1)], 0)
        parts = [count, total.flatten(), candidates.flatten()]
        if self.rate_weight:
            parts.append((z - entries).square().sum((0, 2)))
        sizes, everything = [part.numel() for part in parts], n * world

        def learn(summed: Tensor) -> None:
            count, total, candidates, *error = torch.split(summed, sizes)
            if self.rate_weight:
                mean = error[0] / everything
                self.error.copy_(torch.where(self.error == 0, mean, torch.lerp(self.error, mean, 1 - self.decay)))
            self._average_count = everything / k
            self._candidates = rearrange(candidates, "(m g d) -> g m d", g=g, d=d)
            self._update(count.view(g, k), total.view(g, k, d))

        learn_from_sum(torch.cat(parts), learn)

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        if self._candidates is None or not self.revive_threshold:
            return
        dead = self.counts < self.revive_threshold * self._average_count
        order = dead.cumsum(1) - 1  # the j-th dead code takes the j-th candidate
        dead &= order < self._candidates.shape[1]
        order = order.clamp(0, self._candidates.shape[1] - 1)
        encodings = self._candidates.gather(1, order[..., None].expand_as(self.codebook))
        self._revive(dead, encodings)
        for value in optimizer.state.get(self.codebook, {}).values():
            if isinstance(value, Tensor) and value.shape == self.codebook.shape:
                value.masked_fill_(dead[..., None], 0)
        self._candidates = None

    def _revive(self, dead: Tensor, encodings: Tensor) -> None:
        """Moves `dead` codes (g, k) onto `encodings` (g, k, d)."""
        self.codebook.copy_(torch.where(dead[..., None], encodings, self.codebook))
        self.counts.masked_fill_(dead, self._average_count)


def codebook_lag(z: Tensor, e: Tensor, codes: Tensor, num_codes: int) -> Tensor:
    """Encodings and their entries (n, d), their codes (n,) -> (): the squared distance of the entries from the means of
    the encodings that chose them, over the variance of the encodings. 0 where k-means has converged.

    Means of few encodings scatter by chance: W / (n - used) per code, W being the encodings' squared distance from
    them, is subtracted. 0 with fewer than two encodings per used code, where all may be chance."""
    count = z.new_zeros(num_codes).scatter_add_(0, codes, z.new_ones(len(codes)))
    means = (sums_by_code(z, codes, num_codes) / count.clamp(min=1)[:, None])[codes]
    used, n = (count > 0).sum(), len(z)
    chance = used * (z - means).square().sum() / (n - used).clamp(min=1)
    distance = torch.where(n >= 2 * used, (means - e).square().sum() - chance, 0).clamp(min=0)
    return distance / (z - z.mean(0)).square().sum().clamp(min=torch.finfo(z.dtype).tiny)


@dataclass(eq=False, repr=False, kw_only=True)
class GradientQuantizer(VectorQuantizer):
    """The paper's equation 3: the codebook is a parameter with a loss of its own.

    loss = codebook_weight |sg[z] - e|^2 + commitment_weight |z - sg[e]|^2, means over elements. `decay` is that of
    the moving counts of uses.
    """

    codebook_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.codebook = nn.Parameter(self._start())

    def _codebook_loss(self, distance: Tensor) -> Tensor:
        return self.codebook_weight * distance

    def _update(self, count: Tensor, total: Tensor) -> None:
        self.counts.copy_(torch.where(self.counts == 0, self._average_count, self.counts))
        self.counts.lerp_(count, 1 - self.decay)


@dataclass(eq=False, repr=False, kw_only=True)
class EMAQuantizer(VectorQuantizer):
    """The paper's appendix A.1: a code is the moving average of the encodings that chose it.

    N <- decay N + (1 - decay) n,  m <- decay m + (1 - decay) sum z,  e = m / N, with N smoothed as
    (N + epsilon) / (sum N + K epsilon) sum N. A code without history starts with N / K uses at its own position,
    so that it stays there until it is chosen.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("codebook", self._start())
        self.sums: Tensor
        self.register_buffer("sums", torch.zeros(self.codebook.shape))

    def _codebook_loss(self, distance: Tensor) -> float:
        return 0.0

    def _update(self, count: Tensor, total: Tensor) -> None:
        new = self.counts == 0
        self.counts.copy_(torch.where(new, self._average_count, self.counts)).lerp_(count, 1 - self.decay)
        old = torch.where(new[..., None], self._average_count * self.codebook, self.sums)
        self.sums.copy_(old).lerp_(total, 1 - self.decay)
        everything = self.counts.sum(1, keepdim=True)
        smoothed = (self.counts + self.epsilon) / (everything + self.num_codes * self.epsilon) * everything
        self.codebook.copy_(self.sums / smoothed[..., None])

    def _revive(self, dead: Tensor, encodings: Tensor) -> None:
        super()._revive(dead, encodings)
        self.sums.copy_(torch.where(dead[..., None], self._average_count * encodings, self.sums))
