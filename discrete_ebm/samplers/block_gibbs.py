"""Block Gibbs: sites that do not interact are drawn together, one colour class after the other.

Classes come from the energy's ``blocks()``, or from a greedy colouring of its ``edges()``. Neither is believed: a block
with an edge inside would be sampled from the wrong law without any sign of it, so blocks are checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from discrete_ebm.energies.base import (
    HasBlocks,
    HasConditionals,
    HasFlipDeltas,
    HasGraph,
    evaluate_energy,
)
from discrete_ebm.energies.pairwise import colour_classes as greedy_classes
from discrete_ebm.energies.rbm import BernoulliRBM
from discrete_ebm.errors import CapabilityError, SpaceError
from discrete_ebm.samplers.accept import metropolis_hastings, select
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.fast import (
    check_implementation,
    fused_enabled,
    fused_step,
    require_fused,
    require_fused_layers,
)
from discrete_ebm.samplers.fast.rbm import bernoulli_layer, rbm_step
from discrete_ebm.samplers.heat_bath import HeatBath
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import (
    at_least_float32,
    free_sites,
    require_discrete,
    site_logits,
    site_tables,
    start,
)
from discrete_ebm.samplers.sweeps import check_sweeps, repeated

__all__ = ["BlockGibbs", "Chromatic", "HasHiddenLayer", "HasLatents", "colour_classes", "has_hidden_layer"]


@runtime_checkable
class HasLatents(Protocol):
    """A model of binary visibles with binary hidden units that are independent given the visibles, and conversely."""

    def hidden_logits(self, x: Tensor) -> Tensor:
        """(C, H) log odds of each hidden unit given visible states (C, *shape), at beta = 1."""

    def visible_logits(self, hidden: Tensor) -> Tensor:
        """(C, N) log odds of each visible given hidden states (C, H) in {0, 1}, at beta = 1."""


@runtime_checkable
class HasHiddenLayer(Protocol):
    """A model of discrete visibles of any kind with binary hidden units, independent given each other's side."""

    def hidden_logits(self, x: Tensor) -> Tensor:
        """(C, H) log odds of each hidden unit given visible states (C, *shape), at beta = 1."""

    def visible_table(self, hidden: Tensor) -> Tensor:
        """(C, N, K) log p of each site's values given hidden states (C, H), unnormalised, beta = 1, finite padding."""


class _Plan(NamedTuple):
    """How to update an energy's sites; ``source`` is what it was made from, to notice that this changed.

    ``weights``: versions of the parameters that a check by numbers was made with; None where edges decided.
    """

    blocks: list[Tensor]
    source: list[Tensor]
    weights: list[int] | None


_PLANS: WeakKeyDictionary[Any, _Plan] = WeakKeyDictionary()


@dataclass(frozen=True)
class BlockGibbs(Kernel):
    r"""One step is a sweep: every block once, all sites of a block at once, each from its law given the rest.

    An energy with hidden units that are summed out (an RBM of any kind) is updated through them instead: h ~ p(h | x),
    then x′ ~ p(x′ | h), both at β. That pair keeps the marginal of the tempered *joint* law, exp(−F_β(x)), which is not
    the target exp(−βF(x)) when β ≠ 1; the step is then accepted with
    min(1, exp(c(x) − c(x′))), c(x) = Σ_j log(1 + e^{β a_j(x)}) − β log(1 + e^{a_j(x)}), where a_j are the hidden log
    odds, which makes it exact at every β (at β = 1 everything is accepted).

    Args:
        sweeps: sweeps in one step; states are packed and unpacked once a step, so many make compiled code faster.
        implementation: "auto" sweeps Ising and Potts models on the CPU by compiled code (numba needed; 64 chains in a
            word where coupling and field are the same all over a chessboard), "reference" never does, "fused" refuses
            what compiled code cannot do.
    Invariant law: exp(−βE). Cost: two matrix products for an RBM, as its hidden log odds are kept; else one closed-form
    conditional per site and one energy per sweep; without a closed form N·(K − 1) energy evaluations.
    Source: Geman & Geman 1984; hidden units: Hinton 2002, "Training products of experts".
    """

    sweeps: int = 1
    implementation: str = "auto"

    def __post_init__(self) -> None:
        check_sweeps(self.sweeps)
        check_implementation(self.implementation)

    caches_x: ClassVar[bool] = False

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape). Finds and checks the blocks when they are new or have changed."""
        require_discrete("block-gibbs", energy.space)
        if has_hidden_layer(energy):
            require_fused_layers(self.implementation, x0)
        else:
            colour_classes(energy, x0.device)
            require_fused(self.implementation, energy, x0)
        x, energies = start(energy, x0)
        cache = {"hidden_odds": at_least_float32(energy.hidden_logits(x))} if type(energy) is BernoulliRBM else {}
        return ChainState(x, energies, cache, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """``sweeps`` sweeps of all C chains."""
        free = free_sites(energy.space, clamp, state.x.shape[0])
        if has_hidden_layer(energy):
            return repeated(lambda at: _through_hidden(energy, at, beta, free, generator, self.implementation),
                            state, self.sweeps)
        return _colour_sweeps(self, energy, state, generator, beta, clamp, free)


@dataclass(frozen=True)
class Chromatic(Kernel):
    r"""Heat-bath Gibbs by the colours of the interaction graph; one step is a sweep, all sites of a colour at once.

    Site i takes value v with probability ∝ exp(−β E(x with x_i = v)), as in :class:`~discrete_ebm.samplers.Gibbs`; two
    sites of a colour share no edge, so that drawing them together is drawing them one after the other. The colouring is
    found from the energy's ``edges()`` (greedily, largest degree first), or is its ``blocks()`` checked against them.
    An energy without edges is refused, and hidden units are never used: every draw is from a conditional of the target
    itself at β.

    Args:
        sweeps: sweeps in one step; states are packed and unpacked once a step, so many make compiled code faster.
        implementation: "auto" sweeps Ising and Potts models on the CPU by compiled code (numba needed; 64 chains in a
            word where coupling and field are the same all over a chessboard), "reference" never does, "fused" refuses
            what compiled code cannot do.
    Invariant law: exp(−βE); not reversible (the colours have an order). Cost: one closed-form conditional per site and
    one energy per sweep; without a closed form N·(K − 1) energy evaluations.
    Source: Geman & Geman 1984; colouring: Gonzalez, Low, Gretton & Guestrin 2011, "Parallel Gibbs sampling".
    """

    sweeps: int = 1
    implementation: str = "auto"

    def __post_init__(self) -> None:
        check_sweeps(self.sweeps)
        check_implementation(self.implementation)

    caches_x: ClassVar[bool] = False

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape). Colours the graph when it is new or has changed.

        Raises:
            CapabilityError: the energy has no ``edges()``, or its ``blocks()`` hold an edge.
        """
        require_discrete("chromatic", energy.space)
        if not isinstance(energy, HasGraph):
            raise CapabilityError(
                f"`energy` must have `edges()` for chromatic; got {type(energy).__name__} without. "
                "Use sampler='gibbs', which needs nothing, or 'block-gibbs' for an RBM."
            )
        colour_classes(energy, x0.device)
        require_fused(self.implementation, energy, x0)
        x, energies = start(energy, x0)
        return ChainState(x, energies, {}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """``sweeps`` sweeps of all C chains."""
        free = free_sites(energy.space, clamp, state.x.shape[0])
        return _colour_sweeps(self, energy, state, generator, beta, clamp, free)


def _colour_sweeps(kernel: BlockGibbs | Chromatic, energy: Any, state: ChainState, generator: torch.Generator,
                   beta: float | Tensor, clamp: Tensor | None, free: Tensor | None) -> tuple[ChainState, StepInfo]:
    """The step of both kernels: by compiled code where there is some, else block by block."""
    fused = fused_step(energy, state, generator=generator, beta=beta, free=free, sweeps=kernel.sweeps,
                       blocks=lambda: colour_classes(energy), implementation=kernel.implementation)
    if fused is not None:
        return fused
    return repeated(lambda at: _by_colours(HeatBath(energy, at, beta, clamp), generator), state, kernel.sweeps)


def colour_classes(energy: Any, device: torch.device | str = "cpu") -> list[Tensor]:
    """Checked blocks of sites (int64 on ``device``) that are independent given the rest and cover every site once.

    Kept for the energy until its ``blocks()`` or ``edges()`` change; without edges, until its parameters change too
    (couplings that start at zero say nothing about those that are learned).

    Raises:
        CapabilityError: the energy offers neither, or two sites of a block interact.
        SpaceError: the blocks do not cover every site exactly once.
    """
    given = [block.detach().cpu().long() for block in energy.blocks()] if isinstance(energy, HasBlocks) else None
    edges = energy.edges().detach().cpu().long() if isinstance(energy, HasGraph) else None
    if given is None and edges is None:
        raise CapabilityError(
            f"`energy` must have `blocks()` or `edges()` for block-gibbs; got {type(energy).__name__} with neither. "
            "Use sampler='gibbs', which needs nothing."
        )
    device = torch.device(device)
    source = [*(given or []), *([] if edges is None else [edges])]
    plan = _PLANS.get(energy)
    weights = None if edges is not None else _versions(energy)
    same = plan is not None and len(plan.source) == len(source) and all(map(torch.equal, plan.source, source))
    if plan is None or not same or plan.weights != weights:
        blocks = greedy_classes(energy.space.n_sites, source[-1]) if given is None else given
        _check_cover(blocks, energy.space.n_sites)
        if edges is not None:
            _check_edges(blocks, edges, energy.space.n_sites)
        else:
            _check_numerically(energy, blocks, device)
        plan = _Plan(blocks, source, weights)
    plan = plan._replace(blocks=[block.to(device) for block in plan.blocks])
    _PLANS[energy] = plan
    return plan.blocks


def _versions(energy: Any) -> list[int]:
    """A number for each parameter and buffer that changes when it is written to; made in inference mode: none."""
    tensors = [*energy.parameters(), *energy.buffers()] if isinstance(energy, nn.Module) else []
    return [number for t in tensors if not t.is_inference() for number in (t.data_ptr(), t._version)]


def _check_cover(blocks: list[Tensor], n_sites: int) -> None:
    sites = torch.cat(blocks) if blocks else torch.empty(0, dtype=torch.int64)
    if not torch.equal(sites.sort().values, torch.arange(n_sites)):
        raise SpaceError(
            f"`blocks()` must cover each of the {n_sites} sites exactly once; got {len(sites)} entries with "
            f"{len(sites.unique())} distinct sites. List every site in one block."
        )


def _check_edges(blocks: list[Tensor], edges: Tensor, n_sites: int) -> None:
    label = torch.empty(n_sites, dtype=torch.int64)
    for number, block in enumerate(blocks):
        label[block] = number
    inside = (label[edges[0]] == label[edges[1]]) & (edges[0] != edges[1])
    if bool(inside.any()):
        i, j = edges[:, inside][:, 0].tolist()
        raise CapabilityError(
            f"`blocks()` must not hold two sites that interact; got sites {i} and {j} in one block. "
            "Remove `blocks()` to have the colouring found from `edges()`."
        )


@torch.no_grad()
def _check_numerically(energy: Any, blocks: list[Tensor], device: torch.device, n_states: int = 32) -> None:
    """Conditionals in a block must not change when the whole block is redrawn; checked on random states."""
    space = energy.space
    generator = torch.Generator(device=device).manual_seed(0)  # its own: the caller's stream must not depend on this
    values, legal = site_tables(space, device)
    for block in blocks:
        block = block.to(device)
        if len(block) < 2:
            continue
        x, other = space.random(n_states, generator), space.random(n_states, generator)
        changed = space.to_index(x).clone()
        changed[:, block] = space.to_index(other)[:, block]
        laws = []
        for index in (space.to_index(x), changed):
            at = space.from_index(index)
            energies = at_least_float32(evaluate_energy(energy, at))
            logits, _ = _block_logits(energy, at, index, energies, block, values)
            laws.append(logits.masked_fill(~legal[block], -torch.inf).log_softmax(-1).masked_fill(~legal[block], 0))
        size = max(1.0, float(energies.abs().max()), float(laws[0].abs().max()))
        gap = (laws[0] - laws[1]).abs().amax(dim=(0, 2))
        if not bool((gap <= 1e3 * torch.finfo(gap.dtype).eps * size).all()):  # NaN fails too
            site = int(block[int(gap.nan_to_num(torch.inf).argmax())])
            raise CapabilityError(
                f"`blocks()` must hold sites that are independent given the rest; got site {site} whose law changes "
                f"by {float(gap.max()):.3g} nats when its block is redrawn. Split that block."
            )


def _block_logits(energy: Any, x: Tensor, index: Tensor, energies: Tensor, block: Tensor,
                  values: Tensor) -> tuple[Tensor, float]:
    """((C, S, K) log weights of every site of a block at β = 1, energy evaluations per chain)."""
    if isinstance(energy, HasConditionals):
        return at_least_float32(energy.conditional_logits(x, block)), 0.0
    if isinstance(energy, HasFlipDeltas):
        return -at_least_float32(energy.flip_deltas(x)[:, block]), 0.0
    parts = [site_logits(energy, x, index, energies, site, values, False) for site in block.unbind(0)]
    return torch.stack([logits for logits, _ in parts], dim=1), sum(cost for _, cost in parts)


def _by_colours(bath: HeatBath, generator: torch.Generator) -> tuple[ChainState, StepInfo]:
    energy = bath.energy
    plan = _PLANS.get(energy)
    if plan is None or plan.blocks[0].device != bath.x.device:  # a chain resumed in a new process
        colour_classes(energy, bath.x.device)
        plan = _PLANS[energy]
    for block in plan.blocks:
        logits, cost = _block_logits(energy, bath.x, bath.index, bath.energies, block, bath.values)
        bath.draw(block, logits, generator)
        bath.calls, bath.known = bath.calls + cost, False
        if cost:  # conditionals by evaluation start from the energy at the block's start
            bath.evaluate()
    return bath.finish()


def _through_hidden(energy: Any, state: ChainState, beta: float | Tensor, free: Tensor | None,
                    generator: torch.Generator, implementation: str) -> tuple[ChainState, StepInfo]:
    x, at_one = state.x, not isinstance(beta, Tensor) and beta == 1
    column = None if at_one else beta_column(beta, state.energy)
    known = state.cache.get("hidden_odds")
    if known is not None and at_one and free is None and _fused_layers(implementation, x):
        at_once = _by_compiled_passes(energy, state, known, generator)
        if at_once is not None:
            return at_once
    odds = at_least_float32(energy.hidden_logits(x)) if known is None else known
    hidden = _draw_layer(odds, column, generator, implementation, odds.dtype)
    y, visible_sum = _draw_visible(energy, hidden, column, generator, implementation)
    if free is not None:
        y = torch.where(free.view(x.shape), y, x)
    odds_y = at_least_float32(energy.hidden_logits(y))
    energy_y = _rbm_energy(energy, y, odds_y) if known is not None else at_least_float32(evaluate_energy(energy, y))
    sums = odds.sum(1) + visible_sum + odds_y.sum(1)  # NaN or infinite if any part is
    finite = energy_y.isfinite() & sums.isfinite()
    if column is None:
        log_alpha = torch.zeros_like(state.energy)
    else:
        log_alpha = _tempering_gap(odds, column) - _tempering_gap(odds_y, column)
        log_alpha = torch.where(column == 1, torch.zeros_like(log_alpha), log_alpha)  # exactly, not up to rounding
    log_alpha = log_alpha.masked_fill(~finite, -torch.inf)
    accepted, acceptance = metropolis_hastings(log_alpha, generator=generator)
    if column is None and _fused_layers(implementation, x) and bool(finite.all()):  # looking costs nothing on the CPU
        after, energy_after, odds_after = y, energy_y, odds_y
    else:
        after, energy_after = select(accepted, y, x), select(accepted, energy_y, state.energy)
        odds_after = select(accepted, odds_y, odds)
    cache = {} if known is None else {"hidden_odds": odds_after}
    moved = ChainState(after, energy_after, cache, state.step + 1)
    info = StepInfo(
        acceptance=acceptance,
        accepted=accepted,
        hamming=(moved.x != x).flatten(1).sum(1),
        energy_calls=1.0,
        gradient_calls=0.0,
        non_finite=(~finite).sum(),
    )
    return moved, info


def _by_compiled_passes(energy: BernoulliRBM, state: ChainState, odds: Tensor,
                        generator: torch.Generator) -> tuple[ChainState, StepInfo] | None:
    """The step at beta 1 without a clamp, which accepts everything; None where it is left to the reference."""
    same = odds.dtype == energy.weight.dtype == energy.visible_bias.dtype == energy.hidden_bias.dtype
    if not same or energy.weight.device.type != "cpu" or not bool(odds.sum().isfinite()):
        return None
    made = rbm_step(energy, state.x, odds, generator)
    if made is None:
        return None
    n_chains = len(state.x)
    info = StepInfo(
        acceptance=torch.ones(n_chains, dtype=state.energy.dtype),
        accepted=torch.ones(n_chains, dtype=torch.bool),
        hamming=made.changed,
        energy_calls=1.0,
        gradient_calls=0.0,
        non_finite=torch.zeros((), dtype=torch.int64),
    )
    return ChainState(made.x, made.energy.to(state.energy.dtype), {"hidden_odds": made.odds}, state.step + 1), info


def has_hidden_layer(energy: Any) -> bool:
    """Whether an energy is updated through hidden units: an RBM with binary or other discrete visibles."""
    if type(energy) is BernoulliRBM:  # asking a protocol takes as long as drawing thousands of units
        return True
    return (energy.space.name == "Binary" and isinstance(energy, HasLatents)) or isinstance(energy, HasHiddenLayer)


def _draw_visible(energy: Any, hidden: Tensor, column: Tensor | None, generator: torch.Generator,
                  implementation: str) -> tuple[Tensor, Tensor]:
    """(states given the hidden units, (C,) a number that is finite if their law was)."""
    space = energy.space
    if not isinstance(energy, HasHiddenLayer):
        odds = at_least_float32(energy.visible_logits(hidden)).flatten(1)
        return space.from_index(_draw_layer(odds, column, generator, implementation, space.dtype)), odds.sum(1)
    _, legal = site_tables(space, hidden.device)
    logits = at_least_float32(energy.visible_table(hidden))
    weights = (logits if column is None else column[:, None, None] * logits).masked_fill(~legal, -torch.inf)
    race = torch.empty_like(weights).exponential_(generator=generator).log()
    return space.from_index((weights - race).argmax(-1)), logits.masked_fill(~legal, 0).sum((1, 2))


def _rbm_energy(energy: Any, x: Tensor, odds: Tensor) -> Tensor:
    """(C,) energies of a :class:`BernoulliRBM` from its hidden log odds, which cost nearly all of one."""
    visible = x.flatten(1).to(odds.dtype) @ energy.visible_bias.to(odds.dtype)
    return -visible - torch.nn.functional.softplus(odds).sum(1)


def _fused_layers(implementation: str, at: Tensor) -> bool:
    """Whether layers on ``at``'s device are drawn by compiled code."""
    wanted = implementation == "fused" or (implementation == "auto" and fused_enabled())
    return wanted and at.device.type == "cpu" and len(at) > 0 and not torch.compiler.is_compiling()


def _draw_layer(odds: Tensor, beta: Tensor | None, generator: torch.Generator, implementation: str,
                dtype: torch.dtype) -> Tensor:
    """(C, M) zeros and ones of ``dtype``, P(1) = σ(beta · odds)."""
    if _fused_layers(implementation, odds):
        return bernoulli_layer(odds, beta, generator, dtype)
    return _bernoulli(odds if beta is None else beta[:, None] * odds, generator).to(dtype)


def _bernoulli(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Bool draws with P(True) = σ(logits), by racing two exponentials: no probability is ever rounded to 0 or 1."""
    first = torch.empty_like(logits).exponential_(generator=generator).log()
    second = torch.empty_like(logits).exponential_(generator=generator).log()
    return logits - first > -second


def _tempering_gap(odds: Tensor, beta: Tensor) -> Tensor:
    """c(x) = Σ_j softplus(β a_j) − β softplus(a_j), (C,): what the tempered joint law adds to −βF."""
    log_sigmoid = torch.nn.functional.logsigmoid  # softplus(a) = −log σ(−a), without torch's cut at 20
    return (beta[:, None] * log_sigmoid(-odds) - log_sigmoid(-beta[:, None] * odds)).sum(dim=1)


register(SamplerSpec(
    name="block-gibbs",
    build=BlockGibbs,
    summary="heat-bath sweep by colour classes; through the hidden units of an RBM",
    source="Geman & Geman 1984; Hinton 2002",
    spaces=frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    use_when="RBMs, lattices and other sparse models with closed-form conditionals: whole blocks of sites at once.",
))

register(SamplerSpec(
    name="chromatic",
    build=Chromatic,
    summary="heat-bath sweep by the colours of the interaction graph, found automatically and checked",
    source="Geman & Geman 1984; Gonzalez et al. 2011",
    spaces=frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    use_when="Lattices and sparse graphs with closed-form conditionals; first choice there, away from criticality.",
))
