"""The part that the sampling suites share: laws on small targets, efficiency on large ones, and their tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from discrete_ebm.benchmark.contenders import Contender, contenders, part_seed
from discrete_ebm.benchmark.measure import attempt, efficiency, law_error, standard_error
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.tables import get, markdown, page, spread
from discrete_ebm.chains import sample
from discrete_ebm.evaluate.exact import ExactLaw, exact

__all__ = [
    "SIGMAS",
    "Case",
    "chosen",
    "law_parts",
    "long_run",
    "rows_of",
    "run_cases",
    "sampling_page",
    "standing",
    "wrong_laws",
]

SIGMAS = 6.0  # from here a figure is called wrong: once in 5e8 by chance, for a normal one
UNMIXED = 1.05  # R-hat
EXPLAINED = (
    "TV: total variation between pooled draws and the enumerated law, all chains starting from exact draws; chance: "
    "its mean for a correct kernel of the same mixing. ESS: the smaller of that of the energy and of the distance to a "
    "fixed state. Evaluations: of the energy or of its gradient, per chain, as the kernels count them (a sweep by "
    "closed-form conditionals counts one). Seconds: processor time."
)


@dataclass(frozen=True)
class Case:
    """A target too large to enumerate. ``energy()`` makes it; ``start(seed)`` gives states (C, *shape) or None;
    ``reference(seed)`` the mean energy, its standard error (0 = exact) and in words where it is from."""

    name: str
    energy: Callable[[], Any]
    start: Callable[[int], Tensor | None]
    reference: Callable[[int], tuple[float, float, str]]
    settings: dict[str, Any] | None = None  # for kernels that know them, e.g. exact_deltas


def chosen(ctx: Record, energy: Any) -> list[Contender]:
    """The kernels of this run; a note names those that refuse."""
    found, refused = contenders(energy, ctx.samplers, ctx.left_out)
    if ctx.left_out and not ctx.samplers:
        ctx.note(f"Left out at this size: {', '.join(ctx.left_out)} (--sampler names them).")
    for label, reason in refused.items():
        ctx.note(f"{label} does not take {type(energy).__name__} on {energy.space.name}: {reason}")
    return found


def law_parts(ctx: Record, name: str, energy: Any) -> None:
    """Total variation of every kernel on an enumerable target."""
    law = exact(energy)
    energy = energy.to(ctx.device)  # the law of what runs on that device
    for one in chosen(ctx, energy):
        part = f"law/{name}/{one.label}"
        ctx.part(part, partial(_law, ctx, energy, one, part, law))


def _law(ctx: Record, energy: Any, one: Contender, part: str, law: ExactLaw) -> dict[str, Any]:
    return {"exact": one.exact} | attempt(lambda: law_error(
        energy, one.create(), n_chains=ctx.law_chains, n_steps=ctx.law_steps, burn_in=ctx.law_steps // 3,
        seed=part_seed(ctx.seed, part), law=law))


def run_cases(ctx: Record, cases: Iterable[Case]) -> None:
    """Efficiency of every kernel on every case; a case that is done is not even built."""
    for case in cases:
        if case.name not in ctx.record.setdefault("done", []):
            _run_case(ctx, case)
            ctx.record["done"].append(case.name)
            ctx.save()


def _run_case(ctx: Record, case: Case) -> None:
    energy = case.energy().to(ctx.device)
    reference = f"reference/{case.name}"
    value, error, _ = ctx.part(reference, lambda: list(case.reference(part_seed(ctx.seed, reference))))
    start = case.start(part_seed(ctx.seed, f"start/{case.name}"))
    for one in chosen(ctx, energy):
        part = f"case/{case.name}/{one.label}"
        ctx.part(part, partial(_measured, ctx, case, energy, one, start, part, value, error))


def _measured(ctx: Record, case: Case, energy: Any, one: Contender, start: Tensor | None, part: str, value: float,
              error: float) -> dict[str, Any]:
    found = attempt(lambda: efficiency(
        energy, one.create(**(case.settings or {})), n_chains=ctx.n_chains, n_steps=ctx.n_steps, burn_in=ctx.burn_in,
        seed=part_seed(ctx.seed, part), start=start, limit=ctx.limit, least_steps=ctx.least_steps))
    if "ess" in found and value is not None:
        off = found["mean_energy"] - value
        both = math.hypot(found["mean_energy_error"], error)
        # a mean without spread between chains is of chains that did not move: rounding decides, not chance
        found["energy_off_per_site"] = off / energy.space.n_sites
        found["energy_z"] = off / both if both > 1e-9 * (1 + abs(value)) else (0.0 if abs(off) < 1e-6 else math.inf)
    return {"exact": one.exact} | found


def long_run(energy: Any, sampler: Any, n_chains: int, n_steps: int, seed: int) -> tuple[float, float, Any]:
    """(mean energy, its standard error, last states) of a run that serves as reference; the first half is dropped."""
    chains = sample(energy, sampler, n_chains, n_steps, burn_in=n_steps // 2, thin=max(1, n_steps // 400), seed=seed)
    return float(chains.energy.double().mean()), standard_error(chains.energy.double().mean(0)), chains.last


# -- tables -----------------------------------------------------------------------------------------------------------


def rows_of(record: dict[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    """Parts under ``prefix/`` by what follows."""
    return {name.removeprefix(prefix + "/"): part for name, part in record["parts"].items()
            if name.startswith(prefix + "/")}


def standing(part: dict[str, Any]) -> str:
    """One word on a part: what a reader must know before its speed."""
    if "failed" in part or "skipped" in part:
        return "not run"
    if _beyond(part, "tv_z"):
        return "WRONG" if part.get("exact") else "biased"
    if _beyond(part, "energy_z"):
        return "WRONG or not mixed" if part.get("exact") else "biased"
    if part.get("ess") == 0:
        return "frozen"
    return "not mixed" if (part.get("rhat") or 1.0) > UNMIXED else "ok"


def _beyond(part: dict[str, Any], key: str) -> bool:
    """Whether a figure in units of its error is too large; infinity is written as null."""
    return key in part and (part[key] is None or abs(part[key]) > SIGMAS)


def _worst(parts: Sequence[dict[str, Any]]) -> str:
    order = ("WRONG", "WRONG or not mixed", "biased", "frozen", "not mixed", "not run", "ok")
    return min((standing(part) for part in parts), key=order.index)


def law_table(records: Sequence[dict[str, Any]]) -> str:
    """TV of every kernel on every enumerable target, beside its noise."""
    names = list(dict.fromkeys(name for record in records for name in rows_of(record, "law")))
    targets = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    labels = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    rows = []
    for label in labels:
        row, parts = [label], []
        for target in targets:
            found = [rows_of(record, "law").get(f"{target}/{label}", {}) for record in records]
            parts += [part for part in found if part]
            row += [spread([part.get("tv") for part in found], ".4f"),
                    spread([part.get("tv_noise") for part in found], ".4f")]
        rows.append([*row, _worst(parts)])
    head = ["kernel", *(text for target in targets for text in (f"TV, {target}", "chance"))]
    return markdown([*head, "law"], rows) if rows else ""


def case_table(records: Sequence[dict[str, Any]], case: str, wrong: set[str]) -> str:
    """Efficiency of every kernel on a case, the fastest first, and one sentence that says who wins."""
    parts = [rows_of(record, f"case/{case}") for record in records]
    labels = list(dict.fromkeys(label for found in parts for label in found))
    columns = (("ESS", "ess", ".0f"), ("steps", "steps", ".0f"), ("ESS / evaluation", "ess_per_evaluation", ".3g"),
               ("ESS / s", "ess_per_second", ".3g"), ("evaluations a step", "evaluations", ".3g"),
               ("accepted", "acceptance", ".3f"), ("sites moved a step", "hamming", ".3g"), ("R-hat", "rhat", ".3f"),
               ("energy off, per site", "energy_off_per_site", "+.2e"), ("in σ", "energy_z", "+.1f"))

    def mean(label: str, key: str) -> float:
        values = [found[label].get(key) for found in parts if label in found]
        numbers = [v for v in values if v is not None]
        return sum(numbers) / len(numbers) if numbers else -1.0

    rows, ok = [], []
    for label in sorted(labels, key=lambda label: -mean(label, "ess_per_second")):
        own = [found[label] for found in parts if label in found]
        word = _worst(own)
        if word == "ok" and label in wrong:
            word = "biased (law)"
        if word == "ok":
            ok.append(label)
        reason = next((part[key] for part in own for key in ("skipped", "failed") if key in part), "")
        rows.append([label, *(spread([get(part, key) for part in own], form) for _, key, form in columns),
                     f"{word}{': ' if reason else ''}{reason}"])
    reference = next((record["parts"].get(f"reference/{case}") for record in records), None)
    said = f" Energies are compared with {reference[2]}." if reference and reference[0] is not None else ""
    if ok:
        best, frugal = (max(ok, key=lambda label: mean(label, key)) for key in ("ess_per_second", "ess_per_evaluation"))
        won = (f"Most effective draws per second: **{best}** ({mean(best, 'ess_per_second'):.3g}); per evaluation: "
               f"**{frugal}** ({mean(frugal, 'ess_per_evaluation'):.3g}).")
    else:
        won = "No kernel is both unbiased and mixed here."
    return f"**{case}.** {won}{said}\n\n" + markdown(["kernel", *(head for head, _, _ in columns), "standing"], rows)


def wrong_laws(records: Sequence[dict[str, Any]]) -> set[str]:
    """Labels whose law is not the target's on some enumerable target."""
    return {name.rpartition("/")[2] for record in records for name, part in rows_of(record, "law").items()
            if standing(part) in ("biased", "WRONG")}


def sampling_page(records: Sequence[dict[str, Any]], title: str, *more: str) -> str:
    """The page of a sampling suite: who is biased, the laws, the cases."""
    wrong = wrong_laws(records)
    cases = list(dict.fromkeys(name.rpartition("/")[0] for record in records for name in rows_of(record, "case")))
    said = (f"Another law than the target's: **{', '.join(sorted(wrong))}**. Their speed is of no use."
            if wrong else "No kernel's law differs from the target's by more than chance.")
    laws = law_table(records)
    return page(records, title, f"{said} {EXPLAINED}", laws, *(case_table(records, case, wrong) for case in cases),
                *more)
