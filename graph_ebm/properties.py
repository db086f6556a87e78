"""Properties of molecules: a registry of names, any Python callable besides, and failures that are counted.

A SMILES is taken as it stands. States hold no stereo, so the molecules of a MoleculeSet are valued without it: of the
built-in properties only the SA score can differ, by up to 0.2 for a few molecules in a thousand.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Descriptors, rdMolDescriptors
from tqdm.auto import tqdm

from discrete_ebm.errors import RegistryError, SettingError
from graph_ebm.chem import isolate
from graph_ebm.chem.reader import Refusal, screen
from graph_ebm.scoring import Scoring, score
from graph_ebm.scoring_worker import Outcome, find, outcome_of

# Means and standard deviations of logP, -SA and -cycle penalty over ZINC250k, as every paper that reports
# *normalised* penalised logP uses them (GCPN and its successors).
LOGP_MEAN, LOGP_SD = 2.4570953396190123, 1.434324401111988
SA_MEAN, SA_SD = -3.0525811293166134, 0.8335207024513095
CYCLE_MEAN, CYCLE_SD = -0.0485696876403053, 0.2860212110245455


@dataclass(frozen=True)
class PropertySpec:
    """A named property: ``function`` takes a sanitised RDKit molecule and returns a float.

    ``terms``, if any, are functions of the molecule whose values ``function`` takes *instead* of the molecule; a term
    that several properties share is computed once. ``path``, if any, is the ``module:function`` that it calls: such a
    function of a user runs in processes of its own.
    """

    name: str
    function: Callable[..., float]
    summary: str
    unit: str = ""
    higher_is_better: bool = True
    source: str = ""
    terms: tuple[Callable[[Chem.Mol], float], ...] = ()
    path: str = ""


def qed(molecule: Chem.Mol) -> float:
    """Quantitative estimate of drug-likeness, 0..1. Source: Bickerton et al. 2012, doi:10.1038/nchem.1243."""
    return float(QED.qed(molecule))


def logp(molecule: Chem.Mol) -> float:
    """Crippen octanol-water logP. Source: Wildman & Crippen 1999, doi:10.1021/ci990307l."""
    return float(rdMolDescriptors.CalcCrippenDescriptors(molecule)[0])


def sa(molecule: Chem.Mol) -> float:
    """Synthetic accessibility, 1 (easy) .. 10 (hard). Source: Ertl & Schuffenhauer 2009, doi:10.1186/1758-2946-1-8."""
    from rdkit.Contrib.SA_Score import sascorer  # loads a table of fragments on first use (about 0.5 s)

    with warnings.catch_warnings():  # RDKit's script closes its file late on some releases
        warnings.simplefilter("ignore", ResourceWarning)
        return float(sascorer.calculateScore(molecule))


def cycle_penalty(molecule: Chem.Mol) -> float:
    """max(0, size of the largest ring - 6), rings as in networkx's cycle basis.

    That is how the papers that define penalised logP count rings: in cages (adamantane) such a basis holds larger
    cycles than the smallest set of smallest rings, and their sizes may depend on the order of the atoms.
    """
    rings = molecule.GetRingInfo().AtomRings()
    sizes = [len(ring) for ring in rings]
    if sum(sizes) != len({atom for ring in rings for atom in ring}):  # rings share atoms: the two notions may differ
        import networkx

        # From the matrix, as the original code does: the basis depends on the order in which edges are added.
        graph = networkx.Graph(Chem.GetAdjacencyMatrix(molecule))
        sizes = [len(cycle) for cycle in networkx.cycle_basis(graph)]
    return float(max(0, max(sizes, default=0) - 6))


def plogp(logp_value: float, sa_value: float, cycle_value: float) -> float:
    """Penalised logP, *raw*: logP - SA - cycle penalty. Source: Jin et al. 2018, arXiv:1802.04364, constrained task."""
    return logp_value - sa_value - cycle_value


def plogp_normalized(logp_value: float, sa_value: float, cycle_value: float) -> float:
    """Penalised logP, *normalised*: sum of the z-scores of its terms over ZINC250k. Source: arXiv:1806.02473 (GCPN)."""
    return (logp_value - LOGP_MEAN) / LOGP_SD + (-sa_value - SA_MEAN) / SA_SD + (-cycle_value - CYCLE_MEAN) / CYCLE_SD


_descriptors: Any = Descriptors  # its functions are made at import, out of a type checker's sight
_REGISTRY: dict[str, PropertySpec] = {}


def register(spec: PropertySpec) -> None:
    """Add a property; a name that is taken raises RegistryError."""
    if spec.name in _REGISTRY:
        raise RegistryError(f"`name` must be new; got {spec.name!r}, which is registered. Choose another name.")
    _REGISTRY[spec.name] = spec


def names() -> list[str]:
    """Registered names, sorted."""
    return sorted(_REGISTRY)


def spec(name: str) -> PropertySpec:
    """The PropertySpec of a registered name, or of a ``module:function`` path.

    A path names any importable callable that takes a SMILES string and returns a number.

    Raises:
        RegistryError: the name is unknown (the nearest one is suggested).
        SettingError: the path cannot be imported or is not callable.
    """
    if not isinstance(name, str):
        raise SettingError(f"a property must be named by a string; got {type(name).__name__}. Known: {_known()}.")
    if name in _REGISTRY:
        return _REGISTRY[name]
    if ":" in name:
        return _from_path(name)
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), _REGISTRY, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise RegistryError(f"Unknown property {name!r}. {hint}Known: {_known()}; or give 'module:function'.")


def _known() -> str:
    return ", ".join(names())


def _from_path(path: str) -> PropertySpec:
    try:
        function = find(path)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise SettingError(
            f"`{path}` must name an importable function as module:function; got {type(error).__name__}: {error}. "
            "Check the spelling, that the module is on PYTHONPATH, and that `import` of it works by itself."
        ) from error
    if not callable(function):
        raise SettingError(f"`{path}` must be callable; got {type(function).__name__}. Name a function of a SMILES.")
    return replace(from_callable(path, function), path=path)


def from_callable(name: str, function: Callable[[str], float]) -> PropertySpec:
    """A PropertySpec (not registered) from a function of a canonical SMILES."""
    return PropertySpec(name, lambda molecule: function(Chem.MolToSmiles(molecule)), f"user function {name}")


def of_smiles(item: PropertySpec) -> Callable[[str], float]:
    """A property as a function of a SMILES that RDKit can read."""

    def value(smiles: str) -> float:
        molecule = Chem.MolFromSmiles(smiles)
        return item.function(*(term(molecule) for term in item.terms)) if item.terms else item.function(molecule)

    return value


_PLOGP_TERMS = (logp, sa, cycle_penalty)
for _spec in (
    PropertySpec("qed", qed, "drug-likeness (QED)", "0..1", True, "doi:10.1038/nchem.1243"),
    PropertySpec("logp", logp, "octanol-water partition (Crippen logP)", "log10", True, "doi:10.1021/ci990307l"),
    PropertySpec("sa", sa, "synthetic accessibility (Ertl)", "1..10", False, "doi:10.1186/1758-2946-1-8"),
    PropertySpec(
        "plogp",
        plogp,
        "penalised logP, raw: logP - SA - cycle penalty",
        source="arXiv:1802.04364",
        terms=_PLOGP_TERMS,
    ),
    PropertySpec(
        "plogp-normalized",
        plogp_normalized,
        "penalised logP, sum of the z-scores of its terms over ZINC250k",
        source="arXiv:1806.02473",
        terms=_PLOGP_TERMS,
    ),
    PropertySpec(
        "tpsa",
        lambda m: float(rdMolDescriptors.CalcTPSA(m)),
        "topological polar surface area",
        "Å²",
        False,
        "doi:10.1021/jm000942e",
    ),
    PropertySpec("mw", lambda m: float(_descriptors.MolWt(m)), "average molecular weight", "g/mol", False),
    PropertySpec("rings", lambda m: float(m.GetRingInfo().NumRings()), "number of rings (SSSR)", "", False),
    PropertySpec("heavy_atoms", lambda m: float(m.GetNumHeavyAtoms()), "number of heavy atoms", "", False),
):
    register(_spec)


@dataclass(frozen=True)
class Failure:
    """One value that could not be computed: which molecule, which property, a reason word and what was said."""

    index: int
    smiles: str
    property: str
    reason: str
    detail: str


@dataclass
class Failures:
    """All values that could not be computed; their entries in the result are NaN."""

    items: list[Failure] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def counts(self) -> dict[tuple[str, str], int]:
        """``{(property, reason): number}``, most frequent first."""
        return dict(Counter((item.property, item.reason) for item in self.items).most_common())

    def __str__(self) -> str:
        if not self.items:
            return "no failures"
        lines = ["property            reason            count  example"]
        for (name, reason), count in self.counts().items():
            first = next(f for f in self.items if (f.property, f.reason) == (name, reason))
            lines.append(f"{name[:19]:<19} {reason:<17} {count:>5}  {first.smiles[:40]} {first.detail[:60]}".rstrip())
        return "\n".join(lines)


def compute(
    properties: str | Sequence[str | PropertySpec], molecules: Iterable[Any], scoring: Scoring | None = None
) -> tuple[dict[str, np.ndarray], Failures]:
    """Values of properties for molecules; what fails is NaN and on record.

    Args:
        properties: names, ``module:function`` paths or PropertySpecs (one string counts as one name).
        molecules: a MoleculeSet, SMILES strings, RDKit molecules, or None where there is no molecule.
        scoring: how ``module:function`` properties are run; by default in worker processes under limits of time and
            memory, see :class:`graph_ebm.scoring.Scoring`. All others are computed here; with its ``progress``
            they show a bar too, where they take longer than a second.
    Returns:
        ({name: (n,) float64}, Failures). Reasons: ``no_molecule`` (None), ``parse_error`` and the other words of
        :data:`graph_ebm.chem.reader.REASONS` (the SMILES cannot be read), and those of
        :data:`graph_ebm.scoring.REASONS`: ``raised``, ``nan`` (NaN or infinite), ``not_a_number``, ``timeout``,
        ``memory``, ``crash``.
    Raises:
        RegistryError, SettingError: a property cannot be found; before anything is computed.
    """
    wanted = [properties] if isinstance(properties, str | PropertySpec) else list(properties)
    specs = [item if isinstance(item, PropertySpec) else spec(item) for item in wanted]
    entries = list(getattr(molecules, "smiles", molecules))
    values = {item.name: np.full(len(entries), np.nan) for item in specs}
    failed: list[tuple[int, int, Failure]] = []  # by entry, then by property
    elsewhere: dict[int, str] = {}  # canonical SMILES by entry, for functions that run in processes of their own

    def keep(index: int, order: int, text: str, outcome: Outcome) -> None:
        if outcome.reason:
            failure = Failure(index, text, specs[order].name, outcome.reason, outcome.detail)
            failed.append((index, order, failure))
        else:
            values[specs[order].name][index] = outcome.value

    texts = []
    apart = any(item.path for item in specs)
    shown = scoring is not None and scoring.progress
    bar = tqdm(entries, disable=not shown, desc="properties", unit="mol", leave=False, delay=1)
    for index, entry in enumerate(bar):
        with rdBase.BlockLogs():
            molecule, text, reason, detail = _molecule(entry)
        texts.append(text)
        terms: dict[Any, float] = {}
        if molecule is not None and apart:
            elsewhere[index] = Chem.MolToSmiles(molecule)
        for order, item in enumerate(specs):
            if molecule is None:
                keep(index, order, text, Outcome(math.nan, reason, detail))
            elif not item.path:
                keep(index, order, text, _value(item, molecule, terms))
    for order, item in enumerate(specs):
        if item.path and elsewhere:
            outcomes = score(item.path, list(elsewhere.values()), scoring).outcomes
            for index, outcome in zip(elsewhere, outcomes, strict=True):
                keep(index, order, texts[index], outcome)
    return values, Failures([failure for _, _, failure in sorted(failed, key=lambda found: found[:2])])


def _molecule(entry: Any) -> tuple[Chem.Mol | None, str, str, str]:
    """(sanitised molecule or None, SMILES, reason, detail); a SMILES is screened as in :mod:`graph_ebm.chem.parse`."""
    if entry is None:
        return None, "", "no_molecule", "None"
    if isinstance(entry, Chem.Mol):
        if entry.GetNumAtoms() == 0:
            return None, "", "empty", "no atoms"
        return entry, Chem.MolToSmiles(entry), "", ""
    screened = screen(entry)
    text, refusal = screened.text, screened.refusal
    if refusal is None and not screened.safe:
        graph = isolate.read(text)
        text, refusal = (text, graph) if isinstance(graph, Refusal) else (graph.smiles, None)
    if refusal is not None:
        return None, str(entry)[:200], refusal.reason, refusal.detail
    molecule = Chem.MolFromSmiles(text)
    if molecule is None or molecule.GetNumAtoms() == 0:
        return None, text, "parse_error", "not a SMILES that RDKit can read"
    return molecule, text, "", ""


def _value(item: PropertySpec, molecule: Chem.Mol, known: dict[Any, float]) -> Outcome:
    """Value or reason; ``known`` holds what was computed for this molecule already."""

    def call() -> float:
        for term in item.terms or (item.function,):
            if term not in known:
                known[term] = term(molecule)
        return item.function(*(known[term] for term in item.terms)) if item.terms else known[item.function]

    return outcome_of(call)
