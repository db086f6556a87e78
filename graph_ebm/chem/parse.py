"""Reading many molecules: nothing is dropped in silence, nothing a string holds can hurt the process.

Strings within tight bounds are parsed here; all others that are not refused by the text check go to a worker process
with limited memory and time (:mod:`graph_ebm.chem.isolate`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rdkit import Chem
from tqdm.auto import tqdm

from discrete_ebm.errors import SmilesRejected
from graph_ebm.chem import isolate
from graph_ebm.chem.reader import MAX_LENGTH, REASONS, ParsedGraph, Refusal, read_graph, screen


@dataclass(frozen=True)
class Rejection:
    """One refused entry: ``index`` in the input, its ``text`` (cut at 200 characters), ``reason``, ``detail``."""

    index: int
    text: str
    reason: str
    detail: str = ""


@dataclass
class Rejections:
    """The refused part of an input of ``n_in`` entries: always ``n_in == n_kept + len(rejections)``."""

    n_in: int = 0
    items: list[Rejection] = field(default_factory=list)

    @property
    def n_kept(self) -> int:
        """Entries that were kept."""
        return self.n_in - len(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Rejection]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Rejection:
        return self.items[index]

    def counts(self) -> dict[str, int]:
        """``{reason: number}``, most frequent first."""
        return dict(Counter(item.reason for item in self.items).most_common())

    def __str__(self) -> str:
        lines = [f"{self.n_in} in, {self.n_kept} kept, {len(self)} rejected"]
        for reason, count in self.counts().items():
            example = next(item for item in self.items if item.reason == reason)
            meaning = REASONS.get(reason, reason)
            lines.append(f"  {count:>7} {reason}: {meaning}; e.g. entry {example.index}: {example.text[:60]!r}")
        return "\n".join(lines)


def read_one(entry: Any, *, canonical: bool = False, max_length: int = MAX_LENGTH, n_atoms: int = 128) -> Any:
    """One SMILES or RDKit molecule -> ParsedGraph or Refusal; see :func:`read_many`."""
    if isinstance(entry, Chem.Mol):
        # A molecule in memory was parsed by its owner; its SMILES goes through the same gates as anyone's.
        if entry.GetNumAtoms() > n_atoms:
            return Refusal("too_many_atoms", f"{entry.GetNumAtoms()} atoms; at most {n_atoms} are allowed")
        entry = Chem.MolToSmiles(entry)
    screened = screen(entry, max_length, n_atoms)
    if screened.refusal is not None:
        return screened.refusal
    if screened.safe:
        return read_graph(screened.text, canonical)
    return isolate.read(screened.text)


def read_many(
    entries: Iterable[Any],
    *,
    canonical: bool = False,
    max_length: int = MAX_LENGTH,
    max_heavy_atoms: int = 128,
    progress: bool = False,
) -> tuple[list[ParsedGraph], Rejections]:
    """Read SMILES (or RDKit molecules) into kekulised graphs, with every refusal on record.

    Args:
        entries: strings; anything else is refused with reason ``not_text``.
        canonical: the strings are RDKit's canonical SMILES without stereo already; skips one of two parses.
        max_length: longest SMILES in characters.
        max_heavy_atoms: largest molecule that is read.
        progress: show a bar, where it takes longer than a second.
    Returns:
        (graphs, rejections), ``rejections.n_in == len(graphs) + len(rejections)``. The index of a kept graph in
        ``entries`` is in ``kept_indices(rejections)``.
    """
    if isinstance(entries, str | bytes):
        raise SmilesRejected(
            "not_text", f"`entries` must be a list of SMILES; got one {type(entries).__name__}. Put it in a list."
        )
    graphs: list[ParsedGraph] = []
    rejections = Rejections()
    bar = tqdm(entries, disable=not progress, desc="reading molecules", unit="mol", leave=False, delay=1)
    for index, entry in enumerate(bar):
        rejections.n_in += 1
        outcome = read_one(entry, canonical=canonical, max_length=max_length, n_atoms=max_heavy_atoms)
        if isinstance(outcome, Refusal):
            text = entry[:200] if isinstance(entry, str) else repr(entry)[:200]
            rejections.items.append(Rejection(index, text, outcome.reason, outcome.detail))
        else:
            graphs.append(outcome)
    return graphs, rejections


def kept_indices(rejections: Rejections) -> list[int]:
    """Positions in the input of the entries that were kept, in order."""
    refused = {item.index for item in rejections.items}
    return [index for index in range(rejections.n_in) if index not in refused]


def parse(smiles: str) -> ParsedGraph:
    """One SMILES as a kekulised graph; raises SmilesRejected, with a ``reason``, where it cannot be read."""
    outcome = read_one(smiles)
    if isinstance(outcome, Refusal):
        shown = smiles[:60] if isinstance(smiles, str) else repr(smiles)[:60]
        raise SmilesRejected(outcome.reason, f"`smiles` must be readable; got {shown!r}: {outcome.detail}.")
    return outcome
