"""Learning back known models from samples: couplings of Ising models, contacts of a synthetic alignment.

The Ising settings are those of the released code of Gibbs-with-Gradients (Grathwohl et al. 2021), whose energies count
an edge twice: its lattice of strength 0.1 is J = 0.2 here, and a random graph of mean degree d has J ~ N(0, 4/d).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import discrete_ebm as de
from benchmarks import markdown
from benchmarks.common import Context
from benchmarks.suites.train_common import train

TITLE = "Known models learned back"
_METHODS: list[dict[str, Any]] = [
    {"objective": "pseudo-likelihood"},
    {"objective": "pseudo-likelihood", "l1": 0.1},
    {"objective": "pcd", "sampler": "gibbs", "n_steps": 1},
    {"objective": "pcd", "sampler": "gibbs", "n_steps": 1, "l1": 0.1},
    {"objective": "pcd", "sampler": "gwg", "n_steps": 5},
    {"objective": "pcd", "sampler": "dmala", "n_steps": 5},
    {"objective": "cd", "sampler": "gibbs", "n_steps": 1},
    {"objective": "ratio-matching"},
    {"objective": "probability-flow"},
    {"objective": "energy-discrepancy"},
    {"objective": "cnce"},
]
_GRAPHS: list[dict[str, Any]] = [
    {"kind": "lattice", "side": 25, "coupling": 0.2},
    {"kind": "random", "nodes": 200, "degree": 2},
]
_CONTACTS: dict[str, Any] = {"sites": 50, "k": 21, "contacts": 50, "apart": 4, "coupling": 0.5, "field": 1.0,
                             "rows": 500, "sweeps": 50}  # fmt: skip
_POTTS: list[dict[str, Any]] = [
    {"objective": "pseudo-likelihood"},
    {"objective": "pcd", "sampler": "gibbs", "n_steps": 1},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "rows": 2000, "graphs": _GRAPHS, "methods": _METHODS, "seconds": 6, "lr": 0.01,
             "batch": 100, "warmup": 20, "alignment": _CONTACTS, "potts": _POTTS, "potts_seconds": 8, "potts_lr": 0.01,
             "potts_decay": 0.01},
    "small": {"threads": 1, "rows": 100, "graphs": [{"kind": "lattice", "side": 4, "coupling": 0.2},
                                                    {"kind": "random", "nodes": 10, "degree": 2}],
              "methods": [_METHODS[1], _METHODS[2]], "seconds": 0.3, "lr": 0.01, "batch": 20, "warmup": 5,
              "alignment": {**_CONTACTS, "sites": 8, "k": 3, "contacts": 4, "apart": 1, "rows": 50, "sweeps": 5},
              "potts": _POTTS[:1], "potts_seconds": 0.3, "potts_lr": 0.01, "potts_decay": 0.01},
}  # fmt: skip
EXTENDABLE = ("methods", "graphs", "potts")


def run(ctx: Context) -> None:
    """Every graph and method, then the alignment."""
    for graph in ctx.graphs:
        truth, data = known_ising(graph, ctx.rows, ctx.seed)
        for method in ctx.methods:
            name = f"{title(graph)}: {label(method)}"
            ctx.part(name, partial(learn, ctx, name, method, truth, data))
    model, data = known_potts(ctx.alignment, ctx.seed)
    ctx.part("alignment: mutual information", lambda: contacts_found(mutual_information(data, model.k), model))
    for method in ctx.potts:
        name = f"alignment: {label(method)}"
        ctx.part(name, partial(learn_contacts, ctx, name, method, model, data))


def label(method: dict[str, Any]) -> str:
    """A short name of a method."""
    walk = f", {method['n_steps']} × {method['sampler']}" if "sampler" in method else ""
    return method["objective"] + walk + (f", L1 {method['l1']:g}" if method.get("l1") else "")


def title(graph: dict[str, Any]) -> str:
    """A short name of a graph."""
    return (f"lattice {graph['side']}×{graph['side']}" if graph["kind"] == "lattice"
            else f"random graph, {graph['nodes']} nodes")  # fmt: skip


# -- Ising -------------------------------------------------------------------------------------------------------


def known_ising(graph: dict[str, Any], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(couplings (N, N), n draws (n, N)): of a lattice after 500 sweeps from random states, of a graph exact."""
    if graph["kind"] == "lattice":
        side = graph["side"]
        model = de.energies.Ising.lattice((side, side), graph["coupling"])
        edges, weights = model.edges(), torch.full((model.edges().shape[1],), graph["coupling"])
        return _matrix(side * side, edges, weights), de.datasets.ising((side, side), graph["coupling"], n,
                                                                       seed=seed).flatten(1)  # fmt: skip
    source, nodes = torch.Generator().manual_seed(1000 + seed), graph["nodes"]
    edges = torch.triu(torch.rand(nodes, nodes, generator=source) < graph["degree"] / nodes, diagonal=1).nonzero().t()
    weights = 2 * graph["degree"] ** -0.5 * torch.randn(edges.shape[1], generator=source)
    law = de.evaluate.exact(de.energies.Ising.sparse(edges, weights, n_sites=nodes))
    return _matrix(nodes, edges, weights), law.sample(n, seed=seed)


def _matrix(n: int, edges: Tensor, weights: Tensor) -> Tensor:
    found = torch.zeros(n, n)
    found[edges[0], edges[1]] = weights.float()
    return found + found.t()


def learn(ctx: Context, name: str, method: dict[str, Any], truth: Tensor, data: Tensor) -> dict[str, Any]:
    """A dense Ising model, couplings and fields from zero; root-mean-square error of its couplings."""
    energy = de.energies.Ising(torch.zeros_like(truth))
    settings = {key: value for key, value in method.items() if key not in ("objective", "l1")}
    objective = de.objectives.create(method["objective"], **settings)
    try:
        _, cost = train(ctx, name, energy, objective, data, seconds=ctx.seconds, batch=ctx.batch, lr=ctx.lr,
                              decay="linear", warmup=ctx.warmup, ema=None,
                              callbacks=[] if not method.get("l1") else [shrink(energy, method["l1"])])  # fmt: skip
    except (de.errors.DivergenceError, de.errors.NonFiniteEnergyError) as cause:
        return {"failed": str(cause)}
    learned = energy.coupling.detach()
    learned = (learned + learned.t()) / 2
    learned.fill_diagonal_(0)
    off = ~torch.eye(len(truth), dtype=torch.bool)
    difference = (learned - truth).square()
    edges = truth != 0
    return cost | {"rmse": float(difference.mean().sqrt()), "rmse_edges": float(difference[edges].mean().sqrt()),
                    "rmse_rest": float(difference[off & ~edges].mean().sqrt()),
                    "of_zero": float(truth.square().mean().sqrt())}  # fmt: skip


def shrink(energy: Any, weight: float) -> Callable[[Any, dict[str, float]], None]:
    """The proximal step of ``weight``·Σ|J_ij|: after each update couplings move by the step size times it towards 0."""

    def after(trainer: Any, terms: dict[str, float]) -> None:
        with torch.no_grad():
            rate = float(trainer.optimizer.param_groups[0]["lr"]) * weight
            energy.coupling.copy_(energy.coupling.sign() * (energy.coupling.abs() - rate).clamp(min=0))

    return after


# -- contacts ----------------------------------------------------------------------------------------------------


def known_potts(setting: dict[str, Any], seed: int) -> tuple[Any, Tensor]:
    """A Potts model with random tables on random contacts, and an alignment: ends of independent Gibbs chains."""
    source, n, k = torch.Generator().manual_seed(2000 + seed), setting["sites"], setting["k"]
    far = torch.triu(torch.ones(n, n), diagonal=setting["apart"] + 1).nonzero()
    pairs = far[torch.randperm(len(far), generator=source)[: setting["contacts"]]].t()
    tables = setting["coupling"] * torch.randn(pairs.shape[1], k, k, generator=source)
    field = setting["field"] * torch.randn(n, k, generator=source)
    model = de.energies.GeneralPotts(n, k, tables, field, edges=pairs)
    chains = de.sample(model, "block-gibbs", n_chains=setting["rows"], n_steps=setting["sweeps"],
                       burn_in=setting["sweeps"] - 1, seed=seed)  # fmt: skip
    return model, chains.last


def learn_contacts(ctx: Context, name: str, method: dict[str, Any], model: Any, data: Tensor) -> dict[str, Any]:
    """A dense Potts model from zero, L2-regularised; contacts by corrected and by plain Frobenius norms."""
    n, k = model.field.shape
    counts = torch.nn.functional.one_hot(data.long(), k).float().mean(0)
    field = (0.99 * counts + 0.01 / k).log()
    energy = de.energies.GeneralPotts(n, k, field=field - field.mean(1, keepdim=True))
    settings = {key: value for key, value in method.items() if key != "objective"}
    _, cost = train(ctx, name, energy, de.objectives.create(method["objective"], **settings), data,
                    seconds=ctx.potts_seconds, batch=ctx.batch, lr=ctx.potts_lr, weight_decay=ctx.potts_decay,
                    decay="linear", warmup=ctx.warmup, ema=None)  # fmt: skip
    table, _ = energy.zero_sum()
    plain = table.square().sum((1, 3)).sqrt()
    return cost | contacts_found(energy.pair_scores(), model) | {"plain": contacts_found(plain, model)["recall"]}


def mutual_information(data: Tensor, k: int) -> Tensor:
    """(N, N) nats between columns, with the average-product correction; pseudo-count 1/k² a pair of values."""
    hot = torch.nn.functional.one_hot(data.long(), k).double().flatten(1)
    n = data.shape[1]
    joint = (hot.t() @ hot).reshape(n, k, n, k).permute(0, 2, 1, 3) + 1 / k**2
    joint = joint / joint.sum((2, 3), keepdim=True)
    found = (joint * (joint.log() - joint.sum(3, keepdim=True).log() - joint.sum(2, keepdim=True).log())).sum((2, 3))
    found.fill_diagonal_(0)
    mean = found.sum(1) / (n - 1)
    return found - torch.outer(mean, mean) / (found.sum() / (n * (n - 1)))


def contacts_found(scores: Tensor, model: Any) -> dict[str, Any]:
    """Share of the model's pairs among its N strongest by ``scores`` (N, N)."""
    n = len(scores)
    i, j = torch.triu_indices(n, n, offset=1)
    strongest = scores[i, j].topk(n).indices
    said = {(int(i[place]), int(j[place])) for place in strongest}
    true = {(int(a), int(b)) for a, b in model.edge_index.t()}
    return {"recall": len(said & true) / len(true)}


def tables(records: list[dict[str, Any]]) -> str:
    """Couplings, then contacts."""
    ising: list[markdown.Column] = [
        ("RMSE of J", "rmse", ".4f"), ("on edges", "rmse_edges", ".4f"), ("elsewhere", "rmse_rest", ".4f"),
        ("of J = 0", "of_zero", ".4f"), ("updates", "updates", ".0f"), ("ms an update", "ms_per_update", ".1f"),
    ]  # fmt: skip
    potts: list[markdown.Column] = [
        ("recall at top L", "recall", ".0%"), ("without APC", "plain", ".0%"), ("updates", "updates", ".0f"),
        ("ms an update", "ms_per_update", ".1f"),
    ]  # fmt: skip
    settings = records[0]["settings"]
    text = (f"{settings['rows']} samples; dense models from zero, Adam, lr {settings['lr']:g} falling linearly, batch "
            f"{settings['batch']}, {settings['seconds']:g} processor seconds of one thread each.")  # fmt: skip
    line = settings["alignment"]
    words = (f"Alignment: {line['rows']} sequences of {line['sites']} sites and {line['k']} letters, "
             f"{line['contacts']} contacts; recall among the {line['sites']} strongest pairs; "
             f"{settings['potts_seconds']:g} processor seconds.")  # fmt: skip
    failed = [f"- {part}: {found['failed']}" for record in records for part, found in record["parts"].items()
              if "failed" in found]  # fmt: skip
    return markdown.page(
        records, TITLE, text,
        markdown.by_part(records, ising, "model and objective", lambda name: not name.startswith("alignment")), words,
        markdown.by_part(records, potts, "method", lambda name: name.startswith("alignment")), "\n".join(failed),
    )  # fmt: skip
