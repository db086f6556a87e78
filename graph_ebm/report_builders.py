"""From results to reports: what ``train``, ``generate`` and ``optimize`` returned, put into a :class:`Report`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graph_ebm.metrics import CheckedSamples, Evaluation
from graph_ebm.report import Comparison, Report, show
from graph_ebm.run_folder import rows_of

STEREO = "Stereochemistry is not part of the model: every drawing stands for all its stereoisomers."
NOT_MADE = "Nothing here was made or measured: properties are computed estimates, and synthesis was not checked."
SELECTED = "The molecules drawn are the best of all that were sampled; the distributions show all of them, unselected."


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 41 s, 9 min 41 s, 2 h 05 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def target_range(target: Any) -> tuple[float | None, float | None] | None:
    """(low, high) of a ``Target`` to shade, None for an open end; None for a target without bounds."""
    low, high = (None if v is None or math.isinf(v) else float(v) for v in (_get(target, "low"), _get(target, "high")))
    return None if low is None and high is None else (low, high)


def _get(target: Any, name: str) -> Any:
    return getattr(target, name, None)


def describe_target(target: Any) -> str:
    """A ``Target`` in words: "higher qed", "logp between 1 and 3", "sa at most 2.5"."""
    name, bounds = _get(target, "name") or str(target), target_range(target)
    if bounds is None:
        return f"{'lower' if _get(target, 'direction') == 'min' else 'higher'} {name}"
    low, high = bounds
    if low is not None and high is not None:
        return f"{name} between {low:g} and {high:g}"
    return f"{name} at least {low:g}" if low is not None else f"{name} at most {high:g}"


def share_headlines(evaluation: Evaluation | None) -> list[tuple[str, str]]:
    """Validity, uniqueness and novelty for the top of the page, each with its count."""
    if evaluation is None:
        return []
    words = {"validity": "valid and connected", "uniqueness": "unique", "novelty": "of these not in the training data"}
    out = []
    for figure in evaluation.figures:
        if figure.name in words and figure.value is not None and figure.of:
            text = f"{100 * figure.value:.1f}".removesuffix(".0")
            out.append((f"{text} %", f"{words[figure.name]}: {figure.count:,} of {figure.of:,}"))
    return out


def comparisons(
    before: Mapping[str, Any], after: Mapping[str, Any], targets: Sequence[Any] = ()
) -> list[Comparison]:
    """Property arrays before and after, targets first, with their wanted ranges."""
    wanted = {getattr(t, "name", str(t)): target_range(t) for t in targets}
    names = [name for name in [*wanted, *after] if name in after]
    return [
        Comparison(name, _array(before.get(name, ())), _array(after[name]), wanted.get(name))
        for name in dict.fromkeys(names)
    ]


def _array(values: Any) -> np.ndarray:
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
    return np.asarray(values, dtype=np.float64).ravel()


def optimization_report(
    result: Any,
    targets: Sequence[Any],
    *,
    asked: Sequence[tuple[str, str]] = (),
    training: Sequence[str] | CheckedSamples = (),
    evaluation: Evaluation | None = None,
    baselines: Sequence[Mapping[str, Any]] = (),
    command: str = "",
    start: str | None = None,
    keep: str | None = None,
    seconds: float | None = None,
    provenance: Mapping[str, Any] | None = None,
    files: Sequence[tuple[str, str]] = (),
) -> Report:
    """The report of ``optimize``: better molecules, what they were before, and how they were found.

    Args:
        result: an ``OptimizeResult`` (molecules best first, history, before, after, figures, caveats).
        targets: the ``Target`` objects. asked: further (label, value) pairs.
        training: SMILES in which the nearest known molecules are looked up.
        evaluation: figures of *all* samples. baselines: rows of the null-model table.
        start, keep: SMILES and SMARTS of the request. seconds: wall clock of the run.
    """
    rows, figures = rows_of(result.molecules), dict(getattr(result, "figures", None) or {})
    words = [describe_target(t) for t in targets]
    names = [getattr(t, "name", str(t)) for t in targets]
    before, after = (_by_name(side, names) for side in (result.before, result.after))
    headline = _hit_headline(figures) + share_headlines(evaluation)
    if seconds is not None:
        headline.append((duration(seconds), "wall clock, training and sampling"))
    generated = getattr(result, "generated", None)
    return Report(
        title=f"Molecules with {_join(words)}",
        kind="graph-ebm optimize",
        summary=("The target was not reached in this run. " if _missed(figures) else "")
        + _summary(before, after, names, len(rows)),
        command=command,
        asked=[*(("Target", word) for word in words), *_thresholds(figures), *asked],
        headline=headline[:6],
        molecules=rows,
        columns=_columns(rows, names),
        training=training,
        start=start,
        keep=keep,
        comparisons=comparisons(before, after, getattr(result, "targets", None) or targets),
        history=_mapping(getattr(result, "history", None)),
        trace=_mapping(getattr(generated, "trace", None)),
        acceptance=_mapping(getattr(generated, "acceptance", getattr(result, "acceptance", None))),
        evaluation=evaluation,
        baselines=baselines,
        caveats=[*_missed(figures), *(getattr(result, "caveats", None) or (SELECTED, NOT_MADE)), STEREO],
        provenance={**(provenance or {}), "figures": {k: v for k, v in figures.items() if _scalar(v)}},
        files=files,
    )


def _missed(figures: Mapping[str, Any]) -> list[str]:
    """A plain word where the samples hit the target no more often than the data do."""
    hit, base = figures.get("hit_rate"), figures.get("base_rate")
    if not isinstance(hit, (int, float)) or not isinstance(base, (int, float)) or hit > base:
        return []
    return ["The samples reach the target no more often than the training data do: this run did not improve them. "
            "Train longer (--minutes), or use more data."]  # fmt: skip


def _thresholds(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What counts as a hit: the bounds that the experts' training molecules keep."""
    found = figures.get("thresholds")
    return [("A hit is", "; ".join(str(t) for t in found))] if found else []


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, np.number))


def _mapping(value: Any) -> dict[str, Any]:
    """Curves as columns: a mapping as it is, a list of rows turned around, one bare sequence as the energy."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in value.items()}
    items = value.tolist() if hasattr(value, "tolist") else list(value)
    if all(isinstance(row, Mapping) for row in items):
        names = dict.fromkeys(name for row in items for name in row)
        return {str(name): [row.get(name) for row in items] for name in names}
    return {"energy": items}


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words)) or "better values"


def _hit_headline(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The hit rate beside the base rate, where ``optimize`` computed them."""
    hit, base = figures.get("hit_rate"), figures.get("base_rate")
    if not isinstance(hit, (int, float)) or not math.isfinite(hit):
        return []
    if isinstance(base, (int, float)) and math.isfinite(base) and base > 0:
        words = f"hit rate over the training data: {100 * hit:.1f} % against {100 * base:.1f} %"
        low, high = figures.get("lift_low"), figures.get("lift_high")
        interval = f" (95 %: × {low:.1f} to {high:.1f})" if isinstance(low, float) and isinstance(high, float) else ""
        return [(f"× {hit / base:.1f}", words + interval)]
    return [(f"{100 * hit:.1f} %", "of all samples reach the target")]


def _by_name(side: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Property arrays by name; one bare array belongs to the one target."""
    if side is None:
        return {}
    if not isinstance(side, Mapping):
        side = dict(zip(names, [side] if len(names) == 1 else side, strict=False))
    return {str(name): _array(values) for name, values in side.items()}


def _summary(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], names: Sequence[str], n: int) -> str:
    parts = []
    for name in names:
        old, new = (side.get(name, np.zeros(0)) for side in (before, after))
        old, new = old[np.isfinite(old)], new[np.isfinite(new)]
        if len(old) and len(new):
            parts.append(f"mean {name} {show(float(new.mean()))} against {show(float(old.mean()))}")
    sentence = f"{n:,} new molecules, drawn by a sampler from energies that were trained on real ones"
    return f"{sentence}: {_join(parts)} in the training data." if parts else f"{sentence}."


def _columns(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    """Up to six numeric columns, the targets first."""
    if not rows:
        return []
    numeric = [
        key for key, value in rows[0].items()
        if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and key not in {"rank", "index"}
    ]  # fmt: skip
    return list(dict.fromkeys([*(name for name in first if name in rows[0]), *numeric]))[:6]


def training_report(
    model: Any,
    *,
    asked: Sequence[tuple[str, str]] = (),
    command: str = "",
    seconds: float | None = None,
    caveats: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    files: Sequence[tuple[str, str]] = (),
) -> Report:
    """The report of ``train``: the learning curves, honest ones first, and the settings."""
    history = _mapping(getattr(model, "history", None))
    headline = [(duration(seconds), "of training, wall clock")] if seconds is not None else []
    for key, label in (("gap", "energy gap at the end, nats"), ("distance", "distance of fresh samples at the end")):
        values = [v for v in history.get(key, ()) if isinstance(v, (int, float)) and math.isfinite(v)]
        if values:
            headline.append((show(float(values[-1])), label))
    energy = getattr(model, "energy", None)
    if energy is not None and hasattr(energy, "parameters"):
        headline.append((show(sum(p.numel() for p in energy.parameters())), "parameters"))
    return Report(
        title="A trained molecular energy",
        kind="graph-ebm train",
        summary="Low energy means likely under the training data. Draw molecules from it with graph-ebm generate.",
        command=command, asked=asked, headline=headline, history=history, caveats=[*caveats, STEREO],
        provenance=provenance or {}, files=files,
    )  # fmt: skip


def generation_report(
    generated: Any,
    *,
    asked: Sequence[tuple[str, str]] = (),
    training: Sequence[str] | CheckedSamples = (),
    evaluation: Evaluation | None = None,
    command: str = "",
    start: str | None = None,
    keep: str | None = None,
    seconds: float | None = None,
    caveats: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    files: Sequence[tuple[str, str]] = (),
) -> Report:
    """The report of ``generate``: the molecules in the order they were drawn, none selected."""
    rows = rows_of(generated.table())
    headline = [(show(len(rows)), "molecules"), *share_headlines(evaluation)]
    if seconds is not None:
        headline.append((duration(seconds), "wall clock"))
    properties = evaluation.properties if evaluation is not None else {}
    return Report(
        title=f"{len(rows):,} sampled molecules",
        kind="graph-ebm generate",
        summary="In the order they were drawn; none selected, none corrected.",
        command=command, asked=asked, headline=headline, molecules=rows, columns=_columns(rows, ()), training=training,
        start=start, keep=keep,
        comparisons=[Comparison(name, c.reference, c.samples) for name, c in properties.items() if len(c.reference)],
        heading="Molecules", order="as drawn", labels=("reference", "generated"),
        trace=_mapping(generated.trace), acceptance=_mapping(generated.acceptance),
        evaluation=evaluation, caveats=[*caveats, STEREO, NOT_MADE], provenance=provenance or {}, files=files,
    )  # fmt: skip
