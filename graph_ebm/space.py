"""The space of molecular graphs: one small symmetric integer matrix per molecule.

State ``x`` (C, V, V) int8: the diagonal holds atom types (0 = no atom, 1..K = index in the vocabulary + 1), the rest
bond orders 0..3, symmetric. Atoms are compact: slots 0..n-1 are used, rows and columns of the others are all zero.
A molecule of n atoms has n! / |Aut| such labelled states; the targeted measure divides by n!, so that an isomorphism
class has weight exp(-E) / |Aut|.

Shape letters: C chains, V atom slots, K atom types.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError, SpaceError
from discrete_ebm.spaces import Space
from graph_ebm.vocabulary import Vocabulary

MAX_ATOMS = 38
"""Default number of atom slots: the largest molecule of ZINC250k."""

N_BOND_TYPES = 4


class GraphEncoding(NamedTuple):
    """What an energy is called with: ``nodes`` (C, V, K+1) and ``bonds`` (C, V, V, 4), float one-hot.

    Column 0 of ``nodes`` is "absent", of ``bonds`` "no bond"; rows and columns of absent atoms and the diagonal of
    ``bonds`` are all zero.
    """

    nodes: Tensor
    bonds: Tensor


def off_diagonal(x: Tensor) -> Tensor:
    """Bond orders (C, V, V) of a state: x with a zero diagonal."""
    return x * ~torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)


class MolecularSpace(Space):
    """Connected, valence-correct molecules of 1 to ``max_atoms`` heavy atoms over a vocabulary.

    Args:
        vocabulary: the atom types.
        max_atoms: V, the number of atom slots (1..128).
    """

    def __init__(self, vocabulary: Vocabulary, max_atoms: int = MAX_ATOMS) -> None:
        if not isinstance(vocabulary, Vocabulary):
            raise SettingError(
                f"`vocabulary` must be a Vocabulary; got {type(vocabulary).__name__}. "
                "Build one with Vocabulary.build(list_of_smiles)."
            )
        if isinstance(max_atoms, bool) or not isinstance(max_atoms, int) or not 1 <= max_atoms <= 128:
            raise SettingError(f"`max_atoms` must be an int from 1 to 128; got {max_atoms!r}. Default: {MAX_ATOMS}.")
        self.vocabulary = vocabulary
        self.max_atoms = max_atoms
        self.shape = (max_atoms, max_atoms)
        self.dtype = torch.int8

    @property
    def name(self) -> str:
        return "Molecular"

    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.vocabulary

    def __repr__(self) -> str:
        return f"MolecularSpace({', '.join(self.vocabulary.names)}; max_atoms={self.max_atoms})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for a model's configuration."""
        return {"vocabulary": self.vocabulary.to_dict(), "max_atoms": self.max_atoms}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MolecularSpace":
        """Inverse of :meth:`to_dict`."""
        try:
            return cls(Vocabulary.from_dict(data["vocabulary"]), data["max_atoms"])
        except (KeyError, TypeError) as error:
            raise SettingError(f"a space must be a dict with `vocabulary` and `max_atoms`; got {data!r}.") from error

    # -- encodings -----------------------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> GraphEncoding:
        """One-hot floats of states (C, V, V); see :class:`GraphEncoding`."""
        dtype = torch.get_default_dtype()
        types = self.types(x).long()
        nodes = torch.nn.functional.one_hot(types, self.vocabulary.size + 1).to(dtype)
        bonds = torch.nn.functional.one_hot(off_diagonal(x).long(), N_BOND_TYPES).to(dtype)
        present = types > 0
        pairs = present[:, :, None] & present[:, None, :]
        pairs = pairs & ~torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
        return GraphEncoding(nodes, bonds * pairs[..., None])

    def decode(self, encoding: GraphEncoding) -> Tensor:
        """States (C, V, V) int8 from an encoding, the inverse of :meth:`encode` (largest entry of each one-hot)."""
        types = encoding.nodes.argmax(-1)
        bonds = encoding.bonds.argmax(-1)
        bonds = off_diagonal(bonds) * (types > 0)[:, :, None] * (types > 0)[:, None, :]
        return (bonds + torch.diag_embed(types)).to(torch.int8)

    # -- what a state holds --------------------------------------------------------------------------------------

    def types(self, x: Tensor) -> Tensor:
        """(C, V) int8 atom types, 0 = no atom."""
        return torch.diagonal(x, dim1=-2, dim2=-1)

    def n_atoms(self, x: Tensor) -> Tensor:
        """(C,) int64 number of atoms."""
        return (self.types(x) > 0).sum(-1)

    def valence_used(self, x: Tensor) -> Tensor:
        """(C, V) int64 sum of bond orders at each slot."""
        return off_diagonal(x).sum(-1)

    def valence_free(self, x: Tensor) -> Tensor:
        """(C, V) int64 bond orders that each slot could still take; 0 at absent atoms of a legal state."""
        table = self.vocabulary.valence_table(x.device).long()
        return table[self.types(x).long()] - self.valence_used(x)

    def connected(self, x: Tensor) -> Tensor:
        """(C,) bool: all atoms in one piece, and at least one atom.

        Reachability by repeated squaring of (bonds + identity): ceil(log2 V) batched products, no host sync.
        """
        if x.device.type == "cpu" and len(x):  # small molecules in many slots: skip the empty ones (no sync on a CPU)
            used = (self.types(x) > 0).any(0).nonzero()
            last = int(used[-1]) + 1 if len(used) else 1
            x = x[:, :last, :last]
        slots = x.shape[-1]
        present = self.types(x) > 0
        # x itself has a positive diagonal at atoms, so it is "bonds + identity" already. Bit masks would be smaller,
        # but a batched float product is what both CPUs and GPUs do best; entries are cut to 0/1 after each product.
        reach = (x > 0).float()
        for _ in range(max(slots - 1, 1).bit_length()):
            reach = (reach @ reach > 0).float()
        return ((reach[:, 0] > 0) == present).all(-1) & present[:, 0]

    def compact(self, x: Tensor) -> Tensor:
        """Move the atoms of each state to the first slots, their order kept; (C, V, V)."""
        order = torch.argsort((self.types(x) == 0).to(torch.int8), dim=-1, stable=True)
        rows = torch.gather(x, 1, order[:, :, None].expand_as(x))
        return torch.gather(rows, 2, order[:, None, :].expand_as(x))

    def permute(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The same molecules with their atoms in uniformly random order (slots stay compact); (C, V, V)."""
        keys = torch.rand(x.shape[:2], generator=generator, device=x.device)
        order = torch.argsort(keys + 2.0 * (self.types(x) == 0), dim=-1)
        rows = torch.gather(x, 1, order[:, :, None].expand_as(x))
        return torch.gather(rows, 2, order[:, None, :].expand_as(x))

    # -- making and checking -------------------------------------------------------------------------------------

    def random(self, n: int, generator: torch.Generator, max_size: int = 6) -> Tensor:
        """Small random trees of single bonds: size uniform in 1..min(max_size, V), types uniform, valences respected.

        Not a draw from any model: a start for chains.

        Args:
            n: number of states.
            generator: its device is the device of the result.
            max_size: largest tree.
        Returns:
            (n, V, V) int8.
        """
        device = generator.device
        table = self.vocabulary.valence_table(device).long()
        n_types, largest = self.vocabulary.size, min(max_size, self.max_atoms)
        bondable = torch.arange(1, n_types + 1, device=device)[table[1:] > 0]
        x = torch.zeros((n, *self.shape), dtype=torch.int8, device=device)
        x[:, 0, 0] = torch.randint(1, n_types + 1, (n,), generator=generator, device=device, dtype=torch.int8)
        size = torch.randint(1, largest + 1, (n,), generator=generator, device=device)
        rows = torch.arange(n, device=device)
        for slot in range(1, largest if len(bondable) else 1):
            free = self.valence_free(x)[:, :slot].clamp(min=0)
            keys = torch.rand((n, slot), generator=generator, device=device)
            parent = torch.where(free > 0, keys, -1.0).argmax(-1)
            types = bondable[torch.randint(0, len(bondable), (n,), generator=generator, device=device)]
            grow = (free > 0).any(-1) & (slot < size) & (x[:, slot - 1, slot - 1] > 0)
            x[:, slot, slot] = torch.where(grow, types, 0).to(torch.int8)
            x[rows, slot, parent] = grow.to(torch.int8)
            x[rows, parent, slot] = torch.where(grow, grow.to(torch.int8), x[rows, parent, slot])
        return x

    def validate(self, x: Any) -> Tensor:
        """Check a batch (C, V, V): value ranges, symmetry, compact slots, valence, connectivity.

        Raises:
            ShapeError: the shape is not (C, V, V).
            SpaceError: names the first offending state and what is wrong with it.
        """
        x = self._batch(x)
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise SpaceError(f"`x` must hold integers for {self!r}; got {x.dtype}. Convert it with x.to(torch.int8).")
        diagonal = self.types(x)
        bonds = off_diagonal(x)
        size = self.vocabulary.size
        self._refuse((diagonal < 0) | (diagonal > size), f"hold atom types 0..{size} on its diagonal")
        self._refuse((bonds < 0) | (bonds >= N_BOND_TYPES), "hold bond orders 0..3 off its diagonal")
        x = x.to(torch.int8)
        self._refuse(x != x.transpose(1, 2), "be symmetric")
        present = self.types(x) > 0
        self._refuse(~present[:, :1], "hold at least one atom, in slot 0")
        self._refuse(present[:, 1:] & ~present[:, :-1], "use slots 0..n-1 without gaps (`space.compact(x)` moves them)")
        self._refuse((bonds > 0) & ~present[:, :, None], "bond only atoms that are there")
        self._refuse(self.valence_free(x) < 0, f"keep the largest bond-order sums {self._valences()}")
        self._refuse(~self.connected(x), "be one connected molecule")
        return x

    def _valences(self) -> str:
        return ", ".join(f"{n} {v}" for n, v in zip(self.vocabulary.names, self.vocabulary.max_valence, strict=True))

    def _refuse(self, bad: Tensor, constraint: str) -> None:
        """SpaceError naming the first state where ``bad`` (C, ...) is True."""
        if not bool(bad.any()):
            return
        where = bad.nonzero()[0].tolist()
        count = int(bad.reshape(bad.shape[0], -1).any(-1).sum())
        raise SpaceError(
            f"each state must {constraint}; got {count} of {bad.shape[0]} states that do not, the first is state "
            f"{where[0]}" + (f" at {tuple(where[1:])}" if len(where) > 1 else "") + ". Make states with "
            "graph_ebm.from_smiles(...) or space.random(n, generator)."
        )

    def enumerate(self) -> Tensor:
        raise SpaceError(
            f"`space` must be a small space of sites to be enumerated; got {self!r}, whose molecules are too many. "
            "Enumerate a small chemical space with graph_ebm.moves instead."
        )
