"""Readers for the user's molecules: ``.smi``, ``.csv`` / ``.tsv`` and ``.sdf``, each also with ``.gz``.

Every row is kept or listed as a rejection. Lines are cut at 100,000 characters while they are read, so that a broken
file cannot fill the memory; a cut line is refused as ``too_long``.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from discrete_ebm.errors import DataError, SettingError
from graph_ebm.chem import isolate
from graph_ebm.chem.parse import Rejection, Rejections
from graph_ebm.chem.reader import Refusal
from graph_ebm.graphs import MoleculeSet, from_smiles
from graph_ebm.space import MAX_ATOMS
from graph_ebm.vocabulary import Vocabulary

MAX_LINE = 100_000
MAX_RECORD_LINES = 20_000
MAX_BLOCK_LINES = 2_000
_KINDS = {".smi": "smi", ".smiles": "smi", ".txt": "smi", ".csv": "csv", ".tsv": "tsv", ".sdf": "sdf", ".sd": "sdf"}


@dataclass
class Table:
    """Rows of a file before parsing: ``smiles`` text or a Refusal per row, and the other columns as text."""

    smiles: list[str | Refusal]
    columns: dict[str, list[str]] = field(default_factory=dict)


def read(
    path: str | Path,
    column: str = "smiles",
    *,
    limit: int | None = None,
    seed: int | None = None,
    where: Mapping[str, str] | None = None,
    properties: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
    max_atoms: int = MAX_ATOMS,
    progress: bool = False,
) -> MoleculeSet:
    """Molecules of a file, with its numeric columns as properties and every refusal in ``.rejections``.

    Args:
        path: ``.smi`` / ``.smiles`` / ``.txt`` (SMILES first on each line, a name may follow), ``.csv`` / ``.tsv``
            (with a header) or ``.sdf``; all also ``.gz``.
        column: name of the SMILES column of a table; upper and lower case are the same if that is unambiguous.
        limit: at most this many rows: the first ones, or a random part where ``seed`` is given.
        seed: for the random part.
        where: ``{column: text}``; only rows with exactly these values are read, e.g. ``{"split": "train"}``.
        properties: columns (or SDF fields) to keep as numbers, blanks and text become NaN; None = every column in
            which all filled cells are numbers.
        vocabulary, max_atoms: of the space; see :func:`graph_ebm.from_smiles`.
        progress: show a bar, where it takes longer than a second.
    Returns:
        MoleculeSet; ``len(set) + len(set.rejections) == set.rejections.n_in``.
    Raises:
        DataError: the file cannot be read, is empty, or lacks a column. MoleculeError: no row was usable.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SettingError(f"`limit` must be a positive int or None; got {limit!r}.")
    table = read_table(path, column, first=limit if seed is None and not where else None)
    rows = _select(table, where or {}, limit, seed, path)
    texts = [table.smiles[row] for row in rows]
    names = _numeric(table, rows) if properties is None else list(properties)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(
            f"`properties` must be columns of {path}; got {missing}. Columns: {', '.join(table.columns) or 'none'}."
        )
    readable = ["" if isinstance(text, Refusal) else text for text in texts]
    molecules, found = from_smiles(readable, vocabulary, max_atoms, progress=progress)
    items = []
    for item in found:
        refusal = texts[item.index]
        if isinstance(refusal, Refusal):
            item = Rejection(item.index, f"row {rows[item.index]}", *refusal)
        items.append(item)
    refused = {item.index for item in items}
    kept = [row for index, row in enumerate(rows) if index not in refused]
    values = {name: np.array([_number(table.columns[name][row]) for row in kept]) for name in names}
    rejections = Rejections(found.n_in, items)
    return MoleculeSet(molecules.x, molecules.space, molecules.smiles, values, rejections)


def read_table(path: str | Path, column: str = "smiles", first: int | None = None) -> Table:
    """The rows of a file, unparsed; ``first`` stops after so many rows. See :func:`read` for the forms and errors."""
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    kind = _KINDS.get(suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else "")
    if kind is None:
        raise DataError(
            f"`path` must end in {', '.join(_KINDS)} (or that and .gz); got {path.name!r}. Rename or convert the file."
        )
    try:
        opened = gzip.open if packed else open
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as handle:
            if kind == "smi":
                table = _read_smi(handle, first)
            elif kind == "sdf":
                table = _read_sdf(handle, first)
            else:
                table = _read_csv(handle, column, first, path, "\t" if kind == "tsv" else ",")
    except FileNotFoundError:
        raise DataError(f"`path` must be a file that exists; got {str(path)!r}. Check the spelling.") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"`path` must be a readable file; got {str(path)!r} ({reason}). Try to open it.") from error
    if not table.smiles:
        raise DataError(f"`path` must hold at least one row; got {str(path)!r} with none. Is it the right file?")
    return table


def _lines(handle: IO[str]) -> Iterator[str]:
    """Lines with their ends, each cut at MAX_LINE characters."""
    while line := handle.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            while (rest := handle.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                pass
            line = line[:-1] + "\n"
        yield line


def _read_smi(handle: IO[str], first: int | None) -> Table:
    """First word of each line; the rest of the line, if any, is the column ``name``."""
    smiles: list[str | Refusal] = []
    names: list[str] = []
    for number, line in enumerate(_lines(handle)):
        text, _, name = line.strip("\r\n \t").replace("\t", " ").partition(" ")
        if number == 0 and text.lower() == "smiles":
            continue
        if first is not None and len(smiles) == first:
            break
        smiles.append(text)
        names.append(name.strip())
    return Table(smiles, {"name": names} if any(names) else {})


def _read_csv(handle: IO[str], column: str, first: int | None, path: Path, delimiter: str) -> Table:
    rows = csv.reader(_lines(handle), delimiter=delimiter)
    header = [name.strip() for name in next(rows, [])]
    if not header:
        return Table([])
    at = _column(header, column, path)
    smiles: list[str | Refusal] = []
    columns: dict[str, list[str]] = {name: [] for i, name in enumerate(header) if i != at and name}
    for row in rows:
        if first is not None and len(smiles) == first:
            break
        smiles.append(row[at] if at < len(row) else Refusal("unreadable", f"a row with {len(row)} cells"))
        for i, name in enumerate(header):
            if i != at and name:
                columns[name].append(row[i] if i < len(row) else "")
    lengths = {len(values) for values in columns.values()}
    if lengths - {len(smiles)}:
        raise DataError(f"the columns of {str(path)!r} must have distinct names; got {header}. Rename some.")
    return Table(smiles, columns)


def _column(header: list[str], column: str, path: Path) -> int:
    """Position of the SMILES column."""
    if column in header:
        return header.index(column)
    alike = [i for i, name in enumerate(header) if name.lower() == column.lower()]
    if len(alike) == 1:
        return alike[0]
    shown = ", ".join(repr(name[:40]) for name in header[:20])
    raise DataError(
        f"`column` must be a column of {str(path)!r}; got {column!r}. Its columns are {shown}. Name one of them."
    )


def _read_sdf(handle: IO[str], first: int | None) -> Table:
    """Canonical SMILES of each record and its data fields."""
    smiles: list[str | Refusal] = []
    fields: list[dict[str, str]] = []
    lines: list[str] = []
    too_long = False

    def finish() -> None:
        smiles.append(Refusal("too_long", "a record that is too long") if too_long else _sdf_smiles(lines))
        fields.append(_sdf_fields(lines))

    for line in _lines(handle):
        if line.startswith("$$$$"):
            finish()
            lines, too_long = [], False
            if first is not None and len(smiles) == first:
                break
        elif len(lines) < MAX_RECORD_LINES:
            lines.append(line.rstrip("\r\n"))
        else:
            too_long = True
    if any(line.strip() for line in lines):  # a last record without its end mark
        finish()
    names = dict.fromkeys(name for record in fields for name in record)
    return Table(smiles, {name: [record.get(name, "") for record in fields] for name in names})


def _sdf_smiles(lines: list[str]) -> str | Refusal:
    """Canonical SMILES of a mol block, or why not."""
    end = next((i for i, line in enumerate(lines) if line.startswith("M  END")), None)
    if end is None or len(lines) < 4:
        return Refusal("unreadable", "an SDF record without 'M  END'")
    if end > MAX_BLOCK_LINES:
        return Refusal("too_many_atoms", f"an SDF record of {end} lines")
    return isolate.read_mol_block("\n".join(lines[: end + 1]))


def _sdf_fields(lines: list[str]) -> dict[str, str]:
    """``{name: first line}`` of the data items of an SDF record."""
    found: dict[str, str] = {}
    for i, line in enumerate(lines[:-1]):
        if line.startswith(">") and "<" in line:
            found[line[line.index("<") + 1 :].partition(">")[0]] = lines[i + 1].strip()
    return found


def _select(table: Table, where: Mapping[str, str], limit: int | None, seed: int | None, path: Any) -> list[int]:
    """Rows that match ``where``, at most ``limit`` of them."""
    missing = [name for name in where if name not in table.columns]
    if missing:
        raise DataError(f"`where` must name columns of {path}; got {missing}. Columns: {', '.join(table.columns)}.")
    rows = [row for row in range(len(table.smiles)) if all(table.columns[k][row] == v for k, v in where.items())]
    if not rows:
        raise DataError(f"`where` must leave at least one row of {path}; got none for {dict(where)}. Check the values.")
    if limit is not None and limit < len(rows):
        if seed is None:
            return rows[:limit]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:limit]
        return sorted(rows[i] for i in order.tolist())
    return rows


def _number(text: str) -> float:
    """The cell as a float; NaN for blanks and text."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _numeric(table: Table, rows: list[int]) -> list[str]:
    """Columns in which every filled cell is a number, and some cell is filled."""
    names = []
    for name, cells in table.columns.items():
        filled = [cells[row] for row in rows if cells[row].strip()]
        if filled and not any(np.isnan(_number(cell)) and cell.strip().lower() != "nan" for cell in filled):
            names.append(name)
    return names
