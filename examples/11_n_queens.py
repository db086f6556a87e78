"""A constraint problem: n queens on a board, none in reach of another, found by annealing.

x_i is the column of the queen in row i; the energy counts pairs on one column or diagonal. It is written for one-hot
encodings, so it is differentiable and gradient-informed samplers take it as it is.
Run: python examples/11_n_queens.py
"""

import os

import torch

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
N, CHAINS, STEPS = (8, 32, 150) if SMOKE else (16, 64, 800)
BETAS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)

ROW = torch.arange(N)[:, None].expand(N, N)
COLUMN = torch.arange(N)[None, :].expand(N, N)
LINES = torch.stack([COLUMN, N + ROW + COLUMN, 3 * N + ROW - COLUMN + N]).flatten(1)  # (3, N*N) line of each square


def attacks(one_hot: torch.Tensor) -> torch.Tensor:
    """Energy (C,): pairs of queens that attack each other, from one-hot columns (C, N, N)."""
    squares = one_hot.flatten(1)
    queens = squares.new_zeros(len(squares), 6 * N)
    for line in LINES:
        queens = queens.index_add(1, line, squares)
    return (queens * (queens - 1) / 2).sum(1)


def is_solution(columns: list[int]) -> bool:
    """Checked without the energy."""
    pairs = [(i, j) for i in range(N) for j in range(i)]
    return all(columns[i] != columns[j] and abs(columns[i] - columns[j]) != i - j for i, j in pairs)


def main() -> None:
    energy = de.from_callable(attacks, de.Categorical(N, N))
    x = None
    print("beta   mean attacks   fewest   acceptance")
    for beta in BETAS:  # each stage goes on from the last states of the one before
        chains = de.sample(energy, "gwg", n_chains=CHAINS, n_steps=STEPS, beta=beta, x0=x, seed=0)
        x = chains.last
        print(f"{beta:4.1f}  {chains.energy.mean():13.2f}  {chains.energy.min():7.0f}  {chains.acceptance_rate:11.2f}")

    found = {tuple(state.tolist()) for state in chains.x[chains.energy == 0]}
    print(f"{len(found)} distinct solutions of {N} queens")
    assert all(is_solution(list(columns)) for columns in found)
    if found:
        for column in min(found):
            print(" ".join("Q" if square == column else "." for square in range(N)))


if __name__ == "__main__":
    main()
