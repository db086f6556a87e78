"""Proof that a sampler keeps its promises, for ours and for anybody's: :func:`check_sampler`.

Statistical checks start many independent chains from exact draws, so there is no autocorrelation to argue about. All
of them together report a correct sampler as wrong with probability at most ``FALSE_FAIL``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import registry
from discrete_ebm.samplers.accept import metropolis_log_alpha
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.samplers.informed import Neighbourhood
from discrete_ebm.samplers.registry import SamplerSpec
from discrete_ebm.testing_checks import Findings, Subject, check_target
from discrete_ebm.testing_real_checks import check_real
from discrete_ebm.testing_statistics import detectable_tv
from discrete_ebm.testing_targets import PairwiseFeatures, Target, default_targets

__all__ = [
    "FALSE_FAIL",
    "CheckResult",
    "ConformanceReport",
    "PairwiseFeatures",
    "Target",
    "check_sampler",
    "default_targets",
    "detectable_tv",
    "matrix_from_neighbourhood",
]

FALSE_FAIL = 1e-7  # probability that check_sampler reports a correct sampler as wrong, all its checks together


@dataclass(frozen=True)
class CheckResult:
    """One check on one target; ``p_value`` only for statistical ones, ``detail`` says what was seen."""

    check: str
    target: str
    passed: bool
    detail: str = ""
    p_value: float | None = None


@dataclass(frozen=True)
class ConformanceReport:
    """What :func:`check_sampler` saw. ``skipped``: targets that the sampler refused, with its sentence."""

    sampler: str
    results: tuple[CheckResult, ...]
    skipped: tuple[tuple[str, str], ...]
    detectable_tv: float
    seconds: float

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    def __str__(self) -> str:
        lines = [f"{self.sampler}: {len(self.results) - len(self.failures)} of {len(self.results)} checks passed in "
                 f"{self.seconds:.1f} s; total variation ≥ {self.detectable_tv:.3f} would have been seen"]
        lines += [f"  failed: {item.check} on {item.target}: {item.detail}" for item in self.failures]
        lines += [f"  not run on {target}: {reason}" for target, reason in self.skipped]
        return "\n".join(lines)


def check_sampler(
    sampler: str | SamplerSpec,
    *,
    seed: int = 0,
    quick: bool = True,
    targets: Sequence[Target] | None = None,
    false_fail: float = FALSE_FAIL,
    **settings: Any,
) -> ConformanceReport:
    """Run the conformance suite on a registered sampler or on a spec of your own.

    On laws small enough to enumerate, and on reals on laws whose distribution functions are known, it checks that the
    sampler keeps its target (after 1 and several steps from exact draws, at two values of beta in one batch), that
    clamped sites stay and the rest follows its conditional law, that detailed balance holds where the spec says so,
    that every state is reached without a period, that chains move and do not share random numbers, that seeds and saved
    states repeat to the bit, that nothing of the caller's is modified, and that a NaN energy is counted and never
    entered. A biased sampler (``exact`` False) is spared the laws.

    Args:
        sampler: a name, or a :class:`SamplerSpec` (it need not be registered).
        seed: of all random numbers.
        quick: 42,000 chains for each law (a quarter for lighter targets); False runs 210,000.
        targets: laws to use instead of the built-in ones; needed for spaces that this package does not know.
        false_fail: probability that a correct sampler is reported as wrong, over all checks of this call; a suite with
            many calls and new seeds each night needs less than the default.
        settings: for ``spec.build``.
    Returns:
        the report; ``print`` it.
    Raises:
        ConformanceError: a check failed, or no target could be run; the message lists what.
        SettingError: `false_fail` is no probability.
    """
    if not 0 < false_fail < 1:
        raise SettingError(f"`false_fail` must be between 0 and 1; got {false_fail!r}. The default is {FALSE_FAIL:g}.")
    row = sampler if isinstance(sampler, SamplerSpec) else registry.spec(sampler)
    started = time.perf_counter()
    if targets is None:
        targets = [target for name in sorted(row.spaces) for target in default_targets(name, seed)]
    if not targets:
        raise ConformanceError(f"`targets` must be given for the spaces {', '.join(sorted(row.spaces))}; got none. "
                               "Pass targets=[Target(name, energy, states)].")
    kernel = row.build(**settings)
    findings, skipped = Findings(), []
    if not isinstance(kernel, Kernel) or kernel.exact != row.exact:
        findings.fact("flags", row.name, False, f"kernel.exact is {getattr(kernel, 'exact', None)}, the spec says "
                      f"{row.exact}")
    n_draws = 42_000 if quick else 210_000
    for target in targets:
        try:
            n = n_draws // 4 if target.depth == "light" else n_draws
            subject = Subject(row, kernel, lambda: row.build(**settings), target, seed, n)
            check_target(subject, findings)
            check_real(subject, findings)
        except CapabilityError as refusal:
            skipped.append((target.name, str(refusal)))
    if len(skipped) == len(targets):
        raise ConformanceError(f"`{row.name}` must accept at least one target; it refused all {len(targets)}: "
                               f"{skipped[0][1]}")
    limit = false_fail / max(1, len(findings.p_values))
    results = [CheckResult(*fact) for fact in findings.facts]
    results += [CheckResult(check, name, p >= limit, f"p = {p:.3g}, limit {limit:.1g}", p)
                for check, name, p in findings.p_values]
    report = ConformanceReport(row.name, tuple(results), tuple(skipped),
                               detectable_tv(16, n_draws // 2, limit), time.perf_counter() - started)
    if not report.passed:
        raise ConformanceError(f"`{row.name}` must pass every check.\n{report}")
    return report


def matrix_from_neighbourhood(
    neighbourhood: Neighbourhood,
    states: Tensor,
    energies: Tensor,
    *,
    deltas: Tensor | None = None,
    beta: float = 1.0,
    balancing: str = "sqrt",
    laziness: float = 0.0,
    clamp: Tensor | None = None,
    row_of: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The exact law of one informed step over a neighbourhood, by enumerating all M moves from every state.

    It calls the neighbourhood's own ``scores``, ``apply`` and ``reverse`` and the library's acceptance ratio; only the
    random draws are replaced by sums. For neighbourhoods whose ``draw_context`` is None.

    Args:
        states: (S, *shape) all states, closed under the moves.
        energies: (S,) nats; float64 gives a float64 matrix. Add log|Aut| or the like for a quotient by symmetry.
        deltas: (S, M) deltas the scores are made of; None for an uninformed proposal.
        row_of: states (C, *shape) → (C,) rows; by default states are compared entry by entry.
    Returns:
        (transition matrix (S, S), move probabilities q (S, M)).
    Raises:
        ConformanceError: a move leaves ``states``, or ``reverse`` does not lead back.
    """
    n_states = states.shape[0]
    column = torch.full((n_states,), beta, dtype=energies.dtype)
    scores = neighbourhood.scores(states, deltas, column, balancing, None, clamp).to(energies.dtype)
    legal = scores > -torch.inf
    log_q = scores.log_softmax(-1)
    row_of = row_of or _by_entries(states)
    matrix = torch.zeros(n_states, n_states, dtype=energies.dtype)
    for m in range(scores.shape[1]):
        at = legal[:, m].nonzero()[:, 0]
        if not len(at):
            continue
        move = torch.full_like(at, m)
        y = neighbourhood.apply(states[at], move, None)
        to = row_of(y)
        back = neighbourhood.reverse(states[at], move, y, None)
        returned = row_of(neighbourhood.apply(y, back, None))
        if bool((returned != at).any()) or bool((~legal[to, back]).any()):
            state = int(at[((returned != at) | ~legal[to, back]).nonzero()[0, 0]])
            raise ConformanceError(f"`reverse` of {neighbourhood.name!r} must lead back; got another state for move "
                                   f"{m} from state {state}. Check reverse(x, move, y) there.")
        alpha = metropolis_log_alpha(energies[to] - energies[at], column[at], log_q[to, back] - log_q[at, move])
        chance = log_q[at, move].exp() * alpha.clamp(max=0).exp() * (1 - laziness)
        matrix.index_put_((at, to), chance, accumulate=True)
    matrix += torch.diag(1 - matrix.sum(1))
    return matrix, torch.where(legal, log_q.exp(), torch.zeros_like(log_q))


def _by_entries(states: Tensor) -> Callable[[Tensor], Tensor]:
    table = {tuple(row): number for number, row in enumerate(states.flatten(1).tolist())}

    def row_of(x: Tensor) -> Tensor:
        rows = [table.get(tuple(row), -1) for row in x.flatten(1).tolist()]
        if -1 in rows:
            raise ConformanceError("`states` must be closed under the moves; got a move to a state outside of them. "
                                   "Enumerate more states, or check the move's mask.")
        return torch.tensor(rows, dtype=torch.int64)

    return row_of
