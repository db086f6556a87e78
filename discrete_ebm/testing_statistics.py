"""χ² tests with their power, on torch alone, for :mod:`discrete_ebm.testing`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["chi_square_p", "detectable_tv", "goodness_of_fit", "homogeneity", "symmetry"]


def chi_square_p(statistic: float, df: int) -> float:
    """P(χ²_df ≥ statistic); 1 for df = 0."""
    if df < 1:
        return 1.0
    half = torch.tensor([df / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def goodness_of_fit(counts: Tensor, probabilities: Tensor, smallest: float = 10.0) -> float:
    """p-value of counts (S,) against probabilities (S,).

    Cells expecting fewer than ``smallest`` are pooled; a pool that still expects fewer is tested by its exact Poisson
    tail instead, so that visits to states of almost no probability are seen. A count where it is 0 gives p = 0.
    """
    counts, probabilities = counts.double(), probabilities.double()
    if bool((counts[probabilities == 0] > 0).any()):
        return 0.0
    expected = probabilities / probabilities.sum() * counts.sum()
    common = expected >= smallest
    observed, wanted = counts[common], expected[common]
    seen, rare = counts[~common].sum(), expected[~common].sum()
    tail = 1.0
    if float(rare) >= smallest:
        observed, wanted = torch.cat([observed, seen[None]]), torch.cat([wanted, rare[None]])
    elif float(seen) > 0:
        tail = float(torch.special.gammainc(seen, rare))  # P(Poisson(rare) ≥ seen)
    wanted = wanted * observed.sum() / wanted.sum()
    return min(1.0, 2 * chi_square_p(float(((observed - wanted) ** 2 / wanted).sum()), len(wanted) - 1), 2 * tail)


def symmetry(pairs: Tensor, smallest: float = 20.0) -> float:
    """Bowker's test: p-value that a table (S, S) of pair counts has a symmetric law (a reversible stationary chain)."""
    table = pairs.double()
    rows, columns = torch.triu_indices(len(table), len(table), offset=1)
    there, back = table[rows, columns], table[columns, rows]
    total = there + back
    common = total >= smallest
    statistic = ((there - back)[common] ** 2 / total[common]).sum()
    df = int(common.sum())
    rest = total[~common].sum()
    if float(rest) >= smallest:
        statistic = statistic + (there - back)[~common].sum() ** 2 / rest
        df += 1
    return chi_square_p(float(statistic), df)


def homogeneity(table: Tensor, smallest: float = 5.0) -> float:
    """p-value that the rows (R, S) of counts share one law; also small when rows agree *less* than chance allows.

    Chains that share their random numbers make rows that scatter too much.
    """
    table = table.double()
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    common = expected.min(0).values >= smallest
    table = torch.cat([table[:, common], table[:, ~common].sum(1, keepdim=True)], dim=1)
    table = table[:, table.sum(0) > 0]
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    if float(expected[:, -1].min()) < smallest and table.shape[1] > 1:
        table = torch.cat([table[:, :-2], table[:, -2:].sum(1, keepdim=True)], dim=1)
        expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    return chi_square_p(float(((table - expected) ** 2 / expected).sum()), (table.shape[0] - 1) * (table.shape[1] - 1))


def detectable_tv(cells: int, n: int, false_fail: float, miss: float = 1e-3) -> float:
    """Smallest total variation, spread evenly over a uniform law on ``cells``, that ``n`` draws miss with ``miss``."""
    df = max(cells - 1, 1)
    limit = _bisect(lambda value: -chi_square_p(value, df), -false_fail, 1e4)
    shift = _bisect(lambda value: -_noncentral_cdf(limit, df, value), -miss, 1e4)
    return math.sqrt(shift / n) / 2


def _noncentral_cdf(x: float, df: int, shift: float) -> float:
    """P(χ²_df(shift) ≤ x) as a Poisson mixture of central laws."""
    j = torch.arange(2000, dtype=torch.float64)
    log_weight = j * math.log(max(shift, 1e-300) / 2) - shift / 2 - torch.lgamma(j + 1)
    return float((log_weight.exp() * torch.special.gammainc(df / 2 + j, torch.full_like(j, x / 2))).sum())


def _bisect(increasing: Callable[[float], float], target: float, high: float) -> float:
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < target else (low, middle)
    return high
