"""Our checks of the moves can fail: every planted bug is found, by the check that should find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm.samplers import factored
from discrete_ebm.samplers.factored import FactoredNeighbourhood
from graph_ebm.moves import MolecularKernel, atoms, bonds, fragments
from graph_ebm.moves import kernel as kernel_module
from graph_ebm.moves.atoms import InsertAtom, RetypeAtom, RetypePair, SwapTypes, TerminalAtom
from graph_ebm.moves.bonds import BondOrder, RingBond, ShiftBond
from graph_ebm.moves.fragments import AttachFragment, SwapFragment
from graph_ebm.moves.rings import RepaintRing
from graph_ebm.moves.tables import GraphTables, set_type
from tests.graph_ebm.exact_moves import (
    TableEnergy,
    drawn_mass,
    imbalance,
    kernel,
    matrix,
    noisy,
    proposals,
    random_energy,
    settings,
    target,
    walk,
)
from tests.graph_ebm.small_space import Clamped, molecules, relabelled
from tests.statistical import chi_square

MUTANTS: dict[str, tuple[str, str, Callable[[pytest.MonkeyPatch], None]]] = {}
"""name -> (move, the check that kills it, how to plant it)."""


def plant(move: str, killer: str) -> Callable[[Callable[[pytest.MonkeyPatch], None]], None]:
    def add(function: Callable[[pytest.MonkeyPatch], None]) -> None:
        MUTANTS[function.__name__] = move, killer, function

    return add


def find_fault(move: FactoredNeighbourhood) -> str:
    """Which exact check a move fails first: the words of the assertion, "balance", "relabelling", or "" for none."""
    try:
        drawn = proposals(move)
        other = proposals(move, relabelled(molecules()[0], torch.Generator().manual_seed(1)))
    except AssertionError as error:
        return str(error)
    energy = random_energy()
    p = matrix(drawn, energy)
    if imbalance(p, target(energy)) > 1e-9:
        return "balance"
    return "relabelling" if np.abs(matrix(other, energy) - p).max() > 1e-6 else ""


def _move(name: str) -> FactoredNeighbourhood:
    k = kernel()
    return k.moves[k.names.index(name)]


# -- bugs of one move, found by listing it ---------------------------------------------------------------------------


@plant("attach-fragment", "balance")
def symmetric_fragments_counted_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AttachFragment, "log_multiplicity", lambda self, x, site, option, context=None: None)


@plant("swap-fragment", "balance")
def symmetric_fragments_counted_once_in_a_swap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SwapFragment, "log_multiplicity", lambda self, x, site, option, context=None: None)


@plant("attach-fragment", "balance")
def automorphisms_for_removals_too(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        return -self.library.log_automorphisms[option]

    patch.setattr(AttachFragment, "log_multiplicity", wrong)


@plant("terminal-atom", "the reverse does not lead back")
def order_of_the_removed_bond_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = TerminalAtom.reverse

    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> Any:
        back_site, back_option = right(self, x, site, option, y, context)
        return back_site, back_option // 3 * 3

    patch.setattr(TerminalAtom, "reverse", wrong)


@plant("terminal-atom", "the reverse")
def anchor_not_relabelled_after_a_removal(patch: pytest.MonkeyPatch) -> None:
    right = TerminalAtom.reverse

    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> Any:
        back_site, back_option = right(self, x, site, option, y, context)
        v = x.shape[-1]
        anchor, _ = self.tables(x).neighbours(site % v)
        return torch.where(site < v, back_site, anchor), back_option

    patch.setattr(TerminalAtom, "reverse", wrong)


@plant("terminal-atom", "left the space")
def halves_exchanged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(atoms, "two_sided", lambda a, b: factored.two_sided(b, a))


@plant("terminal-atom", "balance")
def side_of_the_reverse_not_normalised(patch: pytest.MonkeyPatch) -> None:
    """Forward by halves, backward by plain counts: the two sites tables disagree."""
    _reverse_weights(patch, TerminalAtom, lambda self, x: torch.cat(
        [((self.tables(x).free > 0) & (self.tables(x).n_atoms < x.shape[-1])[:, None]).float(),
         (self.tables(x).degree == 1).float()], dim=-1))


@plant("bond-order", "balance")
def ways_back_counted_at_the_old_state(patch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    weights, score = BondOrder.site_weights, BondOrder.log_prob

    def apply(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None, right=BondOrder.apply) -> Tensor:
        kept[:] = [weights(self, x).sum(-1)]
        return right(self, x, site, option, context)

    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        return score(self, x, site, option, context) + weights(self, x).sum(-1).log() - kept[0].log()

    patch.setattr(BondOrder, "apply", apply)
    patch.setattr(BondOrder, "log_prob", wrong)


@plant("ring-bond", "balance")
def ring_sizes_scored_at_plain_counts(patch: pytest.MonkeyPatch) -> None:
    right = RingBond.site_weights

    def flat(self: Any, x: Tensor) -> Tensor:
        weights = right(self, x)
        return factored.two_sided(*((half > 0).float() for half in weights.chunk(2, dim=-1)))

    patch.setattr(bonds, "RING_WEIGHTS", (0.6, 3.0, 2.0, 3.0, 1.0, 0.4, 0.3))
    patch.setattr(bonds, "_ring_weights", bonds._ring_weights.__wrapped__)  # not the table of an earlier test
    _reverse_weights(patch, RingBond, flat)


@plant("insert-atom", "balance")
def single_bonds_open_to_insertion_from_both_ends(patch: pytest.MonkeyPatch) -> None:
    right = InsertAtom.site_weights

    def wrong(self: Any, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        directed = t.adjacency & (t.n_atoms < x.shape[-1])[:, None, None]
        v = x.shape[-1]
        return factored.two_sided(directed.flatten(1).float(), right(self, x)[:, v * v :])

    patch.setattr(InsertAtom, "site_weights", wrong)


@plant("insert-atom", "the reverse does not lead back")
def contraction_over_a_chord(patch: pytest.MonkeyPatch) -> None:
    right = InsertAtom._contractible

    def wrong(self: Any, t: GraphTables) -> Any:
        legal, strong, weak, order = right(self, t)
        chord = t.bonds.flatten(1).gather(1, strong * t.x.shape[-1] + weak) > 0
        ends = t.free.gather(1, weak) + chord.long() >= order - 1
        return legal | ((t.degree == 2) & (order == 1) & chord & ends), strong, weak, order

    patch.setattr(InsertAtom, "_contractible", wrong)


@plant("retype", "left the space")
def valence_off_by_one(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        fits = t.valence[None, :] >= t.order_sum.gather(1, site[:, None]) - 1
        other = torch.arange(len(self.valence))[None, :] != t.types.gather(1, site[:, None])
        return self.type_weight[None, :] * (fits & other)

    patch.setattr(RetypeAtom, "option_weights", wrong)


@plant("retype", "balance")
def weight_of_the_new_type_in_both_directions(patch: pytest.MonkeyPatch) -> None:
    right, kept = RetypeAtom.apply, []

    def apply(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        kept[:] = [RetypeAtom.option_weights(self, x, site).gather(1, option[:, None])[:, 0].log()]
        return right(self, x, site, option, context)

    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        share = FactoredNeighbourhood.log_prob(self, x, site, option, context)
        return share - self.type_weight[option].log() + kept[0]

    patch.setattr(RetypeAtom, "apply", apply)
    patch.setattr(RetypeAtom, "log_prob", wrong)


@plant("retype-pair", "the reverse")
def types_of_a_pair_exchanged_on_the_way_back(patch: pytest.MonkeyPatch) -> None:
    right = RetypePair.reverse

    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> Any:
        k = len(self.valence)
        back_site, back_option = right(self, x, site, option, y, context)
        return back_site, back_option % k * k + back_option // k

    patch.setattr(RetypePair, "reverse", wrong)


@plant("swap-types", "left the space")
def swap_checks_one_atom_only(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        fits = t.order_sum[:, :, None] <= t.valence[t.types][:, None, :]
        different = t.types[:, :, None] != t.types[:, None, :]
        return (fits & different & t.present[:, :, None] & t.present[:, None, :] & t.upper).flatten(1).float()

    patch.setattr(SwapTypes, "site_weights", wrong)


@plant("ring-bond", "left the space")
def bridges_removed(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        able = (t.free > 0)[:, :, None] & (t.free > 0)[:, None, :] & t.upper & ~t.adjacency
        return factored.two_sided(able.flatten(1).float(), (t.adjacency & t.upper).flatten(1).float())

    patch.setattr(RingBond, "site_weights", wrong)


@plant("ring-bond", "the reverse")
def bridge_threshold_too_low(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: GraphTables) -> Tensor:
        g = self.potentials
        diagonal = g.diagonal(dim1=1, dim2=2)
        return self.adjacency & (diagonal[:, :, None] + diagonal[:, None, :] - 2 * g > 0.7)

    patch.setattr(GraphTables, "bridges", property(wrong))


@plant("shift-bond", "left the space")
def shift_without_free_valence(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        multiple = (t.bonds > 1).sum(-1)[:, :, None] - (t.bonds > 1).long()
        return (t.adjacency & (t.bonds < 3) & (multiple > 0)).flatten(1).float()

    patch.setattr(ShiftBond, "site_weights", wrong)


@plant("reattach", "left the space")
def branch_attached_to_its_own_side(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GraphTables, "side", lambda self, keep, moved: self.present.clone())


@plant("repaint-3", "balance")
def present_pattern_left_out_on_the_way_there_only(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        weights = self.option_weights(x, site, context)
        current, _ = self._current(x, context)
        weights = weights.scatter(1, current[:, None], self.pattern.weights[current][:, None])
        return (weights.gather(1, option[:, None])[:, 0] / weights.sum(-1)).log()

    patch.setattr(RepaintRing, "log_prob", wrong)


@plant("repaint-3", "left the space")
def bonds_outside_the_ring_ignored(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        current, _ = self._current(x, context)
        return self.pattern.weights.expand(len(x), -1).scatter(1, current[:, None], 0.0)

    patch.setattr(RepaintRing, "option_weights", wrong)


@plant("attach-fragment", "the reverse is illegal")
def sides_never_recognised(patch: pytest.MonkeyPatch) -> None:
    """A canonical order that does not begin with the root: attached, but never taken away again."""
    right = fragments._arrange
    patch.setattr(fragments, "_arrange", lambda block: right(block).flip(1))


@plant("swap-fragment", "left the space")
def anchor_not_relabelled_after_a_cut(patch: pytest.MonkeyPatch) -> None:
    right = fragments._cut

    def wrong(tables: GraphTables, anchor: Tensor, root: Tensor) -> Any:
        x, left, _ = right(tables, anchor, root)
        return x, left, torch.minimum(anchor, (left - 1).clamp_min(0))

    patch.setattr(fragments, "_cut", wrong)


@plant("insert-atom", "")
def tables_of_another_state(patch: pytest.MonkeyPatch) -> None:
    last: list[GraphTables] = []

    def wrong(x: Tensor, valence: Tensor) -> GraphTables:
        if not last or last[0].x.shape != x.shape:  # compares shapes where the tensor itself is meant
            last[:] = [GraphTables(x, valence)]
        return last[0]

    patch.setattr(GraphTables, "of", wrong)


def _reverse_weights(patch: pytest.MonkeyPatch, cls: type, weights: Callable[[Any, Tensor], Tensor]) -> None:
    def wrong(self: Any, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        sites, options = weights(self, x), self.option_weights(x, site, context)
        return factored._log_share(sites, site) + factored._log_share(options, option)

    patch.setattr(cls, "log_prob", wrong)


@pytest.mark.mutants
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_bug_in_a_move_is_found_by_its_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move_name, killer, planted = MUTANTS[name]
    move = _move(move_name)
    planted(monkeypatch)
    fault = find_fault(move)
    assert fault, f"{name} survives"
    assert killer in fault, f"{name} was found by {fault!r}, not by {killer!r}"


@pytest.mark.mutants
@pytest.mark.parametrize("move_name", sorted({move for move, _, _ in MUTANTS.values()}))
def test_the_moves_as_shipped_pass_the_same_checks(move_name: str) -> None:
    assert find_fault(_move(move_name)) == ""


# -- bugs of the step, found by what it draws ------------------------------------------------------------------------

STEP_MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def step_mutant(function: Callable[[pytest.MonkeyPatch], None]) -> None:
    STEP_MUTANTS[function.__name__] = function


def law_p_value(seed: int, n: int = 40_000) -> float:
    """The check of ``test_the_law_is_kept_over_one_and_twenty_steps``, of the same size, for a delayed kernel."""
    table = random_energy()
    law = target(table)
    start = np.random.default_rng(seed).choice(len(law), size=n, p=law)
    ends, _ = walk(kernel(), TableEnergy(table, noisy(table)), start, 20, seed)
    return chi_square(np.bincount(ends, minlength=len(law)), law)[0]


@step_mutant
def surrogate_never_corrected(patch: pytest.MonkeyPatch) -> None:
    right = kernel_module.metropolis_log_alpha
    patch.setattr(kernel_module, "metropolis_log_alpha", lambda d, beta, q: right(torch.zeros_like(d), beta, q))


@step_mutant
def whole_change_in_the_second_stage(patch: pytest.MonkeyPatch) -> None:
    right, kept = kernel_module.screen, []

    def screen(delta: Tensor, proposal: Any, **options: Any) -> Any:
        kept[:] = [delta]
        return right(delta, proposal, **options)

    score = kernel_module.metropolis_log_alpha
    patch.setattr(kernel_module, "screen", screen)
    patch.setattr(kernel_module, "metropolis_log_alpha", lambda d, beta, q: score(d + kept[0], beta, q))


@step_mutant
def proposal_ratio_dropped(patch: pytest.MonkeyPatch) -> None:
    right = kernel_module.propose_factored

    def wrong(*args: Any, **options: Any) -> Any:
        proposal = right(*args, **options)
        return proposal._replace(log_q_ratio=torch.zeros_like(proposal.log_q_ratio))

    patch.setattr(kernel_module, "propose_factored", wrong)


@step_mutant
def proposal_ratio_upside_down(patch: pytest.MonkeyPatch) -> None:
    right = kernel_module.propose_factored

    def wrong(*args: Any, **options: Any) -> Any:
        proposal = right(*args, **options)
        return proposal._replace(log_q_ratio=-proposal.log_q_ratio)

    patch.setattr(kernel_module, "propose_factored", wrong)


@step_mutant
def surrogate_of_the_proposal_kept_after_a_rejection(patch: pytest.MonkeyPatch) -> None:
    right = MolecularKernel.step

    def wrong(self: Any, energy: Any, state: Any, **options: Any) -> Any:
        seen = []
        spied = type("Spied", (), {
            "state_energy": lambda _, x: energy.state_energy(x),
            "surrogate": lambda _, x: seen.append(energy.surrogate(x)) or seen[-1],
        })()
        new, info = right(self, spied, state, **options)
        return new._replace(cache={"surrogate": seen[-1]}), info

    patch.setattr(MolecularKernel, "step", wrong)


@step_mutant
def one_random_number_for_all_chains(patch: pytest.MonkeyPatch) -> None:
    def wrong(log_alpha: Tensor, *, generator: torch.Generator) -> Any:
        threshold = -torch.empty(1).exponential_(generator=generator).to(log_alpha.dtype)
        return log_alpha >= threshold, log_alpha.clamp(max=0).exp()

    patch.setattr(kernel_module, "metropolis_hastings", wrong)


@pytest.mark.mutants
@pytest.mark.parametrize("name", sorted(STEP_MUTANTS))
def test_a_planted_bug_in_the_step_is_found_by_the_law(name: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    STEP_MUTANTS[name](monkeypatch)
    p = law_p_value(seed)
    print(f'{name}: p = {p:.1e}')
    assert p < 1e-9


@pytest.mark.mutants
def test_the_step_as_shipped_passes_the_same_check(seed: int) -> None:
    assert law_p_value(seed) > 1e-6


def row_p_value(seed: int) -> float:
    """One row of ``test_one_step_of_each_move_draws_its_row_of_the_matrix``, of the same size, for branches."""
    move, energy = _move("reattach"), random_energy()
    drawn = proposals(move)
    p, mass = matrix(drawn, energy), drawn_mass(drawn)
    start = int(np.argmax(np.where((mass > 0.2) & (mass < 0.8), 1 - np.diag(p), 0)))
    ends, _ = walk(MolecularKernel((move,)), TableEnergy(energy), np.full(8_000, start), 1, seed)
    return chi_square(np.bincount(ends, minlength=len(p)), p[start].clip(0))[0]


def test_redrawing_until_a_proposal_is_possible_is_found_in_one_row(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    assert row_p_value(seed) > 1e-6
    right = kernel_module.propose_factored

    def wrong(move: Any, x: Tensor, **options: Any) -> Any:
        first = right(move, x, **options)
        for _ in range(8):
            again, keep = right(move, x, **options), first.possible
            y = torch.where(keep[:, None, None], first.y, again.y)
            ratio = torch.where(keep, first.log_q_ratio, again.log_q_ratio)
            first = first._replace(y=y, log_q_ratio=ratio, possible=keep | again.possible)
        return first

    monkeypatch.setattr(kernel_module, "propose_factored", wrong)
    assert row_p_value(seed) < 1e-9


@contextmanager
def _without(cls: type, name: str, replacement: Any) -> Iterator[None]:
    kept = cls.__dict__[name]
    setattr(cls, name, replacement)
    try:
        yield
    finally:
        setattr(cls, name, kept)


@pytest.mark.mutants
@pytest.mark.parametrize("cls", [TerminalAtom, InsertAtom, AttachFragment, SwapFragment])
def test_look_alikes_in_place_of_clamped_atoms_are_found(cls: type) -> None:
    """Under a kept C–C, a move that may remove a kept atom and let another take its slot loses its way back."""
    reference = torch.zeros(4, 4, dtype=torch.int8)
    reference[0, 0] = reference[1, 1] = reference[0, 1] = reference[1, 0] = 1
    clamp = torch.zeros(4, 4, dtype=torch.bool)
    clamp[:2, :2] = True
    move, world = _move(cls.name), Clamped(reference, clamp, 2)
    proposals(move, world=world)
    with (
        _without(cls, "displaced", lambda self, x, site, option: None),
        pytest.raises(AssertionError, match=r"lead back|clamped entry"),
    ):
        proposals(move, world=world)


def test_a_change_in_place_is_noticed_by_the_tables() -> None:
    x = molecules()[0][100:104].clone()
    valence = settings().valence
    before = GraphTables.of(x, valence)
    assert GraphTables.of(x, valence) is before
    x[:, 0, 0] = set_type(x, torch.zeros(4, dtype=torch.long), torch.full((4,), 3))[:, 0, 0]
    after = GraphTables.of(x, valence)
    assert after is not before
    assert bool((after.types[:, 0] == 3).all())
