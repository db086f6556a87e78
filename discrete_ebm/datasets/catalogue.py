"""One way in: a packaged or well-known set by its name, or a file, as a :class:`Dataset`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from discrete_ebm.datasets.alignments import read_alignment
from discrete_ebm.datasets.files import arrays
from discrete_ebm.datasets.images import digits, mnist, omniglot, static_mnist, torchvision
from discrete_ebm.datasets.parts import Dataset, as_states, cut
from discrete_ebm.errors import DataError, SettingError

__all__ = ["get", "names", "read"]

_IN_FILES: dict[str, Callable[..., Dataset]] = {"static-mnist": static_mnist, "mnist": mnist, "omniglot": omniglot}
_OPTIONS = {  # what each kind understands
    "digits": {"levels", "split", "seed"},
    "static-mnist": set(),
    "mnist": {"levels", "binarise", "seed"},
    "omniglot": {"levels", "binarise", "seed"},
    "torchvision": {"levels", "binarise", "seed"},
    "alignment": {"letters", "unknown", "max_gaps", "weights_at", "split", "seed"},
    "file": {"key", "label", "shape", "alphabet", "k", "threshold", "split", "seed"},
}
ALIGNMENTS = (".fasta", ".fa", ".fas", ".afa", ".aln", ".a2m", ".a3m", ".faa")


def names() -> list[str]:
    """What :func:`get` knows besides files; all but "digits" need files that the user has."""
    return ["digits", *_IN_FILES, "torchvision:NAME"]


def get(source: str | Path = "digits", *, folder: str | Path | None = None, **options: Any) -> Dataset:
    """A data set by name, or from a file.

    Args:
        source: "digits"; "static-mnist", "mnist", "omniglot" or "torchvision:NAME" with ``folder``; or the path of an
            .npz, .npy, .csv, .mat, IDX or (an alignment) FASTA file.
        folder: where the files of a named set are (a folder, or the file itself).
        options: those of :func:`digits`, :func:`mnist`, :func:`read`, :func:`read_alignment` and
            ``Alignment.dataset``; None leaves one out.
    Raises:
        DataError: unknown name, missing or unusable file. SettingError: an option that this source does not have.
    """
    text = str(source)
    given = {name: value for name, value in options.items() if value is not None}
    if text == "digits":
        return digits(**_allowed("digits", text, given))
    if text in _IN_FILES or text.startswith("torchvision:"):
        kind = text if text in _IN_FILES else "torchvision"
        given = _allowed(kind, text, given)
        if folder is None:
            raise DataError(f"`folder` must be given for {text}: where its files are. Nothing is downloaded; "
                            "pass folder=, or --data-dir.")  # fmt: skip
        if kind == "torchvision":
            return torchvision(text.partition(":")[2], folder, **given)
        return _IN_FILES[text](_place(text, Path(folder)), **given)
    path = Path(text)
    if not path.is_file():
        near = difflib.get_close_matches(text, names(), 1, 0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"`data` must be {', '.join(names())} or a file; got {text!r}, which is not a file.{hint}")
    if path.name.removesuffix(".gz").endswith(ALIGNMENTS):
        given = _allowed("alignment", text, given)
        more = {name: given.pop(name) for name in ("weights_at", "split", "seed") if name in given}
        return read_alignment(path, **given).dataset(name=path.name, **more)
    return read(path, **_allowed("file", text, given))


def read(
    path: str | Path,
    *,
    key: str | None = None,
    label: str | int | None = None,
    shape: Sequence[int] | None = None,
    alphabet: str = "auto",
    k: int | None = None,
    threshold: float | None = None,
    split: Sequence[float] | None = None,
    seed: int = 0,
) -> Dataset:
    """Rows of numbers from an .npz, .npy, .csv, .mat or IDX file.

    Args:
        path: the file. An .npz with arrays ``train`` and ``valid`` or ``test`` keeps those parts (labels: ``y_train``,
            ...); else rows are split.
        key: which array. label: the array of classes (by default ``y``, where there is one), or the number of a
            .csv's column, counted from 0 or, negative, from the end.
        shape: of one row, for tables. alphabet, k, threshold: see :func:`as_states`.
        split: shares of training, validation and test rows; None = 0.8, 0.1, 0.1, or all for training below 50 rows.
        seed: of the choice of rows.
    """
    path = Path(path)
    found = arrays(path)
    if key is None and "train" in found and found["train"].ndim >= 2:
        return _parts(path, found, shape, alphabet, k, threshold)
    name = key if key is not None else "x" if "x" in found else next(iter(found)) if len(found) == 1 else None
    if name not in found:
        raise DataError(f"`key` must be one of {', '.join(found)}, the arrays of {path}; got {name}. Pass --key NAME.")
    x, y = _rows(path, found[name]), None
    if isinstance(label, int) or (isinstance(label, str) and label.lstrip("-").isdigit() and label not in found):
        column = int(label)
        if x.ndim != 2 or not -x.shape[1] <= column < x.shape[1]:
            raise DataError(f"`label` must be a column of {path}, of shape {x.shape}; got {column}.")
        x, y = np.delete(x, column, axis=1), x[:, column]
    elif label is not None or "y" in found:
        if (label or "y") not in found:
            raise DataError(f"`label` must be one of {', '.join(found)}, the arrays of {path}; got {label}.")
        y = found[label or "y"]
    space, states = as_states(_shaped(path, x, shape), alphabet, k=k, threshold=threshold, name=str(path))
    return cut(path.name, space, states, None if y is None else _classes(path, y, len(x)), split=split, seed=seed,
               note=f"{len(x)} rows of {path.name}")  # fmt: skip


def _parts(path: Path, found: dict[str, np.ndarray], shape: Sequence[int] | None, alphabet: str, k: int | None,
           threshold: float | None) -> Dataset:  # fmt: skip
    """The parts that the file has; the alphabet is that of all of them together."""
    here: list[str] = [part for part in ("train", "valid", "test") if part in found]
    rows = [_shaped(path, _rows(path, found[part]), shape) for part in here]
    if len({part.shape[1:] for part in rows}) > 1:
        raise DataError(f"`{path}` must hold parts of one shape; got {', '.join(str(part.shape) for part in rows)}.")
    space, states = as_states(np.concatenate(rows), alphabet, k=k, threshold=threshold, name=str(path))
    parts = dict(zip(here, states.split([len(part) for part in rows]), strict=True))
    marks = {part: _classes(path, found[f"y_{part}"], len(parts[part])) for part in here if f"y_{part}" in found}
    empty = states[:0]
    train, valid, test = (parts.get(part, empty) for part in ("train", "valid", "test"))
    note = f"{len(states)} rows of {path.name}, parts of its own"
    return Dataset(path.name, space, train, valid, test, marks, note=note)


def _rows(path: Path, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not len(x):
        raise DataError(f"`data` must hold numbers of shape (n, ...) with n of at least 1; got shape {x.shape} "
                        f"({x.dtype}) in {path}. Give one row per state.")  # fmt: skip
    return x.astype(np.int64) if x.dtype.kind == "u" and x.dtype.itemsize > 1 else x


def _shaped(path: Path, x: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    if shape is None:
        return x
    if int(np.prod(shape)) != int(np.prod(x.shape[1:])):
        raise SettingError(f"`shape` must hold {int(np.prod(x.shape[1:]))} sites, as the rows of {path} do; got "
                           f"{'x'.join(map(str, shape))}.")  # fmt: skip
    return x.reshape(len(x), *shape)


def _classes(path: Path, y: np.ndarray, n: int) -> torch.Tensor:
    right = y.shape == (n,) and y.dtype.kind in "biuf" and np.isfinite(y).all() and (y == np.floor(y)).all()
    if not right or (n and y.min() < 0):
        raise DataError(f"`labels` must be {n} whole numbers from 0 on; got shape {y.shape} ({y.dtype}) in {path}.")
    return torch.from_numpy(y.astype(np.int64))


def _place(name: str, folder: Path) -> Path:
    """The folder, or in it the one .npz or .mat that is the set."""
    if name == "static-mnist" or folder.is_file():
        return folder
    stem = {"mnist": "mnist", "omniglot": ""}[name]
    if name == "mnist" and any(folder.glob("train-images*idx*")):
        return folder
    usual = ("omniglot*.npz", "chardata.mat") if name == "omniglot" else (f"{stem}*.npz",)
    found = sorted(path for pattern in usual for path in folder.glob(pattern))
    if not found:
        raise DataError(f"`folder` must hold {' or '.join(usual)}{' or the four IDX files' if stem else ''}; got "
                        f"{folder}, which does not. Nothing is downloaded.")  # fmt: skip
    return found[0]


def _allowed(kind: str, source: str, given: dict[str, Any]) -> dict[str, Any]:
    extra = sorted(set(given) - _OPTIONS[kind])
    if extra:
        known = ", ".join(sorted(_OPTIONS[kind])) or "no options"
        raise SettingError(f"`{extra[0]}` must be left out for {source}, which has {known}.")
    return given
