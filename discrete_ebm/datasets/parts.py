"""A data set in three parts: rows to train on, rows to choose by, and rows that are kept aside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.errors import DataError, SettingError
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Real, Space, Spin

__all__ = ["ALPHABETS", "Dataset", "as_states", "split_rows"]

ALPHABETS = ("auto", "binary", "spin", "categorical", "ordinal", "real")
_MOST_VALUES = 256  # more different whole numbers than this are measurements rather than an alphabet
_FEWEST_TO_SPLIT = 50


@dataclass(frozen=True)
class Dataset:
    """States in three parts, on the space they live in.

    Attributes:
        name: what it was asked for by. space: of every state.
        train, valid, test: states (n, *shape) in the space's dtype; n may be 0 in valid and test.
        labels: part -> (n,) int64 classes, or empty. classes: their names, or empty.
        weights: (n,) float64 weights of the training rows, mean 1; None = all alike.
        rejected: reason -> rows that were left out. note: where the rows come from and how they were made.
    """

    name: str
    space: Any
    train: Tensor
    valid: Tensor
    test: Tensor
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    weights: Tensor | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def __len__(self) -> int:
        """Rows of all parts together."""
        return len(self.train) + len(self.valid) + len(self.test)

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.valid)} valid, {len(self.test)} test"
        return f"Dataset({self.name!r}, {self.space!r}, {sizes})"

    def part(self, name: str) -> Tensor:
        """The states of "train", "valid" or "test".

        Raises:
            DataError: another name, or a part without rows.
        """
        if name not in ("train", "valid", "test"):
            raise DataError(f"`part` must be train, valid or test; got {name!r}.")
        rows: Tensor = getattr(self, name)
        if not len(rows):
            raise DataError(f"`part` {name!r} of {self.name} must have rows; it has none. Choose another part.")
        return rows

    def first(self, n: int | None) -> Dataset:
        """The same with at most ``n`` training rows (they are in random order already, or in that of their file)."""
        if n is None or n >= len(self.train):
            return self
        labels = {**self.labels, **({"train": self.labels["train"][:n]} if "train" in self.labels else {})}
        weights = None if self.weights is None else self.weights[:n] / self.weights[:n].mean()
        return replace(self, train=self.train[:n], labels=labels, weights=weights)

    def weighted_train(self, copies: int = 20) -> Tensor:
        """Training rows repeated in proportion to their weights, so that plain mini-batches follow them.

        A row of weight w stands there ``copies``·w times, rounded up or down; fewer copies where that would take more
        than a gigabyte.
        """
        if self.weights is None:
            return self.train
        copies = max(1, min(copies, 2**30 // max(1, self.train.numel() * self.train.element_size())))
        steps = (self.weights.cumsum(0) * copies + 0.5).floor().long()
        return self.train.repeat_interleave(steps.diff(prepend=steps.new_zeros(1)), dim=0)

    def flat(self) -> Dataset:
        """The same with the sites in one row."""
        if isinstance(self.space, Product) or len(self.space.shape) == 1:
            return self
        rows = (part.flatten(1) for part in (self.train, self.valid, self.test))
        return self._with(_flattened(self.space), *rows)

    def with_labels(self) -> Dataset:
        """States of a Product of "visible" and "label", for models of both.

        Raises:
            DataError: there are no labels, or a class without a training row: its parameters could not be learnt.
        """
        if "train" not in self.labels:
            raise DataError(f"`data` must have labels for a labelled model; {self.name} has none. "
                            "Give an .npz with an array y, or a column with --label.")  # fmt: skip
        counts = torch.bincount(self.labels["train"])
        n_classes = max(int(part.max()) + 1 for part in self.labels.values() if len(part))
        empty = [c for c in range(n_classes) if c >= len(counts) or not counts[c]]
        if empty:
            raise DataError(f"`labels` must have a training row of every class; class {empty[0]} of {n_classes} has "
                            f"none in {self.name}. Number the classes 0, 1, ... without gaps.")  # fmt: skip
        space = Product({"visible": self.space, "label": Categorical(1, n_classes)})
        none = torch.zeros(0, dtype=torch.int64)
        rows = (space.pack({"visible": getattr(self, name), "label": self.labels.get(name, none)[:, None]})
                for name in ("train", "valid", "test"))  # fmt: skip
        return self._with(space, *rows)

    def _with(self, space: Any, train: Tensor, valid: Tensor, test: Tensor) -> Dataset:
        return replace(self, space=space, train=train, valid=valid, test=test)


def _flattened(space: Any) -> Space:
    if isinstance(space, (Binary, Spin, Real)):
        return type(space)(space.n_sites)
    if isinstance(space, Ordinal):
        return Ordinal(space.n_sites, space.values)
    return Categorical(space.n_sites, space.n_values if space.n_values.unique().numel() > 1 else space.k_max)


def as_states(
    x: Any, alphabet: str = "auto", *, k: int | None = None, threshold: float | None = None, name: str = "data"
) -> tuple[Space, Tensor]:
    """(space, states) of rows of numbers.

    Args:
        x: (n, *shape) tensor or array. alphabet: one of :data:`ALPHABETS`; "auto" reads it off the values: only 0 and
            1 binary, only −1 and +1 spins, other whole numbers from 0 on categorical.
        k: values a site of a categorical or ordinal alphabet; None = the largest number and one.
        threshold: x >= threshold becomes binary.
        name: of the rows, in messages.
    Raises:
        DataError: no rows, NaN, or numbers that are no alphabet. SettingError: an unknown alphabet.
        SpaceError: a value outside the alphabet.
    """
    if alphabet not in ALPHABETS:
        raise SettingError(f"`alphabet` must be one of {', '.join(ALPHABETS)}; got {alphabet!r}.")
    values = torch.as_tensor(x)
    if values.dim() < 2 or not len(values):
        raise DataError(f"`{name}` must have shape (n, ...) with n of at least 1; got {tuple(values.shape)}.")
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        bad = ~torch.isfinite(values).flatten(1).all(1)
        first = int(bad.nonzero()[0])
        raise DataError(f"`{name}` must hold finite numbers; got NaN or infinity in {int(bad.sum())} of {len(values)} "
                        f"rows, first in row {first}. Leave those rows out or fill them.")  # fmt: skip
    if threshold is not None:
        values, alphabet = values >= threshold, "binary" if alphabet == "auto" else alphabet
    shape = tuple(values.shape[1:])
    if alphabet == "auto":
        alphabet = _alphabet(values, name)
    if alphabet == "binary":
        space: Space = Binary(shape)
    elif alphabet == "spin":
        space = Spin(shape)
    elif alphabet == "real":
        space = Real(shape)
    else:
        count = int(values.max()) + 1 if k is None else k
        count = max(2, count)
        levels = torch.linspace(0, 1, count, dtype=torch.float64)
        space = Categorical(shape, count) if alphabet == "categorical" else Ordinal(shape, levels)
        values = values if not values.is_floating_point() or bool((values != values.floor()).any()) else values.long()
    return space, space.validate(values)


def _alphabet(values: Tensor, name: str) -> str:
    """What the values look like; :class:`DataError` where that is nothing clear."""
    low, high = values.min().item(), values.max().item()
    whole = not values.is_floating_point() or bool((values == values.floor()).all())
    if whole and low >= 0 and high <= 1:
        return "binary"
    if whole and low >= -1 and high <= 1 and not bool((values == 0).any()):
        return "spin"
    if whole and low >= 0 and high < _MOST_VALUES:
        return "categorical"
    what = "whole numbers" if whole else "fractions"
    raise DataError(f"`{name}` must hold 0/1, −1/+1 or whole numbers from 0 to {_MOST_VALUES - 1}; got {what} from "
                    f"{low:g} to {high:g}. Binarise with threshold={(low + high) / 2:g}, or say alphabet='real'.")


def split_rows(n: int, parts: Sequence[float] | None, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers for training, validation and test: a random order fixed by ``seed``, cut by the shares ``parts``.

    ``None`` is 80 %, 10 % and 10 %, and all rows for training where there are fewer than 50. Every part whose share is
    positive gets at least one row.

    Raises:
        SettingError: shares that are negative or do not add up to 1. DataError: fewer rows than parts.
    """
    if parts is None:
        parts = (0.8, 0.1, 0.1) if n >= _FEWEST_TO_SPLIT else (1.0, 0.0, 0.0)
    right = len(parts) == 3 and all(isinstance(p, (int, float)) and 0 <= p <= 1 for p in parts) and parts[0] > 0
    if not right or abs(math.fsum(parts) - 1) > 1e-9:
        raise SettingError("`split` must be three shares, of training (above 0), validation and test, that add up to "
                           f"1; got {parts!r}. Try (0.8, 0.1, 0.1).")  # fmt: skip
    if n < sum(share > 0 for share in parts):
        raise DataError(f"`data` must have a row for each of its parts; got {n} rows. Use split=(1, 0, 0).")
    n_valid, n_test = (max(1, round(share * n)) if share else 0 for share in parts[1:])
    n_valid = min(n_valid, n - 1 - n_test) if n_valid else 0
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))  # the same on every device and torch version
    n_train = n - n_valid - n_test
    return order[:n_train], order[n_train : n_train + n_valid], order[n_train + n_valid :]


def cut(name: str, space: Any, x: Tensor, labels: Tensor | None = None, *, split: Sequence[float] | None = None,
        seed: int = 0, **more: Any) -> Dataset:  # fmt: skip
    """A :class:`Dataset` from rows that have no parts yet."""
    rows = split_rows(len(x), split, seed)
    parts = ("train", "valid", "test")
    marks = {} if labels is None else {part: labels[which].long() for part, which in zip(parts, rows, strict=True)}
    train, valid, test = (x[which] for which in rows)
    return Dataset(name, space, train, valid, test, marks, **more)
