"""From a kernel's step to the fused code that does the same, if there is any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.ising import Ising
from discrete_ebm.energies.potts import Potts
from discrete_ebm.errors import CapabilityError
from discrete_ebm.samplers.base import ChainState, StepInfo
from discrete_ebm.samplers.fast.plan import Plan, plan_of
from discrete_ebm.samplers.fast.switch import fused_available, fused_enabled

__all__ = ["fused_step", "refusal", "require_fused", "require_fused_layers", "step_seeds"]


def refusal(energy: Any, x: Tensor) -> str | None:
    """Why there is no fused sweep for this energy and these states, or None when there is one."""
    found = _plan_or_reason(energy, x)
    return found if isinstance(found, str) else None


def _plan_or_reason(energy: Any, x: Tensor) -> Plan | str:
    """The plan of a fused sweep, or why there is none."""
    if not fused_available():
        return "numba is not installed (pip install numba)"
    if type(energy) not in (Ising, Potts):
        return f"only Ising and Potts have one; got {type(energy).__name__}"
    if x.device.type != "cpu" or energy.coupling.device.type != "cpu":
        return f"it runs on the CPU; got chains on {x.device} and parameters on {energy.coupling.device}"
    plan = plan_of(energy)
    return plan if plan.reason is None else plan.reason


def require_fused(implementation: str, energy: Any, x: Tensor) -> None:
    """Raise :class:`CapabilityError` where implementation="fused" cannot be had; call it before any step."""
    reason = refusal(energy, x) if implementation == "fused" else None
    if reason is not None:
        raise CapabilityError(f"`implementation` must not be 'fused' here: {reason}. Use 'auto'.")


def require_fused_layers(implementation: str, x: Tensor) -> None:
    """The same for hidden and visible units drawn by layers."""
    if implementation == "fused" and not (fused_available() and x.device.type == "cpu"):
        raise CapabilityError(f"`implementation` must not be 'fused' without numba or off the CPU; got chains on "
                              f"{x.device}, numba {'' if fused_available() else 'not '}installed. Use 'auto'.")


def fused_step(
    energy: Any,
    state: ChainState,
    *,
    generator: torch.Generator,
    beta: float | Tensor,
    free: Tensor | None,
    blocks: Callable[[], list[Tensor]] | None = None,
    sweeps: int = 1,
    implementation: str = "auto",
) -> tuple[ChainState, StepInfo] | None:
    """``sweeps`` heat-bath sweeps of all C chains by compiled code, or None where the reference is to do it.

    Args:
        beta: as the kernel got it, a number or (C,).
        free: (C, N) bool, of ``single_site.free_sites``, or None.
        blocks: colour classes of a sweep; asked for once. None = every site in the order of its number. On a chessboard
            of one coupling and field any two-colour sweep is done by multi-spin coding.
    Raises:
        CapabilityError: implementation="fused" and there is none.
    """
    if implementation == "reference" or (implementation == "auto" and not fused_enabled()):
        return None
    if torch.compiler.is_compiling() or not state.x.shape[0]:
        return None
    plan = _plan_or_reason(energy, state.x)  # once a step: it compares all parameters
    if isinstance(plan, str):
        require_fused(implementation, energy, state.x)
        return None
    betas = _betas(beta)
    seeds = step_seeds(generator)
    order = None if plan.lattice is not None and blocks is not None else plan.order(energy.space.n_sites, blocks)
    x, energies, hamming = _run(plan, energy.space, state.x, betas, free, order, sweeps, seeds)
    n_chains, device = state.x.shape[0], state.x.device
    info = StepInfo(
        acceptance=torch.ones(n_chains, dtype=state.energy.dtype),
        accepted=torch.ones(n_chains, dtype=torch.bool),
        hamming=torch.from_numpy(hamming),
        energy_calls=1.0,
        gradient_calls=0.0,
        non_finite=torch.zeros((), dtype=torch.int64, device=device),
    )
    return ChainState(x, torch.from_numpy(energies).to(state.energy.dtype), state.cache, state.step + 1), info


def step_seeds(generator: torch.Generator) -> Any:
    """(2,) uint64: the one draw a step takes from the generator's stream."""
    return torch.randint(-(2**63), 2**63 - 1, (2,), generator=generator).numpy().view("uint64")


def _betas(beta: float | Tensor) -> Any:
    """(1,) or (C,) float64."""
    return torch.as_tensor(beta, dtype=torch.float64).detach().reshape(-1).contiguous().numpy()


def _run(plan: Plan, space: Any, x: Tensor, betas: Any, free: Tensor | None, order: Any, sweeps: int,
         seeds: Any) -> tuple[Tensor, Any, Any]:
    """(new states (C, *shape), energies (C,) float64, sites changed (C,) int64)."""
    old = x.contiguous().view(x.shape[0], space.n_sites).numpy()
    new = torch.empty(x.shape, dtype=x.dtype)
    out = new.view(x.shape[0], space.n_sites).numpy()
    fixed = None if free is None else (~free).contiguous().numpy()
    low = 0 if space.name == "Binary" else -1
    if order is None:
        from discrete_ebm.samplers.fast.lattice import lattice_sweeps  # numba is imported when it is first needed

        assert plan.lattice is not None
        energies, hamming = lattice_sweeps(plan.lattice, old, out, betas, fixed, sweeps, seeds, low)
    else:
        from discrete_ebm.samplers.fast.pairwise import pairwise_sweeps

        energies, hamming = pairwise_sweeps(plan, old, out, betas, fixed, order, sweeps, seeds, low)
    return new, energies, hamming
