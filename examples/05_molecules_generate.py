"""Train an energy of small real molecules, then draw new ones that start from a single carbon atom.

Data: molecules of QM9 (up to 9 heavy atoms), packaged with the library. About 4 minutes on two cores.
Run: python examples/05_molecules_generate.py        (needs the extra: pip install "discrete-ebm[molecules]")
"""

import os
from pathlib import Path

import graph_ebm as ge

SMOKE = os.environ.get("EBM_SMOKE") == "1"


def main() -> None:
    data = ge.datasets.load("qm9-sample", limit=300 if SMOKE else None, max_atoms=9)
    print(f"{len(data)} molecules over the types {', '.join(data.vocabulary.names)}; the first: {data.smiles[0]}")

    if SMOKE:  # a tiny network and a few updates: it shows the calls, not the quality
        length = {"n_iterations": 12, "hidden": 16, "layers": 1, "n_chains": 64, "batch": 64, "n_steps": 5}
    else:
        length = {"minutes": 3.0}
    model = ge.train(data, seed=0, progress=not SMOKE, **length)

    # One chain a molecule. Nothing is filtered or repaired: every state of every chain is a molecule.
    drawn = ge.generate(model, n=30 if SMOKE else 1000, n_steps=200 if SMOKE else 2000, seed=1, progress=not SMOKE)
    accepted = sorted(drawn.acceptance.items(), key=lambda item: -item[1])
    print("accepted by move:", ", ".join(f"{name} {share:.0%}" for name, share in accepted[:5]))

    known = set(data.smiles)
    print(f"{len(set(drawn.smiles))} different molecules of {len(drawn)}, "
          f"{sum(s not in known for s in drawn.smiles)} of them not in the data:")
    for smiles, energy in list(zip(drawn.smiles, drawn.energy.tolist(), strict=True))[:8]:
        print(f"  {energy:8.2f} nats   {smiles}")

    # The same sampler, with a part of the molecule that must stay: an amide.
    kept = ge.generate(model, n=8, n_steps=200, keep="C(=O)N", seed=2, progress=False)
    print("with an amide that stays:", ", ".join(kept.smiles[:4]))

    if not SMOKE:
        folder = model.save(Path("runs") / "example-05")  # `graph-ebm generate runs/example-05` goes on from here
        (folder / "molecules.svg").write_text(drawn.grid(20), encoding="utf-8")
        print(f"model and drawings are in {folder}")


if __name__ == "__main__":
    main()
