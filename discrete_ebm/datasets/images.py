"""Images: the digits inside the package, and MNIST, static MNIST and Omniglot from files that the user has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.datasets.files import arrays
from discrete_ebm.datasets.parts import Dataset, cut, split_rows
from discrete_ebm.errors import DataError, SettingError
from discrete_ebm.spaces import Binary, Categorical, Space

__all__ = ["digits", "mnist", "omniglot", "static_mnist", "torchvision"]

_SPLIT_SEED = 0  # of the sets that come without a split of their own: the same rows in every run
_HALF = 0.5


def digits(levels: int = 2, *, split: Sequence[float] | None = None, seed: int = _SPLIT_SEED) -> Dataset:
    """1,797 labelled 8×8 images of handwritten digits, inside the package: no file, no download.

    The set is scikit-learn's ``load_digits`` (the test part of UCI's "Optical Recognition of Handwritten Digits").

    Args:
        levels: 2 = binary, a pixel is 1 where at least half of its ink is there (8 of 16); 3 to 17 = that many grey
            levels, categorical.
        split: shares of training, validation and test rows; None = 0.8, 0.1, 0.1. seed: of their choice.
    Source: Alpaydin & Kaynak 1998, doi:10.24432/C50P49 (CC BY 4.0).
    """
    with resources.as_file(resources.files("discrete_ebm.datasets") / "data" / "digits.npz") as path:
        found = arrays(path)
    space, x = _levels(torch.from_numpy(found["x"]), levels, 16, "threshold", seed)
    return cut("digits", space, x, torch.from_numpy(found["y"]).long(), split=split, seed=seed,
               classes=tuple(map(str, range(10))),
               note="UCI Optical Recognition of Handwritten Digits (test part), CC BY 4.0")  # fmt: skip


def static_mnist(folder: str | Path) -> Dataset:
    """Statically binarised MNIST (Larochelle & Murray 2011): 50,000 training, 10,000 validation, 10,000 test images.

    Args:
        folder: holds ``static_mnist_train.npz`` or ``binarized_mnist_train.amat`` (text, or MATLAB), and ``_valid``
            and ``_test`` beside it; a part whose file is missing is empty, except the training part.
    Raises:
        DataError: no training file, or not rows of 784 zeros and ones.
    """
    space = Binary((28, 28))
    train, valid, test = (_static_part(Path(folder), part, space) for part in ("train", "valid", "test"))
    if not len(train):
        raise DataError(
            f"`folder` must hold static_mnist_train.npz or binarized_mnist_train.amat; got {folder}, which does not. "
            "Point --data-dir to the folder of those files."
        )
    return Dataset("static-mnist", space, train, valid, test, note="static MNIST, Larochelle & Murray 2011 (CC BY-SA)")


def _static_part(folder: Path, part: str, space: Binary) -> Tensor:
    for stem in (f"static_mnist_{part}", f"binarized_mnist_{part}"):
        for path in sorted(folder.glob(f"{stem}.*")):
            x = _only(arrays(path), path)
            if x.size % 784 or x.dtype.kind not in "biuf":
                raise DataError(f"`{path.name}` must hold rows of 784 pixels; got shape {x.shape} ({x.dtype}).")
            return space.validate(torch.from_numpy(np.ascontiguousarray(x)).reshape(-1, 28, 28))
    return torch.zeros(0, 28, 28, dtype=torch.int8)


def mnist(path: str | Path, levels: int = 2, *, binarise: str = "threshold", seed: int = _SPLIT_SEED) -> Dataset:
    """MNIST, or any set in its format (Fashion-MNIST, KMNIST), from files that the user has.

    Args:
        path: a folder with ``train-images-idx3-ubyte`` and its companions (gzipped or not), or an .npz: Keras's
            ``mnist.npz``, or one with ``x`` (n, 28, 28) of 0..255 and ``y``.
        levels: 2 = binary; 3 to 256 = that many grey levels, categorical.
        binarise: "threshold" = 1 where grey >= 128; "sample" = each pixel drawn once with probability grey/255.
        seed: of the split and of "sample". Test rows are MNIST's own where they are there; validation rows are the
            last sixth of the training rows (10,000 of 60,000), chosen at random.
    """
    path = Path(path)
    found = _idx_folder(path) if path.is_dir() else _named(arrays(path), path)
    x, y = (torch.from_numpy(found[name]) for name in ("x_train", "y_train"))
    if x.dim() != 3 or x.dtype != torch.uint8 or len(x) != len(y):
        raise DataError(f"`path` must hold grey images (n, height, width) uint8 and a label each; got {tuple(x.shape)} "
                        f"({x.dtype}) and {len(y)} labels in {path}.")  # fmt: skip
    space, x = _levels(x, levels, 255, binarise, seed)
    note = f"MNIST's format, from {path.name}; {levels} levels, {binarise}"
    if "x_test" not in found:
        return cut("mnist", space, x, y, seed=seed, note=note)
    rows, held, _ = split_rows(len(x), (5 / 6, 1 / 6, 0.0), seed)
    test = _levels(torch.from_numpy(found["x_test"]), levels, 255, binarise, seed + 1)[1]
    labels = {"train": y[rows].long(), "valid": y[held].long(), "test": torch.from_numpy(found["y_test"]).long()}
    return Dataset("mnist", space, x[rows], x[held], test, labels, note=note)


def omniglot(path: str | Path, levels: int = 2, *, binarise: str = "threshold", seed: int = _SPLIT_SEED) -> Dataset:
    """Omniglot at 28×28, labelled by character, from a file that the user has.

    Args:
        path: an .npz with ``x`` (n, 28, 28) uint8 (ink high) and, where known, ``alphabet`` and ``character``; or the
            ``chardata.mat`` of Burda et al. 2015, whose own test part is kept.
        levels, binarise, seed: as in :func:`mnist`.
    Source: Lake, Salakhutdinov & Tenenbaum 2015 (MIT).
    """
    path = Path(path)
    found = arrays(path)
    note = f"Omniglot, from {path.name}; {levels} levels, {binarise}"
    if "testdata" in found and "data" in found:  # chardata.mat: columns of 784 probabilities
        grey = {part: torch.from_numpy(np.rint(found[name].T.reshape(-1, 28, 28) * 255).astype(np.uint8))
                for part, name in (("train", "data"), ("test", "testdata"))}  # fmt: skip
        space, x = _levels(grey["train"], levels, 255, binarise, seed)
        rows, held, _ = split_rows(len(x), (0.9, 0.1, 0.0), seed)
        test = _levels(grey["test"], levels, 255, binarise, seed + 1)[1]
        return Dataset("omniglot", space, x[rows], x[held], test, note=note)
    if "x" not in found or found["x"].ndim != 3 or found["x"].dtype != np.uint8:
        raise DataError(f"`path` must hold x (n, height, width) uint8, or be chardata.mat; got {', '.join(found)} in "
                        f"{path}.")  # fmt: skip
    space, x = _levels(torch.from_numpy(found["x"]), levels, 255, binarise, seed)
    labels = None
    if "character" in found:
        marks = found["character"].astype(np.int64) + (found.get("alphabet", np.int64(0)).astype(np.int64) << 32)
        labels = torch.from_numpy(np.unique(marks, return_inverse=True)[1].reshape(-1))
    return cut("omniglot", space, x, labels, seed=seed, note=note)


def torchvision(name: str, folder: str | Path, levels: int = 2, *, binarise: str = "threshold",
                seed: int = _SPLIT_SEED) -> Dataset:  # fmt: skip
    """A grey or coloured image set of torchvision, which must be installed; nothing is downloaded.

    Args:
        name: a class of ``torchvision.datasets`` with ``train=``, e.g. "FashionMNIST". folder: its ``root``.
        levels, binarise, seed: as in :func:`mnist`. Coloured images become (colours, height, width).
    Raises:
        DataError: torchvision is missing or broken, does not know the name, or its files are not in ``folder``.
    """
    try:
        from torchvision import datasets as found
    except (ImportError, RuntimeError) as cause:  # RuntimeError: an installed torchvision of another torch version
        raise DataError(f"`data` torchvision:{name} needs a working torchvision; got {cause}. "
                        "Run pip install torchvision, or give the images in an .npz.") from cause  # fmt: skip
    build = getattr(found, name, None)
    if build is None:
        raise DataError(f"`data` torchvision:NAME must name a class of torchvision.datasets; got {name!r}.")
    try:
        parts = {part: build(str(folder), train=part == "train", download=False) for part in ("train", "test")}
    except (RuntimeError, TypeError, OSError) as cause:
        raise DataError(f"`folder` must hold the files of torchvision's {name}; got {folder} ({cause}).") from cause
    grey = {part: _pixels(name, rows) for part, rows in parts.items()}
    space, x = _levels(grey["train"][0], levels, 255, binarise, seed)
    rows, held, _ = split_rows(len(x), (5 / 6, 1 / 6, 0.0), seed)
    y = grey["train"][1]
    test = _levels(grey["test"][0], levels, 255, binarise, seed + 1)[1]
    return Dataset(f"torchvision:{name}", space, x[rows], x[held], test,
                   {"train": y[rows], "valid": y[held], "test": grey["test"][1]},
                   note=f"torchvision's {name}; {levels} levels, {binarise}")  # fmt: skip


def _pixels(name: str, rows: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """((n, [colours,] height, width) uint8, labels) of a torchvision set of PIL images."""
    images, labels = zip(*((np.asarray(image), int(label)) for image, label in rows), strict=True)
    x = torch.from_numpy(np.stack(images))
    if x.dtype != torch.uint8 or x.dim() not in (3, 4):
        raise DataError(f"`data` torchvision:{name} must be images of 0..255; got {tuple(x.shape)} ({x.dtype}).")
    return (x.permute(0, 3, 1, 2).contiguous() if x.dim() == 4 else x), torch.tensor(labels)


def _levels(grey: Tensor, levels: int, full: int, binarise: str, seed: int) -> tuple[Space, Tensor]:
    """(space, states) of grey values 0..full in so many levels of equal width."""
    if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= full + 1:
        raise SettingError(f"`levels` must be a whole number from 2 to {full + 1}; got {levels!r}.")
    if binarise not in ("threshold", "sample"):
        raise SettingError(f"`binarise` must be 'threshold' or 'sample'; got {binarise!r}.")
    shape = tuple(grey.shape[1:])
    if levels > 2:
        space: Space = Categorical(shape, levels)
        return space, space.validate(grey.long() * levels // (full + 1))
    space = Binary(shape)
    if binarise == "sample":
        draw = torch.rand(grey.shape, generator=torch.Generator().manual_seed(seed))
        return space, (draw < grey.float() / full).to(torch.int8)
    return space, (grey >= full * _HALF).to(torch.int8)


def _idx_folder(folder: Path) -> dict[str, np.ndarray]:
    """MNIST's four files by their usual names; the two test files may be missing."""
    found = {}
    for name, stem in (("x_train", "train-images"), ("y_train", "train-labels"), ("x_test", "t10k-images"),
                       ("y_test", "t10k-labels")):  # fmt: skip
        paths = sorted(path for path in folder.glob(f"{stem}*idx*") if path.is_file())
        if paths:
            found[name] = arrays(paths[0])["x"]
        elif name.endswith("train"):
            raise DataError(f"`path` must be a folder with {stem}-idx3-ubyte or an .npz; got {folder}, without it. "
                            "Point --data-dir to MNIST's four files.")  # fmt: skip
    return found if {"x_test", "y_test"} <= set(found) else {name: found[name] for name in ("x_train", "y_train")}


def _named(found: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    if "x_train" in found and "y_train" in found:
        return dict(found)
    if "x" in found and "y" in found:
        return {"x_train": found["x"], "y_train": found["y"]}
    raise DataError(f"`path` must hold x_train and y_train, or x and y; got {', '.join(found)} in {path}.")


def _only(found: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """The array x, or the only one that has rows."""
    tables = {name: value for name, value in found.items() if value.ndim >= 2}
    if "x" in tables:
        return tables["x"]
    if len(tables) != 1:
        raise DataError(f"`{path.name}` must hold one table of images; got {', '.join(found) or 'nothing'}.")
    return next(iter(tables.values()))
