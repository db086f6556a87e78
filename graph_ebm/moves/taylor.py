"""First-order (Taylor) estimates of energy changes of molecular edits, and how well they rank the edits.

The estimate is ⟨∇E(encode(x)), encode(y) − encode(x)⟩: exact for energies linear in the encoding, cheap (one gradient
serves every edit of x), and poor where an edit changes several entries whose effects interact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.energies.base import energy_and_gradient, energy_dtype, evaluate_energy
from discrete_ebm.errors import SettingError, ShapeError
from discrete_ebm.samplers.factored import FactoredNeighbourhood, draw_index
from graph_ebm.moves.atoms import InsertAtom, TerminalAtom
from graph_ebm.moves.fragments import AttachFragment, SwapFragment
from graph_ebm.moves.kernel import MolecularKernel
from graph_ebm.moves.tables import GraphTables, permute

__all__ = ["MoveRanking", "rank_correlation_by_move", "slots_kept", "spearman", "taylor_deltas"]


class MoveRanking(NamedTuple):
    """How an estimate ranks the proposals of one move.

    ``pooled``: Spearman correlation with the exact change over all proposals; ``per_state``: mean over molecules of
    the correlation within one molecule (nan where no molecule had enough proposals); ``sd_exact`` and ``sd_estimate``
    in nats; ``surrogate_pooled`` and ``surrogate_per_state``: the same for the energy's surrogate (nan without one);
    ``n``: proposals; ``n_states``: molecules that entered ``per_state``.
    """

    pooled: float
    per_state: float
    sd_exact: float
    sd_estimate: float
    surrogate_pooled: float
    surrogate_per_state: float
    n: int
    n_states: int


def taylor_deltas(energy: Any, x: Tensor, y: Tensor, *, proposals: Tensor | None = None) -> Tensor:
    """First-order estimate of E(y) − E(x).

    Atoms must keep their slots: an added atom sits in a slot that is empty in x, a removed one leaves its slot empty.
    Kernels close such gaps by relabelling; undo that with :func:`slots_kept` before calling, or the estimate pays for
    moving atoms that did not change.

    Args:
        energy: called with a GraphEncoding, differentiable in it.
        x: states (C, V, V) int8.
        y: edited states (B, V, V) int8; slots need not be compact.
        proposals: (B,) int64, the row of x that each y was made from; default: row for row.
    Returns:
        (B,) nats at beta = 1, detached.
    Raises:
        ShapeError: x and y do not match.
    """
    if x.dim() != 3 or y.dim() != 3 or x.shape[1:] != y.shape[1:] or (proposals is None and len(x) != len(y)):
        raise ShapeError(
            f"`y` must hold edits of `x`, states (C, V, V) row for row; got {tuple(y.shape)} for {tuple(x.shape)}. "
            "Pass `proposals` where a row of x has several edits."
        )
    _, gradient = energy_and_gradient(energy, x)
    dtype = energy_dtype(energy)
    here, there = energy.space.encode_as(x, dtype), energy.space.encode_as(y, dtype)
    total = torch.zeros(len(y), dtype=gradient.nodes.dtype, device=y.device)
    for part, old, new in zip(gradient, here, there, strict=True):
        if proposals is not None:
            part, old = part[proposals], old[proposals]
        total = total + (part * (new - old)).flatten(1).sum(-1)
    return total


def slots_kept(move: FactoredNeighbourhood, x: Tensor, y: Tensor, site: Tensor) -> Tensor:
    """``y`` relabelled so that every atom it shares with x sits where it sits in x; (C, V, V).

    Removing an atom moves the last one into its slot, removing a branch moves all atoms behind it. In the padded
    labelled encoding the same edit leaves the slots of the removed atoms empty: same molecule, far fewer entries
    changed. The atoms of a swapped-in fragment take the slots of the removed one, root on root, then empty slots: the
    pairing of the other atoms is arbitrary, and the estimate depends on it.
    """
    v = x.shape[-1]
    rows = torch.arange(len(x), device=x.device)
    slots = torch.arange(v, device=x.device).repeat(len(x), 1)
    types = x.diagonal(dim1=1, dim2=2)
    last = (types > 0).sum(-1) - 1
    if isinstance(move, (TerminalAtom, InsertAtom)):
        first = v if isinstance(move, TerminalAtom) else v * v
        atom = torch.where(site >= first, site - first, last)  # adding: swap the last slot with itself
        order = slots.clone()
        order[rows, atom] = last
        order[rows, last] = atom
    elif isinstance(move, (AttachFragment, SwapFragment)):
        bridge = site - v if isinstance(move, AttachFragment) else site
        removing = bridge >= 0
        anchor, root = bridge.clamp_min(0) // v, bridge.clamp_min(0) % v
        gone = GraphTables(x, move.valence.to(x.device)).side(anchor, root) & removing[:, None]
        key = torch.where(types > 0, torch.where(gone, 2, 0), 3)
        key[rows, root] = torch.where(removing, 1, key[rows, root])
        order = key.argsort(dim=1, stable=True)
    else:
        return y
    return permute(y, order.argsort(dim=1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts + 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; nan where one side is constant or has fewer than 2 values."""
    if len(a) < 2:
        return float("nan")
    ranks = _ranks(a), _ranks(b)
    if ranks[0].std() == 0 or ranks[1].std() == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _within(owner: np.ndarray, exact: np.ndarray, estimate: np.ndarray, fewest: int) -> tuple[float, int]:
    """Mean rank correlation within molecules that have at least ``fewest`` proposals, and their number."""
    found = [spearman(exact[owner == row], estimate[owner == row]) for row in np.unique(owner)
             if (owner == row).sum() >= fewest]
    found = [value for value in found if not np.isnan(value)]
    return (float(np.mean(found)), len(found)) if found else (float("nan"), 0)


def _draw(
    move: FactoredNeighbourhood, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One legal proposal a row where there is one: (rows (B,), y (B, V, V), y with slots kept)."""
    context = move.draw_context(x, generator)
    site, legal = draw_index(move.site_weights(x, context), generator=generator)
    option, found = draw_index(move.option_weights(x, site, context), generator=generator)
    y = move.apply(x, site, option, context)
    rows = (legal & found).nonzero()[:, 0]
    return rows, y[rows], slots_kept(move, x[rows], y[rows], site[rows])


def rank_correlation_by_move(
    model: Any,
    molecules: Tensor,
    kernel: MolecularKernel,
    *,
    generator: torch.Generator,
    tries: int = 20,
    fewest: int = 5,
    batch: int = 4096,
) -> dict[str, MoveRanking]:
    """Spearman correlation of first-order and of surrogate estimates with exact energy changes, per move.

    Args:
        model: energy, differentiable in its encoding.
        molecules: states (C, V, V) int8, for example unseen data or samples of the model.
        kernel: whose moves are drawn, by their own proposal law; distinct proposals of a molecule count once.
        generator: source of the draws.
        tries: proposals drawn per molecule and move.
        fewest: distinct proposals that a molecule needs to count in ``per_state``.
        batch: rows per evaluation.
    Returns:
        By name of the move, and under ``"all"`` over the moves together (each drawn equally often).
    Raises:
        SettingError: ``tries`` or ``fewest`` too small for a correlation.
    """
    if tries < 1 or fewest < 2:
        raise SettingError(f"`tries` must be at least 1 and `fewest` at least 2; got {tries} and {fewest}.")
    surrogate = getattr(model, "surrogate", None)
    parts: dict[str, list[np.ndarray]] = {}
    for move in kernel.moves:
        drawn = [_draw(move, molecules, generator) for _ in range(tries)]
        rows, y, kept = (torch.cat(column) for column in zip(*drawn, strict=True))
        if len(rows) == 0:
            continue
        # the same edit drawn twice would count its rank twice
        _, inverse = torch.cat([rows[:, None], y.flatten(1).long()], 1).unique(dim=0, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(rows), device=rows.device)
        first.scatter_reduce_(0, inverse, torch.arange(len(rows), device=rows.device), "amin")
        rows, y, kept = rows[first], y[first], kept[first]
        columns: list[list[Tensor]] = [[], [], []]
        for piece in torch.arange(len(rows)).split(batch):
            states, inside = rows[piece].unique(return_inverse=True)
            x = molecules[states]
            columns[1].append(taylor_deltas(model, x, kept[piece], proposals=inside))
            with torch.no_grad():
                columns[0].append(evaluate_energy(model, y[piece]) - evaluate_energy(model, x)[inside])
                if callable(surrogate):
                    columns[2].append(surrogate(y[piece]) - surrogate(x)[inside])
        unknown = np.full(len(rows), np.nan)
        values = [torch.cat(column).double().cpu().numpy() if column else unknown for column in columns]
        parts[move.name] = [rows.cpu().numpy(), *values]
    if parts:
        parts["all"] = [np.concatenate(column) for column in zip(*parts.values(), strict=True)]
    return {name: _ranking(*columns, fewest=fewest) for name, columns in parts.items()}


def _ranking(
    owner: np.ndarray, exact: np.ndarray, taylor: np.ndarray, other: np.ndarray, *, fewest: int
) -> MoveRanking:
    within, n_states = _within(owner, exact, taylor, fewest)
    known = not np.isnan(other).any()
    return MoveRanking(
        pooled=spearman(exact, taylor),
        per_state=within,
        sd_exact=float(exact.std()),
        sd_estimate=float(taylor.std()),
        surrogate_pooled=spearman(exact, other) if known else float("nan"),
        surrogate_per_state=_within(owner, exact, other, fewest)[0] if known else float("nan"),
        n=len(exact),
        n_states=n_states,
    )
