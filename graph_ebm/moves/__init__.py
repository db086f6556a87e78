"""Moves between molecules, each with its exact reverse, and the kernel that uses them."""

from graph_ebm.moves.atoms import InsertAtom, RetypeAtom, RetypePair, SwapTypes, TerminalAtom
from graph_ebm.moves.bonds import BondOrder, Reattach, RingBond, ShiftBond
from graph_ebm.moves.build import MoveSettings, build_kernel, mine_moves
from graph_ebm.moves.fragments import AttachFragment, FragmentLibrary, SwapFragment, mine_fragments
from graph_ebm.moves.kernel import MolecularKernel
from graph_ebm.moves.rings import RepaintRing, RingPatterns, mine_ring_patterns

__all__ = [
    "AttachFragment",
    "BondOrder",
    "FragmentLibrary",
    "InsertAtom",
    "MolecularKernel",
    "MoveSettings",
    "Reattach",
    "RepaintRing",
    "RetypeAtom",
    "RetypePair",
    "RingBond",
    "RingPatterns",
    "ShiftBond",
    "SwapFragment",
    "SwapTypes",
    "TerminalAtom",
    "build_kernel",
    "mine_fragments",
    "mine_moves",
    "mine_ring_patterns",
]
