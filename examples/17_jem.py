"""A classifier that is a density too (JEM): the same network, trained as p(y | x) alone and as p(x, y).

The digits inside the package at 17 levels of grey, 8×8. Look at accuracy, calibration, attacks, far outsiders, and at
what the model draws for a class. Pictures: EBM_PICTURES=folder. Run: python examples/17_jem.py
"""

import os

import torch

import discrete_ebm as de
from discrete_ebm.objectives import JEM, LabelledStates, as_reals

SMOKE = os.environ.get("EBM_SMOKE") == "1"
UPDATES, ATTACKED = (20, 30) if SMOKE else (1500, 180)


def main() -> None:
    digits = de.datasets.get("digits", levels=17)
    space, x = as_reals(digits.space, digits.train)  # pixels from -1 to 1
    held, y = as_reals(digits.space, digits.valid)[1], digits.labels["valid"]
    data = LabelledStates(space, x, digits.labels["train"], 10)
    outside = {"noise": space.random(180, torch.Generator().manual_seed(0)), "upside down": held.flip(1)}

    models = {}
    for name, objective in (("classifier", JEM(x_weight=0.0)), ("JEM", JEM())):  # x_weight=0: no chains at all
        network = de.energies.ImageClassifier(space, 10, (128, 128), seed=0)
        energy = de.energies.ClassifierEnergy(network, space)  # any module that gives logits will do
        models[name] = de.fit(energy, data, objective, n_iterations=UPDATES, batch_size=64, lr=3e-3, decay="linear",
                              progress=False).ema  # fmt: skip
        found = de.evaluate.judge_hybrid(models[name], held, y, outside, attacks={"linf": 0.3}, n_attacked=ATTACKED)
        print(f"-- {name}\n{found}")

    # E(x | y) is an energy like any other: draw each class from a Gaussian start, as the training did.
    labels = torch.arange(10).repeat_interleave(8)
    start = de.energies.ClassGaussians.fit(space, x, digits.labels["train"]).sample(
        generator=torch.Generator().manual_seed(0), label=labels)  # fmt: skip
    drawn = de.sample(models["JEM"].given(labels), JEM().sampler, n_chains=80, n_steps=50, burn_in=49, x0=start,
                      seed=0).last  # fmt: skip
    right = models["JEM"].label_log_probabilities(drawn).argmax(1) == labels
    print(f"draws that the model calls by their class: {float(right.float().mean()):.0%}")

    # exp(-E) was trained at the temperature of its sampler, so an estimate of log Z must say which law it is of.
    print(f"trained at temperature {models['JEM'].implied_temperature:g}")
    try:
        de.evaluate.ais(models["JEM"], 10, 10)
    except de.EBMError as reason:
        print(f"refused: {reason}")

    if folder := os.environ.get("EBM_PICTURES"):
        de.evaluate.image_grid(drawn, 8, titles=list(map(str, range(10))), low=-1, high=1, path=f"{folder}/draws.png")
        de.evaluate.reliability({name: de.evaluate.calibration(de.evaluate.label_log_probabilities(model, held), y)
                                 for name, model in models.items()}, path=f"{folder}/reliability.png")  # fmt: skip


if __name__ == "__main__":
    main()
