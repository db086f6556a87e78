"""Better molecules: an expert on the most drug-like tenth of the data, over a base that knows what molecules are.

Data: 20,000 drug-like molecules of ZINC, packaged with the library. About 10 minutes on two cores.
The command `graph-ebm optimize qed` does the same and writes a report with pictures.
Run: python examples/06_optimize_qed.py        (needs the extra: pip install "discrete-ebm[molecules]")
"""

import os

import graph_ebm as ge

SMOKE = os.environ.get("EBM_SMOKE") == "1"


def main() -> None:
    if SMOKE:  # so little data, time and network that the result means nothing; the calls are the same
        data = ge.datasets.load("qm9-sample", limit=600, max_atoms=9)
        budget = {"minutes": 0.1, "n": 40, "n_steps": 100, "hidden": 16, "layers": 1, "n_chains": 64, "batch": 64}
    else:
        data = ge.datasets.load("zinc-sample")
        budget = {"minutes": 9.0, "n": 1000}

    result = ge.optimize("qed", data=data, seed=0, progress=not SMOKE, **budget)

    figures = result.figures
    print(f"{len(result.generated)} samples, {figures['unique']:.0%} unique, {figures['novel']:.0%} not in the data")
    print(f"QED of the data {figures['mean qed of the data']:.3f}, "
          f"of all samples {figures['mean qed of all samples']:.3f}: "
          f"{figures['shift of qed in standard deviations']:+.2f} standard deviations")
    print(f"as good as the best tenth of the data: {figures['hit_rate']:.1%} of the samples against "
          f"{figures['base_rate']:.1%} of the data, {figures['lift']:.1f} times as many "
          f"(95 % interval {figures['lift_low']:.1f} to {figures['lift_high']:.1f})")

    print("the best of them:")
    for row in result.molecules[:5]:
        known = "in the data" if row["known"] else "new"
        print(f"  QED {row['qed']:.3f}  {known:<11}  {row['smiles']}")
    print("to be kept in mind:")
    for sentence in result.caveats:
        print(f"  - {sentence}")


if __name__ == "__main__":
    main()
