"""The interface of peers: maximise a property of molecules with a fixed number of calls, every label counted."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from rdkit import Chem, rdBase

from graph_ebm import properties

WORST = -1e6


class BudgetSpent(Exception):
    """Raised by an :class:`Oracle` that was asked for one molecule more than its budget."""


class Oracle:
    """A property to maximise, with a budget: each distinct molecule is one call, asked again it is free.

    Molecules that are invalid, in pieces or above ``max_atoms`` score ``WORST`` and cost nothing: the property is not
    computed for them. ``history``: canonical SMILES and values in the order of the calls.

    Args:
        name: of a property. budget: calls. max_atoms: heavy atoms. labels: values known already by canonical SMILES
            (they cost a call each all the same).
    """

    def __init__(self, name: str, budget: int, max_atoms: int = 38, labels: dict[str, float] | None = None) -> None:
        self.name, self.budget, self.max_atoms = name, budget, max_atoms
        self.labels = labels or {}
        self.history: list[tuple[str, float]] = []
        self._known: dict[str, float] = {}

    def __call__(self, batch: Sequence[str]) -> list[float]:
        """Values of SMILES.

        Raises:
            BudgetSpent: the batch needs more calls than are left; those that fit were made.
        """
        return [self._one(text) for text in batch]

    def _one(self, text: str) -> float:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(text)
        if mol is None or not 0 < mol.GetNumAtoms() <= self.max_atoms or "." in text:
            return WORST
        smiles = Chem.MolToSmiles(mol, isomericSmiles=False)
        if smiles not in self._known:
            if len(self.history) >= self.budget:
                raise BudgetSpent
            value = self.labels.get(smiles)
            if value is None:
                value = float(properties.compute(self.name, [smiles])[0][self.name][0])
            self._known[smiles] = value if math.isfinite(value) else WORST
            self.history.append((smiles, self._known[smiles]))
        return self._known[smiles]

    @property
    def calls(self) -> int:
        return len(self.history)

    def best(self, n: int) -> list[tuple[str, float]]:
        """The ``n`` best molecules called, best first."""
        return sorted(self.history, key=lambda item: -item[1])[:n]


class Peer(ABC):
    """A method that spends an oracle's budget. ``name``: as the tables say it; ``package``: what it needs, or ""."""

    name: str
    package: str = ""

    @abstractmethod
    def run(self, oracle: Oracle, start: Sequence[str], *, seed: int) -> None:
        """Call the oracle until its budget is spent, first for ``start`` if the method uses starting molecules."""

    def available(self) -> bool:
        """Whether the package that it needs is installed."""
        from importlib.util import find_spec

        return not self.package or find_spec(self.package) is not None


class RandomScreen(Peer):
    """Label molecules of the data in random order: what the calls buy without any method."""

    name = "random screen of the data"

    def run(self, oracle: Oracle, start: Sequence[str], *, seed: int) -> None:
        import random

        order = list(start)
        random.Random(seed).shuffle(order)
        try:
            for smiles in order:
                oracle([smiles])
        except BudgetSpent:
            return
