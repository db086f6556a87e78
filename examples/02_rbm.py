"""Three samplers on one restricted Boltzmann machine, against the exact answer.

Any sampler takes any energy whose needs it meets; what differs is the price of an independent draw.
Run: python examples/02_rbm.py
"""

import os

import torch

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
STEPS = 100 if SMOKE else 1000


def main() -> None:
    rbm = de.energies.BernoulliRBM(10, 5, scale=1.0, seed=1)
    truth = de.evaluate.exact(rbm)  # 1,024 visible states: every sum is exact
    exact_mean = truth.marginals[:, 1]
    print(f"exact log Z {truth.log_z:.4f}, mean energy {truth.mean_energy:.4f}")
    print("sampler      seconds  mean energy  worst marginal error  ESS(energy)  ESS/second")
    for name in ("gibbs", "block-gibbs", "gwg"):
        chains = de.sample(rbm, sampler=name, n_chains=32, n_steps=STEPS, seed=0)
        error = (chains.x.flatten(0, 1).double().mean(0) - exact_mean).abs().max()
        ess = chains.ess("energy")
        print(
            f"{name:12s} {chains.seconds:7.2f}  {chains.energy.mean():11.4f}  {error:20.4f}  {ess:11.0f}"
            f"  {ess / chains.seconds:10.0f}"
        )

    # A clamp keeps some units at their value: the same call draws from the conditional law.
    x0 = torch.zeros(32, 10, dtype=torch.int8)
    x0[:, :3] = 1
    clamp = torch.zeros(10, dtype=torch.bool)
    clamp[:3] = True
    chains = de.sample(rbm, sampler="block-gibbs", x0=x0, clamp=clamp, n_steps=STEPS, seed=0)
    agree = (truth.states[:, :3] == 1).all(1)
    conditional = (truth.probabilities[agree, None] * truth.states[agree].double()).sum(0) / truth.probabilities[
        agree
    ].sum()
    error = (chains.x.flatten(0, 1).double().mean(0) - conditional).abs().max()
    print(f"three units clamped to 1: worst conditional marginal error {error:.4f}")


if __name__ == "__main__":
    main()
