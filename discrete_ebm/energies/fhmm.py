"""The factorial hidden Markov model: K hidden binary chains behind one observed series, as an energy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import Energy
from discrete_ebm.energies.pairwise import as_parameter, common_dtype
from discrete_ebm.errors import SettingError, ShapeError
from discrete_ebm.spaces import Binary

__all__ = ["FactorialHMM"]

LARGEST_EXACT = 14  # hidden chains summed over exactly: 2^14 joint values a time step


class FactorialHMM(Energy):
    r"""E(x) = −log p(x) − log p(y | x) of T time steps and K hidden bits each; Σ_x exp(−E(x)) = p(y).

    x_1k = 1 with probability ``first``; x_{t+1,k} = x_{tk} with probability ``stay``, independently for each k; y_t is
    normal around b + Σ_k w_k x_tk with standard deviation ``sigma``. Given y the hidden chains depend on each other.

    Args:
        observed: y (T,).
        weight: w (K,); learnable.
        bias: b, a number; learnable.
        sigma: above 0. first, stay: between 0 and 1, exclusive.
    Shapes: states (C, T, K) in {0, 1}. Closed forms: :meth:`flip_deltas` costs C·T·K.
    Raises:
        SettingError, ShapeError, NonFiniteEnergyError: values outside these bounds.
    Source: Ghahramani & Jordan 1997, "Factorial hidden Markov models", eqs. 1–4, with scalar observations; as a
        benchmark of samplers: Zanella 2020, arXiv:1711.07424, section 5.3 (T = 200, K = 50; T = 1000, K = 10).
    """

    observed: Tensor

    def __init__(self, observed: Any, weight: Any, bias: Any = 0.0, *, sigma: float = 0.5, first: float = 0.1,
                 stay: float = 0.8) -> None:
        observed, weight = torch.as_tensor(observed), torch.as_tensor(weight)
        for name, value in (("observed", observed), ("weight", weight)):
            if value.dim() != 1 or not len(value):
                raise ShapeError(f"`{name}` must have one dimension and an entry; got shape {tuple(value.shape)}. "
                                 "Flatten it.")
        for name, number in (("first", first), ("stay", stay)):
            if not 0 < number < 1:
                raise SettingError(f"`{name}` must be a probability between 0 and 1; got {number!r}. Try 0.8.")
        if not (sigma > 0 and math.isfinite(sigma)):
            raise SettingError(f"`sigma` must be above 0 and finite; got {sigma!r}. Try 0.5.")
        super().__init__(Binary((len(observed), len(weight))))
        dtype = common_dtype(*(v for v in (observed, weight, bias) if hasattr(v, "dtype") and v.is_floating_point()))
        self.weight = as_parameter("weight", weight, (len(weight),), dtype)
        self.bias = as_parameter("bias", bias, (), dtype, self.weight.device)
        series = as_parameter("observed", observed, (len(observed),), dtype, self.weight.device)
        self.register_buffer("observed", series.detach())
        self.sigma, self.first, self.stay = float(sigma), float(first), float(stay)

    @classmethod
    def random(cls, length: int, n_hidden: int, *, sigma: float = 0.5, first: float = 0.1, stay: float = 0.8,
               seed: int | torch.Generator = 0) -> FactorialHMM:
        """A model with w and b drawn from N(0, 1) and a series drawn from it."""
        for name, value in (("length", length), ("n_hidden", n_hidden)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
        source = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        weight, bias = torch.randn(n_hidden, generator=source), torch.randn((), generator=source)
        model = cls(torch.zeros(length), weight, bias, sigma=sigma, first=first, stay=stay)
        uniform = torch.rand(length, n_hidden, generator=source)
        rows = [uniform[0] < first]
        for t in range(1, length):
            rows.append(torch.where(uniform[t] < stay, rows[-1], ~rows[-1]))
        mean = torch.stack(rows).float() @ weight + bias
        model.observed.copy_(mean + sigma * torch.randn(length, generator=source))
        return model

    # -- the energy -------------------------------------------------------------------------------------------------

    def forward(self, encoding: Tensor) -> Tensor:
        x = encoding.reshape(encoding.shape[0], *self.space.shape)
        residual = (self.observed - self.bias - x @ self.weight) / self.sigma
        scale = math.log(self.sigma) + 0.5 * math.log(2 * math.pi)
        emission = 0.5 * residual.square().sum(-1) + scale * x.shape[1]
        start = x[:, 0]
        prior = -(start * math.log(self.first) + (1 - start) * math.log1p(-self.first)).sum(-1)
        here, there = x[:, :-1], x[:, 1:]
        changed = (here + there - 2 * here * there).sum((-2, -1))
        pairs = here.shape[1] * here.shape[2]
        return emission + prior - (pairs - changed) * math.log(self.stay) - changed * math.log1p(-self.stay)

    def _floats(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.space.shape).to(self.weight.dtype)

    def _emission_odds(self, residual: Tensor, bit: Tensor, weight: Tensor) -> Tensor:
        """log p(y | bit = 1) − log p(y | bit = 0) from the residual at the present bit."""
        return weight * (2 * (residual + weight * bit) - weight) / (2 * self.sigma**2)

    def log_odds(self, x: Tensor) -> Tensor:
        """(C, T, K) log p(x_tk = 1 | rest) − log p(x_tk = 0 | rest)."""
        v = self._floats(x)
        odds = self._emission_odds((self.observed - self.bias - v @ self.weight)[..., None], v, self.weight)
        pull = (2 * v - 1) * _logit(self.stay)
        odds[:, 1:] += pull[:, :-1]
        odds[:, :-1] += pull[:, 1:]
        odds[:, 0] += _logit(self.first)
        return odds

    def flip_deltas(self, x: Tensor) -> Tensor:
        """(C, T·K, 2) exact ΔE of every single change, 0 at the current value."""
        odds, v = self.log_odds(x).flatten(1), self._floats(x).flatten(1)
        return torch.stack((v * odds, (v - 1) * odds), dim=-1)

    def conditional_logits(self, x: Tensor, sites: Tensor) -> Tensor:
        v = self._floats(x)
        length, n_hidden = self.space.shape
        t, k = sites // n_hidden, sites % n_hidden
        residual = self.observed[t] - self.bias - v[:, t] @ self.weight
        odds = self._emission_odds(residual, v[:, t, k], self.weight[k])
        pull = _logit(self.stay)
        before = (2 * v[:, (t - 1).clamp(min=0), k] - 1) * pull
        after = (2 * v[:, (t + 1).clamp(max=length - 1), k] - 1) * pull
        odds = odds + torch.where(t > 0, before, _logit(self.first)) + torch.where(t < length - 1, after, 0.0)
        return torch.stack((torch.zeros_like(odds), odds), dim=-1)

    def edges(self) -> Tensor:
        """(2, E): all pairs of a time step, and each chain's neighbours in time."""
        length, n_hidden = self.space.shape
        sites = torch.arange(length * n_hidden, device=self.weight.device).reshape(length, n_hidden)
        i, j = torch.triu_indices(n_hidden, n_hidden, offset=1, device=self.weight.device)
        within = torch.stack((sites[:, i].flatten(), sites[:, j].flatten()))
        along = torch.stack((sites[:-1].flatten(), sites[1:].flatten()))
        return torch.cat((within, along), dim=1)

    def blocks(self) -> list[Tensor]:
        """2K classes: one hidden chain at even or at odd times."""
        length, n_hidden = self.space.shape
        sites = torch.arange(length * n_hidden, device=self.weight.device).reshape(length, n_hidden)
        return [sites[parity::2, k] for k in range(n_hidden) for parity in (0, 1) if parity < length]

    # -- exact answers where K is small -----------------------------------------------------------------------------

    def log_z(self, beta: float = 1.0) -> float:
        """log Σ_x exp(−beta·E(x)) by the forward recursion over 2^K joint values; log p(y) at beta = 1."""
        with torch.no_grad():
            return float(self._forward(torch.tensor(float(beta), dtype=torch.float64))[0])

    def mean_energy(self, beta: float = 1.0) -> float:
        """Exact mean of E under p ∝ exp(−beta·E), as −∂ log Z/∂beta; float64."""
        with torch.enable_grad():
            at = torch.tensor(float(beta), dtype=torch.float64, requires_grad=True)
            return -float(torch.autograd.grad(self._forward(at)[0], at)[0])

    def exact_sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """(n, T, K) int8 independent draws at beta = 1, by forward filtering and backward sampling, on the CPU."""
        with torch.no_grad():
            _, filtered, states = self._forward(torch.ones((), dtype=torch.float64))
        ones, n_hidden = states.sum(-1), states.shape[1]
        codes = torch.arange(len(states))  # the number of a joint value is its bits, read as a binary number
        distance = torch.arange(n_hidden + 1, dtype=torch.float64)
        moved = torch.exp(distance * math.log1p(-self.stay) + (n_hidden - distance) * math.log(self.stay))
        rows = [_draw(filtered[-1].exp().expand(n, -1), generator)]
        for message in reversed(filtered[:-1]):
            differ = ones[codes[rows[-1]][:, None] ^ codes]  # (n, 2^K) hidden bits that change
            rows.append(_draw(message.exp() * moved[differ], generator))
        return torch.stack([states[row] for row in reversed(rows)], dim=1).to(torch.int8)

    def _forward(self, beta: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """(log Z(beta), normalised log messages (2^K,) at each time, joint values (2^K, K)); float64 on the CPU."""
        length, n_hidden = self.space.shape
        if n_hidden > LARGEST_EXACT:
            raise SettingError(f"`n_hidden` must be at most {LARGEST_EXACT} for exact answers; got {n_hidden}. "
                               "Use de.sample.")
        states = Binary(n_hidden).enumerate()
        bits = states.double()
        y, weight, bias = (v.detach().double().cpu() for v in (self.observed, self.weight, self.bias))
        mean = bits @ weight + bias
        scale = math.log(self.sigma) + 0.5 * math.log(2 * math.pi)
        emission = -0.5 * ((y[:, None] - mean) / self.sigma).square() - scale
        ones = bits.sum(-1)
        log = beta * (ones * math.log(self.first) + (n_hidden - ones) * math.log1p(-self.first) + emission[0])
        total, messages = torch.zeros((), dtype=torch.float64), []
        for t in range(length):
            if t:
                log = log.reshape((2,) * n_hidden)
                for chain in range(n_hidden):  # each hidden chain stays or changes; in logarithms, so any beta will do
                    log = torch.logaddexp(beta * math.log(self.stay) + log,
                                          beta * math.log1p(-self.stay) + log.flip(chain))
                log = log.reshape(-1) + beta * emission[t]
            part = log.logsumexp(0)
            total, log = total + part, log - part
            messages.append(log)
        return total, messages, states


def _draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) columns drawn with probability proportional to ``weights`` (n, S)."""
    cumulative = weights.cumsum(-1)
    target = torch.rand(len(weights), 1, generator=generator, dtype=weights.dtype) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=weights.shape[1] - 1)


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)
