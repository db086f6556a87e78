"""Multiple-try Metropolis on six states with a random proposal: its law against brute-force sums, and planted bugs.

Every statistical test draws its starts from the exact law, uses fixed seeds and fails at p < 1e-5: with the 14 p-values
of this file, a correct kernel under fresh seeds fails with probability below 2e-4.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers import balancing
from discrete_ebm.samplers import multiple_try as module
from discrete_ebm.samplers.informed import Proposal
from discrete_ebm.samplers.multiple_try import MultipleTry, multiple_try
from discrete_ebm.testing_statistics import goodness_of_fit, symmetry

STATES, CONTEXTS = 6, 2
CHANCE = np.array([0.4, 0.6])
FALSE_FAILURE = 1e-5


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """(energies (6,), q (2, 6, 6)): two contexts, of few and of many moves; rows sum to less than 1 (no legal move)."""
    rng = np.random.default_rng(0)
    q = rng.gamma(0.5, size=(CONTEXTS, STATES, STATES))
    ring = np.abs(np.subtract.outer(np.arange(STATES), np.arange(STATES))) % (STATES - 2) == 1
    q[0] *= ring
    q[:, np.arange(STATES), np.arange(STATES)] = 0
    q /= q.sum(-1, keepdims=True)
    q *= np.array([0.35, 1.0])[:, None, None] * rng.uniform(0.5, 1.0, size=(CONTEXTS, STATES, 1))
    return rng.normal(size=STATES) * 1.3, q


ENERGY, Q = _tables()


def _law(beta: float = 1.0) -> np.ndarray:
    weight = np.exp(-beta * ENERGY)
    return weight / weight.sum()


class Table:
    """Proposals from the table; ``stale`` makes references reuse the context of the chain's first candidate."""

    def __init__(self, generator: torch.Generator, stale: bool = False) -> None:
        self.generator, self.stale, self.kept, self.calls = generator, stale, None, 0
        self.q = torch.tensor(Q)

    def __call__(self, x: Tensor, chain: Tensor) -> Proposal:
        self.calls += 1
        context = (torch.rand(len(x), generator=self.generator, dtype=torch.float64) > CHANCE[0]).long()
        if self.stale and self.calls % 2 == 0:
            context = self.kept[chain]
        first = torch.ones_like(chain, dtype=torch.bool)
        first[1:] = chain[1:] != chain[:-1]
        self.kept = torch.zeros(int(chain.max()) + 1, dtype=torch.long).index_put((chain[first],), context[first])
        cumulative = self.q[context, x[:, 0]].cumsum(1)
        uniform = torch.rand(len(x), 1, generator=self.generator, dtype=torch.float64)
        y = torch.searchsorted(cumulative, uniform, right=True)[:, 0]
        possible = y < STATES
        y = torch.where(possible, y, x[:, 0])
        ratio = self.q[context, y, x[:, 0]].log() - self.q[context, x[:, 0], y].log()
        return Proposal(y[:, None], y, torch.where(possible, ratio, -torch.inf), possible)


def _evaluate(x: Tensor) -> Tensor:
    return torch.tensor(ENERGY)[x[:, 0]]


def _step(
    start: Tensor, tries: int, beta: Tensor, *, seed: int, name: str = "barker", stale: bool = False
) -> MultipleTry:
    generator = torch.Generator().manual_seed(seed)
    x, propose = start[:, None], Table(generator, stale)
    return multiple_try(
        propose, _evaluate, x, _evaluate(x), beta=beta, n_tries=tries, generator=generator, balancing=name
    )


def _g(name: str, t: float) -> float:
    return {"sqrt": t**0.5, "barker": t / (1 + t), "min": min(1.0, t), "max": max(1.0, t)}[name]


def _moves(x: int, beta: float, name: str, stale: bool = False) -> list[tuple[float, float, float, int]]:
    """(chance, weight, weight back, end) of everything one proposal can be, "no legal move" included."""
    out, total = [], 0.0
    for context, y in itertools.product(range(CONTEXTS), range(STATES)):
        chance = CHANCE[context] * Q[context, x, y]
        if chance > 0:
            r = np.exp(-beta * (ENERGY[y] - ENERGY[x])) * Q[context, y, x] / Q[context, x, y]
            out.append((chance, _g(name, r), _g(name, 1 / r), y))
            total += chance
    return [*out, (1 - total, 0.0, 0.0, x)]


def _matrix(tries: int, beta: float, name: str) -> np.ndarray:
    """Transition matrix by summing over every set of candidates and references."""
    p = np.zeros((STATES, STATES))
    for x in range(STATES):
        for chosen in _moves(x, beta, name)[:-1]:
            chance, weight, back, y = chosen
            for others in itertools.product(_moves(x, beta, name), repeat=tries - 1):
                total = weight + sum(o[1] for o in others)
                picked = tries * chance * np.prod([o[0] for o in others]) * weight / total
                for refs in itertools.product(_moves(y, beta, name), repeat=tries - 1):
                    reference = back + sum(o[1] for o in refs)
                    p[x, y] += picked * np.prod([o[0] for o in refs]) * min(1.0, total / reference)
    p[np.diag_indices(STATES)] += 1 - p.sum(1)
    return p


@pytest.mark.parametrize("name", sorted(balancing.BALANCING))
def test_brute_force_law_of_two_tries_is_reversible(name: str) -> None:
    flow = _law(0.8)[:, None] * _matrix(2, 0.8, name)
    assert np.abs(flow - flow.T).max() < 1e-12
    assert flow.min() >= 0


@pytest.mark.parametrize("name", sorted(balancing.BALANCING))
def test_step_follows_the_brute_force_law(name: str) -> None:
    """n = 15 000 steps from each of 6 states; one p-value a balancing function (4)."""
    n, p = 15_000, _matrix(2, 0.8, name)
    start = torch.arange(STATES).repeat_interleave(n)
    out = _step(start, 2, torch.full((len(start),), 0.8, dtype=torch.float64), seed=1, name=name)
    counts = torch.bincount(start * STATES + out.x[:, 0], minlength=STATES**2)
    exact = torch.tensor(p).flatten() / STATES
    assert goodness_of_fit(counts, exact) > FALSE_FAILURE


def _pairs(tries: int, beta: float, n: int, seed: int, **options: object) -> tuple[Tensor, Tensor]:
    """Counts (6, 6) of (start, end) and of ends, from exact starts."""
    law = torch.tensor(_law(beta))
    start = torch.multinomial(law, n, replacement=True, generator=torch.Generator().manual_seed(seed))
    out = _step(start, tries, torch.full((n,), beta, dtype=torch.float64), seed=seed + 1, **options)  # type: ignore[arg-type]
    pairs = torch.bincount(start * STATES + out.x[:, 0], minlength=STATES**2).view(STATES, STATES)
    return pairs, pairs.sum(0)


@pytest.mark.parametrize("tries", [2, 3, 5])
def test_exact_starts_stay_exact_and_flows_balance(tries: int) -> None:
    """n = 200 000 iid starts; two p-values for each K (6)."""
    pairs, ends = _pairs(tries, 1.0, 200_000, seed=10 + tries)
    assert goodness_of_fit(ends, torch.tensor(_law())) > FALSE_FAILURE
    assert symmetry(pairs) > FALSE_FAILURE


def test_every_chain_has_its_own_beta() -> None:
    """n = 60 000 starts at each of beta 0.2 and 2, in one batch (4 p-values)."""
    n, betas = 60_000, (0.2, 2.0)
    generator = torch.Generator().manual_seed(3)
    starts = [torch.multinomial(torch.tensor(_law(b)), n, replacement=True, generator=generator) for b in betas]
    start = torch.stack(starts, 1).flatten()
    out = _step(start, 3, torch.tensor(betas, dtype=torch.float64).repeat(n), seed=4)
    for column, beta in enumerate(betas):
        pairs = torch.bincount(start[column::2] * STATES + out.x[column::2, 0], minlength=STATES**2)
        pairs = pairs.view(STATES, STATES)
        assert goodness_of_fit(pairs.sum(0), torch.tensor(_law(beta))) > FALSE_FAILURE
        assert symmetry(pairs) > FALSE_FAILURE


def _mutant(monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, object]:
    if name == "reference set without x":
        monkeypatch.setattr(module, "_reference_total", lambda back, refs: refs.logsumexp(1))
    elif name == "ratio inverted":
        monkeypatch.setattr(module, "_log_ratio", lambda q, beta, delta: beta * delta - q)
    elif name == "proposal ratio left out":
        monkeypatch.setattr(module, "_log_ratio", lambda q, beta, delta: -beta * delta)
    elif name == "beta left out":
        monkeypatch.setattr(module, "_log_ratio", lambda q, beta, delta: q - delta)
    elif name == "weights not balanced":
        monkeypatch.setitem(balancing.BALANCING, "barker", lambda log_t: log_t)
    return {"stale": name == "stale contexts"}


@pytest.mark.mutants
@pytest.mark.parametrize(
    "name",
    ["reference set without x", "ratio inverted", "proposal ratio left out", "beta left out", "weights not balanced",
     "stale contexts"],
)
def test_planted_bugs_die(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same test as above, K = 2, at beta = 0.7, n = 200 000; 1 000 000 for stale contexts, which bend it less."""
    options = _mutant(monkeypatch, name)
    pairs, ends = _pairs(2, 0.7, 1_000_000 if options["stale"] else 200_000, seed=21, **options)
    assert min(symmetry(pairs), goodness_of_fit(ends, torch.tensor(_law(0.7)))) < FALSE_FAILURE / 100


@pytest.mark.parametrize("name", sorted(balancing.BALANCING))
def test_one_try_is_metropolis_hastings(name: str) -> None:
    """Acceptance probability min(1, r) to rounding, whatever g."""
    start = torch.randint(STATES, (2000,), generator=torch.Generator().manual_seed(5))
    beta = torch.rand(2000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    out = _step(start, 1, beta, seed=7, name=name)
    again = Table(torch.Generator().manual_seed(7))(start[:, None], torch.arange(2000))
    expected = (again.log_q_ratio - beta * (_evaluate(again.y) - _evaluate(start[:, None]))).clamp(max=0).exp()
    torch.testing.assert_close(out.acceptance, expected, rtol=1e-9, atol=1e-12)
    assert out.calls == again.possible.double().mean()


def test_non_finite_energies_are_counted_and_never_entered() -> None:
    bad = {1: torch.inf, 2: torch.nan, 3: -torch.inf}

    def evaluate(x: Tensor) -> Tensor:
        table = torch.tensor(ENERGY)
        for state, value in bad.items():
            table[state] = value
        return table[x[:, 0]]

    start = torch.tensor([0, 4, 5]).repeat(2000)[:, None]
    for name in sorted(balancing.BALANCING):
        generator = torch.Generator().manual_seed(8)
        out = multiple_try(
            Table(generator), evaluate, start, evaluate(start), beta=torch.ones(6000, dtype=torch.float64), n_tries=3,
            generator=generator, balancing=name,
        )
        assert set(out.x[:, 0].tolist()) <= {0, 4, 5}
        assert out.energy.isfinite().all()
        assert out.acceptance.isfinite().all()
        assert int(out.non_finite) > 0


def test_a_start_of_infinite_energy_is_left() -> None:
    energy = torch.tensor(ENERGY)
    energy[0] = torch.inf
    start, beta = torch.zeros(500, 1, dtype=torch.long), torch.ones(500, dtype=torch.float64)
    generator = torch.Generator().manual_seed(9)
    out = multiple_try(
        Table(generator), lambda x: energy[x[:, 0]], start, energy[start[:, 0]], beta=beta, n_tries=4,
        generator=generator,
    )
    assert out.accepted.double().mean() > 0.5
    assert out.energy[out.accepted].isfinite().all()
    assert out.acceptance.isfinite().all()


def test_energies_returned_are_those_of_the_states() -> None:
    out = _step(torch.arange(STATES).repeat(200), 4, torch.ones(1200, dtype=torch.float64), seed=11)
    assert torch.equal(out.energy, _evaluate(out.x))
    assert 0 < out.calls <= 7


def test_half_precision_energies_make_the_choices_of_float32() -> None:
    def half(x: Tensor) -> Tensor:
        return torch.tensor(ENERGY)[x[:, 0]].bfloat16()

    start = torch.arange(STATES).repeat(200)[:, None]
    found = []
    for evaluate in (half, lambda x: half(x).float()):
        generator = torch.Generator().manual_seed(13)
        energy = evaluate(start)
        found.append(multiple_try(
            Table(generator), evaluate, start, energy, beta=torch.ones_like(energy), n_tries=3, generator=generator
        ))
    assert found[0].energy.dtype == torch.bfloat16
    assert torch.equal(found[0].x, found[1].x)


def test_step_repeats_to_the_bit_for_the_same_seed() -> None:
    start, beta = torch.arange(STATES).repeat(50), torch.ones(300, dtype=torch.float64)
    first, second = (_step(start, 3, beta, seed=12) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor))


@pytest.mark.parametrize("tries", [0, -1, 2.0, True, "3"])
def test_wrong_number_of_tries_is_refused(tries: object) -> None:
    with pytest.raises(SettingError, match="n_tries"):
        _step(torch.zeros(2, dtype=torch.long), tries, torch.ones(2, dtype=torch.float64), seed=0)  # type: ignore[arg-type]


def test_unknown_balancing_is_refused() -> None:
    with pytest.raises(SettingError, match="balancing"):
        _step(torch.zeros(2, dtype=torch.long), 2, torch.ones(2, dtype=torch.float64), seed=0, name="cube")
