"""Which samples are molecules: parsed, sanitised, connected, at least one atom; counted before any filter.

Nothing is corrected and nothing leaves the denominator: N samples in = N valid + N rejected, each with a reason.
Molecules are compared as canonical SMILES without stereo and without isotopes, because graph states carry neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rdkit import Chem, rdBase

from discrete_ebm.errors import MoleculeError
from graph_ebm.chem import isolate
from graph_ebm.chem.reader import Refusal, screen

Sample: TypeAlias = "str | Chem.Mol | Refusal | None"

MAX_HEAVY_ATOMS = 128
_UNFINISHED = {"timeout", "memory", "crash"}  # what only the isolated reader can find out


@dataclass(frozen=True)
class CheckedSamples:
    """The verdict on each sample, in the order given.

    Attributes:
        smiles: canonical SMILES without stereo for a valid sample, None for a rejected one; length N.
        reasons: how many samples were rejected for each reason; the counts add up to N - n_valid.
    """

    smiles: tuple[str | None, ...]
    reasons: dict[str, int] = field(default_factory=dict)

    @classmethod
    def trusted(cls, smiles: Iterable[str]) -> CheckedSamples:
        """Canonical SMILES without stereo that were read and written by this package, taken as they are.

        For training and reference molecules (``MoleculeSet.smiles``): checking 20,000 again would take many seconds.
        """
        return cls(tuple(smiles))

    @property
    def n(self) -> int:
        """All samples, valid or not: the denominator."""
        return len(self.smiles)

    @property
    def valid(self) -> list[str]:
        """Canonical SMILES of the valid samples, with repeats."""
        return [s for s in self.smiles if s is not None]

    @property
    def unique(self) -> list[str]:
        """Distinct valid molecules, in order of first appearance."""
        return list(dict.fromkeys(self.valid))

    @property
    def n_valid(self) -> int:
        return sum(s is not None for s in self.smiles)


def check_sample(sample: Sample) -> tuple[str | None, str]:
    """Canonical SMILES without stereo of one sample, or None with the reason of the rejection.

    Valid means: parses, sanitises, has at least one atom, is one connected piece, and its own canonical SMILES parses
    again. ``sample`` may be a SMILES, an RDKit molecule, or None (what many generators write for a failure).
    Texts that could hurt RDKit are first read in the worker process of :mod:`graph_ebm.chem.isolate`.

    Returns:
        (smiles, "") or (None, reason); reasons are ``missing`` and words of ``graph_ebm.chem.reader.REASONS``.

    Raises:
        MoleculeError: the sample is of another type.
    """
    if sample is None:
        return None, "missing"
    if isinstance(sample, Refusal):  # a row of a file that could not be read
        return None, sample.reason
    if isinstance(sample, Chem.Mol):
        mol = Chem.Mol(sample)  # the caller's molecule stays as it is
    elif isinstance(sample, str):
        if sample.strip().lower() in {"", "none", "nan"}:
            return None, "missing"
        screened = screen(sample, max_heavy_atoms=MAX_HEAVY_ATOMS)
        if screened.refusal is not None:
            return None, screened.refusal.reason
        if not screened.safe:
            outcome = isolate.read(screened.text)
            if isinstance(outcome, Refusal) and outcome.reason in _UNFINISHED:
                return None, outcome.reason
        mol = Chem.MolFromSmiles(screened.text, sanitize=False)
        if mol is None:
            return None, "parse_error"
    else:
        raise MoleculeError(
            f"each sample must be a SMILES string, an RDKit molecule or None; got {type(sample).__name__}. "
            "Write graphs as SMILES first with `ge.to_smiles(graphs)`."
        )
    for atom in mol.GetAtoms():  # labels, not chemistry; a labelled hydrogen would otherwise stay an atom
        atom.SetAtomMapNum(0)
        atom.SetIsotope(0)
    try:
        Chem.SanitizeMol(mol)
        mol = Chem.RemoveHs(mol)
    except (ValueError, RuntimeError):  # AtomValenceException and its siblings are ValueErrors
        return None, "sanitize"
    refusal = _unfit(mol)
    if refusal:
        return None, refusal
    canonical = Chem.MolToSmiles(mol, isomericSmiles=False)
    return (canonical, "") if Chem.MolFromSmiles(canonical) is not None else (None, "round_trip")


def _unfit(mol: Chem.Mol) -> str:
    """Reason why a sanitised molecule does not count as one, or an empty string."""
    if mol.GetNumAtoms() == 0:
        return "empty"
    if mol.GetNumAtoms() > MAX_HEAVY_ATOMS:
        return "too_many_atoms"
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        return "unknown_type"
    return "disconnected" if len(Chem.GetMolFrags(mol)) != 1 else ""


def check_samples(samples: Any) -> CheckedSamples:
    """Check every sample; an empty list and None give an empty verdict (n = 0).

    Args:
        samples: SMILES strings, RDKit molecules or None in any mixture; or anything with a list ``.smiles`` (a
            ``MoleculeSet``, generated molecules); an earlier verdict is returned as it is; None is an empty list.

    Raises:
        MoleculeError: a sample is of another type, or ``samples`` is one string.
    """
    if isinstance(samples, CheckedSamples):
        return samples
    if isinstance(samples, str):
        raise MoleculeError("`samples` must be a list of SMILES; got one string. Put it in a list: [smiles].")
    samples = getattr(samples, "smiles", samples)
    smiles: list[str | None] = []
    reasons: Counter[str] = Counter()
    with rdBase.BlockLogs():  # restores the log state that the caller had
        for sample in () if samples is None else samples:
            canonical, reason = check_sample(sample)
            smiles.append(canonical)
            if reason:
                reasons[reason] += 1
    return CheckedSamples(tuple(smiles), dict(reasons.most_common()))


def molecules_of(smiles: Iterable[str]) -> Iterator[Chem.Mol]:
    """RDKit molecules of SMILES that have been checked."""
    for text in smiles:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(text)
        if mol is None:
            raise MoleculeError(f"`smiles` must hold checked molecules; got {text!r}. Run `check_samples` first.")
        yield mol
