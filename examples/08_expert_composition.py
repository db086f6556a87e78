"""Compose experts by hand: AND, NOT and temperature are sums of energies; the base keeps p(x) from counting twice.

p(x) ∝ exp(−[E₁ + E₂ − E₀]): two experts that each hold the law of all molecules, which E₀ takes out once.
Run: python examples/08_expert_composition.py        (needs the extra: pip install "discrete-ebm[molecules]")
"""

import os

import numpy as np

import discrete_ebm as de
import graph_ebm as ge
from graph_ebm import properties
from graph_ebm.energies import ComposedEnergy

SMOKE = os.environ.get("EBM_SMOKE") == "1"
SMALL = {"hidden": 16, "layers": 1, "n_chains": 64, "batch": 64, "n_steps": 5}


def expert(data, column: str, base):
    """An energy of the molecules whose value is in the top fifth, trained on from the base."""
    values = np.asarray(data.properties[column])
    best = data[values >= np.quantile(values, 0.8)]
    length = {"n_iterations": 8, **SMALL} if SMOKE else {"minutes": 1.0}
    return ge.train(best, base=base, seed=1, progress=not SMOKE, label=column, **length).energy


def main() -> None:
    data = ge.datasets.load("qm9-sample", limit=400 if SMOKE else None, max_atoms=9)
    length = {"n_iterations": 12, **SMALL} if SMOKE else {"minutes": 3.0}
    base = ge.train(data, seed=0, progress=not SMOKE, label="base", **length)
    polar, likely = expert(data, "tpsa", base), expert(data, "qed", base)

    compositions = {
        "base alone": base.energy,
        "polar": polar,
        "polar AND drug-like": ComposedEnergy({"polar": polar, "likely": likely}, base=base.energy),
        "drug-like, NOT polar": ComposedEnergy({"likely": likely, "polar": polar}, [1.0, -0.5], base=base.energy),
        "polar, flattened": ComposedEnergy({"polar": polar}, temperatures=[1.5]),
    }
    print(f"{'data':<22} tpsa {np.mean(data.properties['tpsa']):6.1f}   qed {np.mean(data.properties['qed']):.3f}")
    for name, energy in compositions.items():
        drawn = ge.generate(base, n=40 if SMOKE else 500, n_steps=100 if SMOKE else 1500, energy=energy, seed=2,
                            progress=False)
        values, _ = properties.compute(["tpsa", "qed"], drawn.molecules)
        print(f"{name:<22} tpsa {np.mean(values['tpsa']):6.1f}   qed {np.mean(values['qed']):.3f}   "
              f"{drawn.molecules.n_atoms.double().mean():.1f} atoms")

    # Each expert's own opinion of a sample is kept; the base subtracts once, whatever the weights.
    both = compositions["polar AND drug-like"]
    drawn = ge.generate(base, n=4, n_steps=100, energy=both, seed=3, progress=False)
    for row, smiles in enumerate(drawn.smiles):
        print("  ".join(f"{k} {v[row]:7.2f}" for k, v in drawn.expert_energies.items()), f" {smiles}")

    # A molecular energy is an energy like any other: the core's chain driver and its diagnostics take it as it is.
    chains = de.sample(both, sampler=base.kernel, x0=data.x[:16], n_steps=200 if SMOKE else 2000, seed=4)
    print(f"acceptance {chains.acceptance_rate:.2f}, effective sample size of the energy {chains.ess('energy'):.0f}")


if __name__ == "__main__":
    main()
