"""Sets of molecules: SMILES in, states, and SMILES out."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.errors import MoleculeError, ShapeError
from graph_ebm.chem.parse import Rejection, Rejections, read_many
from graph_ebm.chem.reader import ParsedGraph
from graph_ebm.chem.write import to_mols, write_smiles
from graph_ebm.space import MAX_ATOMS, MolecularSpace
from graph_ebm.vocabulary import Vocabulary

Column = np.ndarray


class MoleculeSet:
    """B molecules as states of one space, with optional columns of properties.

    Args:
        x: (B, V, V) int8 states of ``space``; not checked here (``space.validate(x)`` does).
        space: the space of the states.
        smiles: canonical SMILES of the states, if known; written when first asked for otherwise.
        properties: name -> (B,) array.
        rejections: what was refused on the way in, if anything was read.
    """

    def __init__(
        self,
        x: Tensor,
        space: MolecularSpace,
        smiles: Sequence[str] | None = None,
        properties: dict[str, Column] | None = None,
        rejections: Rejections | None = None,
    ) -> None:
        if x.dim() != 3 or tuple(x.shape[1:]) != space.shape:
            raise ShapeError(f"`x` must have shape (B, {space.max_atoms}, {space.max_atoms}); got {tuple(x.shape)}.")
        self.x = x
        self.space = space
        self._smiles = None if smiles is None else list(smiles)
        self.properties = {name: np.asarray(column) for name, column in (properties or {}).items()}
        self.rejections = rejections
        for name, length in [("smiles", len(self._smiles) if self._smiles is not None else len(x))] + [
            (name, len(column)) for name, column in self.properties.items()
        ]:
            if length != len(x):
                raise ShapeError(f"`{name}` must have one entry per molecule ({len(x)}); got {length}.")

    @property
    def smiles(self) -> list[str]:
        """Canonical SMILES without stereo, one per molecule (written on first use; MoleculeError if one is invalid)."""
        if self._smiles is None:
            self._smiles = to_smiles(self.x, self.space.vocabulary)
        return self._smiles

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the space."""
        return self.space.vocabulary

    @property
    def n_atoms(self) -> Tensor:
        """(B,) int64 number of heavy atoms."""
        return self.space.n_atoms(self.x)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        columns = f", {', '.join(self.properties)}" if self.properties else ""
        return f"MoleculeSet({len(self)} molecules, {self.space!r}{columns})"

    def __getitem__(self, index: Any) -> "MoleculeSet":
        """A sub-set by slice, int, list, boolean mask or index array / tensor."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"`index` must be within a set of {len(self)} molecules; got {index}.")
            index = [index]
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        smiles = None if self._smiles is None else [self._smiles[i] for i in rows.tolist()]
        chosen = torch.from_numpy(rows).to(self.x.device)
        properties = {name: column[rows] for name, column in self.properties.items()}
        return MoleculeSet(self.x[chosen], self.space, smiles, properties)

    def to(self, device: torch.device | str) -> "MoleculeSet":
        """The same set with its states on another device."""
        return MoleculeSet(self.x.to(device), self.space, self._smiles, self.properties, self.rejections)

    def table(self) -> dict[str, Any]:
        """Columns by name: ``smiles`` (list), ``heavy_atoms`` and the properties; for ``pandas.DataFrame(...)``."""
        return {"smiles": list(self.smiles), "heavy_atoms": self.n_atoms.cpu().numpy(), **self.properties}

    def mols(self) -> list[Any]:
        """RDKit molecules, sanitised."""
        return to_mols(self.x, self.space.vocabulary)

    def to_pyg(self) -> list[Any]:
        """torch-geometric ``Data`` objects, one per molecule; see :func:`graph_ebm.pyg.to_pyg`."""
        from graph_ebm.pyg import to_pyg

        return to_pyg(self)

    def grid(self, n: int = 20, columns: int = 5, legends: Sequence[str] | None = None) -> str:
        """Drawings of the first ``n`` molecules as one SVG text."""
        from rdkit.Chem import Draw

        mols = to_mols(self.x[:n], self.space.vocabulary)
        captions = list(legends)[:n] if legends is not None else self[:n].smiles
        svg = Draw.MolsToGridImage(mols, molsPerRow=columns, legends=captions, useSVG=True)
        return str(getattr(svg, "data", svg))


def from_smiles(
    smiles: Iterable[Any],
    vocabulary: Vocabulary | None = None,
    max_atoms: int = MAX_ATOMS,
    *,
    canonical: bool = False,
    progress: bool = False,
) -> tuple[MoleculeSet, Rejections]:
    """Read SMILES into states; every entry is either kept or listed as a rejection.

    Stereo (``@``, ``/``, ``\\``) and atom-map numbers are dropped; everything else is kept exactly: element, charge,
    hydrogens (implied) and bonds in one Kekulé form chosen from the canonical atom order.

    Args:
        smiles: strings (or RDKit molecules).
        vocabulary: atom types; None builds it from the molecules that could be read.
        max_atoms: V; larger molecules are rejected with reason ``too_many_atoms``.
        canonical: the strings are RDKit's canonical SMILES without stereo already; twice as fast.
        progress: show a bar, where it takes longer than a second.
    Returns:
        (MoleculeSet, Rejections) with ``len(set) + len(rejections) == number of entries``.
    Raises:
        MoleculeError: nothing was left and no vocabulary was given.
    """
    graphs, rejections = read_many(smiles, canonical=canonical, max_heavy_atoms=max(max_atoms, 128), progress=progress)
    molecules = from_graphs(graphs, rejections, vocabulary, max_atoms)
    assert molecules.rejections is not None
    return molecules, molecules.rejections


def from_graphs(
    graphs: list[ParsedGraph], rejections: Rejections, vocabulary: Vocabulary | None, max_atoms: int
) -> MoleculeSet:
    """States of parsed graphs; those that do not fit the space join the rejections. See :func:`from_smiles`."""
    kept, rejections = _filter(graphs, rejections, vocabulary, max_atoms)
    if vocabulary is None:
        if not kept:
            raise MoleculeError(
                f"`smiles` must hold at least one usable molecule; got none among {rejections.n_in}:\n{rejections}"
            )
        vocabulary = Vocabulary.of_graphs([g.types for g in kept], [g.bonds for g in kept])
        kept, rejections = _filter(kept, rejections, vocabulary, max_atoms)
    space = MolecularSpace(vocabulary, max_atoms)
    return MoleculeSet(_pack(kept, space), space, [g.smiles for g in kept], rejections=rejections)


def to_smiles(
    graphs: "MoleculeSet | Tensor | np.ndarray", vocabulary: Vocabulary | None = None, *, on_invalid: str = "raise"
) -> list[Any]:
    """Canonical SMILES without stereo, one per graph.

    Args:
        graphs: a MoleculeSet, or states (C, V, V) together with their ``vocabulary``.
        vocabulary: needed for bare states.
        on_invalid: ``"raise"`` (MoleculeError names the state), or ``"none"`` to leave None in its place.
    """
    if isinstance(graphs, MoleculeSet):
        return write_smiles(graphs.x, graphs.space.vocabulary, on_invalid)
    if vocabulary is None:
        raise MoleculeError("`vocabulary` must be given with bare states; got None. Use the one of their space.")
    return write_smiles(graphs, vocabulary, on_invalid)


def _filter(
    graphs: list[ParsedGraph], rejections: Rejections, vocabulary: Vocabulary | None, max_atoms: int
) -> tuple[list[ParsedGraph], Rejections]:
    """Move graphs that the space cannot hold from the kept to the rejected."""
    refused_before = {item.index for item in rejections.items}
    positions = [i for i in range(rejections.n_in) if i not in refused_before]
    limits = None if vocabulary is None else dict(zip(vocabulary.types, vocabulary.max_valence, strict=True))
    kept, new = [], []
    for position, graph in zip(positions, graphs, strict=True):
        refusal = _misfit(graph, limits, max_atoms)
        if refusal is None:
            kept.append(graph)
        else:
            new.append(Rejection(position, graph.smiles[:200], *refusal))
    return kept, Rejections(rejections.n_in, sorted(rejections.items + new, key=lambda item: item.index))


def _misfit(graph: ParsedGraph, limits: dict[Any, int] | None, max_atoms: int) -> tuple[str, str] | None:
    """(reason, detail) why a graph is outside the space; None if it fits."""
    if len(graph.types) > max_atoms:
        return "too_many_atoms", f"{len(graph.types)} heavy atoms; the space has {max_atoms} slots"
    if limits is None:
        return None
    for atom_type, total in zip(graph.types, graph.bonds.sum(1).tolist(), strict=True):
        limit = limits.get(atom_type)
        if limit is None:
            return "unknown_type", f"{atom_type[0]} with charge {atom_type[1]:+d} is not in the vocabulary"
        if total > limit:
            return "valence", f"{atom_type[0]} with charge {atom_type[1]:+d} has bond orders {total}, more than {limit}"
    return None


def _pack(graphs: list[ParsedGraph], space: MolecularSpace) -> Tensor:
    """(B, V, V) int8 states of graphs that fit the space."""
    index = {atom_type: k + 1 for k, atom_type in enumerate(space.vocabulary.types)}
    x = np.zeros((len(graphs), *space.shape), dtype=np.int8)
    for state, graph in zip(x, graphs, strict=True):
        n = len(graph.types)
        state[:n, :n] = graph.bonds
        state[range(n), range(n)] = [index[atom_type] for atom_type in graph.types]
    return torch.from_numpy(x)
