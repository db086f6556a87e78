"""The Ising model across its critical point: spins align as the coupling grows past 0.4407.

Run: python examples/01_ising.py
"""

import os

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
SIDE, SWEEPS, CHAINS = (8, 60, 8) if SMOKE else (24, 600, 24)


def alignment(x):
    """|mean spin| of each state: 0 = disordered, 1 = all aligned."""
    return x.flatten(1).float().mean(1).abs()


def main() -> None:
    print(f"{SIDE}x{SIDE} spins, {CHAINS} chains, {SWEEPS} checkerboard sweeps")
    print("coupling  alignment  energy/spin  ESS(alignment)  R-hat")
    for coupling in (0.2, 0.4, 0.4407, 0.5):
        energy = de.energies.Ising.lattice((SIDE, SIDE), coupling=coupling)
        chains = de.sample(energy, sampler="block-gibbs", n_chains=CHAINS, n_steps=SWEEPS, seed=0)
        mean = alignment(chains.x.flatten(0, 1)).mean()
        print(
            f"{coupling:8.4f}  {mean:9.3f}  {chains.energy.mean() / SIDE**2:11.3f}  {chains.ess(alignment):14.0f}"
            f"  {chains.rhat(alignment):5.3f}"
        )

    last = chains.last[0]
    print("\none state at the last coupling:")
    for row in last[: min(SIDE, 16), : min(SIDE, 32)].tolist():
        print("".join("#" if spin > 0 else "." for spin in row))


if __name__ == "__main__":
    main()
