"""Molecules with more of a property: an expert on the best part of the data, composed with a base, then sampled."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from discrete_ebm import checkpoint
from discrete_ebm.errors import DataError, EBMError, MoleculeError, SettingError, SpaceError
from discrete_ebm.fitting import data_digest
from graph_ebm import datasets, pretrained
from graph_ebm.constraints import ConstrainedEnergy, similar_to
from graph_ebm.energies import ComposedEnergy
from graph_ebm.experts import train_expert
from graph_ebm.generate import Generated, generate, prepare_start
from graph_ebm.graphs import MoleculeSet, to_smiles
from graph_ebm.model import MolecularModel
from graph_ebm.optimize_stages import Stages, energy_digest
from graph_ebm.scoring import Scoring, source_version
from graph_ebm.space import MolecularSpace
from graph_ebm.targets import Target, best_part, desirability, lift_interval, meets, property_table
from graph_ebm.training import torch_threads, train

__all__ = ["OptimizeResult", "Target", "optimize"]


@dataclass
class OptimizeResult:
    """What an optimisation gives.

    ``molecules``: rows (dicts) of the unique samples, best first. ``generated``: every sample, unselected.
    ``before`` / ``after``: {property: values} of the data and of *all* samples. ``figures``: hit rate, lift, … .
    ``model``: base, experts and moves as one composed model. ``caveats``: sentences. ``history``: of the trainings.
    ``targets``: with the bounds that count as a hit. ``training``: SMILES of the data. :meth:`report` writes it all.
    """

    molecules: list[dict[str, Any]]
    generated: Generated
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    figures: dict[str, Any]
    model: MolecularModel
    history: dict[str, list[Any]] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)
    baselines: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    targets: list[Target] = field(default_factory=list)
    training: list[str] = field(default_factory=list)

    def report(self, folder: str | Path) -> Path:
        """Write molecules.csv, the model, run.json and a self-contained report.html; returns the page's path.

        The same files as ``graph-ebm optimize`` writes, but for what only the command knows (its line).
        """
        from graph_ebm.metrics import CheckedSamples, evaluate
        from graph_ebm.report import render
        from graph_ebm.report_builders import optimization_report
        from graph_ebm.run_folder import RunFolder, provenance

        run = RunFolder(folder)
        run.molecules(self.molecules)
        run.model(self.model)
        known = CheckedSamples.trusted(self.training)
        evaluation = evaluate(self.generated.smiles, known, properties=())
        page = optimization_report(
            self,
            self.targets,
            asked=[("Training data", f"{len(self.training):,} molecules")],
            training=known,
            evaluation=evaluation,
            seconds=self.figures.get("seconds"),
            baselines=self.baselines,
            provenance={**provenance(), "settings": self.model.settings},
            files=[*run.written.items(), ("run.json", "versions, figures"), ("report.html", "this page")],
        )
        run.run({"figures": self.figures, "evaluation": evaluation.to_dict(), "caveats": self.caveats})
        return run.report(render(page))


def optimize(
    targets: str | Target | Sequence[str | Target],
    *,
    data: MoleculeSet | str | None = None,
    fraction: float = 0.1,
    strength: float = 1.5,
    strategy: str = "joint",
    minutes: float = 8.0,
    seed: int = 0,
    n: int = 1000,
    n_steps: int | None = None,
    like: str | None = None,
    similarity: float | None = None,
    keep: str | None = None,
    start: list[str] | None = None,
    base: MolecularModel | str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    output: str | Path | None = None,
    progress: bool = True,
    scoring: Scoring | None = None,
    checkpoint_every: int | None = None,
    resume: bool | str = False,
    notes: Mapping[str, Any] | None = None,
    **settings: Any,
) -> OptimizeResult:
    """Train expert(s) on the best molecules, compose them with the base, and sample.

    The law sampled is exp(−[E₀ + Σ_i s·w_i (E_i − E₀)]): the base E₀ tilted by what each expert E_i knows beyond it.

    Args:
        targets: "qed", "sa:min", "logp:1..3", "module:function", or :class:`Target` objects; several are met together.
        data: a MoleculeSet or a packaged name; default "zinc-sample".
        fraction: best part of the data that an expert is trained on, where the target has no bounds of its own.
        strength: s; 1 samples the experts' product over the base, above 1 presses harder on the property.
        strategy: "joint": one expert on the molecules that are best in all targets together; "compose": one each.
        minutes: wall clock of training and sampling together.
        n: molecules to draw. n_steps: steps of each chain (default: 3000, or what the time allows).
        like: SMILES to start from; with ``similarity``, the least Tanimoto similarity as a hard constraint.
        keep: SMARTS of a part to keep. start: SMILES to start from (default: single atoms, or ``like``).
        base: a model of the same space trained on all the data, a packaged name, or "train" to train one here; default:
            the packaged model if it has the data's space, else one is trained here.
        output: folder for the model, and for what is done so far: trainings with checkpoints, samples, scores.
        scoring: how functions of yours (``module:function``) are run, see :class:`graph_ebm.scoring.Scoring`; without a
            cache of its own, scores are kept in ``output``.
        checkpoint_every: as in :func:`discrete_ebm.fit`; 0 = nothing is kept to go on from.
        resume: go on with the run in ``output``, started with the same settings: trainings that are done are kept, the
            one that was cut goes on from its checkpoint, and so on. With ``n_iterations`` and ``n_steps`` the molecules
            are those of a run that was never cut. "auto" = begin where there is nothing.
        notes: kept with the run, JSON-able.
        settings: fields of :class:`graph_ebm.training.TrainSettings`, and ``n_iterations``: updates of each training,
            in place of minutes.
    Returns:
        OptimizeResult.
    Raises:
        DataError: too few molecules meet the targets, or a property fails everywhere. MoleculeError, SettingError,
        SpaceError: as said in their messages. What can be known before the training is said before it.
    """
    began = time.perf_counter()
    wanted = [
        t if isinstance(t, Target) else Target.parse(t)
        for t in ([targets] if isinstance(targets, str | Target) else targets)
    ]
    _check_settings(wanted, n, n_steps, strength, minutes)
    if strategy not in ("joint", "compose"):
        raise SettingError(f"`strategy` must be 'joint' or 'compose'; got {strategy!r}.")
    if similarity is not None and like is None:
        raise SettingError("`similarity` must come with `like`, the molecule to stay similar to; got none.")
    constraint = None if like is None or similarity is None else similar_to(like, similarity)
    molecules = datasets.load(data or "zinc-sample") if data is None or isinstance(data, str) else data
    if not isinstance(molecules, MoleculeSet):
        raise DataError(
            f"`data` must be a MoleculeSet or a packaged name; got {type(molecules).__name__}. Read molecules with "
            "graph_ebm.from_smiles(list) or graph_ebm.datasets.read(path)."
        )
    base, base_name = _choose_base(base, molecules.space)
    if base is not None:
        base = base.to(device)
    start = [start] if isinstance(start, str) else start or ([like] if like is not None else None)
    first, _ = prepare_start(molecules.space, len(start or [keep]), start, keep, "cpu")
    if constraint is not None and not all(fine := constraint(to_smiles(first, molecules.space.vocabulary))):
        raise MoleculeError(
            f"every starting molecule must have a similarity of at least {similarity:g} to {like!r}; got "
            f"{(start or [str(like)])[fine.index(False)]!r}. Leave out `start`, or lower `similarity`."
        )
    stages = Stages(
        output,
        {
            "targets": [f"{t} weight {t.weight:g}" for t in wanted],
            "data": data_digest(molecules.x),
            "base": "trained" if base is None else energy_digest(base.energy),
            "fraction": fraction,
            "strength": strength,
            "strategy": strategy,
            "minutes": minutes,
            "seed": seed,
            "n": n,
            "n_steps": n_steps,
            "like": like,
            "similarity": similarity,
            "keep": keep,
            "start": start,
            "threads": threads,
            "device": device,
            **settings,
        },
        every=checkpoint_every,
        resume=resume,
        notes=notes,
    )
    began -= stages.spent
    if output is not None:
        checkpoint.make_folder(output)  # a folder that cannot be made is said now
    stages.mark(stages.spent)
    plan = Scoring(progress=progress) if scoring is None else scoring
    if output is not None and plan.cache is None and checkpoint_every != 0 and _kept_on_disk(wanted):
        plan = replace(plan, cache=Path(output) / "scores.sqlite")
    try:
        values, failures, groups, bounded = _select(molecules, wanted, plan, strategy, fraction)
    except EBMError:  # scores that were computed stay where they are kept
        stages.forget()
        raise

    common = {"threads": threads, "device": device, "progress": progress, **settings}
    share = 0.7 * minutes
    if base is None:
        length = None if settings.get("n_iterations") else 0.55 * share  # by updates alone, so that a seed repeats
        base = train(molecules, minutes=length, seed=seed, label="base", **stages.training("base"), **common)
        share *= 0.45
        stages.mark(time.perf_counter() - began)
    experts: dict[str, MolecularModel] = {}
    history = {key: list(column) for key, column in base.history.items()}
    interrupted = base.interrupted
    for index, (name, (part, _)) in enumerate(groups.items()):
        if interrupted:
            break
        experts[name] = train_expert(
            molecules[part],
            base,
            molecules,
            minutes=share / len(groups),
            seed=seed + 1 + index,
            label=f"expert {name}",
            **stages.training(f"expert-{index + 1}"),
            **common,
        )
        stages.mark(time.perf_counter() - began)
        interrupted = experts[name].interrupted
        _append(history, experts[name].history, f"expert {name}")

    model = base
    if experts:
        weights = [strength * groups[name][1] for name in experts]
        energy = ComposedEnergy({name: e.energy for name, e in experts.items()}, weights, base.energy, sum(weights) - 1)
        model = MolecularModel(
            energy,
            base.space,
            base.moves,
            history,
            {
                "targets": [str(t) for t in bounded],
                "strength": strength,
                "strategy": strategy,
                "fraction": fraction,
                "seed": seed,
                "minutes": minutes,
            },
        )
    if output is not None:
        model.save(output)
    target_energy: Any = model.energy if constraint is None else ConstrainedEnergy(model.energy, constraint)
    left = None if n_steps is not None else max(0.2 * 60 * minutes, 60 * minutes - (time.perf_counter() - began))
    if interrupted:  # a first Ctrl-C ends the training and leaves a short sampling, a second one ends that
        left = min(left or 20.0, 20.0)
    drawn = stages.kept(model)
    if drawn is None:
        with torch_threads(threads):
            drawn = generate(
                model,
                n,
                seed=seed,
                n_steps=3000 if n_steps is None else n_steps,
                start=start,
                keep=keep,
                progress=progress,
                energy=target_energy,
                max_seconds=left,
            )
        if not drawn.expert_energies and hasattr(target_energy, "expert_energies"):
            with torch.no_grad():
                drawn.expert_energies = target_energy.expert_energies(drawn.x)
        if not interrupted:
            stages.keep(drawn, model)
            stages.mark(time.perf_counter() - began)
    generated = drawn
    n_steps = generated.settings["n_steps"]
    after, failed = property_table(generated.molecules, wanted, required=False, scoring=plan)
    table, figures = _rank(generated, after, bounded, values, molecules)
    figures |= {
        "n_steps": n_steps,
        "base": base_name,
        "expert_molecules": {name: len(part) for name, (part, _) in groups.items()},
        "property_failures": {"data": failures, "samples": failed},
        "seconds": time.perf_counter() - began,
    }
    return OptimizeResult(
        table,
        generated,
        values,
        after,
        figures,
        model,
        history,
        _caveats(wanted, figures, interrupted or generated.interrupted),
        interrupted=interrupted or generated.interrupted,
        targets=bounded,
        training=list(molecules.smiles),
    )


def _check_settings(wanted: Sequence[Target], n: int, n_steps: int | None, strength: float, minutes: float) -> None:
    """SettingError for what :func:`train` and :func:`generate` would find out too late."""
    if not wanted:
        raise SettingError("`targets` must hold at least one property; got none. Try optimize('qed').")
    names = [t.name for t in wanted]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingError(
            f"`targets` must name each property once; got {twice[0]!r} twice. Join the bounds: '{twice[0]}:1..3'."
        )
    for name, value in (("n", n), ("n_steps", n_steps)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
    if not 0 <= strength < math.inf:
        raise SettingError(f"`strength` must be a finite number of at least 0; got {strength!r}. Default: 1.5.")
    if not 0 < minutes < math.inf:
        raise SettingError(f"`minutes` must be a positive finite number; got {minutes!r}.")


def _select(
    molecules: MoleculeSet, wanted: Sequence[Target], plan: Scoring, strategy: str, fraction: float
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, tuple[np.ndarray, float]], list[Target]]:
    """(values, failures, {expert: (its rows of the data, its weight)}, targets with bounds)."""
    new = plan.cache is not None and not Path(plan.cache).exists()
    try:
        values, failures = property_table(molecules, wanted, scoring=plan)
    except (DataError, SettingError):  # no value at all: nothing worth keeping
        if new and plan.cache is not None:
            Path(plan.cache).unlink(missing_ok=True)
        raise
    if strategy == "compose":  # each expert has its own best part: no molecule needs to be best in all
        parts = {t.name: best_part(values, [t], fraction) for t in wanted}
        groups = {t.name: (parts[t.name][0], t.weight) for t in wanted}
        return values, failures, groups, [parts[t.name][1][0] for t in wanted]
    rows, bounded = best_part(values, wanted, fraction)
    return values, failures, {"+".join(t.name for t in wanted): (rows, 1.0)}, bounded


def _kept_on_disk(wanted: Sequence[Target]) -> bool:
    """Whether there are functions of the user, all with their source in a file, so that their version is known."""
    functions = [t.name for t in wanted if ":" in t.name and not t.name.startswith("__main__:")]
    try:
        return all(source_version(name) for name in functions) if functions else False
    except SettingError:
        return False


def _choose_base(base: MolecularModel | str | None, space: MolecularSpace) -> tuple[MolecularModel | None, str]:
    """The base to use (None = train one) and what the report calls it."""
    if base is None:
        found = pretrained.matching(space)
        return (None, "trained in this run") if found is None else (found[1], f"packaged {found[0]}")
    name = "given"
    if isinstance(base, str):
        if base == "train":
            return None, "trained in this run"
        base, name = pretrained.load(base), f"packaged {base}"
    if base.space != space:
        raise SpaceError(
            f"`base` must have the data's space {space!r}; got {base.space!r}. Use base='train', or read the data with "
            "the base's vocabulary and max_atoms."
        )
    return base, name


def _append(history: dict[str, list[Any]], more: dict[str, list[Any]], stage: str) -> None:
    """Put one history after another; what only one of them has is NaN in the other."""
    before, after = len(history.get("seconds", [])), len(more.get("seconds", []))
    offset = history["seconds"][-1] if before else 0.0
    for key in {**history, **more}:
        column = more.get(key, [math.nan] * after)
        if key == "seconds":
            column = [offset + value for value in column]
        elif key == "stage":
            column = [stage] * after
        history.setdefault(key, [math.nan] * before).extend(column)


def _rank(
    generated: Generated,
    after: dict[str, np.ndarray],
    bounded: Sequence[Target],
    before: dict[str, np.ndarray],
    data: MoleculeSet,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Unique samples best first, and the figures over all samples."""
    score = desirability(after, bounded, before)
    hits, base_hits = meets(after, bounded), meets(before, bounded)
    known = set(data.smiles)
    columns = generated.table()
    seen: set[str] = set()
    table = []
    # ties in rank (better than all data) are broken by the raw values
    raw = sum(_sign(t) * np.nan_to_num(after[t.name]) / (_finite(before[t.name]).std() + 1e-9) for t in bounded)
    for row in np.lexsort((-raw, -score)):
        smiles = generated.smiles[row]
        if smiles in seen:
            continue
        seen.add(smiles)
        table.append(
            {
                "smiles": smiles,
                **{k: float(v[row]) for k, v in after.items()},
                "hit": bool(hits[row]),
                "known": smiles in known,
                **{k: v[row] for k, v in columns.items() if k != "smiles" and k not in after},
            }
        )
    n = len(generated)
    figures: dict[str, Any] = {
        "n": n,
        "unique": len(seen) / n,
        "novel": sum(s not in known for s in generated.smiles) / n,
        "thresholds": [str(t) for t in bounded],
        **lift_interval(int(hits.sum()), n, int(base_hits.sum()), len(data)),
    }
    for name in after:
        data_values, sample_values = _finite(before[name]), _finite(after[name])
        mean = float(sample_values.mean()) if len(sample_values) else math.nan
        figures[f"mean {name} of the data"] = float(data_values.mean())
        figures[f"mean {name} of all samples"] = mean
        shift = (mean - float(data_values.mean())) / (float(data_values.std()) + 1e-12)
        figures[f"shift of {name} in standard deviations"] = shift
    return table, figures


def _finite(column: np.ndarray) -> np.ndarray:
    return column[np.isfinite(column)]


def _sign(target: Target) -> float:
    return {"max": 1.0, "min": -1.0, "range": 0.0}[target.direction]


def _caveats(targets: Sequence[Target], figures: dict[str, Any], interrupted: bool) -> list[str]:
    lines = [
        "Properties are computed estimates (RDKit or your function), not measurements.",
        "Hit rates and distributions are of all samples, before any selection; the molecules drawn are the best.",
        f"Chains ran {figures['n_steps']} steps from their start; longer chains may still move the distributions.",
    ]
    if any(t.name.startswith("plogp") for t in targets):
        lines.append("Penalised logP rewards halogens and long chains; it is a classical benchmark, not a design goal.")
    failures = figures["property_failures"]
    if failures["data"] or failures["samples"]:
        lines.append(f"A property failed on some molecules, which count as worst: {failures}.")
    if interrupted:
        lines.append("The run was interrupted: training or sampling is shorter than asked.")
    return lines
