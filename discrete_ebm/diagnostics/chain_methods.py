"""The methods by which ``chains`` show their diagnostics: thin, all work is done by the functions of this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from discrete_ebm.diagnostics import moves
from discrete_ebm.diagnostics.autocorrelation import autocorrelation, autocorrelation_time
from discrete_ebm.diagnostics.convergence import ess, mcse, rhat
from discrete_ebm.diagnostics.table import Summary, summarize
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError

if TYPE_CHECKING:
    from discrete_ebm.samplers.base import ChainState

__all__ = ["ChainDiagnostics", "Quantity"]

Quantity = str | Callable[[Tensor], Tensor]

_PART = 1 << 24  # numbers of states given to a user's function at once


class ChainDiagnostics:
    """What can be asked of S draws of C chains; mixed into :class:`discrete_ebm.chains.Chains`.

    ``of`` says what is looked at: "x" each site, shape (*shape); "energy", shape (); or a function of states
    (n, *shape) that returns (n, ...) values, each row from its state alone (long runs are passed in parts), e.g.
    ``lambda x: x.flatten(1).float().mean(1)`` or ``chains.space.encode``. Many sites forgive what the energy does not
    show, and the reverse: look at both. Codes of categories have no order: for those look at ``chains.space.encode``.
    """

    x: Tensor
    energy: Tensor
    state: ChainState
    space: Any
    sampler: Any
    beta: float | Tensor
    acceptance: Tensor
    seconds: float

    def ess(self, of: Quantity = "x", kind: str = "bulk", prob: float | None = None) -> Tensor:
        """Effective sample size over all chains, in draws; see :func:`discrete_ebm.diagnostics.ess`."""
        return ess(self._quantity(of), kind, prob)

    def mcse(self, of: Quantity = "x", kind: str = "mean", prob: float | None = None) -> Tensor:
        """Monte Carlo standard error, in the quantity's units; see :func:`discrete_ebm.diagnostics.mcse`."""
        return mcse(self._quantity(of), kind, prob)

    def rhat(self, of: Quantity = "x") -> Tensor:
        """Rank-normalised split R-hat; see :func:`discrete_ebm.diagnostics.rhat`."""
        return rhat(self._quantity(of))

    def autocorrelation(self, of: Quantity = "energy", max_lag: int | None = None) -> Tensor:
        """(max_lag + 1, C, ...) autocorrelation; see :func:`discrete_ebm.diagnostics.autocorrelation`."""
        return autocorrelation(self._quantity(of), max_lag)

    def autocorrelation_time(self, of: Quantity = "energy", window: str = "geyer", c: float = 5.0) -> Tensor:
        """Integrated, in kept draws; see :func:`discrete_ebm.diagnostics.autocorrelation_time`."""
        return autocorrelation_time(self._quantity(of), window, c)

    def squared_jump(self) -> Tensor:
        """(C,) expected squared jump between kept draws; see :func:`discrete_ebm.diagnostics.squared_jump`."""
        return moves.squared_jump(self.x, self.space)

    def frozen(self, of: Quantity = "x") -> Tensor:
        """(C, ...) bool: what never changed in each chain; see :func:`discrete_ebm.diagnostics.frozen`."""
        return moves.frozen(self._quantity(of))

    def swap_rates(self) -> Tensor:
        """(C, T − 1) accepted swaps of neighbouring replicas; see :func:`discrete_ebm.diagnostics.swap_rates`."""
        return moves.swap_rates(self.state.cache)

    def round_trips(self) -> Tensor:
        """(C,) journeys of a replica from one end of the ladder to the other and back, since the kernel's ``init``.

        Raises:
            CapabilityError: the sampler keeps no replicas.
        """
        return moves.need(self.state.cache, "round_trips", "round trips")

    def summary(self, of: Quantity | Sequence[str] | Mapping[str, Quantity] = ("energy", "x")) -> Summary:
        """Mean, sd, their errors, ESS (bulk, tail) and R-hat of each quantity: print it, or ``to_dict``, ``to_csv``.

        Args:
            of: one quantity, several names, or name to quantity, e.g. ``{"magnetisation": f, "energy": "energy"}``.
        """
        if isinstance(of, Mapping):
            named = {str(name): self._quantity(one) for name, one in of.items()}
        elif callable(of):
            named = {getattr(of, "__name__", "value").replace("<lambda>", "value"): self._quantity(of)}
        else:
            named = {str(one): self._quantity(one) for one in ([of] if isinstance(of, str) else of)}
        return summarize(named)

    def to_arviz(self) -> Any:
        """An ``arviz.InferenceData``: posterior ``x`` (chain, draw, ...) and sample stats (chain, draw).

        Sample stats: ``energy`` at beta = 1 in nats, ``lp`` = −beta·E, ``acceptance_rate`` (the chain's mean after the
        burn-in, the same at each draw, because ArviZ's plots want both dimensions).

        Raises:
            CapabilityError: arviz is not installed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # arviz announces its refactoring on every import
                import arviz
        except ImportError as cause:
            raise CapabilityError(
                "`to_arviz` needs arviz. Install it with: pip install 'discrete-ebm[arviz]'."
            ) from cause
        energy = self.energy.T.cpu()
        beta = self.beta.cpu()[:, None] if isinstance(self.beta, Tensor) else self.beta
        rate = self.acceptance.cpu()[:, None].expand(energy.shape)
        facts = {"inference_library": "discrete_ebm", "sampler": repr(self.sampler), "sampling_time": self.seconds}
        return arviz.from_dict(
            posterior={"x": self.x.transpose(0, 1).cpu().numpy()},
            sample_stats={
                "energy": energy.numpy(),
                "lp": (-beta * energy).numpy(),
                "acceptance_rate": rate.contiguous().numpy(),
            },
            posterior_attrs=facts,
            sample_stats_attrs={**facts, "acceptance_rate": "mean of the chain after the burn-in"},
        )

    def _quantity(self, of: Quantity) -> Tensor:
        if not callable(of):
            if of not in ("x", "energy"):
                raise SettingError(f"`of` must be 'x', 'energy' or a function of states; got {of!r}.")
            return self.x if of == "x" else self.energy
        states = self.x.flatten(0, 1)
        rows = max(1, _PART // max(1, states[0].numel() if len(states) else 1))
        values = []
        with torch.no_grad():
            for part in states.split(rows):
                value = of(part)
                if not isinstance(value, Tensor) or value.shape[:1] != part.shape[:1]:
                    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ShapeError(f"`of(states)` must return one row per state, ({len(part)}, ...); got {got}. "
                                     "Keep the first dimension.")
                values.append(value)
        return torch.cat(values).unflatten(0, self.x.shape[:2])
