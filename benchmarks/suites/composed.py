"""Composed target QED > 0.85 and penalised logP > 2: two experts' sum, sum less the base, half sum; one expert.

A plain sum of two experts counts the data's law twice; E_Q + E_P − E₀ counts it once; 0.5/0.5 is GraphEBM's. "Both" is
one expert trained from the base on the molecules that meet both. The experts are those of the suite "experts".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import markdown, pools
from benchmarks.common import Context
from benchmarks.measure import Judge
from benchmarks.suites import experts
from graph_ebm.energies import ComposedEnergy

TITLE = "Composed target on ZINC250k: QED > 0.85 and penalised logP > 2."
TARGET = {"both": {"qed": (0.85, experts.INFINITE), "plogp": (2.0, experts.INFINITE)}}
EXTENDABLE = ("steps",)
SETTINGS: dict[str, dict[str, Any]] = {
    size: {key: value for key, value in settings.items() if key != "strengths"}
    for size, settings in experts.SETTINGS.items()
}


def run(ctx: Context) -> None:
    """Fill the record."""
    pool = pools.expert_pool(ctx, ctx.pool)
    found, seen = experts.models(ctx, pool, ("control", "Q", "P"))
    rows = np.flatnonzero(pool.meets(TARGET["both"]))
    rows = np.random.default_rng(ctx.seed).permutation(rows)[: ctx.most]
    data = {"pool": len(pool), "meet_both": int(pool.meets(TARGET["both"]).sum())}
    energies: dict[str, Any] = {"base": found["base"].energy, "control": found["control"].energy}
    q, p, base = found["Q"].energy, found["P"].energy, found["base"].energy
    pair = {"Q": q, "P": p}
    energies["E_Q + E_P"] = ComposedEnergy(pair)
    energies["E_Q + E_P - E_0"] = ComposedEnergy(pair, base=base, base_weight=1.0)
    energies["0.5 E_Q + 0.5 E_P"] = ComposedEnergy(pair, [0.5, 0.5])
    if len(rows) >= 2:
        molecules = pool.molecules(np.sort(rows))
        seen |= set(molecules.smiles)
        background = pool.molecules(experts.chosen(ctx, pool)["base"])
        energies["one expert on both"] = experts.expert(ctx, "both", molecules, found["base"], background).energy
    else:
        ctx.note(f"Only {len(rows)} molecules of the pool meet both: no expert was trained on them.")
    ctx.part("data", lambda: data)
    judge = Judge(sorted(seen), experts.reference_of(pool))
    sizes = experts.sizes_of_hits(pool, TARGET)
    for name, energy in energies.items():
        experts.sample(ctx, name, energy, found["base"], judge, pool, TARGET, sizes)
    for name in energies:
        for at in ctx.steps:
            if name not in ("base", "control"):
                ctx.part(f"{name}/{at} against control", lambda name=name, at=at: experts.against_control(
                    ctx, f"{name}/{at}", f"control/{at}", ("both",)))  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """Hit rates with lifts, means and the shape of the samples."""
    names = [n for n in dict.fromkeys(name for r in records for name in r["parts"]) if "/" in n and "against" not in n]
    rows = []
    for name in names:
        parts = [record["parts"].get(name) for record in records]
        others = [record["parts"].get(f"{name} against control") for record in records]
        forms = (("hits.both.base_rate", ".2%"), ("hits.both.hit_rate", ".2%"), ("properties.qed.mean", ".3f"),
                 ("properties.plogp.mean", ".2f"), ("sizes.both.mean_of_hits", ".1f"),
                 ("sizes.both.tv_to_hits", ".3f"), *((path, form) for _, path, form in experts.SHAPE))  # fmt: skip
        cells = [markdown.spread([markdown.get(p, path) for p in parts], form) for path, form in forms]
        lifts = [experts.lift([markdown.get(p, "hits.both") for p in parts]),
                 experts.lift([markdown.get(o, "lift.both") for o in others])]  # fmt: skip
        rows.append([name, *cells[:2], *lifts, *cells[2:]])
    head = ("energy / steps", "base rate", "hit rate", "lift over data", "lift over control", "mean QED",
            "mean penalised logP", "atoms of the data's hits", "TV sizes to those",
            *(heading for heading, _, _ in experts.SHAPE))  # fmt: skip
    return markdown.page(records, TITLE, markdown.training(records), markdown.markdown(head, rows))
