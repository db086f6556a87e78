"""The molecules that suites train on and compare with: packaged samples, or the full sets of a data folder."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graph_ebm as ge
from discrete_ebm.errors import DataError
from graph_ebm import datasets, fcd
from graph_ebm.graphs import MoleculeSet
from graph_ebm.run_folder import write_text
from graph_ebm.space import MolecularSpace

from .common import Context
from .measure import FCDMeter

PACKAGED = {"qm9": "qm9-sample", "zinc": "zinc-sample"}
MAX_ATOMS = {"qm9": 9, "zinc": 38}
FILES = {"qm9": ("qm9.csv.gz", "qm9.csv.gz"), "zinc": ("zinc250k_train.csv.gz", "zinc250k_test.csv.gz")}
FCD_REFERENCES = {"qm9": "qm9_test_flat.npz", "zinc": "zinc250k_test_flat.npz"}
PROPERTIES = ("qed", "plogp", "sa")


def packaged_space(name: str) -> MolecularSpace:
    """The space of a packaged set, which runs on the full set use too."""
    return datasets.load(PACKAGED[name], limit=1, max_atoms=MAX_ATOMS[name]).space


def training_set(ctx: Context, name: str, n: int) -> MoleculeSet:
    """``n`` training molecules: packaged, or with a data folder a random part of the full train split by seed."""
    space = packaged_space(name)
    if ctx.data is None or name == "zinc":  # the packaged ZINC sample is the data set of the drug-like suite
        molecules = datasets.load(PACKAGED[name], limit=n, max_atoms=MAX_ATOMS[name])
    else:
        molecules = datasets.read(
            ctx.data / FILES[name][0],
            limit=n,
            seed=ctx.seed,
            where={"split": "train"},
            properties=[],
            vocabulary=space.vocabulary,
            max_atoms=space.max_atoms,
        )
    if len(molecules) < n:
        ctx.note(f"{len(molecules):,} training molecules in place of {n:,}: the others are missing or do not fit.")
    return molecules


def held_out(ctx: Context, name: str, n: int | None = None) -> list[str]:
    """Canonical SMILES of the test part (a random part of it where ``n`` is given)."""
    if ctx.data is None:
        return datasets.load(PACKAGED[name], limit=n, split="test", max_atoms=MAX_ATOMS[name]).smiles
    space = packaged_space(name)
    where = {"split": "test"} if name == "qm9" else None
    molecules = datasets.read(
        ctx.data / FILES[name][1],
        limit=n,
        seed=0,
        where=where,
        properties=[],
        vocabulary=space.vocabulary,
        max_atoms=space.max_atoms,
    )
    return molecules.smiles


def known_smiles(ctx: Context, name: str) -> set[str] | None:
    """Canonical SMILES of every molecule of the full set, any split, kept in the work folder; None without --data."""
    if ctx.data is None:
        return None
    file = ctx.work / f"{name}-all.smi"
    if not file.exists():
        found: list[str] = []
        space = packaged_space(name)
        for source in dict.fromkeys(FILES[name]):
            table = datasets.files.read_table(ctx.data / source)
            for at in range(0, len(table.smiles), 20_000):  # in parts: states of all at once would fill the memory
                texts = [text for text in table.smiles[at : at + 20_000] if isinstance(text, str)]
                found += ge.from_smiles(texts, vocabulary=space.vocabulary, max_atoms=space.max_atoms)[0].smiles
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, "\n".join(sorted(set(found))) + "\n")  # whole or not at all: seeds run side by side
    return set(file.read_text(encoding="utf-8").split())


def fcd_meter(ctx: Context, name: str, test: Sequence[str], threads: int) -> FCDMeter | None:
    """A meter against the full test part's statistics; without a data folder, against the packaged test molecules."""
    if not fcd.available():
        ctx.note("fcd_torch is not installed: no Fréchet ChemNet Distance was computed.")
        return None
    if ctx.data is not None:
        return FCDMeter.from_file(ctx.data / "fcd_reference" / FCD_REFERENCES[name], threads)
    ctx.note(
        f"The FCD reference is the packaged test part ({len(test):,} molecules), not the full test set: its values "
        "are higher than, and not comparable with, published ones."
    )
    return FCDMeter(test, threads)


@dataclass
class Pool:
    """Labelled molecules from which experts' training sets are chosen: SMILES and one column a property."""

    smiles: list[str]
    values: dict[str, np.ndarray]
    space: MolecularSpace
    packaged: MoleculeSet | None = None

    def __len__(self) -> int:
        return len(self.smiles)

    def molecules(self, rows: np.ndarray) -> MoleculeSet:
        """States of some rows; rows that do not fit the space are left out."""
        if self.packaged is not None:
            return self.packaged[rows]
        texts = [self.smiles[i] for i in rows.tolist()]
        return ge.from_smiles(texts, vocabulary=self.space.vocabulary, max_atoms=self.space.max_atoms)[0]

    def meets(self, bounds: dict[str, tuple[float, float]]) -> np.ndarray:
        """(n,) bool: strictly within all bounds."""
        return meets(self.values, bounds)


def meets(values: dict[str, np.ndarray], bounds: dict[str, tuple[float, float]]) -> np.ndarray:
    """(n,) bool: low < value < high for every property; NaN never."""
    ok = np.ones(len(next(iter(values.values()))), dtype=bool)
    for name, (low, high) in bounds.items():
        ok &= (values[name] > low) & (values[name] < high)
    return ok


def expert_pool(ctx: Context, limit: int | None = None) -> Pool:
    """The packaged ZINC training part, or the full training file of a data folder; raw penalised logP."""
    space = packaged_space("zinc")
    if ctx.data is None:
        molecules = datasets.load("zinc-sample", limit=limit, max_atoms=MAX_ATOMS["zinc"])
        return Pool(molecules.smiles, {name: molecules.properties[name] for name in PROPERTIES}, space, molecules)
    path = ctx.data / FILES["zinc"][0]
    smiles, rows = [], []
    try:
        with gzip.open(Path(path), "rt", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                smiles.append(row["smiles"])
                logp, sa, cycles = (float(row[k]) for k in ("logp", "sa", "cycle_pen"))
                rows.append((float(row["qed"]), logp - sa - cycles, sa))
                if limit is not None and len(smiles) == limit:
                    break
    except (OSError, KeyError, ValueError) as cause:
        said = f"{type(cause).__name__}: {cause}"
        raise DataError(f"--data must hold {path.name} with its properties; got {said}.") from cause
    ctx.note(
        "Labels of the full set were computed with stereo, those of samples without: the SA score of a few in a "
        "thousand differs by up to 0.2."
    )
    table = np.array(rows)
    return Pool(smiles, {name: table[:, i] for i, name in enumerate(PROPERTIES)}, space)
