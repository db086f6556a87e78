"""Annealed importance sampling: log Z and log-likelihoods from below and from above, with honest error bars."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from discrete_ebm.chain_inputs import check_device, make_generator, on_device, resolve_device, whole
from discrete_ebm.chains import sample
from discrete_ebm.diagnostics import rhat
from discrete_ebm.energies.base import as_one_law, evaluate_energy
from discrete_ebm.energies.rbm import BernoulliRBM
from discrete_ebm.errors import NonFiniteEnergyError, SettingError, ShapeError
from discrete_ebm.evaluate.exact import exact
from discrete_ebm.evaluate.likelihood import LogLikelihood, likelihood
from discrete_ebm.evaluate.paths import Marker, Path, make_path
from discrete_ebm.evaluate.temperature import need_unit_temperature
from discrete_ebm.samplers.base import Kernel

__all__ = ["AISResult", "Bracket", "ais", "bracket", "raise_log_likelihood"]

_CHECK_EVERY = 50  # steps between looks at the device
_BOOTSTRAP = 2000  # resamples of an interval
_PILOT_CHAINS = 64
_EXACT_STARTS = 2**18  # states, or settings of a hidden layer, that are enumerated to draw reverse starts exactly


@dataclass(frozen=True, eq=False)
class AISResult:
    """An estimate of log Z = log Σ_x exp(−E(x)) at beta = 1, in nats.

    ``log_z``; ``std_error`` of it by the delta method; ``interval``: 95 % by bootstrap over chains; ``ess``: effective
    number of chains, (Σ w)²/Σ w²; ``log_weights`` (C,) float64, on the CPU; ``ladder`` (n_steps + 1,) values of b;
    ``reverse``: annealed from the model to the base, so that E[1/Ẑ] = 1/Z and log Ẑ is too large in expectation (a
    forward run has E[Ẑ] = Z and is too small); ``starts``: where reverse chains came from; ``base``, ``sampler``,
    ``energy_calls`` per chain, ``seconds``.

    The errors are only those between the chains that were run: a mode that no chain found is in none of them. Where
    ``ess`` is a few chains, neither error bar means anything; take more steps.
    """

    log_z: float
    std_error: float
    interval: tuple[float, float]
    ess: float
    log_weights: Tensor
    log_z0: float
    ladder: Tensor
    reverse: bool
    base: str
    starts: str
    sampler: str
    energy_calls: float
    seconds: float
    energy: Any

    @property
    def n_chains(self) -> int:
        return len(self.log_weights)

    @property
    def n_steps(self) -> int:
        return len(self.ladder) - 1

    def log_likelihood(self, x: Any, *, chunk_size: int = 8192) -> LogLikelihood:
        """Log-likelihood of states (B, *shape): −E(x) − log Z."""
        return likelihood(self.energy, x, self.log_z, self.std_error, "lower" if self.reverse else "upper", chunk_size)

    def __str__(self) -> str:
        side = "reverse, an upper bound" if self.reverse else "forward, a lower bound"
        return (f"log Z = {self.log_z:.3f} ± {self.std_error:.3f} nats ({side} in expectation; ESS {self.ess:.1f} of "
                f"{self.n_chains} chains, {self.n_steps} steps)")


@dataclass(frozen=True, eq=False)
class Bracket:
    """Forward and reverse estimates of one log Z; what is true lies between them up to their own errors."""

    forward: AISResult
    reverse: AISResult

    @property
    def lower(self) -> float:
        """Forward estimate, in expectation below log Z."""
        return self.forward.log_z

    @property
    def upper(self) -> float:
        """Reverse estimate, in expectation above log Z when its starts are draws of the model."""
        return self.reverse.log_z

    @property
    def width(self) -> float:
        """upper − lower in nats; about 0, or slightly negative by chance, where both have converged."""
        return self.upper - self.lower

    @property
    def interval(self) -> tuple[float, float]:
        """From the forward interval's low end to the reverse one's high end."""
        return (min(self.forward.interval[0], self.reverse.interval[0]),
                max(self.forward.interval[1], self.reverse.interval[1]))

    def log_likelihood(self, x: Any) -> tuple[LogLikelihood, LogLikelihood]:
        """(lower, upper): by the reverse and by the forward log Z."""
        return self.reverse.log_likelihood(x), self.forward.log_likelihood(x)

    def __str__(self) -> str:
        return f"log Z in [{self.lower:.3f}, {self.upper:.3f}] (width {self.width:.3f}; starts: {self.reverse.starts})"


def ais(
    energy: Any,
    n_chains: int = 100,
    n_steps: int = 1000,
    seed: int | torch.Generator = 0,
    *,
    reverse: bool = False,
    base: Any = None,
    data: Tensor | None = None,
    sampler: str | Kernel = "auto",
    ladder: str | Sequence[float] | Tensor = "linear",
    starts: Tensor | None = None,
    start_steps: int = 1000,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> AISResult:
    r"""log Z = log Σ_x exp(−E(x)) by annealing C independent chains between a base of known Z and the model.

    log w = Σ_k log f_{b_k}(x_{k−1}) − log f_{b_{k−1}}(x_{k−1}), where x_k is x_{k−1} after one step of a kernel that
    keeps f_{b_k}; f_b = exp(−(1 − b)E_0 − b·E), or for a :class:`BernoulliRBM` the RBMs in between (hidden and visible
    layers drawn exactly). log Z = log Z_0 + log mean w. ``reverse=True`` starts at draws of the model and ends at the
    base: log Z = log Z_0 − log mean w, which errs to the other side.

    Args:
        energy: at beta = 1; for another beta pass ``beta * energy``.
        n_chains: C, at least 2.
        n_steps: rungs of the ladder, and about as many steps of each chain.
        seed: an int, or a generator on the chains' device.
        base: None or "uniform" = the uniform law (on an RBM: an RBM without weights); or an energy with ``log_z()`` and
            ``sample(n, generator=)``, such as ``de.energies.MeanField``.
        data: states; the base is their smoothed marginals (on an RBM: the base-rate RBM). Fewer steps are needed.
        sampler: any registered kernel that is exact, a name, a kernel or "auto"; an RBM's own layers by default.
        ladder: "linear", "adaptive" (equal conditional ESS between rungs, found by a pilot run of its own chains, so
            that the estimate stays unbiased), or b's of your own from 0 to 1.
        starts: for reverse runs: states (C, *shape) drawn from the model. Without them: exact draws where the states
            (or an RBM's hidden states) can be enumerated, else the ends of C chains of ``start_steps`` steps; the
            result's ``starts`` says which, and only draws of the model give a bound.
        device: None = where the energy's parameters are.
    Raises:
        CapabilityError: no base for this space, or the model was trained at another temperature than 1.
        SettingError, ShapeError: a wrong argument, before any step.
        NonFiniteEnergyError: an energy along the path is NaN or infinite.
    Source: Neal 2001, "Annealed importance sampling", eqs. 3–12; reverse: Grosse, Ghahramani & Adams 2015, "Sandwiching
        the marginal likelihood", section 4; RBMs: Salakhutdinov & Murray 2008; adaptive: Zhou, Johansen & Aston 2016,
        "Toward automatic model comparison", eq. 11.
    """
    began = time.perf_counter()
    energy = as_one_law(energy)
    need_unit_temperature(energy)
    whole("n_chains", n_chains, 2)
    whole("n_steps", n_steps, 1)
    whole("start_steps", start_steps, 1)
    if starts is not None and not reverse:
        raise SettingError("`starts` must come with reverse=True; a forward run starts at draws of its base. "
                           "Leave it out, or add reverse=True.")
    place = check_device(device) if device is not None else resolve_device(None, energy, seed, starts)
    generator = make_generator(seed, place)
    own = on_device(energy, place)
    if data is not None:
        data = energy.space.validate(data)
        if not len(data):
            raise ShapeError("`data` must have at least one row; got none.")
    path = make_path(own, base, data, sampler, place)
    fixed = _own_ladder(ladder)
    where = "draws of the base"
    with torch.no_grad():
        if reverse:
            x, where = _model_draws(own, starts, n_chains, start_steps, sampler, generator, place)
        betas = fixed if fixed is not None else (
            torch.linspace(0, 1, n_steps + 1, dtype=torch.float64).tolist() if ladder == "linear"
            else _adaptive(path, n_steps, min(n_chains, _PILOT_CHAINS), generator))
        if not reverse:
            x = path.base_draws(n_chains, generator)
        log_weights = _anneal(path, x, betas[::-1] if reverse else betas, generator, progress).cpu()
    if not bool(log_weights.isfinite().all()):
        raise NonFiniteEnergyError("`energy` must be finite along the path; got a log weight that is not. "
                                   "Look at energies of states of the base.")
    sign = -1.0 if reverse else 1.0
    estimate = path.log_z0 + sign * float(_log_mean(log_weights))
    low, high = _bootstrap(log_weights)
    ends = sorted((path.log_z0 + sign * low, path.log_z0 + sign * high))
    return AISResult(
        log_z=estimate,
        std_error=_delta_error(log_weights),
        interval=(ends[0], ends[1]),
        ess=_ess(log_weights),
        log_weights=log_weights,
        log_z0=path.log_z0,
        ladder=torch.tensor(betas, dtype=torch.float64),
        reverse=reverse,
        base=path.description,
        starts=where,
        sampler="layers of the RBM" if path.kernel is None else repr(path.kernel),
        energy_calls=path.calls,
        seconds=time.perf_counter() - began,
        energy=energy,
    )


def bracket(energy: Any, n_chains: int = 100, n_steps: int = 1000, seed: int = 0, **options: Any) -> Bracket:
    """Forward and reverse :func:`ais` with the same settings (``options`` as there) and different random numbers."""
    if "reverse" in options:
        raise SettingError("`reverse` must not be given to `bracket`, which runs both ways. Leave it out.")
    starts = options.pop("starts", None)
    whole("seed", seed, 0)
    forward = ais(energy, n_chains, n_steps, 2 * seed, **options)
    return Bracket(forward, ais(energy, n_chains, n_steps, 2 * seed + 1, reverse=True, starts=starts, **options))


def raise_log_likelihood(
    energy: Any,
    x: Any,
    n_chains: int = 10,
    n_steps: int = 1000,
    seed: int | torch.Generator = 0,
    *,
    base: Any = None,
    data: Tensor | None = None,
    sampler: str | Kernel = "auto",
    ladder: str | Sequence[float] | Tensor = "linear",
    chunk_size: int = 2000,
    progress: bool = False,
) -> LogLikelihood:
    r"""RAISE: a lower bound, in expectation, on the log-likelihood of rows under the *annealing model*.

    The annealing model draws from the base and walks up the ladder; as steps grow its law becomes the model's. Every
    row is the start of ``n_chains`` reverse chains; log p̂(x) = −E(x) − log Z_0 + log mean_m w_m, with w the reverse
    weights. No draws of the model are needed, unlike in reverse AIS, and no Z.

    It is a conservative estimate for the annealing model, which is itself another model than exp(−E)/Z: where the
    ladder is short it may be above or below the model's own log-likelihood.

    Args:
        x: states (B, *shape). n_chains: reverse chains a row. chunk_size: chains at once. Others: :func:`ais`.
    Source: Burda, Grosse & Salakhutdinov 2015, "Accurate and conservative estimates of MRF log-likelihood using reverse
        annealing", algorithm 2 and eq. 13.
    """
    energy = as_one_law(energy)
    need_unit_temperature(energy)
    whole("n_chains", n_chains, 1)
    whole("n_steps", n_steps, 1)
    whole("chunk_size", chunk_size, 1)
    rows = energy.space.validate(x)
    if not len(rows):
        raise ShapeError("`x` must have at least one row; got none.")
    place = resolve_device(None, energy, seed, rows)
    generator = make_generator(seed, place)
    fit = None if data is None else energy.space.validate(data)
    path = make_path(energy, base, fit, sampler, place)
    fixed = _own_ladder(ladder)
    found = []
    with torch.no_grad():
        betas = fixed if fixed is not None else (
            torch.linspace(0, 1, n_steps + 1, dtype=torch.float64).tolist() if ladder == "linear"
            else _adaptive(path, n_steps, _PILOT_CHAINS, generator))
        for some in rows.to(place).split(max(1, chunk_size // n_chains)):
            x0 = some.repeat_interleave(n_chains, dim=0)
            log_w = _anneal(path, x0, betas[::-1], generator, progress).reshape(len(some), n_chains)
            own = evaluate_energy(energy, some).double()
            found.append((-own - path.log_z0 + log_w.logsumexp(1) - math.log(n_chains)).cpu())
    return LogLikelihood(torch.cat(found), 0.0, "lower", energy.space.n_sites)


def _anneal(path: Path, x: Tensor, betas: Sequence[float], generator: torch.Generator, progress: bool) -> Tensor:
    """(C,) float64 log weights of chains from x along ``betas``, in whichever direction they run."""
    at = path.mark(x)
    path.check(at, "at the start")
    log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    last = len(betas) - 1
    with tqdm(total=last, disable=not progress, desc="annealing", unit="step", leave=False) as bar:
        for k, (b_from, b_to) in enumerate(itertools.pairwise(betas), start=1):
            # weighed where the chain stands, before it moves: f_{b_k} / f_{b_{k−1}} at x_{k−1}
            log_w = log_w + path.log_ratio(at, b_from, b_to)
            if k < last:  # no weight would see a move after the last one
                at = path.step(at, b_to, generator)
            if k % _CHECK_EVERY == 0 or k == last:
                path.check(at, f"by step {k}")
                bar.update(k - bar.n)
    return log_w


def _adaptive(path: Path, n_steps: int, n_chains: int, generator: torch.Generator) -> list[float]:
    """A ladder of ``n_steps`` rungs on which neighbours are about equally far apart.

    Pilot chains climb from the base by rungs of conditional ESS 0.95, at least 1/n_steps apart; −log of it is a squared
    length that says how many of the ``n_steps`` each stretch gets.
    """
    at = path.mark(path.base_draws(n_chains, generator))
    path.check(at, "at the start")
    weights = torch.zeros(n_chains, dtype=torch.float64, device=at.x.device)
    knots, lengths = [0.0], [0.0]
    while knots[-1] < 1:
        b = knots[-1]
        to = _next_rung(path, at, weights, b, min(1.0, b + 1 / n_steps))
        distance = math.sqrt(max(-math.log(_conditional_ess(path, at, weights, b, to)), 1e-12))
        weights = weights + path.log_ratio(at, b, to)
        knots.append(to)
        lengths.append(lengths[-1] + distance)
        if to < 1:
            at = path.step(at, to, generator)
            path.check(at, "in the pilot run")
    even = torch.linspace(0, lengths[-1], n_steps + 1, dtype=torch.float64)
    known, at_length = torch.tensor(knots, dtype=torch.float64), torch.tensor(lengths, dtype=torch.float64)
    place = torch.searchsorted(at_length, even, right=True).clamp(1, len(knots) - 1)
    share = (even - at_length[place - 1]) / (at_length[place] - at_length[place - 1])
    betas = torch.lerp(known[place - 1], known[place], share.clamp(0, 1))
    betas[0], betas[-1] = 0.0, 1.0
    return betas.tolist()


def _conditional_ess(path: Path, at: Marker, log_weights: Tensor, b: float, to: float) -> float:
    """(Σ W v)²/Σ W v² in (0, 1], with normalised weights W so far and increments v."""
    step = path.log_ratio(at, b, to)
    first = (log_weights + step).logsumexp(0)
    second = (log_weights + 2 * step).logsumexp(0)
    return min(1.0, float((2 * first - second - log_weights.logsumexp(0)).exp()))


def _next_rung(path: Path, at: Marker, log_weights: Tensor, b: float, least: float, target: float = 0.95) -> float:
    if _conditional_ess(path, at, log_weights, b, 1.0) >= target:
        return 1.0
    low, high = b, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if _conditional_ess(path, at, log_weights, b, middle) >= target:
            low = middle
        else:
            high = middle
    return max(low, least)


def _own_ladder(ladder: Any) -> list[float] | None:
    """b's given by the user, checked; None for a name."""
    if isinstance(ladder, str):
        if ladder not in ("linear", "adaptive"):
            raise SettingError(f"`ladder` must be 'linear', 'adaptive' or numbers from 0 to 1; got {ladder!r}.")
        return None
    try:
        values = [float(value) for value in ladder]
    except (TypeError, ValueError) as cause:
        raise SettingError(f"`ladder` must be 'linear', 'adaptive' or numbers from 0 to 1; got {ladder!r}.") from cause
    if len(values) < 2 or values[0] != 0 or values[-1] != 1 or any(b <= a for a, b in itertools.pairwise(values)):
        raise SettingError(f"`ladder` must rise from 0 to 1; got {len(values)} numbers from {values[:1]} to "
                           f"{values[-1:]}. Try torch.linspace(0, 1, 1001).")
    return values


def _model_draws(energy: Any, starts: Tensor | None, n: int, n_steps: int, sampler: str | Kernel,
                 generator: torch.Generator, place: torch.device) -> tuple[Tensor, str]:
    """(C, *shape) states from the model, and how they were had."""
    if starts is not None:
        x = energy.space.validate(starts)
        if len(x) != n:
            raise ShapeError(f"`starts` must hold n_chains = {n} states, one a chain; got {len(x)}. "
                             "Pass as many, or set n_chains.")
        return x.to(place).contiguous(), "given"
    small = energy.space.is_discrete and energy.space.n_states <= _EXACT_STARTS
    thin = isinstance(energy, BernoulliRBM) and 2**min(energy.n_hidden, 60) <= _EXACT_STARTS
    if small or thin:
        law = exact(energy)
        number = int(torch.randint(2**62, (1,), generator=generator, device=place))
        return law.sample(n, seed=number).to(place), f"exact draws ({law.method})"
    chains = sample(energy, sampler, n_chains=n, n_steps=n_steps, burn_in=n_steps // 2, seed=generator,
                    thin=max(1, n_steps // 2 // 50))
    worst = float(rhat(chains.energy[..., None]).max()) if len(chains.energy) >= 4 else math.nan
    return chains.last, (f"ends of {n} chains of {n_steps} steps (split R-hat of the energy {worst:.3f}); "
                         "a bound only as far as they have mixed")


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def _ess(log_weights: Tensor) -> float:
    return float((2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp())


def _delta_error(log_weights: Tensor) -> float:
    """Standard deviation of log mean w: sd(w)/(mean(w)·√C) = √((C/ESS − 1)/(C − 1))."""
    n = len(log_weights)
    return math.sqrt(max(0.0, n / _ess(log_weights) - 1) / (n - 1))


def _bootstrap(log_weights: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of log mean w over resampled chains; of its own generator, so that it repeats."""
    generator = torch.Generator().manual_seed(0)
    n = len(log_weights)
    rows = torch.randint(n, (_BOOTSTRAP, n), generator=generator)
    means = _log_mean(log_weights[rows])
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tail).tolist()
    return low, high
