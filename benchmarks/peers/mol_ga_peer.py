"""Graph GA through the package mol_ga (Tripp & Hernández-Lobato 2023, arXiv:2310.09267; Jensen 2019), its defaults."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.peers.base import BudgetSpent, Oracle, Peer

STALLED = 50  # generations without one new molecule


class GraphGA(Peer):
    """``mol_ga.default_ga``: blended mutation and crossover, quantile sampling, the best ``population`` survive.

    It walks over sets of strings, so equal seeds repeat only under one PYTHONHASHSEED (benchmarks.run sets 0).

    Args:
        offspring: molecules of a generation. population: survivors. name: of this variant in tables.
    """

    package = "mol_ga"

    def __init__(self, offspring: int = 200, population: int = 10_000, name: str = "graph GA") -> None:
        self.offspring, self.population, self.name = offspring, population, name

    def run(self, oracle: Oracle, start: Sequence[str], *, seed: int) -> None:
        from mol_ga import default_ga

        quiet = [0]

        def score(batch: list[str]) -> list[float]:
            before = oracle.calls
            values = oracle(batch)
            quiet[0] = quiet[0] + 1 if oracle.calls == before else 0
            if quiet[0] >= STALLED:
                raise BudgetSpent  # it no longer finds anything new
            return values

        try:
            default_ga(list(start), score, max_generations=10**6, offspring_size=self.offspring,
                       population_size=self.population, rng=random.Random(seed))  # fmt: skip
        except BudgetSpent:
            return
