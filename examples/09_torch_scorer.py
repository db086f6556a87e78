"""A foreign model in plain torch: a network that scores DNA sequences, sampled from without changing a line of it.

A scorer gives an unnormalised log probability: de.from_log_prob makes an energy of it, and a space says what x is.
Run: python examples/09_torch_scorer.py
"""

import os

import torch
from torch import nn

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
LENGTH, CHAINS, STEPS = (10, 16, 200) if SMOKE else (30, 64, 2000)
LETTERS = "ACGT"


class Scorer(nn.Module):
    """Somebody else's model: (B, L, 4) one-hot to (B,) scores. It likes the motif TATA anywhere, once."""

    def __init__(self) -> None:
        super().__init__()
        self.motif = nn.Conv1d(4, 1, kernel_size=4)
        with torch.no_grad():
            self.motif.weight.fill_(-1.0)
            for place, letter in enumerate("TATA"):
                self.motif.weight[0, LETTERS.index(letter), place] = 1.0
            self.motif.bias.fill_(-2.0)

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        hits = torch.sigmoid(3 * self.motif(one_hot.transpose(1, 2)))[:, 0]  # near 1 where the motif is
        return 6 * torch.tanh(hits.sum(1))


def text(x: torch.Tensor) -> str:
    return "".join(LETTERS[code] for code in x.tolist())


def main() -> None:
    scorer = Scorer()
    energy = de.from_log_prob(scorer, de.Categorical(LENGTH, 4))
    chains = de.sample(energy, sampler="auto", n_chains=CHAINS, n_steps=STEPS, seed=0)
    print(f"picked {chains.choice}")
    print(f"acceptance {chains.acceptance_rate:.2f}, ESS of the energy {chains.ess('energy'):.0f}")
    for x, value in list(zip(chains.last, chains.energy[-1], strict=True))[:4]:
        print(f"  {text(x)}  score {-value:.2f}")
    share = sum("TATA" in text(x) for x in chains.last) / CHAINS
    print(f"sequences with the motif: {share:.0%}; of random ones about {(LENGTH - 3) / 256:.0%}")

    # What is known stays: the first five letters are clamped.
    x0 = energy.space.random(CHAINS, torch.Generator().manual_seed(1))
    x0[:, :5] = torch.tensor([LETTERS.index(letter) for letter in "GATTA"])
    clamp = torch.arange(LENGTH) < 5
    held = de.sample(energy, sampler="auto", x0=x0, clamp=clamp, n_steps=STEPS, seed=0)
    print("with GATTA in front:", text(held.last[0]))

    # The scorer is still the caller's: no gradient was left in it and nothing was frozen.
    assert all(p.grad is None and p.requires_grad for p in scorer.parameters())


if __name__ == "__main__":
    main()
