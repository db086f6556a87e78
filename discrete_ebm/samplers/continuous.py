"""What the kernels on ``Real`` share: start, bounds, the diagonal that sets the scales of sites, unadjusted moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.energies.base import energy_and_gradient, energy_dtype
from discrete_ebm.energies.noise_levels import ScoreField
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError
from discrete_ebm.samplers.accept import select
from discrete_ebm.samplers.adapt import LOG_SCALE, ScaleAdapter
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.factorised import check_positive
from discrete_ebm.samplers.single_site import at_least_float32, free_sites, start

__all__ = [
    "LOG_DIAGONAL",
    "Bounds",
    "DiagonalAdapter",
    "all_finite",
    "bounds_of",
    "check_choice",
    "check_precondition",
    "descended",
    "evaluate",
    "implied_temperature",
    "is_broken",
    "log_diagonal",
    "per_chain",
    "root_diagonal",
    "settle",
    "start_real",
]

LOG_DIAGONAL = "log_precondition"


# -- bounds -----------------------------------------------------------------------------------------------------------


class Bounds(NamedTuple):
    """``low`` and ``high`` of a space on a device, shape ``space.shape``; None for no bound."""

    low: Tensor | None
    high: Tensor | None

    def fold(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """``z`` (C, *shape) reflected at the bounds as often as needed, and the sign that reflection gives a velocity.

        y = a + s·z with s = ±1 for each site, so an isometry between cells: it keeps volume, and folding back along
        −s·(z − x) from y ends at x. The sign is None where there are no bounds; NaN stays NaN.
        """
        if self.low is None and self.high is None:
            return z, None
        inside = self.clip(z)
        outside = inside != z  # True for NaN; what is inside stays as it is to the bit
        if self.low is not None and self.high is not None:
            y, along = self._wave(z)
            turned = outside & (along < 0)
        else:
            y, turned = 2 * inside - z, outside
        return torch.where(outside, self.clip(y), inside), 1 - 2 * turned.to(z.dtype)  # rounding may overshoot a bound

    def reflect(self, z: Tensor) -> Tensor:
        """The first of :meth:`fold`, but for rounding."""
        if self.low is not None and self.high is not None:
            return self.clip(self._wave(z)[0])
        return z if self.low is None and self.high is None else 2 * self.clip(z) - z

    def _wave(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Between two bounds: the triangle wave, and where z is along it, −½ to ½, below 0 where the wave falls."""
        period = 2 * (self.high - self.low)  # type: ignore[operator]
        along = (z - self.low).mul_(1 / period)  # type: ignore[operator]
        along = along.sub_(along.round())
        return torch.addcmul(self.low, period, along.abs()), along  # type: ignore[arg-type]

    def clip(self, z: Tensor) -> Tensor:
        """``z`` moved to the nearest legal value, site by site."""
        return z if self.low is None and self.high is None else torch.clamp(z, self.low, self.high)


def bounds_of(space: Any, like: Tensor) -> Bounds:
    """The bounds on the device and in the dtype of ``like``; kept with the space, so a step copies nothing."""
    if space.low is None and space.high is None:
        return Bounds(None, None)
    kept = vars(space).setdefault("_bounds_on", {})
    key = (like.device, like.dtype)
    if key not in kept:
        kept[key] = Bounds(*(None if part is None else part.to(like.device, like.dtype)
                             for part in (space.low, space.high)))
    return kept[key]


# -- states and gradients ---------------------------------------------------------------------------------------------


def start_real(kernel: str, energy: Any, x0: Tensor, *, weighs: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """A private copy of ``x0`` (C, *shape), its energies (C,) and gradient (C, *shape).

    ``weighs``: the kernel compares energies, so a score alone (:class:`ScoreField`) will not do.

    Raises:
        CapabilityError: the space is not Real, the energy is not differentiable, or it is a score alone.
    """
    if energy.space.name != "Real":
        way_out = ("Use `alternate`, with this kernel for the real member." if energy.space.name == "Product"
                   else "Use `gwg` or `gibbs`.")
        raise CapabilityError(f"`{kernel}` must be used on Real; got {energy.space.name}. {way_out}")
    if weighs and isinstance(energy, ScoreField):
        raise CapabilityError(f"`{kernel}` must have an energy to accept by; got {type(energy).__name__}, a score "
                              "alone. Use `langevin`, `sgld` or `underdamped`.")
    if isinstance(energy, ScoreField):
        if x0.shape[1:] != torch.Size(energy.space.shape):
            raise ShapeError(f"`x0` must have shape (C, {', '.join(map(str, energy.space.shape))}); got "
                             f"{tuple(x0.shape)}. Add the chain dimension with `x0[None]`.")
        x = x0.detach().clone(memory_format=torch.contiguous_format)
    else:
        x, _ = start(energy, x0)
    return (x, *evaluate(energy, x))


def evaluate(energy: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (C,), float32 or better, and gradients (C, *shape) in the dtype of ``x``: one forward and backward.

    Of a score alone: its negative, and energies of 0, which no kernel that gets here compares.
    """
    if isinstance(energy, ScoreField):
        field = energy(energy.space.encode_as(x, energy_dtype(energy)))
        if field.shape != x.shape:
            raise ShapeError(f"`score(encoding)` must return one number a site, shape {tuple(x.shape)}; got "
                             f"{tuple(field.shape)}. Reshape the network's output.")
        return torch.zeros(x.shape[:1], dtype=torch.float32, device=x.device), -field.detach().to(x.dtype)
    energies, gradient = energy_and_gradient(energy, x)
    return at_least_float32(energies), gradient.to(x.dtype)


def is_broken(energies: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Which chains (C,) have a finite energy and gradient, and which are a fault of the energy: NaN, −inf, or a finite
    energy without a finite gradient. An energy of +inf is neither: a state of probability 0."""
    finite, smooth = energies.isfinite(), all_finite(gradient)
    return finite & smooth, torch.where(finite, ~smooth, energies != torch.inf)


def all_finite(values: Tensor) -> Tensor:
    """(C,) whether every number of a chain is finite: their sum is NaN or infinite if one of them is."""
    return values.flatten(1).sum(1).isfinite()


def per_chain(values: Tensor, x: Tensor) -> Tensor:
    """(C,) as (C, 1, …, 1) in the dtype of ``x``."""
    return values.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))


def descended(x: Tensor, slope: Tensor, step_size: float, beta: float | Tensor, energies: Tensor) -> Tensor:
    """x − ε β slope, a tensor of its own; in one operation where beta is a number."""
    if not isinstance(beta, Tensor):
        return torch.add(x, slope, alpha=-step_size * float(beta))
    rate = per_chain(step_size * beta_column(beta, energies), x)
    return torch.addcmul(x, rate, slope, value=-1)


def settle(energy: Any, state: ChainState, y: Tensor, bounds: str,
           clamp: Tensor | None) -> tuple[ChainState, StepInfo]:
    """An unadjusted move to ``y``: within bounds, clamped sites put back, taken unless something is not finite."""
    x, gradient = state.x, state.cache["gradient"]
    within = bounds_of(energy.space, x)
    y = within.reflect(y) if bounds == "reflect" else within.clip(y)
    free = free_sites(energy.space, clamp, x.shape[0])
    if free is not None:
        y = torch.where(free.reshape(x.shape), y, x)
    energy_y, gradient_y = evaluate(energy, y)
    kept = energy_y.isfinite() & all_finite(y + gradient_y)
    moved = ChainState(select(kept, y, x), select(kept, energy_y, state.energy),
                       {**state.cache, "gradient": select(kept, gradient_y, gradient)}, state.step + 1)
    info = StepInfo(
        acceptance=kept.to(energy_y.dtype),
        accepted=kept,
        hamming=(moved.x != x).flatten(1).sum(1),
        energy_calls=1.0,
        gradient_calls=1.0,
        non_finite=(~kept).sum(),
    )
    return moved, info


def implied_temperature(kernel: Kernel) -> float:
    """T of the law exp(−βE/T) that a kernel aims at: 1 unless it says otherwise (``kernel.implied_temperature()``).

    For a kernel made of kernels (`alternate`, `parallel-tempering`, …) it is that of its members, which must agree.

    Raises:
        SettingError: members aim at different temperatures, so the whole aims at none.
    """
    own = getattr(kernel, "implied_temperature", None)
    if own is not None:
        return float(own())
    inner = getattr(kernel, "kernel", None)
    members = getattr(kernel, "_members", None)
    found = [inner] if isinstance(inner, Kernel) else [] if members is None else [member for _, member in members()]
    temperatures = {implied_temperature(member) for member in found}
    if len(temperatures) > 1:
        raise SettingError(f"`kernels` must aim at one temperature; got {sorted(temperatures)}. Set the noise of the "
                           "unadjusted ones to √(2 · step_size).")
    return temperatures.pop() if temperatures else 1.0


# -- settings ---------------------------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise :class:`SettingError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        listed = " or ".join(repr(choice) for choice in choices)
        raise SettingError(f"`{name}` must be {listed}; got {value!r}. Leave it out for the default.")


def check_precondition(value: Any, *, estimate: bool = True) -> tuple[float, ...] | str | None:
    """``value`` as None, "estimate" (where that is offered) or a tuple of one positive factor a site."""
    if value is None or (estimate and isinstance(value, str) and value == "estimate"):
        return value
    given = value.detach().flatten().tolist() if isinstance(value, Tensor) else value
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise SettingError(f"`precondition` must be None{', estimate' if estimate else ''} or one factor above 0 for "
                           f"each site; got {value!r}. Use the variances of the sites, or None.")
    for factor in given:
        check_positive("precondition", factor)
    return tuple(float(factor) for factor in given)


def log_diagonal(precondition: tuple[float, ...] | str | None, x: Tensor) -> dict[str, Tensor]:
    """The cache's entry for a diagonal: log factors (C, *shape) float32, 0 while they are to be estimated."""
    if precondition is None:
        return {}
    if isinstance(precondition, str):
        return {LOG_DIAGONAL: torch.zeros(x.shape, dtype=torch.float32, device=x.device)}
    if len(precondition) != math.prod(x.shape[1:]):
        raise SettingError(f"`precondition` must hold {math.prod(x.shape[1:])} factors, one for each site; got "
                           f"{len(precondition)}. Use None for equal scales.")
    factors = torch.tensor(precondition, dtype=torch.float64).log().float().to(x.device)
    return {LOG_DIAGONAL: factors.reshape(x.shape[1:]).expand(x.shape).contiguous()}


def root_diagonal(state: ChainState) -> Tensor | float:
    """√c (C, *shape) of the factors c in the cache; 1 without any."""
    factors = state.cache.get(LOG_DIAGONAL)
    return 1.0 if factors is None else (0.5 * factors.to(state.x.dtype)).exp()


class DiagonalAdapter:
    """Sets the factors of ``precondition="estimate"`` in a burn-in, then the scale; nothing moves afterwards.

    At 1/8, 1/4 and 1/2 of the burn-in the factors become the variances of the sites, over all chains and the steps
    since the last time, shrunk as in Stan towards a small number and divided by their geometric mean, so that the step
    size keeps its meaning. One diagonal serves all chains; after each change the scale is adapted anew, and the whole
    second half belongs to it. A clamped or frozen site gets the smallest factor. No host sync.

    Source: Stan reference manual, "Algorithm parameters: automatic tuning" (the shrinkage, windows that double).
    """

    def __init__(self, kernel: Kernel, n_steps: int, *, shared: bool = False) -> None:
        self.kernel, self.n_steps, self.shared, self.done = kernel, n_steps, shared, 0
        self._ends = sorted({n_steps // part for part in (8, 4, 2)} - {0})
        self._scale = ScaleAdapter(kernel, (self._ends or [n_steps])[0], shared=shared)
        self._forget()

    def _forget(self) -> None:
        self._count, self._mean, self._squares = 0, torch.zeros(()), torch.zeros(())

    def update(self, state: ChainState, info: StepInfo) -> ChainState:
        """The state after one step of the burn-in."""
        if self.done >= self.n_steps:
            return state
        self.done += 1
        state = self._scale.update(state, info)
        if self._ends and self.done <= self._ends[-1]:
            self._see(state.x.double())
        if self.done in self._ends:
            state = state._replace(cache={**state.cache, LOG_DIAGONAL: self._factors(state.x)})
            self._forget()
            later = [end for end in self._ends if end > self.done]
            self._scale = ScaleAdapter(self.kernel, (later or [self.n_steps])[0] - self.done, shared=self.shared)
        return state

    def _see(self, x: Tensor) -> None:
        """Chan's update of count, mean and sum of squares with the C states of one step."""
        count = self._count + x.shape[0]
        mean, before = x.mean(0), self._mean.to(x)
        gap = mean - before
        self._squares = (self._squares.to(x) + (x - mean).square().sum(0)
                         + gap.square() * (self._count * x.shape[0] / count))
        self._mean, self._count = before + gap * (x.shape[0] / count), count

    def _factors(self, x: Tensor) -> Tensor:
        """(C, *shape) float32 logs, of mean 0 over the sites."""
        n = self._count
        variance = (self._squares / max(1, n - 1)) * (n / (n + 5)) + 1e-3 * (5 / (n + 5))
        log = variance.clamp(min=1e-12).log()
        return (log - log.mean()).clamp(-9.2, 9.2).float().expand(x.shape).contiguous()


def is_estimated(kernel: Any) -> bool:
    """Whether the kernel's diagonal is found in the burn-in."""
    return isinstance(kernel.precondition, str)


HISTORY = frozenset({LOG_SCALE, LOG_DIAGONAL})
