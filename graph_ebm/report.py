"""The report: one HTML file that opens anywhere, offline, with every drawing inside it and no script.

``Report`` holds what is shown; :func:`render` makes the page and touches no file. A part without content is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from discrete_ebm.report_page import page_environment, show
from graph_ebm import plots
from graph_ebm.metrics import CheckedSamples, Evaluation, check_samples, fingerprints, nearest

MAX_DRAWN = 24
MAX_TRAINING = 50_000  # training molecules searched for neighbours, evenly spaced over the set
_FIGURE_NAMES = {
    "validity": "Valid",
    "uniqueness": "Unique",
    "uniqueness_of_valid": "Unique among valid",
    "novelty": "Novel",
    "valid_unique_novel": "Valid, unique and novel",
    "internal_diversity": "Internal diversity",
    "scaffold_diversity": "Scaffold diversity",
    "acyclic": "Without rings",
    "nearest_neighbour_similarity": "Similarity to the nearest known molecule",
    "tv_atoms": "Atom types",
    "tv_bonds": "Bond types",
    "tv_rings": "Ring sizes",
    "tv_size": "Molecule sizes",
    "fcd": "Fréchet ChemNet Distance",
}


@dataclass(frozen=True)
class Comparison:
    """One property before and after. ``target``: (low, high) of the wanted range, either may be None."""

    name: str
    before: np.ndarray
    after: np.ndarray
    target: tuple[float | None, float | None] | None = None


@dataclass(frozen=True)
class Report:
    """Everything a report shows. Only ``title`` is needed; parts that are empty are left out.

    Attributes:
        title, summary: the heading and the sentence under it. command: the command line, shown as it is.
        asked: (label, value) pairs: what was asked for.
        headline: (number, label) pairs: the four to six figures a reader should see first.
        molecules: rows with the key ``smiles`` and the values to show, best first; the first 24 are drawn.
        columns: keys of the rows shown as values; every number of the first row when empty.
        heading, order: the section's name, and in words the order of the rows.
        training: SMILES of the training set, where the nearest neighbour of each drawn molecule is looked up.
        start: SMILES the optimisation started from. keep: SMARTS that was kept; shaded in the drawings.
        comparisons: properties before and after. labels: what "before" and "after" are called.
        history: training curves, lists of one length: ``seconds``, ``stage`` and any numbers.
        trace: sampling curves: ``step`` and any numbers. acceptance: move type -> accepted share of its proposals.
        evaluation: figures with denominators. baselines: rows of a table of null models, first key = method.
        caveats: sentences. provenance: versions, seeds, settings. files: (name, what it holds).
    """

    title: str
    kind: str = "graph-ebm"
    summary: str = ""
    command: str = ""
    asked: Sequence[tuple[str, str]] = ()
    headline: Sequence[tuple[str, str]] = ()
    molecules: Sequence[Mapping[str, Any]] = ()
    columns: Sequence[str] = ()
    heading: str = "Best molecules"
    order: str = "best first"
    training: Sequence[str] | CheckedSamples = ()
    start: str | None = None
    keep: str | None = None
    comparisons: Sequence[Comparison] = ()
    labels: tuple[str, str] = ("training data", "generated")
    history: Mapping[str, Any] = field(default_factory=dict)
    trace: Mapping[str, Any] = field(default_factory=dict)
    acceptance: Mapping[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    baselines: Sequence[Mapping[str, Any]] = ()
    caveats: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[tuple[str, str]] = ()
    created: datetime | None = None


def render(report: Report) -> str:
    """The page as one HTML text. User text is escaped; the page's own policy forbids scripts and network access.

    Raises:
        MoleculeError: a drawn molecule is not a valid SMILES.
    """
    environment = page_environment("graph_ebm")
    drawn = list(report.molecules)[:MAX_DRAWN]
    page = environment.get_template("report.html.j2")
    return page.render(
        report=report,
        created=(report.created or datetime.now()).strftime("%d %B %Y, %H:%M"),
        cards=_cards(report, drawn),
        n_molecules=len(report.molecules),
        start=Markup(plots.molecule_svg(report.start, highlight=report.keep)) if report.start else "",
        has_targets=any(c.target is not None for c in report.comparisons),
        charts=[_comparison(c, report.labels) for c in report.comparisons],
        curves=_training_curves(report.history),
        trace=_trace_curves(report.trace),
        acceptance=_bars(report.acceptance),
        evaluation=_evaluation(report.evaluation),
        baseline_columns=list(report.baselines[0]) if report.baselines else [],
        provenance=_flat(report.provenance),
        show=show,
    )


def nearest_training(
    smiles: Sequence[str], training: Sequence[str] | CheckedSamples
) -> list[tuple[str, float] | None]:
    """The most similar training molecule of each SMILES and the Tanimoto similarity (Morgan-2), or None without any.

    At most ``MAX_TRAINING`` training molecules, evenly spaced over the set, are searched.
    """
    if not smiles:
        return []
    spaced = training.valid if isinstance(training, CheckedSamples) else list(training)
    if len(spaced) > MAX_TRAINING:
        spaced = [spaced[int(i)] for i in np.linspace(0, len(spaced) - 1, MAX_TRAINING)]
    known = spaced if isinstance(training, CheckedSamples) else check_samples(spaced).valid
    if not known:
        return [None] * len(smiles)
    index, similarity = nearest(fingerprints(smiles), fingerprints(known))
    return [(known[i], float(s)) for i, s in zip(index, similarity, strict=True)]


def _cards(report: Report, rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    columns = list(report.columns) or [
        key for key, value in rows[0].items() if isinstance(value, (int, float, np.number)) and key != "rank"
    ]
    drawings = [plots.molecule_svg(str(row["smiles"]), highlight=report.keep) for row in rows]
    neighbours = nearest_training([str(row["smiles"]) for row in rows], report.training)
    cards = []
    for rank, (row, svg, neighbour) in enumerate(zip(rows, drawings, neighbours, strict=True), start=1):
        card: dict[str, Any] = {
            "rank": rank,
            "smiles": row["smiles"],
            "svg": Markup(svg),
            "values": [(column, show(row.get(column))) for column in columns],
            "neighbour": None,
        }
        if neighbour is not None:
            smiles, similarity = neighbour
            card["neighbour"] = {
                "smiles": smiles,
                "svg": Markup(plots.molecule_svg(smiles, width=170, height=110)),
                "similarity": f"{similarity:.2f}",
                "percent": f"{100 * similarity:.0f}",
                "known": similarity > 0.9999 and smiles in check_samples([row["smiles"]]).valid,
            }
        cards.append(card)
    return cards


def _comparison(comparison: Comparison, labels: tuple[str, str]) -> dict[str, Any]:
    before, after = (np.asarray(v, dtype=np.float64).ravel() for v in (comparison.before, comparison.after))
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    note = ""
    if len(before) > 1 and len(after) > 1 and before.std() > 0:
        shift = (after.mean() - before.mean()) / before.std(ddof=1)
        note = f"{before.mean():.3g} → {after.mean():.3g}: {shift:+.2f} standard deviations of the {labels[0]}"
    svg = plots.distribution_svg(comparison.name, before, after, labels=labels, target=comparison.target)
    return {"name": comparison.name, "svg": Markup(svg), "note": note, "n": (len(before), len(after))}


def _numbers(values: Any) -> list[float] | None:
    """A list of numbers (None becomes NaN), or None where it is not one."""
    try:
        numbers = [math.nan if v is None else float(v) for v in values]
    except (TypeError, ValueError):
        return None
    return numbers if any(math.isfinite(v) for v in numbers) else None


_CURVE_TITLES = {
    "gap": ("Energy gap (nats)", "Mean energy of the chains minus that of the data; near 0 when the model fits."),
    "distance": ("Distance of fresh samples", "Of chains never started from training molecules, to the data."),
    "mean_atoms": ("Mean heavy atoms", "Of the chains while training."),
    "energy_sd": ("Spread of energies (nats)", "Standard deviation over the chains."),
    "accuracy": ("Accuracy of the contrast", "How often real molecules are told from draws of the simpler law."),
    "loss": ("Loss", "What training minimises; stages have different scales."),
}


def _training_curves(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    seconds = _numbers(history.get("seconds", ()))
    if seconds is None or len(seconds) < 2:
        return []
    stages = [str(s) for s in history.get("stage", ())]
    out = []
    for key, values in history.items():
        if key in {"seconds", "stage", "acceptance"}:
            continue
        numbers = _numbers(values)
        if numbers is None or len(numbers) != len(seconds):
            continue
        title, note = _CURVE_TITLES.get(key, (key.replace("_", " ").capitalize(), ""))
        svg = plots.curves_svg(
            seconds, {key: numbers}, x_label="seconds of training", title=title, stages=stages, zero_line=key == "gap"
        )
        out.append({"title": title, "note": note, "svg": Markup(svg)})
    by_move = _by_move(history.get("acceptance"), len(seconds))
    if by_move:
        title, note = "Acceptance by move type", "Share of each move type's proposals that were accepted."
        svg = plots.curves_svg(seconds, by_move, x_label="seconds of training", title=title, stages=stages)
        out.append({"title": title, "note": note, "svg": Markup(svg)})
    return out


def _by_move(acceptance: Any, length: int) -> dict[str, list[float]]:
    """Acceptance by move as curves, from {move: list} or [{move: value}, ...]; the six most accepted."""
    if not acceptance:
        return {}
    if not isinstance(acceptance, Mapping):
        rows = [row if isinstance(row, Mapping) else {} for row in acceptance]
        names = dict.fromkeys(name for row in rows for name in row)
        acceptance = {name: [row.get(name) for row in rows] for name in names}
    curves = {str(name): numbers for name, values in acceptance.items() if (numbers := _numbers(values)) is not None}
    curves = {name: numbers for name, numbers in curves.items() if len(numbers) == length}
    best = sorted(curves, key=lambda name: -float(np.nanmax(curves[name])))[:6]
    return {name: curves[name] for name in best}


def _trace_curves(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    length = max((len(v) for v in trace.values() if isinstance(v, Sequence | np.ndarray)), default=0)
    steps = _numbers(trace.get("step", range(length)))
    if steps is None or len(steps) < 2:
        return []
    out = []
    for key, values in trace.items():
        numbers = None if key == "step" else _numbers(values)
        if numbers is None or len(numbers) != len(steps):
            continue
        title = key.replace("_", " ").capitalize()
        svg = plots.curves_svg(steps, {key: numbers}, x_label="sampling step", title=title)
        out.append({"title": title, "note": "", "svg": Markup(svg)})
    return out


def _bars(acceptance: Mapping[str, float]) -> list[dict[str, str]]:
    """Acceptance by move type as bars; their length is the share itself, the full width the largest share."""
    known = {name: float(v) for name, v in acceptance.items() if v is not None and math.isfinite(float(v))}
    top = max(known.values(), default=0.0) or 1.0
    return [
        {"name": name.replace("_", " "), "value": f"{100 * v:.1f} %", "width": f"{100 * v / top:.1f}"}
        for name, v in sorted(known.items(), key=lambda item: -item[1])
    ]


def _evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    shares: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    for f in evaluation.figures:
        row = {"name": _FIGURE_NAMES.get(f.name, f.name.replace("_", " ")), "value": f.text(), "note": f.note,
               "counted": "" if f.of is None else f"{f.count:,} of {f.of:,}"}  # fmt: skip
        if f.value is not None or f.note:
            (shares if f.of is not None else others).append(row)
    charts = []
    for name, table in evaluation.histograms.items():
        keys = sorted(table["samples"].keys() | table["reference"].keys(), key=_histogram_key(table))
        if keys:
            keys = keys[:40]
            charts.append(Markup(plots.shares_svg(name, table["samples"], table["reference"], keys)))
    return {
        "shares": shares, "others": others, "rejected": evaluation.rejected, "caveats": evaluation.caveats,
        "charts": charts,
    }  # fmt: skip


def _histogram_key(table: Mapping[str, Mapping[str, float]]):
    """Order of bars: numbers by size, names by how common they are."""

    def key(name: str) -> tuple[float, float, str]:
        digits = name.rstrip("+")
        common = table["reference"].get(name, 0.0) or table["samples"].get(name, 0.0)
        return (float(digits), 0.0, name) if digits.isdigit() else (0.0, -common, name)

    return key


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs."""
    out: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", show(value) if not isinstance(value, (int, str)) else str(value)))
    return out


def write_report(path: str | Path, report: Report) -> Path:
    """Render and write; the old file stays whole if writing fails.

    Raises:
        CheckpointError: the file cannot be written; the sentence says why (no space, no permission).
    """
    from graph_ebm.run_folder import write_text

    return write_text(Path(path), render(report))
