"""Other methods behind one small interface; see :class:`benchmarks.peers.base.Peer`."""

from benchmarks.peers.base import BudgetSpent, Oracle, Peer, RandomScreen
from benchmarks.peers.mol_ga_peer import GraphGA

__all__ = ["BudgetSpent", "GraphGA", "Oracle", "Peer", "RandomScreen"]
