"""A scikit-learn model as an energy: which of many switches would a random forest like to see on?

The forest has no gradient and no closed form, so sampler="auto" takes Gibbs: exact conditionals from evaluations.
Run: python examples/10_scikit_learn.py
"""

import os

import numpy as np
import torch

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
FEATURES, TREES, CHAINS, STEPS = (8, 10, 64, 30) if SMOKE else (12, 30, 200, 150)


def data(rng: np.random.Generator, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Switches that work in pairs: 0 with 1, 2 with 3; switch 4 spoils everything."""
    x = rng.integers(0, 2, (n, FEATURES))
    signal = x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] - 2 * x[:, 4]
    return x, (signal + 0.3 * rng.normal(size=n) > 0.5).astype(int)


def main() -> None:
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        print("This example needs scikit-learn, which is not installed here.")
        print("Install it with: pip install 'discrete-ebm[examples]'")
        print("Nothing was run.")
        return
    x, y = data(np.random.default_rng(0))
    forest = RandomForestClassifier(n_estimators=TREES, min_samples_leaf=20, random_state=0).fit(x, y)

    def log_odds(encoding: torch.Tensor) -> torch.Tensor:
        """(C,) log odds of class 1; a float tensor of 0/1 in, one number per chain out."""
        p = forest.predict_proba(encoding.numpy())[:, 1].clip(1e-3, 1 - 1e-3)
        return torch.from_numpy(np.log(p / (1 - p))).float()

    energy = de.from_log_prob(log_odds, de.Binary(FEATURES))  # p(x) in proportion to the odds
    chains = de.sample(energy, sampler="auto", n_chains=CHAINS, n_steps=STEPS, seed=0)
    print(f"picked {chains.choice}")
    print(f"{chains.energy_calls:.0f} evaluations per chain in {chains.seconds:.1f} s")

    truth = de.evaluate.exact(energy)  # few enough states to know the answer
    on = chains.x.float().mean((0, 1))
    states = energy.space.enumerate().double()
    exact = (truth.probabilities.double().flatten()[:, None] * states).sum(0)
    print("switch   sampled   exact")
    for i in range(6):
        print(f"{i:6d}  {on[i]:8.3f}  {exact[i]:6.3f}")
    print(f"largest difference: {(on - exact).abs().max():.3f}")
    both = (chains.x[..., 0] * chains.x[..., 1]).float().mean()
    print(f"switches 0 and 1 both on: {both:.3f}; if they were independent: {on[0] * on[1]:.3f}")


if __name__ == "__main__":
    main()
