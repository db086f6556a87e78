"""The log-likelihood of data under a trained model by whatever way fits it and the time there is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from discrete_ebm.energies import DeepBoltzmannMachine
from discrete_ebm.energies.base import energy_device
from discrete_ebm.errors import CapabilityError, EBMError, SettingError, SpaceError
from discrete_ebm.evaluate.ais import ais, bracket
from discrete_ebm.evaluate.exact import exact
from discrete_ebm.evaluate.likelihood import likelihood

__all__ = ["METHODS", "check_method", "judge_likelihood", "sentence"]

METHODS = ("auto", "exact", "ais", "none")
_FEWEST, _MOST = 20, 2000  # steps of annealing
_PILOT = 4


def judge_likelihood(
    energy: Any,
    x: Tensor,
    train: Tensor | None = None,
    *,
    method: str = "auto",
    n_chains: int = 100,
    n_steps: int | None = None,
    seed: int = 0,
    max_seconds: float = 60.0,
    progress: bool = False,
) -> dict[str, Any]:
    """log p of rows, exact or by annealed importance sampling from both sides.

    Args:
        energy: a trained model. x: states (B, *shape); of a deep Boltzmann machine visible states, and the figure is
            the mean-field lower bound.
        train: what the base of the annealing is fitted to; None = a uniform base.
        method: "exact", "ais", "auto" = exact where it can be had, else AIS, or "none".
        n_steps: of the annealing; None = what ``max_seconds`` allow, found by a few timed steps, 20 to 2,000.
    Returns:
        ``method``, ``how``; and where there is a figure ``nats`` (mean over rows; of AIS the middle of the bracket),
        ``bits_per_dim``, ``interval`` (95 %, with the error of log Z and of having B rows), ``log_z``,
        ``log_z_interval``, ``bound`` ("exact", "bracket" or "mean-field"), ``rows``; of AIS also ``lower``, ``upper``,
        ``width``, ``ess_forward``, ``ess_reverse``, ``ais_steps``, ``ais_chains``, ``starts``. Where there is none
        ``how`` says why.
    Raises:
        EBMError: ``method`` is "exact" or "ais" and does not fit the model.
    """
    if method not in METHODS:
        raise SettingError(f"`method` must be one of {', '.join(METHODS)}; got {method!r}. Use 'auto'.")
    if method == "none":
        return {"method": "none", "how": "not asked for"}
    reasons = []
    if method in ("auto", "exact"):
        try:
            law = exact(energy)
            return {"method": "exact", "how": law.method, **_figures(energy, x, (law.log_z, law.log_z), (0.0, 0.0)),
                    "log_z": law.log_z, "log_z_interval": [law.log_z, law.log_z]}  # fmt: skip
        except (SpaceError, CapabilityError) as cause:
            if method == "exact":
                raise
            reasons.append(f"no exact log-likelihood: {cause}")
    try:
        found = _annealed(energy, x, train, n_chains, n_steps, seed, max_seconds, progress)
    except EBMError as cause:
        if method == "ais":
            raise
        return {"method": "none", "how": " ".join([*reasons, f"No annealed estimate: {cause}"])}
    return found if isinstance(found, dict) else {"method": "none", "how": " ".join([*reasons, found])}


def check_method(energy: Any, method: str, train: Tensor | None = None) -> None:
    """Refuse a method that does not fit the model, before a training that would end with it.

    Raises:
        EBMError: "exact" or "ais" was asked for and cannot be had.
    """
    if method == "exact":
        exact(energy)
    elif method == "ais":
        base = train is not None and train.shape[1:] == energy.space.shape
        ais(energy, 2, 1, data=train[:100] if train is not None and base else None)


def _annealed(energy: Any, x: Tensor, train: Tensor | None, n_chains: int, n_steps: int | None, seed: int,
              max_seconds: float, progress: bool) -> dict[str, Any] | str:  # fmt: skip
    """The record, or why there is none in the time."""
    base = train if train is not None and train.shape[1:] == energy.space.shape else None
    device = energy_device(energy)
    data = None if base is None else base.to(device) if device is not None else base
    if n_steps is None:
        began = time.perf_counter()
        ais(energy, n_chains, _PILOT, seed, data=data)
        each = (time.perf_counter() - began) / _PILOT
        n_steps = min(_MOST, int(max_seconds / each / 3))  # forward, backward, and the chains that backward begins at
        if n_steps < _FEWEST:
            return (f"No annealed estimate: {_FEWEST} steps of {n_chains} chains take {3 * _FEWEST * each:.0f} s, "
                    f"{max_seconds:g} are allowed. Say how many steps, or give it more time.")  # fmt: skip
    found = bracket(energy, n_chains, n_steps, seed, data=data, start_steps=min(1000, n_steps), progress=progress)
    errors = (found.forward.std_error, found.reverse.std_error)
    zs = (found.forward.log_z, found.reverse.log_z)
    return {
        "method": "ais", "how": "annealed importance sampling, forward and reverse",
        **_figures(energy, x, zs, errors),
        "log_z": (zs[0] + zs[1]) / 2, "log_z_interval": list(found.interval), "width": found.width,
        "log_z_forward": zs[0], "log_z_reverse": zs[1],
        "ess_forward": found.forward.ess, "ess_reverse": found.reverse.ess, "ais_steps": n_steps,
        "ais_chains": n_chains, "starts": found.reverse.starts, "sampler": found.forward.sampler,
    }  # fmt: skip


def _figures(energy: Any, x: Tensor, zs: tuple[float, float], errors: tuple[float, float]) -> dict[str, Any]:
    """Nats of x with either log Z, and an interval that covers both."""
    bounded = isinstance(energy, DeepBoltzmannMachine)
    sides = [_rows(energy, x, z, error, bounded) for z, error in zip(zs, errors, strict=True)]
    lower, upper = sorted(sides, key=lambda side: side.nats)
    nats = (lower.nats + upper.nats) / 2
    return {
        "nats": nats,
        "bits_per_dim": (lower.bits_per_dim + upper.bits_per_dim) / 2,
        "interval": [lower.interval[0], upper.interval[1]],
        "lower": lower.nats,
        "upper": upper.nats,
        "bound": "mean-field" if bounded else "exact" if zs[0] == zs[1] else "bracket",
        "rows": len(x),
    }


def _rows(energy: Any, x: Tensor, log_z: float, error: float, bounded: bool) -> Any:
    if not bounded:
        return likelihood(energy, x, log_z, error, "exact")
    from discrete_ebm.evaluate.likelihood import LogLikelihood

    energies = energy.mean_field(x.to(energy_device(energy) or x.device))[1].detach().cpu().double()
    return LogLikelihood(-energies - log_z, error, "lower", x[0].numel())


def sentence(record: Mapping[str, Any]) -> str:
    """The figure in words, for a terminal."""
    if "nats" not in record:
        return f"no log-likelihood ({record['how']})"
    low, high = record["interval"]
    kind = {"exact": "exact log Z", "mean-field": "a lower bound", "bracket": "AIS bracket"}[record["bound"]]
    return (f"{record['nats']:.2f} nats, 95 % [{low:.2f}, {high:.2f}], {record['bits_per_dim']:.4f} bits/dim "
            f"({kind}, {record['rows']} rows)")  # fmt: skip
