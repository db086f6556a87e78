"""One call that measures a set of samples: ``evaluate(samples, reference)``.

Every share says what it was counted over. The denominator is all samples wherever a failure must count against the
generator (validity, uniqueness, novelty); where custom divides by something else, that figure stands beside it under a
name that says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from discrete_ebm.errors import SettingError
from graph_ebm import properties as properties_module
from graph_ebm.metrics import distributions, similarity
from graph_ebm.metrics.validity import CheckedSamples, Sample, check_samples, molecules_of

if TYPE_CHECKING:
    from graph_ebm.fcd import Statistics
    from graph_ebm.scoring import Scoring

DEFAULT_PROPERTIES = ("qed", "logp", "sa", "tpsa", "mw", "rings")
MAX_PROPERTIES = 5_000  # reference molecules whose properties are computed: about 3 ms each
MAX_COMPARED = 20_000  # molecules a side, evenly spaced, in comparisons of fingerprints and properties


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation.

    Attributes:
        name: short and stable, the key in the JSON file. value: None where it cannot be computed.
        count, of: numerator and denominator of a share; None for other figures.
        note: what was counted over, or why there is no value.
    """

    name: str
    value: float | None
    count: int | None = None
    of: int | None = None
    note: str = ""

    def text(self) -> str:
        """The value as people read it."""
        if self.value is None:
            return "-"
        if self.of is not None:
            return f"{100 * self.value:.2f} %"
        return f"{self.value:.4g}" if abs(self.value) >= 1e-4 or self.value == 0 else f"{self.value:.2e}"


@dataclass(frozen=True)
class PropertyComparison:
    """One property in the samples and, if given, in the reference: values without NaN, and how far apart they are.

    ``n_failed`` samples have no value; ``failures`` counts them by reason (``raised``, ``nan``, ``timeout``, ...).
    """

    name: str
    samples: np.ndarray
    reference: np.ndarray
    n_failed: int
    distance: float | None
    failures: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "samples": _summary(self.samples),
            "reference": _summary(self.reference),
            "n_failed": self.n_failed,
            "failures": dict(self.failures),
            "wasserstein_1": self.distance,
        }


@dataclass(frozen=True)
class Evaluation:
    """All figures of one set of samples; ``table()`` for people, ``to_dict()`` for files.

    Attributes:
        figures: the numbers, each with its denominator. rejected: reasons of invalid samples and their counts.
        properties: name -> comparison. histograms: name -> {"samples", "reference"} shares by key.
        caveats: sentences that a reader of the numbers needs.
    """

    figures: tuple[Figure, ...]
    rejected: dict[str, int] = field(default_factory=dict)
    properties: dict[str, PropertyComparison] = field(default_factory=dict)
    histograms: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float | None:
        for figure in self.figures:
            if figure.name == name:
                return figure.value
        raise SettingError(f"`name` must be one of {', '.join(f.name for f in self.figures)}; got {name!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, ready for JSON."""
        return {
            "figures": {
                f.name: {"value": f.value, "count": f.count, "of": f.of, "note": f.note} for f in self.figures
            },
            "rejected": dict(self.rejected),
            "properties": {name: comparison.to_dict() for name, comparison in self.properties.items()},
            "histograms": self.histograms,
            "caveats": list(self.caveats),
        }

    def table(self) -> str:
        """A table in plain text, with denominators."""
        rows = [(f.name, f.text(), "" if f.of is None else f"{f.count:,} of {f.of:,}", f.note) for f in self.figures]
        lines = _columns(("figure", "value", "counted", "over"), rows)
        if self.rejected:
            lines += ["", "rejected samples: " + ", ".join(f"{k} {v:,}" for k, v in self.rejected.items())]
        if self.properties:
            lines += ["", *_columns(
                ("property", "samples", "reference", "Wasserstein-1", "failed"),
                [
                    (name, _mean_sd(c.samples), _mean_sd(c.reference), _number(c.distance),
                     ", ".join(f"{reason} {count:,}" for reason, count in c.failures.items()) or f"{c.n_failed:,}")
                    for name, c in self.properties.items()
                ],
            )]
        lines += [f"note: {caveat}" for caveat in self.caveats]
        return "\n".join(lines)


def evaluate(
    samples: Iterable[Sample] | CheckedSamples | None,
    reference: Iterable[Sample] | CheckedSamples | None = None,
    *,
    training: Iterable[Sample] | CheckedSamples | None = None,
    properties: Sequence[str] = DEFAULT_PROPERTIES,
    fcd: bool | str | Path | Statistics = False,
    max_compared: int = MAX_COMPARED,
    device: str = "cpu",
    progress: bool = False,
    scoring: Scoring | None = None,
) -> Evaluation:
    """Measure samples: validity, uniqueness, novelty, diversity, scaffolds, neighbours, distributions, and the FCD.

    Args:
        samples: SMILES, RDKit molecules or None (a failed sample); empty and None are allowed.
        reference: molecules to compare distributions with; None leaves those figures empty.
        training: molecules that count as known (novelty, nearest neighbours); the reference when not given.
        properties: names known to ``graph_ebm.properties``; values that fail are counted.
        fcd: True compares with ``reference``; or statistics (.npz path or ``Statistics``). Needs fcd_torch.
        max_compared: most molecules a side in comparisons of fingerprints and properties, evenly spaced.
        device: where ChemNet runs. progress: show bars on stderr.
        scoring: how properties that are functions of yours (``module:function``) are run.

    Raises:
        CapabilityError: ``fcd`` was asked for and fcd_torch is missing.
        SettingError: ``fcd=True`` without a reference.
    """
    caveats: list[str] = []
    with tqdm(total=4, desc="reading", unit="part", disable=not progress, leave=False) as bar:
        checked, compared = check_samples(samples), check_samples(reference)
        known = compared if training is None else check_samples(training)
        known_side = reference is not None
        valid, unique, n = checked.valid, checked.unique, checked.n
        _next(bar, "diversity")
        figures = [
            _share("validity", len(valid), n, "all samples, before any filter"),
            _share("uniqueness", len(unique), n, "all samples"),
            _share("uniqueness_of_valid", len(unique), len(valid), "valid samples"),
            *_novelty(unique, known, n, known_side or training is not None),
            *_diversity(unique, valid, known, max_compared, caveats),
        ]
        _next(bar, "histograms")
        histograms, distances = _histograms(valid, compared.valid)
        figures += distances
        _next(bar, "properties")
        sides = _spread(valid, max_compared), _spread(compared.valid, min(max_compared, MAX_PROPERTIES))
        comparisons = compare_properties(*sides, properties, scoring)
        _next(bar, "done")
    if fcd is not False:
        figures.append(_fcd(checked, compared, fcd, device, progress, caveats))
    if n == 0:
        caveats.append("There are no samples: every figure is empty.")
    if known_side and compared.n > compared.n_valid:
        caveats.append(f"{compared.n - compared.n_valid:,} of {compared.n:,} reference entries are not molecules.")
    return Evaluation(tuple(figures), checked.reasons, comparisons, histograms, tuple(caveats))


def _next(bar: Any, name: str) -> None:
    bar.update()
    bar.set_description(name)


def _share(name: str, count: int, of: int, note: str) -> Figure:
    return Figure(name, count / of if of else None, count, of, note)


def _novelty(unique: list[str], known: CheckedSamples, n: int, given: bool) -> list[Figure]:
    if not given:
        return [Figure("novelty", None, note="no training molecules given")]
    seen = set(known.valid)
    new = sum(s not in seen for s in unique)
    return [
        _share("novelty", new, len(unique), "distinct valid samples"),
        _share("valid_unique_novel", new, n, "all samples"),
    ]


def _spread(items: list[str], limit: int) -> list[str]:
    """At most ``limit`` items, evenly spaced over the list, always the same ones."""
    if len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).astype(int)]


def _diversity(
    unique: list[str], valid: list[str], known: CheckedSamples, limit: int, caveats: list[str]
) -> list[Figure]:
    used, against = _spread(valid, limit), _spread(known.unique, limit)
    if len(used) < len(valid) or len(against) < len(known.unique):
        caveats.append(
            f"Comparisons of fingerprints and properties use {len(used):,} of {len(valid):,} samples and "
            f"{len(against):,} of {len(known.unique):,} known molecules; "
            "fewer known molecules lower the neighbour similarity a little."
        )
    bits, frames = similarity.fingerprints(used), similarity.scaffolds(unique)
    ringed = [s for s in frames if s]
    snn = similarity.nearest_neighbour_similarity(bits, similarity.fingerprints(against))
    return [
        Figure("internal_diversity", similarity.internal_diversity(bits), note=f"{len(used):,} valid, Morgan-2"),
        _share("scaffold_diversity", len(set(ringed)), len(unique), "distinct scaffolds per distinct valid sample"),
        _share("acyclic", len(frames) - len(ringed), len(unique), "distinct valid samples without a ring"),
        Figure("nearest_neighbour_similarity", snn, note=f"to {len(against):,} known molecules, Morgan-2 Tanimoto"),
    ]


def _histograms(a: list[str], b: list[str]) -> tuple[dict[str, dict[str, dict[str, float]]], list[Figure]]:
    found, known = distributions.histograms(a), distributions.histograms(b)
    tables = {
        name: {"samples": distributions.shares(found[name]), "reference": distributions.shares(known[name])}
        for name in distributions.HISTOGRAMS
    }
    figures = [
        Figure(f"tv_{name}", distributions.total_variation(found[name], known[name]), note="total variation, 0 = equal")
        for name in distributions.HISTOGRAMS
        if b
    ]
    return tables, figures


def compare_properties(
    samples: Sequence[str],
    reference: Sequence[str],
    names: Sequence[str] = DEFAULT_PROPERTIES,
    scoring: Scoring | None = None,
) -> dict[str, PropertyComparison]:
    """Each property in two lists of checked SMILES, and the Wasserstein-1 distance of its values.

    Raises:
        RegistryError, SettingError: a property is unknown or cannot be imported.
    """
    sides = [list(molecules_of(side)) for side in (samples, reference)]
    (found, failed), (known, _) = (properties_module.compute(list(names), side, scoring) for side in sides)
    reasons: dict[str, dict[str, int]] = {name: {} for name in found}
    for (name, reason), count in failed.counts().items():
        reasons[name][reason] = count
    out = {}
    for name, values in found.items():
        finite, other = values[np.isfinite(values)], known[name][np.isfinite(known[name])]
        distance = distributions.wasserstein(finite, other)
        out[name] = PropertyComparison(name, finite, other, len(values) - len(finite), distance, reasons[name])
    return out


def _fcd(
    checked: CheckedSamples,
    compared: CheckedSamples,
    fcd: bool | str | Path | Statistics,
    device: str,
    progress: bool,
    caveats: list[str],
) -> Figure:
    from graph_ebm import fcd as fcd_module  # it builds on this package

    source = compared if isinstance(fcd, bool) else fcd
    if fcd is True and compared.n_valid < 2:
        raise SettingError(
            f"`reference` must hold at least 2 molecules for the FCD; got {compared.n_valid}. "
            "Give a reference file or reference statistics (.npz)."
        )
    if checked.n_valid < 2:
        return Figure("fcd", None, note=f"needs at least 2 valid samples, got {checked.n_valid}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fcd_module.SmallSampleWarning)  # the caveat below says the same
        result = fcd_module.fcd(checked, source, device=device, progress=progress)
    if result.caveat:
        caveats.append(result.caveat)
    of = "an unstated number of" if result.n_reference is None else f"{result.n_reference:,}"
    return Figure("fcd", result.value, note=f"{result.n:,} valid samples against {of} reference molecules, no stereo")


def _summary(values: np.ndarray) -> dict[str, float | int | None]:
    if len(values) == 0:
        return {"n": 0, "mean": None, "sd": None, "min": None, "median": None, "max": None}
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
    }


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _mean_sd(values: np.ndarray) -> str:
    summary = _summary(values)
    return "-" if not summary["n"] else f"{_number(summary['mean'])} ± {_number(summary['sd'])} (n {len(values):,})"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    pad = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines = ["  ".join(row).rstrip() for row in pad]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def null_table(evaluations: Mapping[str, Evaluation], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Several evaluations side by side: one row a method, one column a figure.

    Args:
        evaluations: method name -> evaluation. names: figures to show; all of the first one when None.
    """
    rows = []
    for method, evaluation in evaluations.items():
        by_name = {f.name: f for f in evaluation.figures}
        wanted = list(by_name) if names is None else names
        rows.append({"method": method, **{name: by_name[name].text() if name in by_name else "-" for name in wanted}})
    return rows
