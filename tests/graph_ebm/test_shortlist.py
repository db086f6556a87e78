"""Multiple-try edits on the enumerated chemical space: exact matrices, the shipped step against them, planted bugs.

Every statistical test uses fixed seeds and fails at p < 1e-5: with the 16 p-values of this file, a correct kernel under
fresh seeds fails with probability below 2e-4.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers import balancing
from discrete_ebm.samplers import multiple_try as module
from discrete_ebm.samplers.factored import FactoredNeighbourhood
from discrete_ebm.testing_statistics import goodness_of_fit, symmetry
from graph_ebm.moves.rings import RepaintRing
from graph_ebm.moves.shortlist import ShortlistKernel
from graph_ebm.space import GraphEncoding, MolecularSpace
from graph_ebm.vocabulary import Vocabulary
from tests.graph_ebm import exact_moves
from tests.graph_ebm.small_space import Clamped, V, index_of, molecules, relabelled

FALSE_FAILURE = 1e-5
SPACE = MolecularSpace(Vocabulary((("C", 0), ("N", 0), ("O", 0)), (4, 3, 2)), max_atoms=V)
MOVES = exact_moves.kernel().names


class TableEnergy(Energy):
    """The energy of every molecule from a table, with a surrogate from another one."""

    def __init__(self, table: np.ndarray, surrogate: np.ndarray) -> None:
        super().__init__(SPACE)
        self.table, self.other = torch.tensor(table), torch.tensor(surrogate)

    def state_energy(self, x: Tensor) -> Tensor:
        return self.table[torch.tensor(index_of(x))]

    def surrogate(self, x: Tensor) -> Tensor:
        return self.other[torch.tensor(index_of(x))]

    def forward(self, encoding: GraphEncoding) -> Tensor:
        return self.state_energy(self.space.decode(encoding))


ENERGY = exact_moves.random_energy(3)
MODEL = TableEnergy(ENERGY, 0.6 * ENERGY + 0.7 * exact_moves.random_energy(4))


def _g(name: str, t: np.ndarray) -> np.ndarray:
    return {"sqrt": np.sqrt(t), "barker": t / (1 + t), "min": np.minimum(1, t), "max": np.maximum(1, t)}[name]


def _log_prob(self: FactoredNeighbourhood, x: Tensor, site: Tensor, option: Tensor, context: object = None) -> Tensor:
    """log q by the move's own tables, the shares in float64: float32 rounding would hide errors of 1e-10."""
    log_q = torch.zeros(len(x), dtype=torch.float64)
    for weights, index in ((self.site_weights(x, context), site), (self.option_weights(x, site, context), option)):
        weights = weights.double()
        log_q = log_q + (weights.gather(1, index[:, None])[:, 0] / weights.sum(1)).log()
    extra = self.log_multiplicity(x, site, option, context)
    return log_q if extra is None else log_q + extra


@lru_cache(maxsize=20)
def _proposals(name: str) -> exact_moves.Proposals:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FactoredNeighbourhood, "log_prob", _log_prob)
        return exact_moves.proposals(next(move for move in exact_moves.kernel().moves if move.name == name))


def _table(
    drawn: exact_moves.Proposals, energy: np.ndarray, beta: float, name: str
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For every molecule: (end, chance, weight, weight back) of all it can be offered, nothing (weight 0) last."""
    ratio = np.exp(drawn.log_ratio - beta * (energy[drawn.end] - energy[drawn.start]))
    order = np.argsort(drawn.start, kind="stable")
    bounds = np.searchsorted(drawn.start[order], np.arange(len(energy) + 1))
    out = []
    for row in range(len(energy)):
        at = order[bounds[row] : bounds[row + 1]]
        # equal outcomes are one outcome: fewer terms, the same sums
        keys = np.stack([drawn.end[at].astype(float), ratio[at].round(12)], 1)
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        chance = np.bincount(inverse.ravel(), drawn.chance[at], minlength=len(unique))
        r = np.append(unique[:, 1], 1.0)
        weight, back = _g(name, r), _g(name, 1 / r)
        weight[-1] = back[-1] = 0
        end = np.append(unique[:, 0].astype(int), row)
        out.append((end, np.append(chance, max(0.0, 1 - chance.sum())), weight, back))
    return out


def _two_try_matrix(
    drawn: exact_moves.Proposals, energy: np.ndarray, beta: float, name: str, without_x: bool = False
) -> np.ndarray:
    """Transition matrix of K = 2 by summing over every candidate, other candidate and reference state."""
    table = _table(drawn, energy, beta, name)
    p = np.zeros((len(energy), len(energy)))
    for x, (ends, chance, weight, back) in enumerate(table):
        for a in range(len(ends) - 1):
            _, reference_chance, reference, _ = table[ends[a]]
            total = weight[a] + weight
            picked = 2 * chance[a] * chance * weight[a] / total
            below = reference if without_x else back[a] + reference
            accept = np.minimum(1.0, total[:, None] / np.maximum(below[None], 1e-300)) @ reference_chance
            p[x, ends[a]] += picked @ accept
    p[np.diag_indices_from(p)] += 1.0 - p.sum(1)
    return p


@pytest.mark.parametrize("name", MOVES)
def test_two_tries_by_brute_force_are_reversible_for_every_move(name: str) -> None:
    """Sums over all candidate and reference sets, from the shipped proposal laws, to 1e-10."""
    for beta, g in ((1.0, "barker"), (0.6, "sqrt")):
        p = _two_try_matrix(_proposals(name), ENERGY, beta, g)
        assert p.min() > -1e-12
        assert exact_moves.imbalance(p, exact_moves.target(ENERGY, beta)) < 1e-10


def test_brute_force_sees_references_without_x_and_unbalanced_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    law = exact_moves.target(ENERGY)
    assert exact_moves.imbalance(_two_try_matrix(_proposals("retype"), ENERGY, 1.0, "barker", True), law) > 1e-5
    monkeypatch.setitem(globals(), "_g", lambda name, t: t)
    assert exact_moves.imbalance(_two_try_matrix(_proposals("retype"), ENERGY, 1.0, "barker"), law) > 1e-5


def _only(name: str, **options: object) -> ShortlistKernel:
    """The shortlist kernel over one move."""
    base = exact_moves.kernel(weights=dict.fromkeys(MOVES, 0.0) | {name: 1.0})
    return ShortlistKernel(base, **options)  # type: ignore[arg-type]


def _starts(rows: np.ndarray, seed: int) -> Tensor:
    return relabelled(molecules()[0][torch.tensor(rows)], torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["retype", "terminal-atom", "reattach", "attach-fragment", "repaint-3"])
def test_shipped_step_follows_the_brute_force_row(name: str) -> None:
    """K = 2, n = 12 000 steps from one molecule with many outcomes and random labels; one p-value a move (5)."""
    drawn = _proposals(name)
    x = int(np.bincount(drawn.start[np.argsort(drawn.start)], minlength=571).argmax())
    exact = _two_try_matrix(drawn, ENERGY, 0.8, "barker")[x]
    n = 12_000
    kernel, generator = _only(name, n_tries=2), torch.Generator().manual_seed(1)
    state = kernel.init(MODEL, _starts(np.full(n, x), 2), generator=generator)
    new, info = kernel.step(MODEL, state, generator=generator, beta=0.8)
    counts = torch.tensor(np.bincount(index_of(new.x), minlength=571))
    assert goodness_of_fit(counts, torch.tensor(exact).clamp_min(0)) > FALSE_FAILURE
    assert info.accepted.any()


def _exact_pairs(
    kernel: ShortlistKernel, n: int, seed: int, beta: float = 1.0, steps: int = 1
) -> tuple[float, float]:
    """p-values (law kept, flows balanced) from n iid exact starts, every chain at its own beta around ``beta``."""
    generator = torch.Generator().manual_seed(seed)
    betas = torch.tensor([0.5 * beta, 1.5 * beta], dtype=torch.float64).repeat(n // 2)
    laws = torch.tensor(np.stack([exact_moves.target(ENERGY, float(b)) for b in betas[:2]]))
    rows = torch.multinomial(laws, n // 2, replacement=True, generator=generator).T.flatten().numpy()
    state = kernel.init(MODEL, _starts(rows, seed), generator=generator)
    new = state
    for _ in range(steps):
        new, _ = kernel.step(MODEL, new, generator=generator, beta=betas)
    ends = index_of(new.x)
    assert torch.equal(new.energy, MODEL.state_energy(new.x))
    law_p, flow_p = 1.0, 1.0
    for column in range(2):
        counts = torch.tensor(np.bincount(ends[column::2], minlength=571))
        law_p = min(law_p, 2 * goodness_of_fit(counts, laws[column]))
        pairs = np.zeros((571, 571))
        np.add.at(pairs, (rows[column::2], ends[column::2]), 1)
        flow_p = min(flow_p, 2 * symmetry(torch.tensor(pairs), smallest=10.0))
    return law_p, flow_p


@pytest.mark.parametrize(("tries", "scored_by"), [(2, "energy"), (5, "energy"), (3, "surrogate")])
def test_exact_starts_stay_exact_with_every_move(tries: int, scored_by: str) -> None:
    """n = 8 000 chains at two temperatures, 8 steps of the whole mixture; one p-value each (3)."""
    kernel = ShortlistKernel(exact_moves.kernel(), n_tries=tries, scored_by=scored_by)
    assert _exact_pairs(kernel, 8_000, seed=5 + tries, steps=8)[0] > FALSE_FAILURE


@pytest.mark.parametrize(("tries", "scored_by"), [(2, "energy"), (5, "energy"), (3, "surrogate")])
def test_flows_of_one_step_balance(tries: int, scored_by: str) -> None:
    """n = 40 000 chains at two temperatures, one step of retype; two p-values each (6)."""
    law_p, flow_p = _exact_pairs(_only("retype", n_tries=tries, scored_by=scored_by), 40_000, seed=31 + tries)
    assert min(law_p, flow_p) > FALSE_FAILURE


@pytest.mark.mutants
@pytest.mark.parametrize("name", ["reference set without x", "ratio inverted", "weights not balanced", "no correction"])
def test_planted_bugs_die(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The test of flows above, K = 2."""
    scored_by = "energy"
    if name == "reference set without x":
        monkeypatch.setattr(module, "_reference_total", lambda back, refs: refs.logsumexp(1))
    elif name == "ratio inverted":
        monkeypatch.setattr(module, "_log_ratio", lambda q, beta, delta: beta * delta - q)
    elif name == "weights not balanced":
        monkeypatch.setitem(balancing.BALANCING, "barker", lambda log_t: log_t)
    else:
        scored_by = "surrogate"
        monkeypatch.setattr("graph_ebm.moves.shortlist.metropolis_log_alpha", lambda delta, beta, q: 0 * delta)
    kernel = _only("retype", n_tries=2, scored_by=scored_by)
    assert min(_exact_pairs(kernel, 40_000, seed=33)) < FALSE_FAILURE / 100


def test_stale_ring_walks_die(monkeypatch: pytest.MonkeyPatch) -> None:
    """References on the candidate's own ring: the step no longer follows the brute-force row (K = 2, n = 12 000)."""
    drawn = _proposals("repaint-3")
    size = (molecules()[0].diagonal(dim1=1, dim2=2) > 0).sum(1).numpy()
    leaving = np.bincount(drawn.start, drawn.chance, minlength=571)
    x = int(np.where((size == 4) & (leaving < 0.9), leaving, 0).argmax())  # a ring and a tail: some walks do not close
    exact = torch.tensor(_two_try_matrix(drawn, ENERGY, 0.3, "barker")[x]).clamp_min(0)
    kept: list[object] = []
    draw = RepaintRing.draw_context

    def stale(self: RepaintRing, x: Tensor, generator: torch.Generator) -> object:
        if not kept:
            kept.append(draw(self, x, generator))
            return kept[0]
        first = kept.pop()
        rows = live.pop()
        return type(first)(*(part[::2][rows] for part in first))  # type: ignore[call-overload]

    live: list[Tensor] = []
    choose = module.draw_move

    def spy(logits: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pick, possible = choose(logits, generator=generator)
        live.append(possible.nonzero()[:, 0])
        return pick, possible

    def p_value() -> float:
        n = 12_000
        kernel, generator = _only("repaint-3", n_tries=2), torch.Generator().manual_seed(1)
        state = kernel.init(MODEL, molecules()[0][x].repeat(n, 1, 1), generator=generator)
        new, _ = kernel.step(MODEL, state, generator=generator, beta=0.3)
        return goodness_of_fit(torch.tensor(np.bincount(index_of(new.x), minlength=571)), exact)

    assert p_value() > FALSE_FAILURE
    monkeypatch.setattr(RepaintRing, "draw_context", stale)
    monkeypatch.setattr(module, "draw_move", spy)
    assert p_value() < FALSE_FAILURE / 100


def test_moves_and_schedule_are_those_of_the_base_kernel() -> None:
    base = exact_moves.kernel()
    kernel = ShortlistKernel(base, n_tries=3)
    assert kernel.names == base.names
    assert [kernel.kind(5, step) for step in range(200)] == [base.kind(5, step) for step in range(200)]


@pytest.mark.parametrize("scored_by", ["energy", "surrogate"])
def test_clamped_entries_stay_and_the_conditional_law_is_kept(scored_by: str) -> None:
    """n = 6 000 chains started exactly from p(x | first two atoms and their bond), 8 steps; one p-value each (2)."""
    x = molecules()[0]
    reference = x[(x[:, 0, 0] != x[:, 1, 1]) & (x[:, 0, 1] == 1) & (x[:, 2, 2] == 0)][0]
    clamp = torch.zeros(V, V, dtype=torch.bool)
    clamp[:2, :2] = True
    space = Clamped(reference, clamp, 2)
    weight = np.exp(-ENERGY[space.free]) / space.automorphisms
    law, n = torch.tensor(weight / weight.sum()), 6_000
    generator = torch.Generator().manual_seed(14)
    start = space.x[torch.multinomial(law, n, replacement=True, generator=generator)]
    kernel = ShortlistKernel(exact_moves.kernel(), n_tries=3, scored_by=scored_by)
    one = state = kernel.init(MODEL, start, generator=generator)
    for step in range(8):  # the same mask once for all chains, once one a chain
        mask = clamp if step % 2 else clamp.expand(n, V, V)
        state, _ = kernel.step(MODEL, state, generator=generator, clamp=mask)
    assert (state.x != one.x).flatten(1).any(1).double().mean() > 0.3
    counts = torch.tensor(np.bincount(space.index_of(state.x), minlength=len(law)))
    assert goodness_of_fit(counts, law) > FALSE_FAILURE
    new, info = kernel.step(MODEL, state, generator=generator, clamp=torch.ones_like(clamp))
    assert torch.equal(new.x, state.x)
    assert not info.accepted.any()


def test_chains_may_have_different_clamps() -> None:
    start = molecules()[0][-200:]
    clamp = torch.zeros(len(start), V, V, dtype=torch.bool)
    clamp[::2, :2, :2] = True
    kernel, generator = ShortlistKernel(exact_moves.kernel(), n_tries=3), torch.Generator().manual_seed(2)
    state = kernel.init(MODEL, start, generator=generator)
    for _ in range(30):
        state, _ = kernel.step(MODEL, state, generator=generator, clamp=clamp, beta=0.3)
    assert ((state.x == start) | ~clamp).all()
    assert (state.x != start)[1::2, :2, :2].flatten(1).any(1).double().mean() > 0.5


def test_step_report_counts_evaluations_and_changes() -> None:
    x = _starts(np.arange(571), 0)
    for scored_by, most in (("energy", 7.0), ("surrogate", 1.0)):
        kernel, generator = _only("retype", n_tries=4, scored_by=scored_by), torch.Generator().manual_seed(3)
        state = kernel.init(MODEL, x, generator=generator)
        new, info = kernel.step(MODEL, state, generator=generator)
        assert 0 < info.energy_calls <= most
        assert torch.equal(info.hamming > 0, info.accepted)
        assert int(new.step) == int(state.step) + 1
        assert torch.equal(x, _starts(np.arange(571), 0))  # starts are not modified
        assert ((info.acceptance >= 0) & (info.acceptance <= 1)).all()
    assert torch.equal(new.cache["surrogate"], MODEL.surrogate(new.x))


def test_wrong_settings_are_refused_with_a_way_out() -> None:
    base = exact_moves.kernel()
    for wrong in ({"n_tries": 0}, {"balancing": "cube"}, {"scored_by": "hope"}):
        with pytest.raises(SettingError):
            ShortlistKernel(base, **wrong)
    plain = TableEnergy(ENERGY, ENERGY)
    plain.surrogate = None  # type: ignore[assignment, method-assign]
    with pytest.raises(CapabilityError, match="scored_by='energy'"):
        ShortlistKernel(base, scored_by="surrogate").init(plain, molecules()[0], generator=torch.Generator())
