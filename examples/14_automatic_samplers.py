"""Which sampler? de.samplers.choose says what suits an energy and why; scales are tuned in the burn-in and then frozen.

Run: python examples/14_automatic_samplers.py
"""

import os

import torch

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
STEPS, CHAINS = (200, 16) if SMOKE else (1500, 64)


def main() -> None:
    coupling = torch.randn(60, 60, generator=torch.Generator().manual_seed(0)) / 60**0.5
    energies = {
        "a lattice": de.energies.Ising.lattice((16, 16), coupling=0.4),
        "a dense Boltzmann machine": de.energies.Ising((coupling + coupling.T).fill_diagonal_(0)),
        "an RBM": de.energies.BernoulliRBM(100, 20),
        "a network": 20 * de.energies.MLPEnergy(de.Binary(60), (64, 64)),
        "no gradient": de.from_callable(lambda v: v.detach().round().sum(1), de.Binary(40)),
        "reals": de.from_callable(lambda v: v.square().sum(1), de.Real(5)),
    }
    for what, energy in energies.items():
        print(f"{what}: {de.samplers.choose(energy)}")

    print("\nscale before and after the burn-in, and the acceptance that it was tuned for:")
    energy = energies["a network"]
    for name in de.samplers.names():
        row = de.samplers.spec(name)
        target = getattr(row.build, "target_acceptance", None)
        if target is None or not row.exact or "Binary" not in row.spaces:
            continue
        fixed = de.sample(energy, name, n_chains=CHAINS, n_steps=STEPS, seed=0, adapt=False)
        tuned = de.sample(energy, name, n_chains=CHAINS, n_steps=STEPS, seed=0)
        if tuned.scale is None:  # tunable under other settings only
            continue
        print(f"{name:>18}: {float(fixed.scale.mean()):7.3f} → {float(tuned.scale.mean()):8.3f}   acceptance "
              f"{fixed.acceptance_rate:.2f} → {tuned.acceptance_rate:.2f} (target {target})   sites changed a step "
              f"{float(fixed.hamming.mean()):.2f} → {float(tuned.hamming.mean()):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
