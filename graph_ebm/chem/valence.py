"""How many bonds an atom type may have, and how many hydrogens RDKit fills in.

A *type* is ``(element symbol, formal charge)``. ``MAX_VALENCE`` is the largest sum of bond orders (to heavy atoms)
that a type may carry in a state; every sum up to it is a chemically acceptable atom, because RDKit fills what is
missing with hydrogens. So "sum of bond orders <= max_valence" is a *sufficient* condition for a valid molecule.

This file imports neither torch nor the rest of the package: the isolated reader process uses it.
"""

from functools import cache

from rdkit import Chem, rdBase

AtomType = tuple[str, int]

# Largest bond-order sum of each type over the whole of QM9, MOSES, ZINC250k and a ChEMBL sample. The order is the
# canonical order of a vocabulary, so that vocabularies built from different data put common types in the same order.
MAX_VALENCE: dict[AtomType, int] = {
    ("C", 0): 4,
    ("N", 0): 3,
    ("O", 0): 2,
    ("F", 0): 1,
    ("S", 0): 6,
    ("Cl", 0): 1,
    ("Br", 0): 1,
    ("I", 0): 1,
    ("P", 0): 5,
    ("N", 1): 4,
    ("O", -1): 1,
    ("N", -1): 2,
    ("S", -1): 1,
    ("O", 1): 3,
    ("S", 1): 3,
    ("P", 1): 4,
    ("C", -1): 3,
}
_ORDER = {atom_type: rank for rank, atom_type in enumerate(MAX_VALENCE)}


def sort_key(atom_type: AtomType) -> tuple[int, int, int]:
    """Canonical order of types in a vocabulary: the table's order, then atomic number and charge."""
    element, charge = atom_type
    return _ORDER.get(atom_type, len(_ORDER)), atomic_number(element), charge


@cache
def atomic_number(element: str) -> int:
    """Atomic number of a symbol; 0 for the dummy ``*`` and for anything that is not an element."""
    try:
        return int(Chem.GetPeriodicTable().GetAtomicNumber(element))
    except (RuntimeError, ValueError):
        return 0


@cache
def implicit_hydrogens(element: str, charge: int, bond_sum: int) -> int | None:
    """Hydrogens that RDKit adds to an atom with this charge and sum of bond orders; None when it refuses the valence.

    Asked of RDKit itself (one atom with ``bond_sum`` single bonds to carbon), since RDKit writes the SMILES: a table
    of our own could disagree with it from one release to the next.
    """
    number = atomic_number(element)
    if number == 0:
        return None
    molecule = Chem.RWMol()
    atom = Chem.Atom(number)
    atom.SetFormalCharge(charge)
    molecule.AddAtom(atom)
    for i in range(bond_sum):
        molecule.AddAtom(Chem.Atom(6))
        molecule.AddBond(0, i + 1, Chem.BondType.SINGLE)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(molecule)
        except (Chem.MolSanitizeException, ValueError):
            return None
    first = molecule.GetAtomWithIdx(0)
    return None if first.GetNumRadicalElectrons() else int(first.GetTotalNumHs())


@cache
def max_valence(element: str, charge: int, observed: int = 0) -> int:
    """Largest allowed bond-order sum of a type.

    Args:
        element: symbol, e.g. ``"N"``.
        charge: formal charge.
        observed: the largest sum seen in data; used only for types outside ``MAX_VALENCE``.
    Returns:
        int >= 0. For a type outside the table: the observed sum, cut so that RDKit accepts *every* sum up to it.
    """
    if (element, charge) in MAX_VALENCE:
        return MAX_VALENCE[(element, charge)]
    limit = -1
    while limit < observed and implicit_hydrogens(element, charge, limit + 1) is not None:
        limit += 1
    return max(limit, 0)
