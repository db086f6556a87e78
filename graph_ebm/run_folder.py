"""The folder of a run: molecules.csv, model.safetensors + config.json, run.json, report.html.

Each file appears whole or not at all, so a full disk, a kill or an error leaves the old file as it was.
"""

from __future__ import annotations

import csv
import io
import json
import math
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from discrete_ebm.checkpoint import atomic_file, make_folder
from discrete_ebm.cli_support import plain
from discrete_ebm.errors import CheckpointError, DataError
from discrete_ebm.provenance import provenance as provenance_of

PACKAGES = ("discrete-ebm", "torch", "torch_geometric", "rdkit", "numpy", "scipy", "safetensors", "fcd_torch")


class RunFolder:
    """One output folder.

    Args:
        path: made if missing, with its parents; None makes ``runs/<date>-<time>-<name>`` under the working folder.
        name: last part of the dated name.

    Raises:
        CheckpointError: the folder cannot be made, or ``path`` is a file.
    """

    def __init__(self, path: str | Path | None = None, name: str = "run") -> None:
        self.path = make_folder(_dated(name) if path is None else path)
        self.written: dict[str, str] = {}

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def molecules(self, table: Any, name: str = "molecules.csv") -> Path:
        """Write a table of molecules as CSV; see :func:`rows_of` for what a table may be."""
        self.written[name] = "every molecule with its values"
        return write_csv(self / name, table)

    def run(self, content: Mapping[str, Any], name: str = "run.json") -> Path:
        """Write run.json: the given figures and settings with versions, machine and time."""
        self.written[name] = "versions, seeds, settings, figures"
        return write_json(self / name, {**provenance(), **content})

    def model(self, model: Any) -> Path:
        """Save a trained model (its own ``save(folder)``: model.safetensors and config.json)."""
        self.written["model.safetensors"] = "the trained energy"
        self.written["config.json"] = "its architecture, vocabulary and settings"
        try:
            model.save(self.path)
        except OSError as error:
            raise CheckpointError(
                f"the model cannot be written to {self.path}: {error.strerror or error}. "
                "Free some space or choose another folder with --output."
            ) from error
        return self.path

    def discard_if_empty(self) -> None:
        """Take the folder away again if nothing was written to it (a run that failed before it began)."""
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def report(self, html: str, name: str = "report.html") -> Path:
        """Write the report page."""
        self.written[name] = "this page"
        return write_text(self / name, html)


def _dated(name: str) -> Path:
    """A fresh dated name under runs/; two runs of one second get different names."""
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}"
    path = Path("runs") / stem
    return path if not path.exists() else Path("runs") / f"{stem}-{secrets.token_hex(2)}"


def ready_file(path: str | Path) -> Path:
    """A file that is to be written after a long computation: its folder is made and tried now.

    Raises:
        CheckpointError: the folder cannot be made or written to, or ``path`` is a folder.
    """
    path = Path(path)
    make_folder(path.parent)
    if path.is_dir():
        raise CheckpointError(f"`{path}` must be a file; got a folder of that name. Choose another name.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise CheckpointError(
            f"`{path}` must be writable; got {error.strerror or error}. Choose another place with --output."
        ) from error


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a whole file or nothing.

    Raises:
        CheckpointError: with the path, the number of bytes and the reason; an older file of the name is untouched.
    """
    path = Path(path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text; see :func:`write_bytes`."""
    return write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: str | Path, content: Any) -> Path:
    """Write strict JSON: tensors and arrays as lists, NaN and infinity as null, paths as text."""
    return write_text(path, json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def rows_of(table: Any) -> list[dict[str, Any]]:
    """A table as a list of rows.

    Args:
        table: None, a list of mappings, a mapping of columns (lists, arrays or tensors of one length), or an object
            with ``to_dict("records")`` (a pandas table).

    Raises:
        DataError: columns of different lengths, or something that is no table.
    """
    if table is None:
        return []
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        return [dict(row) for row in table.to_dict("records")]
    if isinstance(table, Mapping):
        columns = {str(name): _column(values) for name, values in table.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns of a table must have one length; got {lengths}. Fill the short ones.")
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if isinstance(table, Iterable) and not isinstance(table, str):
        rows = list(table)
        if all(isinstance(row, Mapping) for row in rows):
            return [dict(row) for row in rows]
    raise DataError(f"a table must be a list of rows or a mapping of columns; got {type(table).__name__}.")


def _column(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def csv_text(table: Any) -> str:
    """A table as CSV text; columns in order of first appearance, missing values empty."""
    rows = rows_of(table)
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["smiles"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return "" if not math.isfinite(value) else f"{float(value):.6g}"
    return "" if value is None else value


def write_csv(path: str | Path, table: Any) -> Path:
    """Write a table as CSV; see :func:`rows_of`."""
    return write_text(path, csv_text(table))


def write_molecules(path: str | Path, table: Any) -> Path:
    """Write molecules as .smi (SMILES and a name), .csv or .sdf (2-D, values as properties), by the file's ending.

    Raises:
        DataError: another ending, or a row without SMILES.
        CheckpointError: the file cannot be written.
    """
    path, rows = Path(path), rows_of(table)
    if any("smiles" not in row for row in rows):
        raise DataError("every row must have the column `smiles`; got one without. Name the column `smiles`.")
    ending = path.suffix.lower()
    if ending == ".csv":
        return write_csv(path, rows)
    if ending == ".smi":
        return write_text(path, "".join(f"{row['smiles']} {i}\n" for i, row in enumerate(rows, start=1)))
    if ending == ".sdf":
        return write_text(path, _sdf(rows))
    raise DataError(f"`path` must end in .smi, .csv or .sdf; got {path.name!r}. Choose one of the three.")


def _sdf(rows: Sequence[Mapping[str, Any]]) -> str:
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    blocks = []
    for i, row in enumerate(rows, start=1):
        mol = Chem.MolFromSmiles(str(row["smiles"]))
        if mol is None:
            raise DataError(f"`smiles` must be valid molecules for an .sdf file; got {row['smiles']!r} in row {i}.")
        rdDepictor.Compute2DCoords(mol)
        mol.SetProp("_Name", str(row.get("name", i)))
        fields = "".join(f">  <{name}>\n{_cell(value)}\n\n" for name, value in row.items())
        blocks.append(f"{Chem.MolToMolBlock(mol)}{fields}$$$$\n")
    return "".join(blocks)


def provenance() -> dict[str, Any]:
    """Versions, machine and time: what another person needs to repeat a run."""
    return provenance_of(PACKAGES)
