"""Statistical assertions that state their false-failure budget and the gap they can see. SciPy; nothing of the package.

One budget for a family of tests: Holm's step-down rule keeps the chance of any false failure below ``false_fail``.
What each assertion spends, ``false_fail`` or less, is written down (:data:`ledger`); the run adds it up and says the
sum (conftest.py). Assertions claim what they see at the level that they really have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from scipy.optimize import brentq

ledger: list[float] = []  # chances of a false failure, one per statistical assertion of the test that runs now
cap = 1.0  # on each of them; conftest.py sets it to EACH for a test that takes the run's seed
EACH = 5e-10  # a thousand such assertions and a hundred calls of check_sampler stay below 1e-6 a run


def spend(false_fail: float) -> float:
    """Write down that the test that runs now fails by chance with probability ``false_fail``; gives it back.

    For assertions with limits of their own: ``spend(2 * stats.norm.sf(6.1) * n_comparisons)``.
    """
    ledger.append(float(false_fail))
    return ledger[-1]


def level(false_fail: float) -> float:
    """The level of an assertion that would like ``false_fail``: what the run allows it, written down as spent."""
    return spend(min(false_fail, cap))


def chi_square(counts: np.ndarray, law: np.ndarray, smallest: float = 10.0) -> tuple[float, int]:
    """(p-value, cells) of counts against a law; a count where the law is 0 gives p = 0.

    Rare cells are pooled; if the pool is still rare its Poisson tail is tested instead, so that leaks into states of
    almost no probability are seen (the smaller p-value counts, doubled).
    """
    counts, law = np.asarray(counts, float), np.asarray(law, float)
    if counts[law <= 1e-15].sum() > 0:
        return 0.0, 1
    expected = law / law.sum() * counts.sum()
    common = expected >= smallest
    observed, wanted, tail = counts[common], expected[common], 1.0
    seen, rare = counts[~common].sum(), expected[~common].sum()
    if rare >= smallest:
        observed, wanted = np.append(observed, seen), np.append(wanted, rare)
    elif seen > 0:
        tail = float(stats.poisson.sf(seen - 1, rare))
    wanted = wanted * observed.sum() / wanted.sum()
    if len(observed) == 1:
        return min(1.0, 2 * tail), 1
    p = float(stats.chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(observed) - 1))
    return min(1.0, 2 * p, 2 * tail), len(observed)


def detectable_tv(cells: int, n: int, alpha: float, miss: float = 1e-3) -> float:
    """Total variation, spread evenly over a uniform law, that a χ² test at ``alpha`` overlooks with chance ``miss``."""
    df = max(cells - 1, 1)
    limit = stats.chi2.isf(alpha, df)
    shift = brentq(lambda value: stats.ncx2.cdf(limit, df, value) - miss, 1e-6, 1e4)
    return float(np.sqrt(shift / n) / 2)


def holm(p_values: Sequence[float], false_fail: float) -> list[int]:
    """Indices rejected by Holm's rule at family-wise level ``false_fail``."""
    order = np.argsort(p_values)
    rejected = []
    for rank, index in enumerate(order):
        if p_values[index] > false_fail / (len(order) - rank):
            break
        rejected.append(int(index))
    return rejected


def assert_rows_match(counts: np.ndarray, matrix: np.ndarray, *, false_fail: float, must_see: float) -> list[float]:
    """Each row of counts (S, S) against its row of ``matrix``; one Holm family; asserts it could see ``must_see``.

    Raises:
        AssertionError: a row differs, or the test is too weak to claim ``must_see``.
    """
    false_fail = level(false_fail)
    p_values, cells = zip(*(chi_square(c, row) for c, row in zip(counts, matrix, strict=True)), strict=True)
    n = int(counts.sum(1).min())
    seen = detectable_tv(max(cells), n, false_fail / len(p_values))
    assert seen <= must_see, f"{n} draws a row see a total variation of {seen:.4f} only, {must_see} is claimed"
    bad = holm(p_values, false_fail)
    assert not bad, f"rows {bad[:8]} differ from the reference, p = {[p_values[i] for i in bad[:8]]}"
    return list(p_values)


def assert_law(counts: np.ndarray, law: np.ndarray, *, false_fail: float, must_see: float) -> float:
    """Counts against one law; asserts the power to see ``must_see``."""
    false_fail = level(false_fail)
    p, _ = chi_square(counts, law)
    seen = detectable_tv(len(law), int(counts.sum()), false_fail)
    assert seen <= must_see, f"{int(counts.sum())} draws see {seen:.4f} only, {must_see} is claimed"
    assert p > false_fail, f"the law differs: p = {p:.3g} (budget {false_fail:.1g})"
    return p
