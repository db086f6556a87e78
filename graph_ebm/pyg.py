"""torch-geometric in and out: sparse ``Data`` objects from states, and states from users' data sets.

``to_pyg`` writes the fields that torch-geometric's own molecule sets use: ``x`` one-hot atom types (n, K) float,
``z`` atomic numbers (n,), ``charge`` formal charges (n,), ``edge_index`` (2, 2 m) with both directions of each of m
bonds, ``edge_attr`` one-hot orders single, double, triple (2 m, 3) float, ``smiles``, and one field for each property.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from discrete_ebm.errors import MoleculeError
from graph_ebm.chem.parse import Rejection, Rejections
from graph_ebm.chem.reader import Refusal, smiles_of
from graph_ebm.chem.valence import AtomType, atomic_number
from graph_ebm.chem.write import build_mol
from graph_ebm.graphs import MoleculeSet, from_smiles
from graph_ebm.space import MAX_ATOMS, off_diagonal
from graph_ebm.vocabulary import Vocabulary

MAX_NODES = 512
MAX_EXTRA_BONDS = 64


def to_pyg(molecules: MoleculeSet, batch: bool = False) -> Any:
    """torch-geometric graphs of a set.

    Args:
        molecules: B molecules.
        batch: give one ``Batch`` instead of a list.
    Returns:
        list of B ``Data`` (or a ``Batch``), on the device of the states.
    """
    from torch_geometric.data import Batch, Data

    space, x = molecules.space, molecules.x
    vocabulary = space.vocabulary
    numbers = torch.tensor([atomic_number(e) for e in vocabulary.elements], device=x.device)
    charges = vocabulary.charge_table(x.device)[1:].long()
    sizes = space.n_atoms(x).tolist()
    result = []
    for i, (n, state, smiles) in enumerate(zip(sizes, x, molecules.smiles, strict=True)):
        kinds = torch.diagonal(state)[:n].long() - 1
        bonds = off_diagonal(state[None])[0, :n, :n]
        edge_index = bonds.nonzero().t().contiguous()
        orders = bonds[edge_index[0], edge_index[1]].long()
        extra = {
            name: torch.as_tensor(column[i]) for name, column in molecules.properties.items() if _is_number(column)
        }
        result.append(
            Data(
                x=torch.nn.functional.one_hot(kinds, vocabulary.size).float(),
                z=numbers[kinds],
                charge=charges[kinds],
                edge_index=edge_index,
                edge_attr=torch.nn.functional.one_hot(orders - 1, 3).float(),
                smiles=smiles,
                **extra,
            )
        )
    return Batch.from_data_list(result) if batch else result


def _is_number(column: np.ndarray) -> bool:
    return column.dtype.kind in "fiub"


def from_pyg(
    data: Any, vocabulary: Vocabulary | None = None, max_atoms: int = MAX_ATOMS, node_types: Vocabulary | None = None
) -> tuple[MoleculeSet, Rejections]:
    """States from torch-geometric graphs, with every refusal on record.

    Atoms come from ``z`` (atomic numbers) and ``charge`` (formal charges, 0 where the field is missing), or else from
    a one-hot ``x`` whose columns are ``node_types``. Bond orders come from ``edge_attr``: one column of orders (1, 2, 3
    or 1.5 = aromatic), 3 one-hot columns (single, double, triple) or 4 (... and aromatic); no ``edge_attr`` = all
    single. A bond may be given in one direction or both. Hydrogens among the nodes are folded into their heavy atoms.

    Args:
        data: an iterable of ``Data`` (a list, a data set) or a ``Batch``.
        vocabulary: of the resulting space; None builds it.
        max_atoms: V of the resulting space.
        node_types: what the columns of ``x`` mean, where there is no ``z``; defaults to ``vocabulary``.
    Returns:
        (MoleculeSet, Rejections); the index of a rejection is the position in ``data``.
    Raises:
        MoleculeError: a graph has neither ``z`` nor an ``x`` that can be read.
    """
    graphs: Iterable[Any] = data.to_data_list() if hasattr(data, "to_data_list") else data
    texts: list[Any] = []
    refused: dict[int, Refusal] = {}
    for index, graph in enumerate(graphs):
        outcome = _smiles_of(graph, node_types or vocabulary)
        if isinstance(outcome, Refusal):
            refused[index] = outcome
            texts.append("")
        else:
            texts.append(outcome)
    molecules, rejections = from_smiles(texts, vocabulary, max_atoms)
    items = [
        Rejection(item.index, f"graph {item.index}", *refused[item.index]) if item.index in refused else item
        for item in rejections.items
    ]
    molecules.rejections = Rejections(rejections.n_in, items)
    return molecules, molecules.rejections


def _smiles_of(graph: Any, node_types: Vocabulary | None) -> str | Refusal:
    """Canonical SMILES of one ``Data``; the text then passes the same gates as any other SMILES."""
    types = _atom_types(graph, node_types)
    n = len(types)
    if n == 0:
        return Refusal("empty", "no nodes")
    if n > MAX_NODES:
        return Refusal("too_many_atoms", f"{n} nodes")
    bonds, aromatic = np.zeros((n, n), np.int8), np.zeros((n, n), bool)
    edges = np.asarray(graph.edge_index.cpu(), dtype=np.int64).reshape(2, -1)
    if edges.size and (edges.min() < 0 or edges.max() >= n):
        return Refusal("parse_error", "edge_index names nodes that are not there")
    orders = _orders(graph, edges.shape[1])
    for (i, j), order in zip(edges.T.tolist(), orders.tolist(), strict=True):
        if order not in (1.0, 1.5, 2.0, 3.0):
            return Refusal("bond_type", f"bond order {order}")
        if i != j:
            bonds[i, j] = bonds[j, i] = 1 if order == 1.5 else int(order)
            aromatic[i, j] = aromatic[j, i] = order == 1.5
    if np.count_nonzero(np.triu(bonds, 1)) > n + MAX_EXTRA_BONDS:  # ring finding in this process has to stay quick
        return Refusal("too_many_rings", f"{np.count_nonzero(np.triu(bonds, 1))} bonds between {n} atoms")
    try:
        molecule = build_mol(types, bonds)
    except (RuntimeError, OverflowError) as error:
        return Refusal("unknown_type", str(error).strip().partition("\n")[0])
    for i, j in zip(*np.nonzero(np.triu(aromatic, 1)), strict=True):
        bond = molecule.GetBondBetweenAtoms(int(i), int(j))
        bond.SetBondType(Chem.BondType.AROMATIC)
        bond.SetIsAromatic(True)
        bond.GetBeginAtom().SetIsAromatic(True)
        bond.GetEndAtom().SetIsAromatic(True)
    return smiles_of(molecule)


def _atom_types(graph: Any, node_types: Vocabulary | None) -> list[AtomType]:
    """(element, charge) of each node."""
    table = Chem.GetPeriodicTable()
    if getattr(graph, "z", None) is not None:
        numbers = graph.z.reshape(-1).tolist()
        charge = getattr(graph, "charge", None)
        charges = [0] * len(numbers)
        if isinstance(charge, torch.Tensor) and charge.numel() == len(numbers):
            charges = [int(c) for c in charge.reshape(-1).tolist()]
        symbols = {k: table.GetElementSymbol(int(k)) if 0 < k < 119 else "*" for k in set(numbers)}
        return [(symbols[k], c) for k, c in zip(numbers, charges, strict=True)]
    x = getattr(graph, "x", None)
    if x is None or node_types is None or x.dim() != 2 or x.shape[1] != node_types.size:
        raise MoleculeError(
            "each graph must have `z` (atomic numbers), or a one-hot `x` with one column per type of `node_types`; got "
            f"x {None if x is None else tuple(x.shape)} and {0 if node_types is None else node_types.size} types. "
            "Pass node_types=Vocabulary((('C', 0), ...)) in the order of the columns."
        )
    return [node_types.types[k] for k in x.argmax(-1).tolist()]


def _orders(graph: Any, n_edges: int) -> np.ndarray:
    """(E,) float bond orders."""
    attributes = getattr(graph, "edge_attr", None)
    if attributes is None:
        return np.ones(n_edges)
    array = np.asarray(attributes.detach().cpu(), dtype=np.float64)
    array = array.reshape(n_edges, -1) if n_edges else array.reshape(0, 1)
    if n_edges == 0:
        return np.ones(0)
    if array.shape[1] == 1:
        return array[:, 0]
    if array.shape[1] in (3, 4):
        return np.array([1.0, 2.0, 3.0, 1.5])[array.argmax(1)]
    raise MoleculeError(
        f"`edge_attr` must have 1 column (orders) or 3 or 4 one-hot columns; got {array.shape[1]}. "
        "Keep the columns for single, double, triple (and aromatic)."
    )


__all__ = ["from_pyg", "to_pyg"]
