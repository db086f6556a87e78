"""Make the packaged samples of graph_ebm/datasets/data from the full sets.

    python benchmarks/build_data.py --raw ../shared/data/molecules

Rows are drawn by the smallest SHA-256 of the canonical SMILES without stereo: no seed, no dependence on the order of
the raw files, and no molecule twice. Properties are those of graph_ebm.properties, rounded to 5 decimals.
"""

import argparse
import csv
import gzip
import hashlib
import io
import lzma
from collections.abc import Iterator
from pathlib import Path

from graph_ebm import properties
from graph_ebm.chem.compact import pack, unpack
from graph_ebm.chem.parse import read_one
from graph_ebm.chem.reader import Refusal

DATA = Path(__file__).resolve().parents[1] / "graph_ebm" / "datasets" / "data"
COMPUTED = ("qed", "logp", "sa", "plogp", "tpsa", "mw")
QM9_KEPT = ("dipole", "gap")


def rows(path: Path, **where: str) -> Iterator[dict[str, str]]:
    """Rows of a gzipped CSV whose columns have the given values."""
    with gzip.open(path, "rt") as handle:
        for row in csv.DictReader(handle):
            if all(row[key] == value for key, value in where.items()):
                yield row


def draw(source: Iterator[dict[str, str]], n: int, thin: int, taken: set[str]) -> list[tuple[str, dict[str, str]]]:
    """n molecules: canonicalise the 1 / thin of the rows with the smallest hash of their raw text, keep n by hash."""
    found: dict[str, dict[str, str]] = {}
    for row in source:
        if thin > 1 and hashlib.sha256(row["smiles"].encode()).digest()[0] * thin >= 256:
            continue
        graph = read_one(row["smiles"])
        if not isinstance(graph, Refusal) and len(graph.types) <= 38 and graph.smiles not in taken:
            found.setdefault(graph.smiles, row)
    chosen = sorted(found, key=lambda smiles: hashlib.sha256(b"draw:" + smiles.encode()).digest())[:n]
    if len(chosen) < n:
        raise SystemExit(f"only {len(chosen)} of {n} molecules found; lower `thin`")
    taken.update(chosen)
    return [(smiles, found[smiles]) for smiles in chosen]


def write(name: str, parts: dict[str, list[tuple[str, dict[str, str]]]], kept: tuple[str, ...] = ()) -> None:
    """One packaged file: sorted rows, xz."""
    table = []
    for split, molecules in parts.items():
        values, failures = properties.compute(list(COMPUTED), [smiles for smiles, _ in molecules])
        if len(failures):
            raise SystemExit(str(failures))
        for i, (smiles, row) in enumerate(molecules):
            graph = read_one(smiles, canonical=True)
            code = pack(graph)
            again = unpack(smiles, code)
            if graph.smiles != smiles or again.types != graph.types or (again.bonds != graph.bonds).any():
                raise SystemExit(f"{smiles} does not survive packing")
            numbers = [f"{values[column][i]:.5f}".rstrip("0").rstrip(".") for column in COMPUTED]
            table.append([smiles, split, code, *numbers, *(row[column] for column in kept)])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["smiles", "split", "kekule", *COMPUTED, *kept])
    writer.writerows(sorted(table))
    packed = lzma.compress(text.getvalue().encode("ascii"), preset=9 | lzma.PRESET_EXTREME)
    (DATA / name).write_bytes(packed)
    print(f"{name}: {len(table)} rows, {len(packed):,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder with the full sets")
    raw = parser.parse_args().raw
    taken: set[str] = set()
    train = draw(rows(raw / "zinc250k_train.csv.gz"), 20_000, 8, taken)
    test = draw(rows(raw / "zinc250k_test.csv.gz"), 5_000, 4, taken)
    write("zinc-sample.csv.xz", {"train": train, "test": test})
    taken = set()
    train = draw(rows(raw / "qm9.csv.gz", split="train"), 10_000, 8, taken)
    test = draw(rows(raw / "qm9.csv.gz", split="test"), 2_000, 4, taken)
    write("qm9-sample.csv.xz", {"train": train, "test": test}, QM9_KEPT)
    taken = set()
    train = draw(rows(raw / "moses_train.smi.gz"), 10_000, 100, taken)
    test = draw(rows(raw / "moses_test.smi.gz"), 2_000, 60, taken)
    write("moses-sample.csv.xz", {"train": train, "test": test})


if __name__ == "__main__":
    main()
