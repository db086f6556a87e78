"""AND, OR and NOT of energies: densities in the plane against quadrature, digits by class and thickness.

The sum of energies is the law, and exact kernels draw it. Adding the scores of *blurred* laws, as diffusion models are
composed, is another law; the second table says by how much. Run: python examples/18_composition_gallery.py [FIGURE.png]
"""

import os
import sys

import torch

import discrete_ebm as de
from discrete_ebm.datasets import densities
from discrete_ebm.energies import conjunction, disjunction, negation

SMOKE = os.environ.get("EBM_SMOKE") == "1"
N, STEPS, GRID, UPDATES, DRAWS = (50, 5, 60, 5, 10) if SMOKE else (2000, 80, 200, 4000, 300)
A, B = densities.eight_gaussians(), densities.moons(nodes=32)


def in_the_plane() -> dict[str, de.evaluate.GridLaw]:
    """Draws of every composition by tempered HMC, and their total variation (TV) from the law by quadrature."""
    laws = {
        "A": A, "B": B, "A and B": conjunction([A, B]), "A or B": disjunction([A, B], [0.3, 0.7], log_z=[0.0, 0.0]),
        "A, not B": negation(A, B, 4.0, level=4.0), "B at T = 3": conjunction([B], temperatures=[3.0]),
        "A or B, not both": negation(disjunction([A, B], log_z=[0.0, 0.0]), conjunction([A, B]), 3.0, level=5.0),
    }  # fmt: skip
    hmc = de.samplers.HMC(step_size=0.15, n_steps=5)
    tempered = de.samplers.create("parallel-tempering", inner=hmc, n_replicas=5, lowest=0.05)
    print(f"{'composition':26s} log Z   TV of {N} draws   of exact draws")
    found = {}
    for name, energy in laws.items():
        found[name] = law = de.evaluate.quadrature(energy, GRID)
        drawn = de.sample(energy, tempered, n_chains=N, n_steps=STEPS, burn_in=STEPS - 1, seed=0).last
        print("{:25s} {:+.3f}   {:15.3f}   {:14.3f}".format(name, law.log_z, *law.sample_total_variation(drawn)))
    return found


def by_diffusion(parts: list[densities.GaussianMixture], levels: int = 300) -> torch.Tensor:
    """Reverse diffusion along the sum of the parts' blurred scores, each of them exact."""
    generator = torch.Generator().manual_seed(0)
    sigmas = de.energies.noise_levels(8.0, 0.01, levels)
    x = sigmas[0] / len(parts) ** 0.5 * torch.randn((N, 2), generator=generator)  # the law of the first scores
    for high, low in zip(sigmas, (*sigmas[1:], 0.0), strict=True):
        variance = high**2 - low**2
        x = x + variance * sum(part.blurred(high).score(x) for part in parts)
        x = x + (variance**0.5 * torch.randn(x.shape, generator=generator) if low else 0.0)
    return x


def digits() -> list[torch.Tensor]:
    """p(x | three) p(x | thick) / p(x) by three small machines; images kept aside judge what was drawn."""
    data = de.datasets.digits()
    x, y = data.train.flatten(1), data.labels["train"]
    limit = x.sum(1).double().quantile(2 / 3)

    def machine(rows: torch.Tensor) -> de.energies.Energy:
        rbm, objective = de.energies.BernoulliRBM(64, 48, seed=0), de.objectives.PCD("block-gibbs", 5, 500)
        return de.fit(rbm, rows, objective, UPDATES, lr=5e-3, decay="linear", progress=False).energy

    base, three, thick = machine(x), machine(x[y == 3]), machine(x[x.sum(1) > limit])
    laws = {"all": base, "threes": three, "thick": thick, "threes and thick": conjunction([three, thick], base=base),
            "the same without the base": conjunction([three, thick]),
            "threes, not thick": conjunction([three, thick], [1.0, -1.0], base=base, base_weight=-1.0)}  # fmt: skip
    print(f"{'digits':26s} read as 3   thick   both")
    pictures = []
    for name, energy in laws.items():
        draws = de.sample(energy, "gwg", n_chains=DRAWS, n_steps=20 * STEPS, seed=0).last
        nearest = torch.cdist(draws.float(), data.test.flatten(1).float()).argmin(1)
        is_three, is_thick = data.labels["test"][nearest] == 3, draws.sum(1) > limit
        shares = [hit.float().mean() for hit in (is_three, is_thick, is_three & is_thick)]
        print("{:26s} {:9.0%} {:7.0%} {:6.0%}".format(name, *shares))
        pictures.append(draws[:8].reshape(2, 4, 8, 8).permute(0, 2, 1, 3).reshape(16, 32))
    return pictures


def main() -> None:
    laws, added = in_the_plane(), by_diffusion([A, B])
    for name, law, drawn in (("A", laws["A"], by_diffusion([A])), ("A and B", laws["A and B"], added)):
        print("{:33s}  {:15.3f}   {:14.3f}".format(f"{name}, by diffusion", *law.sample_total_variation(drawn)))
    pictures = digits()
    if len(sys.argv) > 1:
        from matplotlib.figure import Figure
        canvas = Figure(figsize=(13, 4.4), layout="constrained")
        top, below = canvas.subfigures(2, 1, height_ratios=[2, 1])
        masses = {name: law.mass.reshape(GRID, GRID).t() for name, law in laws.items()}
        masses["A and B, by diffusion"] = torch.histogramdd(added, 80, range=[-4.0, 4.0] * 2).hist.t()
        for axis, (name, mass) in zip(top.subplots(1, len(masses)), masses.items(), strict=True):
            axis.imshow(mass, origin="lower", cmap="magma", extent=(-4, 4, -4, 4))
            axis.set_title(name, fontsize=8)
        for axis, drawn in zip(below.subplots(1, len(pictures)), pictures, strict=True):
            axis.imshow(drawn, cmap="gray_r")
        for axis in canvas.axes:
            axis.set_axis_off()
        canvas.savefig(sys.argv[1], dpi=80)


if __name__ == "__main__":
    main()
