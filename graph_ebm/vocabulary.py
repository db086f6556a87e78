"""The atom types that a molecular space knows: (element, formal charge) pairs and how many bonds each may have."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from discrete_ebm.errors import MoleculeError, SettingError
from graph_ebm.chem.valence import AtomType, atomic_number, max_valence, sort_key


@dataclass(frozen=True)
class Vocabulary:
    """K atom types in a fixed order; index 0 of a state means "no atom", index k+1 means ``types[k]``.

    Args:
        types: K pairs (element symbol, formal charge), e.g. ``("N", 1)``.
        max_valence: K ints, the largest sum of bond orders to heavy atoms of each type; empty = the library's table.
    """

    types: tuple[AtomType, ...]
    max_valence: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        types = tuple((str(element), int(charge)) for element, charge in self.types)
        valence = tuple(int(v) for v in self.max_valence) or tuple(max_valence(e, c) for e, c in types)
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "max_valence", valence)
        if not types:
            raise SettingError("`types` must hold at least one (element, charge) pair; got none. Try [('C', 0)].")
        if len(set(types)) != len(types):
            raise SettingError(f"`types` must be distinct; got {types}. Remove the repeated ones.")
        if len(types) > 126:
            raise SettingError(f"`types` must hold at most 126 pairs (states are int8); got {len(types)}.")
        bad = [element for element, _ in types if atomic_number(element) in (0, 1)]
        if bad:
            raise SettingError(f"`types` must name elements heavier than hydrogen; got {bad}. Write e.g. 'C' or 'Cl'.")
        if len(valence) != len(types) or min(valence) < 0:
            raise SettingError(f"`max_valence` must be {len(types)} ints >= 0, one per type; got {self.max_valence}.")

    @property
    def size(self) -> int:
        """K, the number of atom types."""
        return len(self.types)

    def __len__(self) -> int:
        return len(self.types)

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbol of each type."""
        return tuple(element for element, _ in self.types)

    @property
    def charges(self) -> tuple[int, ...]:
        """Formal charge of each type."""
        return tuple(charge for _, charge in self.types)

    @property
    def names(self) -> tuple[str, ...]:
        """Readable names such as ``C``, ``N+``, ``O-``."""
        return tuple(
            element + ("+" if charge > 0 else "-") * (charge != 0) + (str(abs(charge)) if abs(charge) > 1 else "")
            for element, charge in self.types
        )

    def index(self, element: str, charge: int = 0) -> int:
        """State value (1..K) of a type; MoleculeError when the vocabulary does not hold it."""
        try:
            return self.types.index((element, charge)) + 1
        except ValueError:
            raise MoleculeError(
                f"the vocabulary must hold ({element!r}, {charge}); got {', '.join(self.names)}. "
                "Build the vocabulary from data that contain this type."
            ) from None

    def valence_table(self, device: torch.device | str | None = None) -> torch.Tensor:
        """(K+1,) int8: largest bond-order sum by state value; 0 for value 0, no atom."""
        return torch.tensor((0, *self.max_valence), dtype=torch.int8, device=device)

    def charge_table(self, device: torch.device | str | None = None) -> torch.Tensor:
        """(K+1,) int8: formal charge by state value; 0 for value 0, no atom."""
        return torch.tensor((0, *self.charges), dtype=torch.int8, device=device)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for a model's configuration."""
        return {"types": [[element, charge] for element, charge in self.types], "max_valence": list(self.max_valence)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Vocabulary":
        """Inverse of :meth:`to_dict`."""
        try:
            return cls(tuple((str(e), int(c)) for e, c in data["types"]), tuple(int(v) for v in data["max_valence"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SettingError(
                f"a vocabulary must be a dict with `types` and `max_valence`; got {data!r} ({error})."
            ) from error

    @classmethod
    def from_counts(cls, largest_sum: dict[AtomType, int]) -> "Vocabulary":
        """From ``{type: largest bond-order sum seen}``; canonical order, the table's valences where it has them."""
        types = tuple(sorted(largest_sum, key=sort_key))
        return cls(types, tuple(max_valence(e, c, largest_sum[(e, c)]) for e, c in types))

    @classmethod
    def build(cls, molecules: Iterable[Any], min_count: int = 1) -> "Vocabulary":
        """Collect the types of data.

        Args:
            molecules: SMILES strings (or RDKit molecules); what cannot be read is left out here and counted by
                :func:`graph_ebm.from_smiles`.
            min_count: leave out types that occur in fewer molecules than this.
        Returns:
            Vocabulary in canonical order (independent of the order of the data).
        Raises:
            MoleculeError: no molecule could be read.
        """
        from graph_ebm.chem.parse import read_many

        graphs, _ = read_many(molecules)
        return cls.of_graphs([graph.types for graph in graphs], [graph.bonds for graph in graphs], min_count)

    @classmethod
    def of_graphs(cls, types: Sequence[Sequence[AtomType]], bonds: Sequence[Any], min_count: int = 1) -> "Vocabulary":
        """From parsed graphs: per molecule its n types and its (n, n) bond orders."""
        largest: dict[AtomType, int] = {}
        molecules: dict[AtomType, int] = {}
        for atom_types, orders in zip(types, bonds, strict=True):
            for atom_type, total in zip(atom_types, orders.sum(1).tolist(), strict=True):
                if total > largest.get(atom_type, -1):
                    largest[atom_type] = total
            for atom_type in set(atom_types):
                molecules[atom_type] = molecules.get(atom_type, 0) + 1
        kept = {atom_type: total for atom_type, total in largest.items() if molecules[atom_type] >= min_count}
        if not kept:
            raise MoleculeError(
                f"a vocabulary must be built from at least one readable molecule; got {len(types)}. "
                "Look at the rejections of `graph_ebm.from_smiles(...)` for the reasons."
            )
        return cls.from_counts(kept)
