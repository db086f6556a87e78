"""What is asked of molecules: properties with a direction or a range, and how well a set of molecules meets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from discrete_ebm.errors import DataError, SettingError
from graph_ebm import properties
from graph_ebm.graphs import MoleculeSet
from graph_ebm.scoring import Scoring

__all__ = ["Target", "best_part", "desirability", "lift_interval", "meets", "property_table"]


@dataclass(frozen=True)
class Target:
    """One property to improve.

    ``direction``: "max", "min" or "range"; ``low``/``high``: bounds that a hit must keep (a range has at least one).
    ``weight``: weight of its expert in the composed energy.
    """

    name: str
    direction: str = "max"
    low: float = -math.inf
    high: float = math.inf
    weight: float = 1.0

    def __post_init__(self) -> None:
        properties.spec(self.name)
        if self.direction not in ("max", "min", "range"):
            raise SettingError(f"`direction` must be max, min or range; got {self.direction!r}.")
        if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
            raise SettingError(
                f"a target's range must go from low to high; got {self.low:g}..{self.high:g} for {self.name}. Swap?"
            )
        if self.direction == "range" and self.low == -math.inf and self.high == math.inf:
            raise SettingError(f"a range must have a bound; got none for {self.name}. Write e.g. '{self.name}:1..3'.")
        if not math.isfinite(self.weight):
            raise SettingError(f"`weight` must be a finite number; got {self.weight!r} for {self.name}. Default: 1.")

    @classmethod
    def parse(cls, text: str) -> Target:
        """From "qed", "sa:min", "logp:1..3", "qed:>0.9", "sa:<2.5" or "module:function" (with the same endings)."""
        if not isinstance(text, str):
            raise SettingError(f"a target must be a string or a Target; got {type(text).__name__}. Write e.g. 'qed'.")
        name, direction, low, high = text.strip(), None, -math.inf, math.inf
        head, separator, tail = (part.strip() for part in name.rpartition(":"))
        if separator and tail in ("max", "min"):
            name, direction = head, tail
        elif separator and ".." in tail:
            bounds = [_bound(part, text) for part in tail.split("..", 1)]
            name, direction = head, "range"
            low = -math.inf if bounds[0] is None else bounds[0]
            high = math.inf if bounds[1] is None else bounds[1]
        elif separator and tail[:1] in (">", "<"):
            bound = _bound(tail[1:], text)
            if bound is None:
                raise SettingError(f"a target's bound must be a number; got {text!r}. Write e.g. 'qed:>0.9'.")
            name = head
            direction, low, high = ("max", bound, high) if tail[0] == ">" else ("min", low, bound)
        elif separator and head in properties.names():
            raise SettingError(
                f"the ending of a target must be max, min, a..b, >a or <b; got {text!r}. Write e.g. '{head}:max'."
            )
        spec = properties.spec(name)
        return cls(name, direction or ("max" if spec.higher_is_better else "min"), low, high)

    def __str__(self) -> str:
        bounds = [f"≥ {self.low:g}"] * (self.low > -math.inf) + [f"≤ {self.high:g}"] * (self.high < math.inf)
        return f"{self.name} ({self.direction}{', ' if bounds else ''}{', '.join(bounds)})"


def _bound(text: str, whole: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise SettingError(f"a target's bound must be a number; got {whole!r}. Write e.g. 'logp:1..3'.") from None


def property_table(
    molecules: MoleculeSet, targets: Sequence[Target], *, required: bool = True, scoring: Scoring | None = None
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """({property: (B,) float64}, {failure reason: count}); what fails is NaN.

    Columns of the set are used where they hold the property itself (checked on a few molecules): a file's column of
    that name may be something else, and samples are valued by the property. ``scoring``: of the user's functions.

    Raises:
        DataError: a property has no finite value on any molecule; not where ``required`` is False.
    """
    values = {
        t.name: np.asarray(molecules.properties[t.name], dtype=np.float64)
        for t in targets
        if t.name in molecules.properties and _holds(molecules, t.name, scoring)
    }
    missing = [t.name for t in targets if t.name not in values]
    failures: dict[str, int] = {}
    if missing:
        computed, failed = properties.compute(missing, molecules.smiles, scoring)
        values |= computed
        for (name, reason), count in failed.counts().items():
            failures[f"{name}: {reason}"] = failures.get(f"{name}: {reason}", 0) + count
    for name, column in values.items():
        if required and not np.isfinite(column).any():
            why = "; ".join(f"{reason} ({count})" for reason, count in failures.items()) or "all values are missing"
            raise DataError(
                f"the property {name!r} must have a value on some molecule; got none: {why}. "
                "Try the function on one SMILES by hand."
            )
    return values, failures


def _holds(molecules: MoleculeSet, name: str, scoring: Scoring | None, n: int = 16) -> bool:
    """Whether the column of that name is complete and agrees with the property on n molecules."""
    column = np.asarray(molecules.properties[name], dtype=np.float64)
    if not len(column) or not np.isfinite(column).all():
        return False
    rows = np.unique(np.linspace(0, len(column) - 1, n).astype(int))
    computed, _ = properties.compute([name], molecules[rows].smiles, scoring)
    return bool(np.allclose(computed[name], column[rows], rtol=1e-2, atol=1e-2))


def desirability(
    values: dict[str, np.ndarray], targets: Sequence[Target], reference: dict[str, np.ndarray]
) -> np.ndarray:
    """(B,) how good each molecule is: mean rank among ``reference`` over the targets, in [0, 1]; NaN is worst.

    For a range the rank is of the distance to the range, so that all molecules inside are equally good.
    """
    total = np.zeros(len(next(iter(values.values()))))
    for target in targets:
        own, known = (_badness(table[target.name], target) for table in (values, reference))
        known = np.sort(known[np.isfinite(known)])
        above = len(known) - np.searchsorted(known, np.where(np.isfinite(own), own, math.inf), side="left")
        total += above / max(1, len(known))
    return total / len(targets)


def _badness(column: np.ndarray, target: Target) -> np.ndarray:
    if target.direction == "range":
        return np.maximum(np.maximum(target.low - column, column - target.high), 0.0)
    return -column if target.direction == "max" else column


def meets(values: dict[str, np.ndarray], targets: Sequence[Target]) -> np.ndarray:
    """(B,) bool: finite and within every target's bounds."""
    ok = np.ones(len(next(iter(values.values()))), dtype=bool)
    for target in targets:
        column = values[target.name]
        ok &= np.isfinite(column) & (column >= target.low) & (column <= target.high)
    return ok


def best_part(
    values: dict[str, np.ndarray], targets: Sequence[Target], fraction: float, least: int = 50
) -> tuple[np.ndarray, list[Target]]:
    """Rows of the best part of the data, and the targets with the bounds that this part keeps.

    Targets with bounds select by them; the others by rank, until ``fraction`` of the data is left.

    Raises:
        DataError: fewer than ``least`` molecules are left.
    """
    if not 0 < fraction <= 1:
        raise SettingError(f"`fraction` must be in (0, 1]; got {fraction!r}.")
    rows = np.flatnonzero(meets(values, targets))
    open_targets = [t for t in targets if t.direction != "range" and t.low == -math.inf and t.high == math.inf]
    n_data = len(next(iter(values.values())))
    if open_targets and len(rows):
        score = desirability({k: v[rows] for k, v in values.items()}, open_targets, values)
        keep = max(least, round(fraction * n_data)) if len(rows) > least else len(rows)
        rows = rows[np.argsort(-score, kind="stable")[:keep]]
    if len(rows) < least:
        asked = ", ".join(str(t) for t in targets)
        raise DataError(
            f"the data must hold at least {least} molecules that meet {asked}; got {len(rows)} of {n_data}. "
            "Widen a bound, raise --fraction or use more data."
        )
    bounded = []
    for target in targets:
        if target in open_targets:
            column = values[target.name][rows]
            low = float(column.min()) if target.direction == "max" else -math.inf
            high = float(column.max()) if target.direction == "min" else math.inf
            bounded.append(Target(target.name, target.direction, low - 1e-12, high + 1e-12, target.weight))
        else:
            bounded.append(target)
    return np.sort(rows), bounded


def lift_interval(hits: int, n: int, base_hits: int, base_n: int) -> dict[str, Any]:
    """Hit rate, base rate and their ratio with a 95 % interval (Katz log method; half a hit added where one is 0)."""
    rate, base = hits / max(1, n), base_hits / max(1, base_n)
    a, b, m, base_m = float(hits), float(base_hits), float(n), float(base_n)
    if hits == 0 or base_hits == 0:
        a, b, m, base_m = a + 0.5, b + 0.5, m + 1, base_m + 1
    middle = (a / m) / (b / base_m)
    spread = 1.96 * math.sqrt(max(0.0, 1 / a - 1 / m + 1 / b - 1 / base_m))
    return {
        "hit_rate": rate,
        "base_rate": base,
        "lift": rate / base if base_hits else math.nan,
        "lift_low": 0.0 if hits == 0 else middle * math.exp(-spread),
        "lift_high": middle * math.exp(spread),
    }
