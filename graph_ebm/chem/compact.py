"""Canonical SMILES plus a few hexadecimal digits -> kekulised graph, without RDKit, for the packaged files.

A canonical SMILES without stereo fixes everything about a graph except which of its aromatic bonds are double. One bit
for each aromatic bond, in the order of the text, says so. Reading 20,000 drug-like molecules takes about a second this
way instead of several. Only for files of our own: the text is trusted, not checked.
"""

import re

import numpy as np

from graph_ebm.chem.reader import ParsedGraph, token_type
from graph_ebm.chem.valence import AtomType

_TOKEN = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops]|%\(\d+\)|%\d\d|\d|[()\-=#:]")
_ORDER = {"-": 1, "=": 2, "#": 3, ":": 0}


def _bonds(smiles: str) -> tuple[list[AtomType], list[tuple[int, int, int]]]:
    """Atom types and bonds (i, j, order) in the order of the text; order 0 stands for an aromatic bond."""
    types: list[AtomType] = []
    aromatic: list[bool] = []
    bonds: list[tuple[int, int, int]] = []
    branches: list[int] = []
    rings: dict[str, tuple[int, int | None]] = {}
    last, order = -1, None
    for token in _TOKEN.findall(smiles):
        if token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif token in _ORDER:
            order = _ORDER[token]
        elif token[0] == "%" or token.isdigit():
            if token in rings:
                other, given = rings.pop(token)
                given = order if given is None else given
                if given is None:
                    given = 0 if aromatic[last] and aromatic[other] else 1
                bonds.append((other, last, given))
            else:
                rings[token] = (last, order)
            order = None
        else:
            here = len(types)
            types.append(token_type(token)[0])
            aromatic.append(token.lstrip("[0123456789")[0].islower())
            if last >= 0:
                if order is None:
                    order = 0 if aromatic[here] and aromatic[last] else 1
                bonds.append((last, here, order))
            last, order = here, None
    return types, bonds


def pack(graph: ParsedGraph) -> str:
    """The hexadecimal digits that go with ``graph.smiles``; empty without aromatic bonds."""
    bits = [int(graph.bonds[i, j]) - 1 for i, j, order in _bonds(graph.smiles)[1] if order == 0]
    number = 0
    for bit in reversed(bits):
        number = 2 * number + bit
    return f"{number:x}" if bits else ""


def unpack(smiles: str, code: str) -> ParsedGraph:
    """Inverse of :func:`pack`: the graph of a canonical SMILES whose aromatic bonds are told by ``code``."""
    types, bonds = _bonds(smiles)
    orders = np.zeros((len(types), len(types)), dtype=np.int8)
    number = int(code, 16) if code else 0
    for i, j, order in bonds:
        if order == 0:
            order = 1 + (number & 1)
            number >>= 1
        orders[i, j] = orders[j, i] = order
    return ParsedGraph(smiles, tuple(types), orders)
