"""What the two suites of combinatorial optimisation share: graphs, annealed kernels, solver, table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import networkx as nx
import torch

from discrete_ebm.annealing import anneal
from discrete_ebm.benchmark.contenders import contenders, part_seed
from discrete_ebm.benchmark.measure import attempt, clock_of
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.sampling import rows_of
from discrete_ebm.benchmark.tables import markdown, page
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.evaluate import optimum

__all__ = ["anneal_parts", "annealed_page", "random_graph"]

KERNELS = ["any-scale", "chromatic", "dlmc", "dmala", "gibbs", "gwg", "metropolis", "pas"]


def random_graph(family: dict[str, Any], seed: int) -> nx.Graph:
    """One graph of a family: ``kind`` er (``density``) or ba (``attach``), ``nodes`` [least, most].

    Raises:
        SettingError: an unknown kind, or values that make no graph.
    """
    try:
        low, high = (int(n) for n in family["nodes"])
        n = int(torch.randint(low, high + 1, (), generator=torch.Generator().manual_seed(seed)))
        if family["kind"] == "er":
            return nx.gnp_random_graph(n, float(family["density"]), seed=seed % 2**32)
        if family["kind"] == "ba":
            return nx.barabasi_albert_graph(n, int(family["attach"]), seed=seed % 2**32)
    except (KeyError, TypeError, ValueError, RuntimeError, nx.NetworkXError) as cause:
        raise SettingError(f"`families` must hold kind, nodes [least, most] and density or attach; got {family!r}. "
                           'Try {"kind": "er", "nodes": [20, 25], "density": 0.2}.') from cause
    raise SettingError(f"`kind` of a family of graphs must be er or ba; got {family['kind']!r}.")


def anneal_parts(ctx: Record, make: Callable[[nx.Graph], Any]) -> None:
    """Every kernel on every graph of every family, and the solver where the family is ``solved``."""
    for name, family in ctx.families.items():
        for number in range(family["graphs"]):
            place = f"{name}/{number}"
            if place not in ctx.record.setdefault("done", []):
                _one_graph(ctx, place, make(random_graph(family, part_seed(ctx.seed, f"graph/{place}"))), family)
                ctx.record["done"].append(place)
                ctx.save()


def _one_graph(ctx: Record, place: str, problem: Any, family: dict[str, Any]) -> None:
    ctx.part(f"graph/{place}", lambda: {"nodes": problem.n_nodes, "edges": problem.edges.shape[1]})
    if family.get("solved"):
        _solve(ctx, place, problem)
    found, refused = contenders(problem.energy, ctx.samplers or KERNELS)
    for label, reason in refused.items():
        ctx.note(f"{label}: {reason}")
    for one in found:
        part = f"anneal/{place}/{one.label}"
        ctx.part(part, partial(attempt, partial(_annealed, ctx, problem, one, part, family)))


def _solve(ctx: Record, place: str, problem: Any) -> None:
    def compute() -> dict[str, Any]:
        found = optimum(problem, ctx.solver_seconds)
        return {"value": found.value, "bound": found.bound, "proven": found.proven}

    try:
        ctx.part(f"optimum/{place}", compute)
    except CapabilityError as reason:
        ctx.note(str(reason))


def _annealed(ctx: Record, problem: Any, one: Any, part: str, family: dict[str, Any]) -> dict[str, Any]:
    """The best of C chains after repair; what it is worth is counted on the graph, never taken from an energy."""
    steps = ctx.steps | family.get("steps", {})
    n_steps = int(steps.get(one.name, steps["default"]))
    clock = clock_of(ctx.device)
    began, wall = clock(), time.perf_counter()
    run = anneal(problem.energy, one.create(), ctx.n_chains, n_steps, schedule="geometric", start=ctx.start,
                 end=ctx.end, seed=part_seed(ctx.seed, part), device=ctx.device)
    x = problem.repair(run.x.cpu())
    spent, wall = clock() - began, time.perf_counter() - wall
    feasible = problem.is_feasible(x)
    values = problem.value(x).double()
    best = values.where(feasible, torch.tensor(-torch.inf, dtype=torch.float64))
    return {"best": float(best.max()), "mean_of_chains": float(best.mean()), "feasible": int(feasible.sum()),
            "chains": ctx.n_chains, "steps": n_steps, "seconds": spent, "wall_seconds": wall,
            "evaluations": run.chains.energy_calls + run.chains.gradient_calls}


def annealed_page(records: Sequence[dict[str, Any]], title: str, what: str, published: dict[str, str]) -> str:
    """Heading and one table a family, the best kernel first."""
    families = list(dict.fromkeys(name.split("/")[0] for record in records for name in rows_of(record, "anneal")))
    return page(records, title, *(_family_table(records, name, what, published.get(name, "")) for name in families))


def _family_table(records: Sequence[dict[str, Any]], family: str, what: str, published: str) -> str:
    graphs: dict[str, dict[tuple[int, str], dict[str, Any]]] = {}
    optima: dict[tuple[int, str], dict[str, Any]] = {}
    sizes: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        for name, part in rows_of(record, f"anneal/{family}").items():
            graph, _, label = name.partition("/")
            graphs.setdefault(label, {})[number, graph] = part
        optima |= {(number, graph): part for graph, part in rows_of(record, f"optimum/{family}").items()}
        sizes += list(rows_of(record, f"graph/{family}").values())
    rows, failures = [], []
    for label, parts in graphs.items():
        done = {key: part for key, part in parts.items() if "best" in part}
        failures += [f"{label}: {part['failed']}" for part in parts.values() if "failed" in part][:1]
        if not done:
            continue
        best = torch.tensor([part["best"] if part["best"] is not None else -torch.inf for part in done.values()])
        error = float(best.std() / len(best) ** 0.5) if len(best) > 1 else float("nan")
        proven = [key for key in done if key in optima and optima[key]["proven"]]
        reached = sum(done[key]["best"] == optima[key]["value"] for key in proven)
        above = sum(done[key]["best"] > optima[key]["value"] for key in proven)

        def mean(key: str, done: dict[Any, dict[str, Any]] = done) -> float:
            return sum(part[key] for part in done.values()) / len(done)

        infeasible = sum(part["chains"] - part["feasible"] for part in done.values())
        value = f"{best.mean():.3f}" + (f" ± {error:.3f}" if len(best) > 1 else "")
        rows.append((-float(best.mean()), [
            label, value, f"{mean('mean_of_chains'):.3f}", str(len(done)),
            f"{reached} of {len(proven)}" + (f", {above} ABOVE it" if above else "") if proven else "-",
            str(infeasible), f"{mean('steps'):.0f}", f"{mean('evaluations'):.3g}", f"{mean('seconds'):.3g}"]))
    rows.sort()
    head = ["kernel", f"best {what}, mean ± s.e.", "mean of all chains", "graphs", "proven optimum reached",
            "infeasible chains", "steps", "evaluations a chain", "processor s a graph"]
    nodes = [size["nodes"] for size in sizes] or [0]
    ties = [row[0] for value, row in rows if rows and value == rows[0][0]]
    won = f"Best: **{', '.join(ties)}**." if ties else ""
    failed = "".join(f"\n- Not run: {failure}" for failure in dict.fromkeys(failures))
    return (f"**{family}** ({min(nodes)} to {max(nodes)} nodes). {won} {published}\n\n"
            + markdown(head, [row for _, row in rows]) + failed)
