"""Aligned sequences for Potts models: FASTA, A2M and A3M, with gaps; weights that undo the bias of the family tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.datasets.files import existing, open_file
from discrete_ebm.datasets.parts import Dataset, split_rows
from discrete_ebm.errors import DataError, SettingError
from discrete_ebm.spaces import Categorical

__all__ = ["LETTERS", "Alignment", "read_alignment", "sequence_weights"]

LETTERS = {"protein": "-ACDEFGHIKLMNPQRSTVWY", "dna": "-ACGT", "rna": "-ACGU"}  # the gap is value 0
_CHUNK = 1024


@dataclass(frozen=True)
class Alignment:
    """Aligned sequences as states, and what was left out.

    Attributes:
        x: (n, L) int8 values, 0 = gap. letters: value -> letter. names: of the n sequences.
        rejected: (name, reason) of each sequence left out; the reasons are "length", "unknown letter", "gaps", "empty".
        unknown: letter -> how often it was met, among sequences kept and not. gaps: share of gaps in ``x``.
    """

    x: Tensor
    letters: str
    names: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    unknown: dict[str, int]
    gaps: float

    @property
    def space(self) -> Categorical:
        """Categorical((L,), number of letters)."""
        return Categorical(self.x.shape[1], len(self.letters))

    def dataset(self, *, weights_at: float | None = None, split: Sequence[float] | None = None,
                seed: int = 0, name: str = "alignment") -> Dataset:  # fmt: skip
        """A :class:`Dataset`; ``weights_at`` = 0.8 gives training rows the weights of :func:`sequence_weights`.

        Rows of the parts are chosen one by one: close relatives can stand on both sides.
        """
        train, valid, test = split_rows(len(self.x), split, seed)
        weights = None if weights_at is None else sequence_weights(self.x[train], weights_at)
        weights = None if weights is None else weights / weights.mean()
        counts = Counter(reason for _, reason in self.rejected)
        note = f"{len(self.x)} sequences of {self.x.shape[1]} columns, {self.gaps:.1%} gaps; letters {self.letters}"
        return Dataset(name, self.space, self.x[train], self.x[valid], self.x[test], classes=tuple(self.letters),
                       weights=weights, rejected=dict(counts), note=note)  # fmt: skip


def read_alignment(
    path: str | Path, letters: str = "protein", *, unknown: str = "refuse", max_gaps: float = 1.0
) -> Alignment:
    """Read aligned sequences in FASTA, A2M or A3M (lower-case insertions and dots are dropped), plain or gzipped.

    Args:
        path: the file. letters: "protein", "dna", "rna", or the letters themselves, the gap first, e.g. "-01".
        unknown: what happens to a letter outside the alphabet (B, J, O, U, X, Z, N, ...): "refuse" leaves the sequence
            out, with the reason "unknown letter"; "gap" reads it as a gap. Both count it.
        max_gaps: sequences with a larger share of gaps are left out, with the reason "gaps".
    Returns:
        Alignment: ``.x``, ``.rejected`` with a reason each, ``.dataset()``. The length is the commonest one.
    Raises:
        DataError: no FASTA, or nothing left. SettingError: an option out of its range.
    """
    path = existing(path)
    code = _code(letters)
    if unknown not in ("refuse", "gap"):
        raise SettingError(f"`unknown` must be 'refuse' or 'gap'; got {unknown!r}.")
    if not 0 <= max_gaps <= 1:
        raise SettingError(f"`max_gaps` must be a share from 0 to 1; got {max_gaps!r}.")
    insertions = path.name.removesuffix(".gz").endswith((".a2m", ".a3m"))
    entries = [(name, _columns(text, insertions)) for name, text in _fasta(path)]
    lengths = Counter(len(text) for _, text in entries if text)
    if not lengths:
        raise DataError(f"`path` must hold sequences; got {path}, whose {len(entries)} are all empty. Check the file.")
    length = max(lengths, key=lambda size: (lengths[size], size))
    kept, names, rejected = [], [], []
    met: Counter[str] = Counter()
    for name, text in entries:
        row = np.array([code.get(letter, -1) for letter in text], dtype=np.int8)
        met.update(letter for letter, value in zip(text, row, strict=True) if value < 0)
        if unknown == "gap":
            row = np.maximum(row, 0)
        reason = _why_not(row, length, max_gaps)
        if reason:
            rejected.append((name, reason))
        else:
            kept.append(row)
            names.append(name)
    if not kept:
        counts = ", ".join(f"{reason} {count}" for reason, count in Counter(r for _, r in rejected).items())
        raise DataError(f"`path` must hold a sequence of the alphabet {''.join(code)}; got {path}, where all "
                        f"{len(rejected)} are refused ({counts}). Choose letters=, or unknown='gap'.")  # fmt: skip
    x = torch.from_numpy(np.stack(kept))
    return Alignment(x, "".join(code), tuple(names), tuple(rejected), dict(met), float((x == 0).double().mean()))


def sequence_weights(x: Tensor, identity: float = 0.8) -> Tensor:
    """(n,) float64: 1 / (sequences, itself included, that agree with it in at least ``identity`` of the columns).

    Their sum is the effective number of sequences. Gaps count as letters. Cost: n² L in blocks, memory n · 1024.

    Args:
        x: (n, L) states of :class:`Alignment`. identity: 0.8 in the literature.
    Source: Morcos et al. 2011, PNAS 108 (49), E1293, supporting information (reweighting at x = 0.8).
    """
    if isinstance(identity, bool) or not 0 < identity <= 1:
        raise SettingError(f"`identity` must be above 0 and at most 1; got {identity!r}. 0.8 is usual.")
    if x.dim() != 2 or not len(x):
        raise DataError(f"`x` must have shape (n, L); got {tuple(x.shape)}.")
    length = x.shape[1]
    hot = torch.nn.functional.one_hot(x.long(), int(x.max()) + 1).flatten(1).float()
    need = identity * length - 1e-6  # agreements are whole numbers: 8 of 10 is 80 %
    counts = torch.cat([((part @ hot.T) >= need).sum(1) for part in hot.split(_CHUNK)])
    return 1.0 / counts.double()


def _code(letters: str) -> dict[str, int]:
    chosen = LETTERS.get(letters.lower(), letters) if isinstance(letters, str) else ""
    if not 2 <= len(chosen) <= 127 or len(set(chosen)) != len(chosen):
        raise SettingError(f"`letters` must be {', '.join(LETTERS)} or at least two different letters, the gap first; "
                           f"got {letters!r}.")  # fmt: skip
    return {letter: value for value, letter in enumerate(chosen)}


def _fasta(path: Path) -> Iterator[tuple[str, str]]:
    """(name, letters) of each entry."""
    name: str | None = None
    lines: list[str] = []
    with open_file(path) as stream:
        try:
            text = stream.read().decode("ascii")
        except (UnicodeDecodeError, EOFError, OSError) as cause:
            raise DataError(f"`path` must be FASTA text; got {path} ({cause}).") from cause
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(">"):
            if name is not None:
                yield name, "".join(lines)
            name, lines = line[1:].strip() or f"line {number}", []
        elif name is not None:
            lines.append("".join(line.split()))
        elif line.strip():
            raise DataError(f"`path` must be FASTA, whose entries begin with '>'; got {line[:40]!r} in line {number} "
                            f"of {path}. Other formats: convert it first.")  # fmt: skip
    if name is None:
        raise DataError(f"`path` must be FASTA, whose entries begin with '>'; got {path} without any.")
    yield name, "".join(lines)


def _columns(text: str, insertions: bool) -> str:
    """The aligned columns: insertions dropped from A2M and A3M, dots as gaps and upper case elsewhere."""
    if insertions:
        return "".join(letter for letter in text if not letter.islower() and letter != ".")
    return text.replace(".", "-").upper()


def _why_not(row: np.ndarray, length: int, max_gaps: float) -> str | None:
    if not len(row):
        return "empty"
    if len(row) != length:
        return "length"
    if (row < 0).any():
        return "unknown letter"
    return "gaps" if float((row == 0).mean()) > max_gaps else None
