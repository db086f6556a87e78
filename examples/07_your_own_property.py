"""Any Python function of a SMILES can be the goal, alone or together with built-in properties and bounds.

From the shell, with this function in my_goals.py:  graph-ebm optimize my_goals:flexibility:1..3 qed
Run: python examples/07_your_own_property.py        (needs the extra: pip install "discrete-ebm[molecules]")
"""

import os
import sys

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

import graph_ebm as ge

SMOKE = os.environ.get("EBM_SMOKE") == "1"


def flexibility(smiles: str) -> float:
    """Rotatable bonds. What raises or returns NaN counts as a failure of that molecule; it is reported, not hidden."""
    return float(rdMolDescriptors.CalcNumRotatableBonds(Chem.MolFromSmiles(smiles)))


def main() -> None:
    here = sys.modules[flexibility.__module__].__name__  # "__main__" when run as a script
    goal = f"{here}:flexibility"
    if SMOKE:
        data = ge.datasets.load("qm9-sample", limit=600, max_atoms=9)
        wanted = [f"{goal}:1..3", "qed"]
        budget = {"minutes": 0.1, "n": 40, "n_steps": 100, "hidden": 16, "layers": 1, "n_chains": 64, "batch": 64}
    else:
        data = ge.datasets.load("zinc-sample")
        wanted = [f"{goal}:3..5", "qed"]  # a range that a hit must meet, and a property with more of it being better
        budget = {"minutes": 9.0, "n": 1000}

    result = ge.optimize(wanted, data=data, seed=0, progress=not SMOKE, **budget)

    print("asked:", "; ".join(result.figures["thresholds"]))
    print(f"met by {result.figures['hit_rate']:.1%} of {len(result.generated)} samples; "
          f"{result.figures['base_rate']:.1%} of the data meet it")
    print(f"property failures: {result.figures['property_failures']}")
    print("best first:")
    for row in result.molecules[:5]:
        print(f"  {row[goal]:2.0f} rotatable bonds, QED {row['qed']:.3f}   {row['smiles']}")

    # To stay near a molecule that you have: a start and a hard constraint on Tanimoto similarity.
    near = ge.optimize("qed", data=data, base=result.model, seed=1, progress=False,
                       like=data.smiles[0], similarity=0.3, **budget | {"minutes": 0.05 if SMOKE else 2.0})
    print(f"near {data.smiles[0]}:")
    for row in near.molecules[:3]:
        print(f"  QED {row['qed']:.3f}   {row['smiles']}")


if __name__ == "__main__":
    main()
