"""The molecular objectives on the enumerated space: their gradients against exact sums over all 571 molecules."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit
from torch import Tensor, nn

from discrete_ebm.errors import SettingError
from discrete_ebm.objectives.base import ObjectiveState
from graph_ebm.objectives import MolecularPCD, MoleculeBank, ResidualContrast, best_constant, starting_chains
from tests.graph_ebm.exact_moves import kernel, matrix, noisy, proposals, random_energy, target
from tests.graph_ebm.small_space import index_of, molecules
from tests.statistical import assert_law, spend

M = len(molecules()[1])
Z = 5.5  # standard errors; 4e-8 a comparison, two-sided


class Table(nn.Module):
    """One parameter a molecule: the gradient of a loss is then a signed measure over molecules."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))

    def state_energy(self, x: Tensor) -> Tensor:
        return self.table[torch.tensor(index_of(x))]


class Sum(nn.Module):
    """E = local + network, as the objectives expect it."""

    def __init__(self, local: np.ndarray, network: np.ndarray) -> None:
        super().__init__()
        self.local, self.network = Table(local), Table(network)

    def state_energy(self, x: Tensor) -> Tensor:
        return self.local.state_energy(x) + self.network.state_energy(x)


@lru_cache(maxsize=1)
def _parts() -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """(local energy, true network, matrices of the moves under the local law, weights of the moves)."""
    local, k = noisy(random_energy()) / 2, kernel()
    truth = np.random.default_rng(8).normal(size=M)
    return local, truth, [matrix(proposals(move), local) for move in k.moves], np.array(k.weights) / sum(k.weights)


def _contrast_gradient(flow: np.ndarray, network: np.ndarray) -> np.ndarray:
    """∂/∂N(z) of Σ_{x≠y} flow(x, y) softplus(N(x) − N(y))."""
    pull = flow * expit(network[:, None] - network[None, :])
    np.fill_diagonal(pull, 0.0)
    return pull.sum(1) - pull.sum(0)


@pytest.mark.parametrize("near_steps", [1, 4, 16])
def test_the_conditional_contrast_is_stationary_at_the_true_network(near_steps: int) -> None:
    """Over the random schedule of moves the near chain is a power of a reversible mixture: the local law cancels."""
    local, truth, matrices, weights = _parts()
    mixture = sum(w * p for w, p in zip(weights, matrices, strict=True))
    data = target(local + truth)
    flow = data[:, None] * np.linalg.matrix_power(mixture, near_steps)
    assert np.abs(_contrast_gradient(flow, truth)).max() < 1e-8
    assert np.abs(_contrast_gradient(flow, truth + 3)).max() < 1e-8, "a constant is free"
    wrong = truth + np.random.default_rng(1).normal(size=M)
    assert np.abs(_contrast_gradient(flow, wrong)).max() > 1e-3, "a wrong network must not be stationary"
    assert np.abs(_contrast_gradient(flow, np.zeros(M))).max() > 1e-3


def test_one_order_of_two_moves_is_not_stationary_but_both_orders_together_are() -> None:
    """Why the schedule is drawn anew for every batch."""
    local, truth, matrices, _ = _parts()
    data, (a, b) = target(local + truth), (matrices[3], matrices[6])
    one = _contrast_gradient(data[:, None] * (a @ b), truth)
    other = _contrast_gradient(data[:, None] * (b @ a), truth)
    assert np.abs(one).max() > 1e-5
    assert np.abs(one + other).max() < 1e-9
    assert np.abs(np.diag(a @ b) - np.diag(b @ a)).max() < 1e-8, "both orders move the same share of the data"


def _residual(
    seed: int, network: np.ndarray, n: int, repeats: int, weight: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients (repeats, M) of the network from fresh exact data and noise, and the exact noise-contrast gradient."""
    local, truth, _, _ = _parts()
    p, q, rng = target(local + truth), target(local), np.random.default_rng(seed)
    x, energy = molecules()[0], Sum(local, network)
    gradients = []
    for repeat in range(repeats):
        generator = torch.Generator().manual_seed(seed + repeat)
        chains = x[torch.tensor(rng.choice(M, n, p=q))]
        bank = MoleculeBank(kernel().init(energy.local, chains, generator=generator), kernel())
        objective = ResidualContrast(kernel(), n_steps=2, n_chains=n, near_steps=(1,), near_weight=weight, bank=bank)
        state = objective.init(energy, x, generator=generator)
        batch = x[torch.tensor(rng.choice(M, n, p=p))]
        loss = objective.loss(energy, batch, state, generator=generator).loss
        (gradient,) = torch.autograd.grad(loss, energy.network.table)
        gradients.append(gradient.numpy())
        assert energy.local.table.grad is None
    data, far = torch.tensor(network), torch.tensor(network)
    c = minimize_scalar(lambda c: p @ np.logaddexp(0, network + c) + q @ np.logaddexp(0, -network - c)).x
    exact = p * expit(data.numpy() + c) - q * expit(-far.numpy() - c)
    return np.stack(gradients), exact


@pytest.mark.parametrize("where", ["truth", "zero"])
def test_the_noise_contrast_gradient_is_the_exact_one(where: str, seed: int) -> None:
    """48 batches of 2,000; five random directions, |z| < 7.4 each: t with 47 degrees, 1e-8 in all."""
    spend(5 * 2 * stats.t.sf(7.4, 47))
    truth = _parts()[1]
    gradients, exact = _residual(seed, truth if where == "truth" else np.zeros(M), 2_000, 48)
    for direction in np.random.default_rng(2).normal(size=(5, M)):
        got, want = gradients @ direction, float(exact @ direction)
        z = (got.mean() - want) / (got.std(ddof=1) / len(got) ** 0.5)
        assert abs(z) < 7.4
    if where == "truth":
        assert np.abs(exact).max() < 1e-9, "noise contrast is stationary at the true network"
    else:
        toward = truth - truth.mean()
        assert float((gradients @ toward).mean()) < 0, "the gradient must lead to the truth"
        spread = (gradients @ toward).std(ddof=1) / 48**0.5
        assert float((gradients @ toward).mean()) < -10 * spread, "and the test must be able to see it"


def test_the_whole_residual_loss_vanishes_in_the_mean_at_the_truth(seed: int) -> None:
    """Both terms, shipped code, 48 batches of 2,000 with a new schedule each; |t| < 7.4 in five directions."""
    spend(5 * 2 * stats.t.sf(7.4, 47))
    gradients, _ = _residual(seed, _parts()[1], 2_000, 48, weight=1.0)
    for direction in np.random.default_rng(3).normal(size=(5, M)):
        got = gradients @ direction
        assert abs(got.mean() / (got.std(ddof=1) / len(got) ** 0.5)) < 7.4


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (8.0, 1.0), (0.0, 6.0), (-3.0, 12.0), (200.0, 0.1)])
def test_the_profiled_constant_is_the_best_one(shift: float, spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data, noise = rng.normal(size=600) * spread - 1 + shift, rng.normal(size=600) * spread + 1 + shift

    def loss(c: float) -> float:
        return float(np.logaddexp(0, data + c).mean() + np.logaddexp(0, -noise - c).mean())

    best = minimize_scalar(loss, bracket=(-shift - 1, -shift + 1)).fun
    found = loss(float(best_constant(torch.tensor(data), torch.tensor(noise))))
    assert found <= best + 1e-6


# -- persistent chains -----------------------------------------------------------------------------------------------


def _exact_bank(energy: Table, law: np.ndarray, n: int, seed: int) -> MoleculeBank:
    start = molecules()[0][torch.tensor(np.random.default_rng(seed).choice(M, n, p=law))]
    state = kernel().init(energy, start, generator=torch.Generator().manual_seed(seed))
    return MoleculeBank(state, kernel())


def test_the_pcd_gradient_is_data_minus_model(seed: int) -> None:
    """From exact chains: ∂loss/∂E(z) = p_data(z) − p_model(z). 40,000 chains, the negative phase tested by χ²."""
    table, n = random_energy(), 40_000
    energy, law = Table(table), target(table)
    objective = MolecularPCD(kernel(), n_steps=6, n_chains=n, batch=n, bank=_exact_bank(energy, law, n, seed))
    generator = torch.Generator().manual_seed(seed)
    batch = molecules()[0][:300]
    state = objective.init(energy, batch, generator=generator)
    before = state.chains.clone()
    out = objective.loss(energy, batch, state, generator=generator)
    (gradient,) = torch.autograd.grad(out.loss, energy.table)
    data = np.bincount(np.arange(300), minlength=M) / 300
    negative = data - gradient.numpy()
    assert_law(np.round(negative * n), law, false_fail=1e-6, must_see=0.06)
    assert float((state.chains != before).flatten(1).any(1).float().mean()) > 0.2
    assert out.negatives is not None
    assert torch.equal(out.negatives, state.chains)
    exact, spread = law @ table - table[:300].mean(), (law @ (table - law @ table) ** 2) ** 0.5
    assert abs(float(out.terms["gap"]) - exact) < Z * spread / n**0.5


def test_a_state_of_another_objective_is_refused() -> None:
    objective = MolecularPCD(kernel())
    with pytest.raises(SettingError, match=r"`state` must be what the objective's init returned; got ObjectiveState"):
        objective.loss(None, None, ObjectiveState(), generator=torch.Generator())


def test_only_the_chosen_rows_of_the_bank_move(seed: int) -> None:
    energy = Table(random_energy())
    bank = _exact_bank(energy, target(random_energy()), 300, seed)
    before, rows = bank.chains.clone(), torch.arange(50, 120)
    bank.advance(kernel(), energy, 20, generator=torch.Generator().manual_seed(seed), rows=rows)
    kept = torch.ones(300, dtype=torch.bool)
    kept[rows] = False
    assert torch.equal(bank.chains[kept], before[kept])
    assert float((bank.chains[rows] != before[rows]).flatten(1).any(1).float().mean()) > 0.5
    assert bank.chains.shape == before.shape
    assert sum(bank.tried.values()) == 70 * 20
    assert all(0 <= share <= 1 for share in bank.acceptance().values())


def test_a_saved_bank_resumes_to_the_bit(seed: int) -> None:
    """Chains, place in the schedule of moves and place in the ramp of steps."""
    energy, batch = Table(random_energy()), molecules()[0][:64]
    objective = MolecularPCD(kernel(), n_steps=8, n_chains=128, batch=64, ramp=2)
    generator = torch.Generator().manual_seed(seed)
    state = objective.init(energy, batch, generator=generator)
    for _ in range(5):
        objective.loss(energy, batch, state, generator=generator)
    saved = copy.deepcopy(state.state_dict())
    numbers = generator.get_state()
    first = [objective.loss(energy, batch, state, generator=generator).loss for _ in range(3)]

    again = objective.init(energy, batch, generator=torch.Generator().manual_seed(0))
    again.load_state_dict(saved)
    fresh = torch.Generator()
    fresh.set_state(numbers)
    second = [objective.loss(energy, batch, again, generator=fresh).loss for _ in range(3)]
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert torch.equal(again.chains, state.chains)


def test_chains_start_at_distinct_data_as_long_as_there_are_enough(seed: int) -> None:
    energy, x = Table(random_energy()), molecules()[0]
    generator = torch.Generator().manual_seed(seed)
    few = starting_chains(x, 200, kernel(), energy, generator=generator)
    assert len(np.unique(index_of(few.x))) == 200
    many = starting_chains(x, 2 * M, kernel(), energy, generator=generator)
    assert len(many.x) == 2 * M
    given = starting_chains(x, 10, kernel(), energy, generator=generator, fresh=x[5:9])
    assert torch.equal(given.x[:4], x[5:9])
    assert len(given.x) == 10
