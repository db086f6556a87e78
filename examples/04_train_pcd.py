"""Train a restricted Boltzmann machine with persistent chains, and judge it by its exact likelihood.

Data: all 4x4 images made of whole rows or whole columns ("bars and stripes"). Each of the 30 is equally likely, so the
best possible mean log-likelihood is -log 30 = -3.40 nats.
Run: python examples/04_train_pcd.py
"""

import math
import os
import tempfile

import discrete_ebm as de
from discrete_ebm import checkpoint

SMOKE = os.environ.get("EBM_SMOKE") == "1"
UPDATES = 100 if SMOKE else 3000


def log_likelihood(energy, data) -> float:
    """Mean log p(x) of the data, exact: all 65,536 images are summed over."""
    energies = energy(energy.space.encode(data)).detach()
    return float(-energies.mean()) - de.evaluate.exact(energy).log_z


def main() -> None:
    data = de.datasets.bars_and_stripes(4)
    print(f"{len(data)} images; the best possible log-likelihood is {-math.log(len(data)):.3f}")
    rbm = de.energies.BernoulliRBM((4, 4), 32, scale=0.1, seed=0)
    print(f"before: {log_likelihood(rbm, data):.3f} nats")

    def report(trainer, terms):
        if trainer.iteration % (UPDATES // 5) == 0:
            print(
                f"update {trainer.iteration:5d}: gap {terms['gap']:6.3f}, "
                f"log-likelihood {log_likelihood(trainer.energy, data):.3f}"
            )

    with tempfile.TemporaryDirectory() as folder:
        fitted = de.fit(
            rbm,
            data,
            objective=de.objectives.PCD(sampler="block-gibbs", n_steps=5, bank_size=500),
            n_iterations=UPDATES,
            batch_size=30,
            lr=0.005,
            decay="linear",
            seed=0,
            output=folder,
            progress=False,
            callbacks=[report],
        )
        again = checkpoint.load(folder)  # the averaged model, from the run's folder
    print(f"averaged parameters: {log_likelihood(again, data):.3f} nats after {fitted.seconds:.0f} s")

    fresh = de.sample(again, sampler="block-gibbs", n_chains=200, n_steps=200 if SMOKE else 2000, seed=1)
    known = {tuple(image.flatten().tolist()) for image in data}
    hits = sum(tuple(image.flatten().tolist()) in known for image in fresh.last)
    print(f"{hits} of 200 fresh chains end in a bar or stripe; four of them:")
    for row in range(4):
        print("   ".join("".join("#" if bit else "." for bit in image[row].tolist()) for image in fresh.last[:4]))


if __name__ == "__main__":
    main()
