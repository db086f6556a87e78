"""The figures of the molecule suites in one short table, for the README; docs/molecule_results.md has the whole ones.

Every cell comes from the records of the suites, as the whole tables do: mean ± standard deviation over their seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import markdown
from benchmarks.suites import experts, nulls

__all__ = ["NEEDS", "headlines"]

Records = Sequence[dict[str, Any]]
Row = tuple[str, str, str]
NEEDS = ("default-job", "qm9", "druglike", "experts", "composed", "nulls")


def headlines(found: Mapping[str, Records]) -> str:
    """The table: one row a question, its answer, and what stands beside it; suites without records are left out.

    Args:
        found: records by the name of their suite.
    """
    makers: dict[str, Callable[[Records], list[Row]]] = {
        "default-job": default_job, "qm9": qm9, "druglike": druglike, "experts": expert_rows, "composed": composed,
        "nulls": rivals,
    }  # fmt: skip
    rows = [row for name, make in makers.items() if found.get(name) for row in make(found[name])]
    return markdown.markdown(("task", "figures", "beside it"), rows) + "\n"


def value(records: Records, part: str, path: str, form: str) -> str:
    """Mean ± spread of one figure of one part over the seeds that have it."""
    return markdown.spread([markdown.get(record["parts"].get(part), path) for record in records], form)


def seeds(records: Records) -> str:
    """"3 seeds", or "1 seed"."""
    return f"{len(records)} seed{'s' if len(records) > 1 else ''}"


def curve(records: Records, form: str = ".2f") -> str:
    """Fréchet ChemNet Distance of fresh chains against steps: "a / b / c at 500 / 1,000 / 2,000 steps"."""
    steps = sorted({int(name.split("/")[1]) for record in records for name in record["parts"]
                    if name.startswith("model/")})  # fmt: skip
    values = " / ".join(value(records, f"model/{at}", "fcd", form) for at in steps)
    return f"FCD {values} at {' / '.join(f'{at:,}' for at in steps)} steps"


def default_job(records: Records) -> list[Row]:
    """Time, memory and what came out."""
    job = [
        f"{value(records, 'job', 'seconds', '.0f')} s, {value(records, 'job', 'peak_memory_gib', '.2f')} GiB",
        f"{value(records, 'job', 'validity', '.0%')} valid and connected",
        f"{value(records, 'job', 'uniqueness', '.1%')} unique, {value(records, 'job', 'novelty', '.1%')} new",
        f"{value(records, 'job', 'figures.hit_rate', '.1%')} of all samples in the data's best tenth",
    ]
    beside = f"{value(records, 'job', 'figures.base_rate', '.0%')} of the data by definition"
    return [(f"`graph-ebm optimize qed`, {seeds(records)}", "; ".join(job), beside)]


def qm9(records: Records) -> list[Row]:
    """The curve over steps, and its floor."""
    other = "counts only/2000"
    beside = (
        f"QM9 itself {value(records, 'training molecules', 'fcd', '.2f')}; counts of parts alone "
        f"{value(records, other, 'fcd', '.2f')}; random walk {value(records, 'random walk (E = 0)/2000', 'fcd', '.0f')}"
    )
    figures = (
        f"{curve(records)}; at 2,000: {value(records, 'model/2000', 'valid_connected', '.0%')} valid, "
        f"{value(records, 'model/2000', 'unique', '.1%')} unique, {value(records, 'model/2000', 'novel', '.1%')} new"
    )
    return [(f"QM9, 10,000 molecules learned, {seeds(records)}", figures, beside)]


def druglike(records: Records) -> list[Row]:
    """The curve, and the null models at equal novelty and similarity."""
    part = next(name for name in records[0]["parts"] if "fcd_of_model" in records[0]["parts"][name])
    one = "training molecules + 1 random moves"
    beside = (
        f"ZINC itself {value(records, 'training molecules', 'fcd', '.2f')}; one random move on each training molecule "
        f"{value(records, one, 'fcd', '.1f')} ({value(records, one, 'novel', '.1%')} new); perturbed "
        "training molecules "
        f"{value(records, part, 'novelty.fcd_of_perturbed', '.1f')} at equal novelty, "
        f"{value(records, part, 'similarity.fcd_of_perturbed', '.1f')} at equal similarity; counts of parts alone "
        f"{value(records, 'counts only/2000', 'fcd', '.1f')}"
    )
    return [(f"ZINC250k, 20,000 molecules learned, {seeds(records)}", curve(records), beside)]


def expert_rows(records: Records) -> list[Row]:
    """Hit rate and lift of each expert on its own target."""
    at = max(records[0]["settings"]["steps"])
    rows = []
    for name, words in experts.WORDS.items():
        part, control = f"{name}/{at}", f"{name}/{at} against control"
        lifts = [markdown.get(record["parts"].get(control), f"lift.{name}") for record in records]
        figures = (
            f"{value(records, part, f'hits.{name}.hit_rate', '.1%')} of unselected samples, lift "
            f"{experts.lift([markdown.get(r['parts'].get(part), f'hits.{name}') for r in records])}"
        )
        beside = (
            f"data {value(records, part, f'hits.{name}.base_rate', '.1%')}; an expert on random molecules "
            f"{value(records, f'control/{at}', f'hits.{name}.hit_rate', '.1%')}: lift over it {experts.lift(lifts)}"
        )
        rows.append((f"expert {words}, {seeds(records)}", figures, beside))
    return rows


def composed(records: Records) -> list[Row]:
    """The composition without double counting, and the other ways."""
    at = max(records[0]["settings"]["steps"])

    def rate(energy: str) -> str:
        return value(records, f"{energy}/{at}", "hits.both.hit_rate", ".1%")

    part = f"E_Q + E_P - E_0/{at}"
    size = value(records, part, "sizes.both.mean_of_hits", ".1f")
    figures = (
        f"E_Q + E_P − E_0: {rate('E_Q + E_P - E_0')}, lift "
        f"{experts.lift([markdown.get(r['parts'].get(part), 'hits.both') for r in records])}; mean size "
        f"{value(records, part, 'mean_heavy_atoms', '.1f')} heavy atoms"
        + ("" if size == "-" else f", the data's hits {size}")
    )
    beside = (
        f"data {value(records, part, 'hits.both.base_rate', '.2%')}; half sum {rate('0.5 E_Q + 0.5 E_P')}; one "
        f"expert on both {rate('one expert on both')}; plain sum {rate('E_Q + E_P')} at "
        f"{value(records, f'E_Q + E_P/{at}', 'mean_heavy_atoms', '.1f')} atoms"
    )
    return [(f"QED > 0.85 and penalised logP > 2, {seeds(records)}", figures, beside)]


def rivals(records: Records) -> list[Row]:
    """The genetic algorithm and the random walk, each with the property calls it paid; labels of data are calls."""
    rows = []
    for task, expert in nulls.TASKS.items():
        names = list(dict.fromkeys(name for record in records for name in record["parts"]))
        graph_ga = [n for n in names if n.startswith(f"{task}: graph GA")]

        def of(name: str) -> str:
            hits, best = value(records, name, "new_hits", ".1%"), value(records, name, "top10", ".3f")
            return f"{hits}, best ten {best} ({value(records, name, 'calls', ',.0f')} calls)"

        won = [markdown.get(r["parts"].get(f"{task}: who wins"), "new_hits.of makers of new molecules.method")
               for r in records]  # fmt: skip
        winners = ", ".join(dict.fromkeys(str(name) for name in won if name))
        beside = "; ".join(f"{name.split(': ', 1)[1]}: {of(name)}" for name in [*graph_ga, f"{task}: random walk"])
        rows.append((f"distinct new hits per sample, {experts.WORDS[expert]}, {seeds(records)}",
                     f"expert: {of(f'{task}: expert')}; winner: {winners}", beside))  # fmt: skip
    return rows
