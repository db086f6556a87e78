"""One SMILES in, one plain molecular graph out, or a refusal with a reason: bounded, silent, no torch.

The same function runs in this process for strings that :func:`screen` calls safe and in a worker process
(:mod:`graph_ebm.chem.isolate`) for all others. Steps: screen the text (length, characters, nesting, number of atoms);
parse and sanitise with RDKit; drop stereo, atom-map numbers and nothing else; write the canonical SMILES; parse *that*
and kekulise, so that the state depends on the molecule alone and not on how its SMILES was written, and so that a
canonical SMILES that RDKit cannot read back (RDKit #8670) is refused here instead of much later.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem, rdBase

from graph_ebm.chem.valence import AtomType, atomic_number, implicit_hydrogens

MAX_LENGTH = 1000
"""Longest SMILES that is read, in characters."""
MAX_HEAVY_ATOMS = 128
"""Largest molecule that is read at all; the state has its own, smaller, cap."""
MAX_DEPTH = 64
"""Deepest nesting of branches that is read."""

# In-process limits: below them no string we know of costs RDKit more than some milliseconds.
SAFE_LENGTH = 400
SAFE_ATOMS = 96
SAFE_RING_MARKS = 28
SAFE_DEPTH = 24
MAX_BLOCK_ATOMS = 512
"""Largest mol block, hydrogens included."""

REASONS: dict[str, str] = {
    "not_text": "not a string",
    "empty": "no characters, or no atoms",
    "too_long": f"more than {MAX_LENGTH} characters",
    "control_characters": "control characters or line breaks inside the text",
    "non_ascii": "characters outside printable ASCII",
    "whitespace": "blanks inside the text (a name after the SMILES, or CXSMILES)",
    "too_deep": f"branches nested deeper than {MAX_DEPTH}",
    "too_many_atoms": "more heavy atoms than the cap",
    "too_many_rings": "a graph with far more bonds than atoms",
    "parse_error": "not a SMILES that RDKit can read",
    "valence": "an atom has more bonds than it may have",
    "sanitize": "RDKit cannot make sense of the molecule (aromaticity, ring system)",
    "radical": "an atom has unpaired electrons",
    "hydrogen_count": "an atom has an unusual number of hydrogens, which the state cannot hold",
    "explicit_hydrogen": "a hydrogen that cannot be implied by a heavy atom",
    "isotope": "isotope labels, which the state cannot hold",
    "bond_type": "a bond that is not single, double, triple or aromatic",
    "disconnected": "more than one fragment",
    "unknown_type": "an (element, charge) type outside the vocabulary, or no element at all",
    "round_trip": "its canonical SMILES does not read back as the same molecule",
    "timeout": "RDKit did not finish in the time allowed",
    "memory": "RDKit asked for more memory than allowed",
    "crash": "RDKit ended its process",
    "unreadable": "the record of the file could not be read",
}


class Refusal(NamedTuple):
    """Why a string is not read: a word of ``REASONS`` and a sentence for people."""

    reason: str
    detail: str = ""


class ParsedGraph(NamedTuple):
    """Kekulised molecule: canonical ``smiles`` without stereo, n (element, charge) ``types``, (n, n) int8 ``bonds``."""

    smiles: str
    types: tuple[AtomType, ...]
    bonds: np.ndarray


_ATOM = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")
atom_tokens = _ATOM.findall
"""Atom tokens of a SMILES, in the order of the text."""
_RING = re.compile(r"%\(\d*\)|%\d\d|\d")
_PLAIN_BRACKET = re.compile(r"\[\d{0,3}[A-Za-z]{1,2}@{0,2}(H\d?)?([+-]{1,4}|[+-]\d)?(:\d{1,4})?\]\Z")
_BRACKET = re.compile(r"\[(\d*)([A-Za-z][a-z]?|\*)(@*)(?:H(\d*))?([+-]*)(\d*)(?::\d+)?\]\Z")
_PARSER: Any = Chem.SmilesParserParams()
_PARSER.sanitize = False
_PARSER.removeHs = False
_PARSER.allowCXSMILES = False
_PARSER.parseName = False
_KEKULISE = (
    Chem.SanitizeFlags.SANITIZE_PROPERTIES
    | Chem.SanitizeFlags.SANITIZE_SYMMRINGS
    | Chem.SanitizeFlags.SANITIZE_KEKULIZE
)


class Screened(NamedTuple):
    """Outcome of the text check: a refusal, or the stripped text and whether it may be parsed in this process."""

    text: str
    refusal: Refusal | None
    safe: bool


def screen(text: object, max_length: int = MAX_LENGTH, max_heavy_atoms: int = MAX_HEAVY_ATOMS) -> Screened:
    """Check a string without parsing it: linear time, no RDKit.

    Args:
        text: anything; only strings can pass.
        max_length: longest accepted text in characters.
        max_heavy_atoms: largest accepted number of atom tokens that are not hydrogen.
    Returns:
        Screened; ``safe`` is True where the text is within the bounds of the in-process path.
    """
    if not isinstance(text, str):
        return Screened("", Refusal("not_text", f"a SMILES must be a string; got {type(text).__name__}"), False)
    if len(text) > max_length + 64:  # the slack is for blanks at both ends; strip() of megabytes is not needed
        return Screened("", Refusal("too_long", f"{len(text)} characters; at most {max_length} are read"), False)
    text = text.strip(" \t\r\n")
    if not text:
        return Screened("", Refusal("empty", "no characters"), False)
    if len(text) > max_length:
        return Screened("", Refusal("too_long", f"{len(text)} characters; at most {max_length} are read"), False)
    if not text.isascii():
        return Screened(text, Refusal("non_ascii", "only printable ASCII is read"), False)
    if not text.isprintable():
        return Screened(text, Refusal("control_characters", "control characters inside the text"), False)
    if " " in text:
        return Screened(text, Refusal("whitespace", "blanks inside the text; give the SMILES alone"), False)
    depth = deepest = 0
    if "(" in text:
        for character in text:
            if character == "(":
                depth += 1
                deepest = max(deepest, depth)
            elif character == ")":
                depth -= 1
        if deepest > MAX_DEPTH:
            return Screened(text, Refusal("too_deep", f"nesting {deepest}; at most {MAX_DEPTH} is read"), False)
    atoms = atom_tokens(text)
    n_atoms = len(atoms)
    safe = n_atoms <= SAFE_ATOMS and len(text) <= SAFE_LENGTH and deepest <= SAFE_DEPTH
    outside = text
    if "[" in text:
        n_atoms -= sum(token[0] == "[" and token.strip("[]0123456789+-@") in ("H", "HH") for token in atoms)
        safe = safe and all(_PLAIN_BRACKET.match(token) for token in atoms if token[0] == "[")
        outside = _ATOM.sub("", text)
    if n_atoms > max_heavy_atoms:
        detail = f"{n_atoms} heavy atoms; at most {max_heavy_atoms} are allowed"
        return Screened(text, Refusal("too_many_atoms", detail), False)
    if safe and len(_RING.findall(outside)) > SAFE_RING_MARKS:
        safe = False
    return Screened(text, None, safe)


@lru_cache(maxsize=4096)
def token_type(token: str) -> Any:
    """(type, explicit hydrogens or None, has an isotope) of an atom of a canonical SMILES; None if not understood."""
    if token[0] != "[":
        return (token.capitalize(), 0), None, False
    match = _BRACKET.match(token)
    if match is None:
        return None
    isotope, element, _, hydrogens, sign, digits = match.groups()
    charge = 0
    if sign:
        charge = (int(digits) if digits else len(sign)) * (1 if sign[0] == "+" else -1)
    n_hydrogens = 0 if hydrogens is None else int(hydrogens or 1)
    return (element.capitalize(), charge), n_hydrogens, bool(isotope)


def _messages(capture: object) -> str:
    """First line of what RDKit said while it failed, without its time stamp."""
    text = getattr(capture, "messages", "") or ""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return re.sub(r"^\[[\d:]+\]\s*", "", line)[:200]


class _Quiet:
    """RDKit's logs off inside, its error text kept where this RDKit can (2025.09+); the earlier state comes back."""

    def __enter__(self) -> "_Quiet":
        self._block = rdBase.BlockLogs()
        factory = getattr(rdBase, "CaptureErrorLog", None)
        self._capture = factory() if factory is not None else None
        if self._capture is not None:
            self._capture.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._capture is not None:
            self._capture.__exit__(None, None, None)
        self._block.__exit__(None, None, None)

    def text(self) -> str:
        return _messages(self._capture)


def read_graph(text: str, canonical: bool = False) -> ParsedGraph | Refusal:
    """Parse one screened SMILES into a kekulised graph.

    Args:
        text: a string that passed :func:`screen`.
        canonical: the text is RDKit's canonical SMILES without stereo already (our own files); saves half the time.
    Returns:
        ParsedGraph with atoms in the order of the canonical SMILES, or a Refusal. Never raises for bad chemistry.
    """

    def read() -> ParsedGraph | Refusal | None:
        if canonical:
            return kekulised(text)
        molecule = Chem.MolFromSmiles(text, _PARSER)
        smiles = None if molecule is None else canonical_of(molecule, has_hydrogens="[" in text)
        return kekulised(smiles) if isinstance(smiles, str) else smiles

    return _refused(read, "not a SMILES that RDKit can read")


def read_mol_block(block: str) -> str | Refusal:
    """Canonical SMILES, without stereo, of an MDL mol block (an SDF record); run in the worker (RDKit #6434 hangs)."""

    def read() -> str | Refusal | None:
        molecule = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False, strictParsing=True)
        if molecule is not None and molecule.GetNumAtoms() > MAX_BLOCK_ATOMS:
            return Refusal("too_many_atoms", f"{molecule.GetNumAtoms()} atoms, hydrogens included")
        return None if molecule is None else canonical_of(molecule)

    return _refused(read, "not a mol block that RDKit can read")


def smiles_of(molecule: Chem.Mol) -> str | Refusal:
    """Canonical SMILES of a molecule built from bare atoms and bonds (changed in place), or a refusal."""
    return _refused(lambda: canonical_of(molecule), "not a molecule")


def _refused(read: Callable[[], Any], otherwise: str) -> Any:
    """What ``read`` returns, with None and RDKit's own errors as refusals; RDKit's logs are silent meanwhile."""
    with _Quiet() as quiet:
        try:
            result = read()
        except Chem.AtomValenceException as error:
            return Refusal("valence", str(error)[:200])
        except Chem.MolSanitizeException as error:
            return Refusal("sanitize", str(error)[:200])
        except MemoryError:
            return Refusal("memory", "RDKit ran out of memory")
        except (RuntimeError, ValueError, OverflowError) as error:  # RDKit's own invariants, bad_alloc, huge numbers
            return Refusal("parse_error", (quiet.text() or str(error).strip().partition("\n")[0])[:200])
        return Refusal("parse_error", quiet.text() or otherwise) if result is None else result


def canonical_of(molecule: Chem.Mol, has_hydrogens: bool = True) -> str | Refusal:
    """Canonical SMILES without stereo of an unsanitised molecule (changed in place); raises RDKit's own errors."""
    if molecule.GetNumAtoms() == 0:
        return Refusal("empty", "no atoms")
    if has_hydrogens:
        for atom in molecule.GetAtoms():
            if atom.GetAtomMapNum():
                atom.SetAtomMapNum(0)
    Chem.RemoveStereochemistry(molecule)
    Chem.SanitizeMol(molecule)
    if has_hydrogens and any(atom.GetAtomicNum() == 1 for atom in molecule.GetAtoms()):
        molecule = Chem.RemoveHs(molecule)
    return Chem.MolToSmiles(molecule)


def kekulised(smiles: str) -> ParsedGraph | Refusal:
    """Types and bond orders of a canonical SMILES, or why the state cannot hold them."""
    if "." in smiles:
        return Refusal("disconnected", f"{smiles.count('.') + 1} fragments")
    tokens = atom_tokens(smiles)
    types: list[AtomType] = []
    explicit: list[tuple[int, int]] = []
    for position, token in enumerate(tokens):
        known = token_type(token)
        if known is None:
            return Refusal("unknown_type", f"atom {token}")
        (element, charge), hydrogens, isotope = known
        if isotope:
            return Refusal("isotope", f"atom {token}")
        if element == "H":
            return Refusal("explicit_hydrogen", f"atom {token}")
        if atomic_number(element) == 0:
            return Refusal("unknown_type", f"atom {token}")
        types.append((element, charge))
        if hydrogens is not None:
            explicit.append((position, hydrogens))
    molecule = Chem.MolFromSmiles(smiles, _PARSER)
    if molecule is None or molecule.GetNumAtoms() != len(types):
        return Refusal("round_trip", "its canonical SMILES cannot be read back")
    if "$" in smiles or "~" in smiles or "->" in smiles or "<-" in smiles:
        return Refusal("bond_type", "a bond that is not single, double, triple or aromatic")
    try:
        Chem.SanitizeMol(molecule, sanitizeOps=_KEKULISE)
    except Chem.MolSanitizeException:
        return Refusal("round_trip", "its canonical SMILES cannot be kekulised again")
    orders = Chem.GetAdjacencyMatrix(molecule, useBO=True)
    bonds = orders.astype(np.int8)
    if (bonds != orders).any() or bonds.max(initial=0) > 3:
        return Refusal("bond_type", "a bond that is not single, double, triple or aromatic")
    for position, hydrogens in explicit:
        element, charge = types[position]
        expected = implicit_hydrogens(element, charge, int(bonds[position].sum()))
        if expected == hydrogens:
            continue
        word = "radical" if expected is not None and hydrogens < expected else "hydrogen_count"
        return Refusal(word, f"{element} with charge {charge:+d} and {hydrogens} hydrogens; RDKit expects {expected}")
    return ParsedGraph(smiles, tuple(types), bonds)
