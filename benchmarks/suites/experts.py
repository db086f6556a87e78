"""Experts: base E₀, E_Q (QED > 0.9), E_P (raw penalised logP > 2), E_S (SA < 2.5), and a control on random molecules.

Every expert is trained from the base on the same number of molecules for the same time; the control differs only in
which molecules it saw. Samples are fresh chains from single
carbon atoms, annealed while they grow; nothing is selected. Lift: hit rate over the
data's base rate, and over the control's hit rate, with 95 % intervals (Katz).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from rdkit import Chem

import graph_ebm as ge
from benchmarks import markdown, pools
from benchmarks.common import Context
from benchmarks.measure import Judge, property_values
from benchmarks.pools import Pool
from benchmarks.sampling import grown
from benchmarks.suites.distribution import curve_parts, request
from discrete_ebm.errors import DataError
from graph_ebm import pretrained
from graph_ebm.energies import ComposedEnergy
from graph_ebm.experts import train_expert
from graph_ebm.graphs import MoleculeSet
from graph_ebm.metrics import total_variation
from graph_ebm.model import MolecularModel, single_atoms
from graph_ebm.targets import lift_interval

TITLE = "Experts on ZINC250k."
INFINITE = float("inf")
TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "Q": {"qed": (0.9, INFINITE)},
    "P": {"plogp": (2.0, INFINITE)},
    "S": {"sa": (-INFINITE, 2.5)},
}
WORDS = {"Q": "QED > 0.9", "P": "penalised logP > 2", "S": "SA < 2.5"}
EXTENDABLE = ("steps", "strengths")
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {
        "pool": None,
        "base_molecules": 16_000,
        "most": 16_000,
        "base_minutes": 30.0,
        "expert_minutes": 8.0,
        "threads": 1,
        "n": 2_000,
        "chunk": 1_000,
        "steps": [1000, 2000],
        "strengths": [2.0],
        "train": {"clock": "processor"},
    },
    "small": {
        "pool": 400,
        "base_molecules": 100,
        "most": 40,
        "base_minutes": 0.05,
        "expert_minutes": 0.02,
        "threads": 1,
        "n": 16,
        "chunk": 16,
        "steps": [4],
        "strengths": [2.0],
        "train": {"n_chains": 16, "batch": 8, "n_steps": 2, "hidden": 16, "layers": 1},
    },
}


def chosen(ctx: Context, pool: Pool) -> dict[str, np.ndarray]:
    """Rows of each training set: the base, the experts and the control, the last four of one size."""
    rng = np.random.default_rng(ctx.seed)
    hits = {name: np.flatnonzero(pool.meets(bounds)) for name, bounds in TARGETS.items()}
    size = min(ctx.most, *(len(rows) for rows in hits.values()))
    if size < 2:
        raise DataError(f"the pool must hold molecules that meet each target; got {[len(r) for r in hits.values()]}.")
    rows = {"base": rng.permutation(len(pool))[: ctx.base_molecules]}
    rows |= {name: rng.permutation(found)[:size] for name, found in hits.items()}
    rows["control"] = rng.permutation(len(pool))[:size]
    return {name: np.sort(found) for name, found in rows.items()}


def expert(
    ctx: Context, name: str, molecules: MoleculeSet, base: MolecularModel | None, background: MoleculeSet | None = None
) -> MolecularModel:
    """The base (``base`` None), or an expert over it by contrast with the background, as ``graph-ebm optimize`` trains
    them; kept under the name in the folder of this suite. ``base_minutes`` 0 takes the packaged base."""
    if base is None and ctx.base_minutes == 0:
        found = pretrained.matching(molecules.space)
        if found is None:
            raise DataError("a packaged base must have the pool's space; got none. Give base_minutes.")
        return found[1]
    minutes = ctx.base_minutes if base is None else ctx.expert_minutes
    keywords = {"minutes": minutes, "seed": ctx.seed, "threads": ctx.threads, "device": ctx.device, **ctx.train}
    asked = request(molecules, keywords) | {"from_base": base is not None}

    def make() -> MolecularModel:
        if base is None or background is None:
            return ge.train(molecules, base=base, progress=ctx.progress, label=name, **keywords)
        return train_expert(molecules, base, background, progress=ctx.progress, label=name, **keywords)

    return ctx.model(name, asked, make, suite="experts")


def models(ctx: Context, pool: Pool, names: tuple[str, ...]) -> tuple[dict[str, MolecularModel], set[str]]:
    """The models by name (base first), trained if they are not there; and the SMILES that any of them has seen."""
    rows = chosen(ctx, pool)
    found: dict[str, MolecularModel] = {}
    seen: set[str] = set()
    for name in ("base", *names):
        molecules = pool.molecules(rows[name])
        seen |= set(molecules.smiles)
        found[name] = expert(ctx, name, molecules, found.get("base"), pool.molecules(rows["base"]))
    return found, seen


def expert_figures(
    samples: list[str | None],
    judge: Judge,
    pool: Pool,
    targets: dict[str, dict[str, tuple[float, float]]],
    sizes: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """Hits by target with lift over the data, property means and shifts, and the figures of the judge.

    ``sizes``: by target, how many of the data's own hits have so many heavy atoms (:func:`sizes_of_hits`).
    """
    values = property_values(samples, pools.PROPERTIES)
    n, data = len(samples), {name: column[np.isfinite(column)] for name, column in pool.values.items()}
    figures: dict[str, Any] = {"hits": {}, "properties": {}, "sizes": {}}
    own_sizes = heavy_atoms(s for s in samples if s is not None)
    for name, counts in sizes.items():
        hits = sum(counts.values())
        figures["sizes"][name] = {
            "mean_of_hits": sum(int(k) * v for k, v in counts.items()) / hits if hits else None,
            "tv_to_hits": total_variation(own_sizes, counts) if hits else None,
        }
    for name, bounds in targets.items():
        count = int(pools.meets(values, bounds).sum())
        figures["hits"][name] = {"count": count, **lift_interval(count, n, int(pool.meets(bounds).sum()), len(pool))}
    for name, column in values.items():
        finite = column[np.isfinite(column)]
        mean, sd = float(data[name].mean()), float(data[name].std())
        figures["properties"][name] = {
            "mean": float(finite.mean()) if len(finite) else None,
            "data_mean": mean,
            "data_sd": sd,
            "shift_in_sd": (float(finite.mean()) - mean) / sd if len(finite) else None,
        }
    return figures | judge(samples)


def against_control(ctx: Context, name: str, control: str, targets: tuple[str, ...]) -> dict[str, Any]:
    """Lift over the control's hit rate with its interval, and the shift of property means from the control's, in sd."""
    own, other = ctx.record["parts"][name], ctx.record["parts"][control]
    return {
        "lift": {
            t: lift_interval(own["hits"][t]["count"], own["n"], other["hits"][t]["count"], other["n"]) for t in targets
        },
        "shift_in_sd": {
            p: None
            if None in (own["properties"][p]["mean"], other["properties"][p]["mean"])
            else (own["properties"][p]["mean"] - other["properties"][p]["mean"]) / own["properties"][p]["data_sd"]
            for p in pools.PROPERTIES
        },
    }


def run(ctx: Context) -> None:
    """Fill the record."""
    pool = pools.expert_pool(ctx, ctx.pool)
    found, seen = models(ctx, pool, ("control", *TARGETS))
    judge = Judge(sorted(seen), reference_of(pool))
    ctx.part(
        "data",
        lambda: {
            "pool": len(pool),
            "base_rate": {name: float(pool.meets(bounds).mean()) for name, bounds in TARGETS.items()},
        },
    )
    energies: dict[str, Any] = {name: model.energy for name, model in found.items()}
    for strength in ctx.strengths:  # E0 + s (E - E0)
        energies |= {
            f"{name}, strength {strength:g}": ComposedEnergy(
                {name: found[name].energy}, [strength], found["base"].energy
            )
            for name in TARGETS
        }
    sizes = sizes_of_hits(pool, TARGETS)
    for name, energy in energies.items():
        sample(ctx, name, energy, found["base"], judge, pool, TARGETS, sizes)
    for name in energies:
        for at in ctx.steps:
            if name not in ("base", "control"):
                ctx.part(
                    f"{name}/{at} against control",
                    lambda name=name, at=at: against_control(ctx, f"{name}/{at}", f"control/{at}", tuple(TARGETS)),
                )


def heavy_atoms(smiles: Iterable[str]) -> dict[str, int]:
    """How many of the molecules have so many heavy atoms."""
    return dict(Counter(str(Chem.MolFromSmiles(s).GetNumHeavyAtoms()) for s in smiles))


def sizes_of_hits(pool: Pool, targets: dict[str, dict[str, tuple[float, float]]]) -> dict[str, dict[str, int]]:
    """By target, the sizes of (at most 5,000) molecules of the pool that meet it: what an expert has to keep."""
    found = {}
    for name, bounds in targets.items():
        rows = np.flatnonzero(pool.meets(bounds))
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), 5_000)).astype(int)] if len(rows) else rows
        found[name] = heavy_atoms(pool.smiles[i] for i in rows.tolist())
    return found


def reference_of(pool: Pool) -> list[str]:
    """At most 5,000 molecules of the pool, evenly spaced: what sizes and atoms are compared with."""
    rows = np.linspace(0, len(pool) - 1, min(len(pool), 5_000)).astype(int)
    return pool.molecules(rows).smiles


def sample(
    ctx: Context,
    name: str,
    energy: Any,
    base: MolecularModel,
    judge: Judge,
    pool: Pool,
    targets: dict[str, dict[str, tuple[float, float]]],
    sizes: dict[str, dict[str, int]],
) -> None:
    """Samples of an energy by the base's moves at every number of steps, unselected.

    The steps count from the end of the annealed growth, see :func:`benchmarks.sampling.grown`.
    """
    start = single_atoms(base.space, ctx.n, ctx.device)
    if any(f"{name}/{at}" not in ctx.record["parts"] for at in ctx.steps):
        start = grown(energy, base.kernel, start, ctx.seed)
    curve_parts(
        ctx,
        name,
        energy,
        base.kernel,
        start,
        ctx.steps,
        lambda samples: expert_figures(samples, judge, pool, targets, sizes),
        suite="experts",
    )


def tables(records: list[dict[str, Any]]) -> str:
    """Hit rates and lifts, then the shape of the samples."""
    rows = []
    names = [n for n in dict.fromkeys(name for r in records for name in r["parts"]) if "/" in n and "against" not in n]
    for name in names:
        parts = [record["parts"].get(name) for record in records]
        others = [record["parts"].get(f"{name} against control") for record in records]
        for target, words in WORDS.items():
            if target not in name and name.split("/")[0] not in ("base", "control"):
                continue  # an expert's own target only; the base and the control for all
            rows.append(
                [
                    name,
                    words,
                    markdown.spread([markdown.get(p, f"hits.{target}.base_rate") for p in parts], ".2%"),
                    markdown.spread([markdown.get(p, f"hits.{target}.hit_rate") for p in parts], ".1%"),
                    lift([markdown.get(p, f"hits.{target}") for p in parts]),
                    lift([markdown.get(o, f"lift.{target}") for o in others]),
                    markdown.spread(
                        [markdown.get(p, f"properties.{next(iter(TARGETS[target]))}.shift_in_sd") for p in parts],
                        "+.2f",
                    ),
                    markdown.spread(
                        [markdown.get(o, f"shift_in_sd.{next(iter(TARGETS[target]))}") for o in others], "+.2f"
                    ),
                    markdown.spread([markdown.get(p, f"sizes.{target}.mean_of_hits") for p in parts], ".1f"),
                    markdown.spread([markdown.get(p, f"sizes.{target}.tv_to_hits") for p in parts], ".3f"),
                ]
            )
    head = (
        "model / steps",
        "target",
        "base rate",
        "hit rate",
        "lift over data",
        "lift over control",
        "shift from data, sd",
        "shift from control, sd",
        "atoms of the data's hits",
        "TV sizes to those",
    )
    shape = markdown.by_part(records, SHAPE, "model / steps", lambda n: "/" in n and "against" not in n)
    return markdown.page(records, TITLE, markdown.training(records), markdown.markdown(head, rows), shape)


SHAPE: list[markdown.Column] = [
    ("valid and connected", "valid_connected", ".2%"),
    ("unique", "unique", ".2%"),
    ("novel", "novel", ".1%"),
    ("internal diversity", "internal_diversity", ".3f"),
    ("mean heavy atoms", "mean_heavy_atoms", ".1f"),
    ("TV sizes", "tv_size", ".3f"),
    ("TV atoms", "tv_atoms", ".3f"),
    ("TV ring sizes", "tv_rings", ".3f"),
    ("sampling s (CPU)", "cost.cpu_seconds", ".0f"),
]


def lift(found: list[Any]) -> str:
    """Lift with its 95 % interval; over seeds, the mean of the lifts and the widest bounds."""
    known = [item for item in found if item]
    if not known:
        return "-"
    if any(item["base_rate"] == 0 for item in known):
        return f"- (at least {min(item['lift_low'] for item in known):.1f})"
    mean = sum(item["hit_rate"] / item["base_rate"] for item in known) / len(known)
    low, high = min(item["lift_low"] for item in known), max(item["lift_high"] for item in known)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
