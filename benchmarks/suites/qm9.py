"""QM9-small: 10,000 molecules, 15 minutes of training on one thread, then the FCD as a curve over sampling steps.

Every chain starts from a single carbon atom. Beside the model in the same run: the energy of counts alone (mandatory),
a poorer one without angles and rings, training molecules as samples (floor), training molecules after k random moves,
and the random walk E = 0.
"""

from __future__ import annotations

from typing import Any

import graph_ebm as ge
from benchmarks import markdown, pools
from benchmarks.common import Context
from benchmarks.measure import Judge
from benchmarks.suites.distribution import (
    floor_part,
    model_parts,
    perturbed_parts,
    request,
    train_settings,
    walk_parts,
)
from graph_ebm.energies import LocalEnergy, MolecularEnergy
from graph_ebm.graphs import MoleculeSet
from graph_ebm.model import MolecularModel
from graph_ebm.moves import mine_moves

TITLE = "QM9, 10,000 training molecules."
EXTENDABLE = ("steps", "counts_steps", "poor_steps", "walk_steps", "perturb")
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {
        "molecules": 10_000, "minutes": 15.0, "counts_minutes": 4.0, "threads": 1, "n": 10_000, "chunk": 2_500,
        "steps": [500, 1000, 2000, 5000, 10_000, 20_000], "counts_steps": [2000, 10_000],
        "poor_steps": [2000], "walk_steps": [2000], "perturb": [1, 2, 5, 10], "train": {"clock": "processor"},
    },
    "small": {
        "molecules": 200, "minutes": 0.05, "counts_minutes": 0.02, "threads": 1, "n": 40, "chunk": 20,
        "steps": [10, 20], "counts_steps": [10], "poor_steps": [10], "walk_steps": [10], "perturb": [1],
        "train": {"n_chains": 32, "batch": 16, "n_steps": 2},
    },
}  # fmt: skip


def run(ctx: Context) -> None:
    """Fill the record; models first, so that a killed run never trains twice."""
    molecules = pools.training_set(ctx, "qm9", ctx.molecules)
    full = train_model(ctx, molecules)
    counts = counts_model(ctx, molecules)
    poor = poor_model(ctx, molecules, counts) if ctx.poor_steps else None
    test = pools.held_out(ctx, "qm9", None if ctx.size == "full" else 100)
    meter = pools.fcd_meter(ctx, "qm9", test, ctx.threads)
    judge = Judge(molecules.smiles, test, pools.known_smiles(ctx, "qm9"), meter)
    ctx.part("data", lambda: {"training": len(molecules), "test": len(test),
                              "known": None if judge.known is None else len(judge.known)})  # fmt: skip
    floor_part(ctx, molecules, judge)
    model_parts(ctx, "model", full, ctx.steps, judge)
    model_parts(ctx, "counts only", counts, ctx.counts_steps, judge)
    if poor is not None:
        model_parts(ctx, "counts without angles and rings", poor, ctx.poor_steps, judge)
    perturbed_parts(ctx, full.kernel, molecules, judge)
    walk_parts(ctx, full.kernel, molecules, judge)


def train_model(ctx: Context, molecules: MoleculeSet) -> MolecularModel:
    """The model with the library's defaults."""
    keywords = train_settings(ctx, molecules)
    return ctx.model("model", request(molecules, keywords), lambda: ge.train(
        molecules, progress=ctx.progress, label="model", **keywords))  # fmt: skip


def counts_model(ctx: Context, molecules: MoleculeSet) -> MolecularModel:
    """Local terms alone: no network. The baseline that shows what the network adds."""
    keywords = train_settings(ctx, molecules, minutes=ctx.counts_minutes, network=None)
    return ctx.model("counts", request(molecules, keywords), lambda: ge.train(
        molecules, progress=ctx.progress, label="counts only", **keywords))  # fmt: skip


def poor_model(ctx: Context, molecules: MoleculeSet, counts: MolecularModel) -> MolecularModel:
    """Counts of atoms and bonds, neither angles nor ring tables: about the count energy of the published baselines."""
    space = molecules.space
    local = LocalEnergy(space, angles=False, rings=False)
    moves = mine_moves(molecules.x.cpu(), space.vocabulary.valence_table())
    empty = MolecularModel(MolecularEnergy(space, local=local), space, moves)
    keywords = train_settings(ctx, molecules, minutes=ctx.counts_minutes, network=None, lr_chains=(0.03, 3e-4))
    return ctx.model("counts-poor", request(molecules, keywords), lambda: ge.train(
        molecules, base=empty, progress=ctx.progress, label="counts without angles and rings", **keywords))  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """The curve and the null models."""
    columns = [*markdown.DISTRIBUTION, *markdown.COST]
    table = markdown.by_part(records, columns, "method / steps", lambda name: name != "data")
    return markdown.page(records, TITLE, markdown.training(records), table)
