"""Arrays of numbers from the files that people have: .npz, .npy, .csv, IDX, .mat, text tables; plain or gzipped.

Nothing is unpickled. What cannot be read is refused with a sentence that names the file.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.errors import DataError

__all__ = ["arrays", "existing", "load", "open_file"]

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_TEXT = frozenset({".csv", ".tsv", ".txt", ".amat"})
_DAMAGED = (ValueError, EOFError, OSError, KeyError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError)


def load(path: str | Path, key: str | None = None) -> Tensor:
    """One array of a file as a tensor of rows, as it is stored (check it with ``space.validate``).

    Args:
        path: .npz, .npy, .csv, .tsv, .txt, .amat, .mat or IDX; pickled objects are refused.
        key: which array of an .npz or .mat; None = "x" if there is one, else the only one.
    Raises:
        DataError: missing, unreadable, no such array, or not numbers.
    """
    found = arrays(path)
    array = found[_choose(Path(path), list(found), key)]
    if array.dtype.kind not in "biuf" or array.ndim < 2 or len(array) == 0:
        raise DataError(
            f"`data` must hold numbers of shape (n, ...) with n of at least 1; got shape {array.shape} "
            f"({array.dtype}) in {path}. Give one row per state."
        )
    return torch.from_numpy(np.ascontiguousarray(array if array.dtype.kind != "u" else array.astype(np.int64)))


def arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of a file by name ("x" where the format has no names); a .csv's columns are one array "x".

    ``bits`` rows packed by ``np.packbits`` beside their ``shape`` are unpacked to "x" (n, *shape).

    Raises:
        DataError: missing or unreadable.
    """
    path = existing(path)
    kind = _kind(path)
    try:
        if kind == "npz":
            with path.open("rb") as stream:  # numpy leaves a damaged file open
                opened = np.load(stream, allow_pickle=False)
                found = {"x": opened} if isinstance(opened, np.ndarray) else {name: opened[name] for name in opened}
        elif kind == "idx":
            found = {"x": _idx(path)}
        elif kind == "mat":
            found = _matlab(path)
        else:
            found = {"x": _table(path)}
    except _DAMAGED as cause:
        raise DataError(
            f"`data` must be a whole file of numbers (.npz, .npy, .csv, .mat or IDX); got {path} ({cause}). "
            "Write it with numpy.savez(path, x=array)."
        ) from cause
    if "x" not in found and "bits" in found and "shape" in found:
        shape = tuple(int(side) for side in np.atleast_1d(found["shape"]))
        packed = found.pop("bits")
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-math.prod(shape) // 8):
            raise DataError(f"`bits` must be rows of np.packbits for shape {shape}; got {packed.shape} "
                            f"({packed.dtype}) in {path}. Write both arrays again.")  # fmt: skip
        found["x"] = np.unpackbits(packed, axis=1, count=math.prod(shape)).reshape(-1, *shape)
        del found["shape"]
    return found


def existing(path: str | Path) -> Path:
    """The path, if a file is there; :class:`DataError` otherwise."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"`data` must be an existing file; got {path}, which is not a file. Check the name.")
    return path


def open_file(path: Path) -> BinaryIO:
    """A file for reading bytes, through gzip where it is gzipped, whatever its name."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path, "rb") if packed else path.open("rb"))


def _kind(path: Path) -> str:
    """npz, idx, mat or text, by the first bytes: names lie (a well-known .amat is a MATLAB file)."""
    try:
        with open_file(path) as stream:
            head = stream.read(128)
    except _DAMAGED as cause:
        raise DataError(f"`data` must be a whole file; got {path} ({cause}). Copy it again.") from cause
    if head[:4] == b"PK\x03\x04" or head[:6] == b"\x93NUMPY" or path.suffix in (".npz", ".npy"):
        return "npz"
    if head.startswith(b"MATLAB") or head[:8] == b"\x89HDF\r\n\x1a\n" or path.suffix == ".mat":
        return "mat"
    if len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES:
        return "idx"
    if (path.with_suffix("") if path.suffix == ".gz" else path).suffix in _TEXT:
        return "text"
    raise DataError(f"`data` must be .npz, .npy, .csv, .tsv, .txt, .amat, .mat or IDX; got {path}. "
                    "Write it with numpy.savez(path, x=array).")  # fmt: skip


def _idx(path: Path) -> np.ndarray:
    """MNIST's format: two zero bytes, type, number of dimensions, big-endian sizes, values."""
    with open_file(path) as stream:
        _, code, n_dims = struct.unpack(">HBB", stream.read(4))
        sizes = struct.unpack(f">{n_dims}I", stream.read(4 * n_dims))
        values = np.frombuffer(stream.read(), dtype=_IDX_TYPES[code])
    if values.size != math.prod(sizes):
        raise ValueError(f"it says {math.prod(sizes)} values and holds {values.size}")
    return values.reshape(sizes).astype(values.dtype.newbyteorder("="))


def _matlab(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a MATLAB 4 to 7.2 file."""
    try:
        from scipy import io
    except ImportError as cause:
        raise DataError(f"`data` in MATLAB's format needs SciPy; got {path}. Run pip install scipy.") from cause
    with open_file(path) as stream:
        found: dict[str, Any] = io.loadmat(stream)
    kept = {name: np.asarray(value) for name, value in found.items() if not name.startswith("__")}
    return {name: value for name, value in kept.items() if value.dtype.kind in "biuf"}


def _table(path: Path) -> np.ndarray:
    """(rows, columns) of a text table: commas, semicolons, tabs or spaces; a first line of names is passed over."""
    with open_file(path) as stream:
        text = stream.read().decode("utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError("it is empty")
    separator = next((mark for mark in ",;\t" if mark in lines[0]), None)
    first = [cell.strip() for cell in (lines[0].split(separator))]
    if not all(_is_number(cell) for cell in first):
        lines = lines[1:]
    values = np.loadtxt(lines, delimiter=separator, ndmin=2, comments=None)
    whole = values.size and bool(np.isfinite(values).all()) and bool((values == np.floor(values)).all())
    return values.astype(np.int64) if whole else values


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"([-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|inf(inity)?))?", cell, re.IGNORECASE) is not None


def _choose(path: Path, names: list[str], key: str | None) -> str:
    if key is None and "x" in names:
        return "x"
    if key is None and len(names) == 1:
        return names[0]
    if key not in names:
        raise DataError(f"`key` must be one of {', '.join(names)}, the arrays of {path}; got {key}. Pass --key NAME.")
    return key
