"""Your own energy: any function from an encoding to one number per chain.

Here: colour a map so that neighbours differ, with a wish that as few regions as possible are red.
Run: python examples/03_your_own_energy.py
"""

import os

import torch

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
STEPS = 200 if SMOKE else 1000
REGIONS = ["WA", "NT", "SA", "Q", "NSW", "V", "T"]
BORDERS = [
    ("WA", "NT"),
    ("WA", "SA"),
    ("NT", "SA"),
    ("NT", "Q"),
    ("SA", "Q"),
    ("SA", "NSW"),
    ("SA", "V"),
    ("Q", "NSW"),
    ("NSW", "V"),
]
COLOURS = ["red", "green", "blue"]
PAIRS = torch.tensor([[REGIONS.index(a), REGIONS.index(b)] for a, b in BORDERS])


def clashes(one_hot: torch.Tensor) -> torch.Tensor:
    """Energy (C,) of one-hot colours (C, 7, 3): 2 nats for each border between equal colours, 1 for each red region."""
    same = (one_hot[:, PAIRS[:, 0]] * one_hot[:, PAIRS[:, 1]]).sum((1, 2))
    return 2 * same + one_hot[:, :, 0].sum(1)


def main() -> None:
    space = de.Categorical(len(REGIONS), len(COLOURS))
    energy = de.from_callable(clashes, space)  # differentiable, so gradient-informed samplers work as they are
    truth = de.evaluate.exact(energy)
    chains = de.sample(energy, sampler="gwg", n_chains=64, n_steps=STEPS, seed=0)
    print(
        f"mean energy {chains.energy.mean():.3f} (exact {truth.mean_energy:.3f}), acceptance "
        f"{chains.acceptance_rate:.2f}, ESS {chains.ess('energy'):.0f}"
    )

    best = chains.energy.argmin()
    x = chains.x.flatten(0, 1)[best]
    print("best map:", ", ".join(f"{name} {COLOURS[c]}" for name, c in zip(REGIONS, x.tolist(), strict=True)))
    print(f"its energy {chains.energy.min():.0f}; the lowest of all {truth.energies.min():.0f}")

    # Colder chains look harder; beta may differ from chain to chain.
    beta = torch.tensor([0.3, 1.0, 2.0]).repeat_interleave(64)
    cold = de.sample(energy, sampler="gwg", n_chains=192, n_steps=STEPS, beta=beta, seed=0)
    for group, value in zip(cold.energy.split(64, dim=1), (0.3, 1.0, 2.0), strict=True):
        expected = de.evaluate.exact(energy, beta=value).mean_energy
        print(f"beta {value}: mean energy {group.mean():.3f} (exact {expected:.3f})")

    # Energies compose: minus a multiple of another energy wishes for its opposite.
    more_green = de.from_callable(lambda one_hot: -one_hot[:, :, 1].sum(1), space)
    both = energy + 2.0 * more_green
    greener = de.sample(both, sampler="gwg", n_chains=64, n_steps=STEPS, seed=0)
    print(
        f"green regions: {(chains.x == 1).float().sum(2).mean():.2f}, with the wish for green "
        f"{(greener.x == 1).float().sum(2).mean():.2f}"
    )


if __name__ == "__main__":
    main()
