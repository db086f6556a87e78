"""What the commands read from their users: data sets, files of samples, SMILES and SMARTS, each checked at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from discrete_ebm.errors import DataError, MoleculeError

DEFAULT_DATA = "zinc-sample"


def load_molecules(
    data: str, column: str = "smiles", *, limit: int | None = None, max_atoms: int | None = None, quiet: bool = False
) -> Any:
    """A packaged set by name, or a file, as a ``MoleculeSet``; what was rejected is said on stderr.

    Raises:
        DataError, MoleculeError: neither a name nor a readable file, a missing column, or nothing usable.
    """
    from graph_ebm import datasets

    options: dict[str, Any] = {"limit": limit} | ({} if max_atoms is None else {"max_atoms": max_atoms})
    if data in datasets.names():
        found = datasets.load(data, **options)
    else:
        path = _existing(data, "--data", datasets.names())
        found = datasets.read(path, column, **options, progress=not quiet)
    rejected = found.rejections
    if rejected is not None and len(rejected) and not quiet:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in rejected.counts().items())
        kept = f"{rejected.n_in:,} in = {len(found):,} kept + {len(rejected):,} rejected"
        click.echo(f"{data}: {kept} ({counts})", err=True)
    return found


def read_samples(path: str, column: str = "smiles", split: str = "test") -> list[Any]:
    """Every row of a file of samples, or of a run folder's molecules.csv, failures included.

    Returns:
        One entry a row: SMILES text, or a ``Refusal`` where the row itself could not be read. A packaged set's name
        gives its part ``split``.
    """
    from graph_ebm import datasets

    if path in datasets.names():
        return list(datasets.load(path, split=split).smiles)
    file = _existing(path, "the file of molecules", datasets.names())
    if file.is_dir():
        file = file / "molecules.csv"
        if not file.is_file():
            raise DataError(f"{path!r} must hold molecules.csv; got a folder without it. Name a file or a run.")
    return list(datasets.read_table(file, column).smiles)


def _existing(text: str, what: str, names: list[str]) -> Path:
    path = Path(text)
    if not path.exists():
        raise DataError(
            f"{what} must be a file that exists or one of {', '.join(names)}; got {text!r}. Check the spelling."
        )
    return path


def check_smiles(text: str | None, option: str) -> str | None:
    """Canonical SMILES of an option's value, or None for None.

    Raises:
        MoleculeError: not a molecule; the sentence gives the reason.
    """
    if text is None:
        return None
    from graph_ebm.chem.parse import read_one
    from graph_ebm.chem.reader import Refusal

    graph = read_one(text)
    if isinstance(graph, Refusal):
        raise MoleculeError(f"{option} must be a valid SMILES; got {text[:80]!r} ({graph.detail or graph.reason}).")
    return graph.smiles


def check_smarts(text: str | None, option: str) -> str | None:
    """A SMARTS pattern that RDKit can read and that has at least one atom, or None for None.

    Raises:
        MoleculeError: not a pattern.
    """
    if text is None:
        return None
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(text) if len(text) <= 1_000 and text.strip() else None
    if pattern is None or pattern.GetNumAtoms() == 0:
        raise MoleculeError(f"{option} must be a SMARTS pattern of at most 1,000 characters; got {text[:80]!r}.")
    return text


def starting_molecules(values: tuple[str, ...], column: str = "smiles") -> list[str] | None:
    """SMILES given one by one, or files of them, as one list of canonical SMILES; None when nothing was given.

    Raises:
        MoleculeError: one of them is not a molecule: a start is never dropped in silence.
    """
    if not values:
        return None
    found: list[str] = []
    for value in values:
        if Path(value).is_file():
            for row, entry in enumerate(read_samples(value, column), start=1):
                found.append(str(check_smiles(str(entry), f"row {row} of {value}")))
        else:
            found.append(str(check_smiles(value, "--start")))
    return found
