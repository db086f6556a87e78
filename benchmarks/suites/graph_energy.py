"""Speed of the molecular energies on one thread: energy alone, energy + parameter gradient, energy + input gradient.

    python benchmarks/suites/graph_energy.py [--json FILE] [--atoms 9 27 38] [--batch 1000] [--repeats 5]

Real molecules (the data folder's QM9 and ZINC250k, or packaged ones) at V = 9, 27 and 38 slots. Compared with a
torch-geometric RGCNConv network of the same function (same weights, checked to agree): PyG's own sparse path.
Numbers are microseconds of processor time per molecule, best of the repeats: other load on the machine then counts
little (it still takes cache and memory bandwidth).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import graph_ebm as ge
from graph_ebm.energies import LocalEnergy, MolecularEnergy, RelationalEnergy, TransformerEnergy, _fast
from graph_ebm.energies.base import GraphEnergy
from graph_ebm.energies.packed import pack
from graph_ebm.energies.relational import RING_NUMBERS, packed_atom_features
from graph_ebm.space import GraphEncoding

SETS = {9: ("qm9", 3), 27: ("zinc250k_train", 4), 38: ("zinc250k_train", 4)}  # file and layers by slots
COLUMNS = ("E", "E+dw", "dense E", "dense E+dx")


def molecules(folder: Path, slots: int, count: int) -> ge.MoleculeSet:
    """``count`` molecules of at most ``slots`` heavy atoms, spread evenly over the file."""
    path = folder / f"{SETS[slots][0]}.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        smiles = [row["smiles"] for row in csv.DictReader(stream)]
    graphs, _ = ge.from_smiles(smiles[:: max(1, len(smiles) // (3 * count))], max_atoms=slots)
    return graphs[:count]


class PyGTwin(torch.nn.Module):
    """The RelationalEnergy's function by torch_geometric.nn.RGCNConv, with its weights."""

    def __init__(self, energy: RelationalEnergy) -> None:
        from torch_geometric.nn import RGCNConv

        super().__init__()
        self.energy = energy
        self.convs = torch.nn.ModuleList()
        for layer in range(energy.layers):
            conv = RGCNConv(energy.hidden, energy.hidden, num_relations=3, aggr="add")
            with torch.no_grad():
                conv.weight.copy_(energy.messages[layer, 1:])
                conv.root.copy_(energy.messages[layer, 0])
                conv.bias.copy_(energy.bias[layer])
            self.convs.append(conv)

    def state_energy(self, x: Tensor) -> Tensor:
        packed = pack(x, RING_NUMBERS)  # features by the same code, so that message passing is what is compared
        present = x.diagonal(dim1=1, dim2=2) > 0
        number = present.reshape(-1).cumsum(0).view(present.shape) - 1
        off = x * ~torch.eye(x.shape[1], dtype=torch.bool)
        c, i, j = off.nonzero(as_tuple=True)
        edges, kinds = torch.stack([number[c, j], number[c, i]]), off[c, i, j].long() - 1
        features = packed_atom_features(packed, self.energy.space.vocabulary.size, torch.float32)
        h = features @ self.energy.embedding
        for conv, norm in zip(self.convs, self.energy.norms, strict=True):
            h = h + torch.nn.functional.silu(norm(conv(h, edges, kinds)))
        from torch_geometric.nn import global_add_pool

        batch = present.nonzero()[:, 0]
        return self.energy._read(global_add_pool(h, batch, size=len(x)))


def microseconds(call: Callable[[], Any], per: int, repeats: int) -> float:
    call()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return 1e6 * best / per


def measure(energy: Any, x: Tensor, repeats: int) -> dict[str, float | None]:
    """Microseconds per molecule: energy, energy + parameter gradient, dense energy + gradient of every input."""

    def forward() -> None:
        with torch.no_grad():
            energy.state_energy(x)

    def parameters() -> None:
        for part in x.split(256):
            energy.zero_grad(set_to_none=True)
            energy.state_energy(part).sum().backward()

    found: dict[str, float | None] = {
        "E": microseconds(forward, len(x), repeats),
        "E+dw": microseconds(parameters, len(x), repeats),
        "dense E": None,
        "dense E+dx": None,
    }
    if isinstance(energy, GraphEnergy):
        few = x[:64]
        encoding = energy.space.encode(few)

        def dense() -> None:
            with torch.no_grad():
                energy(encoding)

        def inputs() -> None:
            leaves = GraphEncoding(*(part.clone().requires_grad_() for part in encoding))
            torch.autograd.grad(energy(leaves).sum(), list(leaves))

        found["dense E"] = microseconds(dense, len(few), repeats)
        found["dense E+dx"] = microseconds(inputs, len(few), repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("GRAPH_EBM_DATA", "../shared/data/molecules")))
    parser.add_argument("--atoms", type=int, nargs="+", default=[9, 27, 38], choices=sorted(SETS))
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for slots in settings.atoms:
        graphs = molecules(settings.data, slots, settings.batch)
        space, x, layers = graphs.space, graphs.x, SETS[slots][1]
        relational = RelationalEnergy(space, 64, layers, zero_output=False)
        twin = PyGTwin(relational)
        with torch.no_grad():
            torch.testing.assert_close(twin.state_energy(x), relational.state_energy(x), atol=1e-3, rtol=1e-3)
        candidates = {
            "local": LocalEnergy(space),
            "local, no angles": LocalEnergy(space, angles=False),
            "local, no rings": LocalEnergy(space, rings=False),
            f"relational h64 L{layers}": relational,
            f"relational h64 L{layers}, PyG RGCNConv": twin,
            f"relational h128 L{layers}": RelationalEnergy(space, 128, layers, zero_output=False),
            f"local + relational h64 L{layers}": MolecularEnergy(space, network=relational),
            "transformer h64 e32 L4": TransformerEnergy(space, zero_output=False),
        }
        n_atoms = float(space.n_atoms(x).double().mean())
        for name, energy in candidates.items():
            few = x[:128] if "transformer" in name else x
            row: dict[str, Any] = {"slots": slots, "mean atoms": n_atoms, "energy": name}
            row["parameters"] = sum(p.numel() for p in energy.parameters())
            rows.append(row | measure(energy, few, settings.repeats))
    result = {
        "unit": "microseconds of processor time per molecule, best of repeats",
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "compiled": _fast.AVAILABLE,
        "batch": settings.batch,
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    print(f"{'V':>3} {'atoms':>5}  {'energy':<34} {'weights':>8}" + "".join(f"{column:>11}" for column in COLUMNS))
    for row in rows:
        times = "".join(f"{row[column]:11.1f}" if row[column] is not None else f"{'-':>11}" for column in COLUMNS)
        print(f"{row['slots']:>3} {row['mean atoms']:5.1f}  {row['energy']:<34} {row['parameters']:>8}{times}")
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
