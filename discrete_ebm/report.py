"""The HTML report of ``discrete-ebm evaluate``: one file that opens anywhere, offline, with every picture inside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from discrete_ebm import filters, pictures
from discrete_ebm.measures import Measured
from discrete_ebm.report_charts import AFTER, BEFORE, MUTED, STYLE, canvas, curves_svg, distribution_svg, to_svg
from discrete_ebm.report_page import page_environment, show

__all__ = ["Report", "render"]

_SHOWN = 64  # states in a grid
_CURVES = {  # columns of the log -> title, what to look for
    ("gap",): ("Energy gap", "Mean energy of the negatives less that of data, nats. Near 0 while chains keep up."),
    ("validation_gap",): ("Validation less training energy", "nats. Grows when the model learns rows by heart."),
    ("loss",): ("Loss", ""),
    ("acceptance",): ("Acceptance", "Share of proposals accepted while training."),
    ("hamming",): ("Hops", "Sites changed a step while training."),
    ("positive_energy", "negative_energy"): ("Energies", "Of data and of negatives, nats; their constant is free."),
    ("gradient_norm",): ("Gradient norm", ""),
    ("lr",): ("Step size", ""),
}


_NAMES = {"valid": "validation", "train": "training"}


@dataclass(frozen=True)
class Report:
    """What the page shows; parts that are empty are left out.

    Attributes:
        title, summary, command: the heading, the sentence under it, the command line.
        likelihood: what ``judge_likelihood`` returned. measured: what ``measure`` returned.
        space: of data and samples. rows, samples: states (B, *shape), (A, *shape); part: which rows they are.
        chains: (T, C, *shape) the chains of the samples at T of their steps; steps: which.
        energies: of data and of samples, (B,), (A,). trace: step -> energies of some chains.
        chain_figures: acceptance, ESS and so on. history: columns of the training log.
        energy: the model, for pictures of its weights. train: rows that neighbours were looked up in.
        caveats, provenance, files: as in the page.
    """

    title: str
    kind: str = "discrete-ebm"
    summary: str = ""
    command: str = ""
    headline: Sequence[tuple[str, str]] = ()
    likelihood: Mapping[str, Any] = field(default_factory=dict)
    measured: Measured | None = None
    space: Any = None
    rows: Tensor | None = None
    part: str = ""
    samples: Tensor | None = None
    chains: Tensor | None = None
    steps: Sequence[int] = ()
    energies: tuple[Tensor, Tensor] | None = None
    trace: tuple[Sequence[int], Tensor] | None = None
    chain_figures: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    energy: Any = None
    train: Tensor | None = None
    caveats: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[tuple[str, str]] = ()
    created: datetime | None = None


def render(report: Report) -> str:
    """The page as one HTML text; it touches no file."""
    page = page_environment().get_template("evaluation.html.j2")
    return page.render(
        report=report,
        created=(report.created or datetime.now()).strftime("%d %B %Y, %H:%M"),
        part=_NAMES.get(report.part, report.part),
        likelihood=_likelihood(report.likelihood),
        table=_table(report.measured.record) if report.measured is not None else [],
        beside=_beside(report),
        film=_film(report),
        charts=_charts(report),
        moments=_moments(report),
        imputed=_imputed(report),
        near=_near(report),
        weights=[_picture(found.image, found.caption, 420) | {"limit": f"{found.limit:.2g}"}
                 for found in (filters.find(report.energy) if report.energy is not None else [])],
        curves=_curves(report.history),
        chain_figures=[(name.replace("_", " "), show(value)) for name, value in report.chain_figures.items()],
        provenance=[(str(name).replace("_", " "), show(value)) for name, value in report.provenance.items()],
    )  # fmt: skip


def _picture(image: np.ndarray, alt: str, least: int = 320) -> dict[str, Any]:
    """A PNG as a data address, drawn large enough that pixels stay square."""
    scale = max(1, -(-least // image.shape[1]))
    text = base64.b64encode(pictures.png(image, min(scale, 16))).decode()
    return {"src": Markup(f"data:image/png;base64,{text}"), "alt": alt, "width": image.shape[1]}


def _grid(report: Report, x: Tensor, alt: str, columns: int | None = None) -> dict[str, Any]:
    return _picture(pictures.grid_of(report.space, x, _SHOWN, columns), alt)


def _beside(report: Report) -> list[dict[str, Any]]:
    if report.rows is None or report.samples is None:
        return []
    n = min(_SHOWN, len(report.rows), len(report.samples))
    return [_grid(report, report.rows[:n], f"{n} rows of the data ({_NAMES.get(report.part, report.part)})"),
            _grid(report, report.samples[:n], f"{n} samples, one of each chain, not chosen")]  # fmt: skip


def _film(report: Report) -> dict[str, Any] | None:
    if report.chains is None or not len(report.chains):
        return None
    t, c = report.chains.shape[:2]
    x = report.chains.transpose(0, 1).reshape(t * c, *report.chains.shape[2:])
    one_line = pictures.tile_shape(report.space)[0] == 1
    return _picture(pictures.grid_of(report.space, x, t * c, 1 if one_line else t), f"{c} chains at {t} times", 640)


def _likelihood(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, note) rows."""
    if "nats" not in record:
        return []
    low, high = record["interval"]
    error = {"exact": "of having these rows only", "bracket": "of both sides of the bracket and of these rows",
             "mean-field": "of a lower bound, whose slack it does not hold"}[record["bound"]]  # fmt: skip
    rows = [
        ("log-likelihood", f"{record['nats']:.3f} nats a row", f"95 % [{low:.3f}, {high:.3f}], {error}"),
        ("bits per dimension", f"{record['bits_per_dim']:.4f}", "−log₂ p(x) / sites; lower is better"),
        ("log Z", f"{record['log_z']:.4f}", "exact: " + record["how"] if record["method"] == "exact" else
         f"[{record['log_z_interval'][0]:.3f}, {record['log_z_interval'][1]:.3f}] with bootstrap intervals; forward "
         f"{record['log_z_forward']:.3f}, reverse {record['log_z_reverse']:.3f}"),
    ]  # fmt: skip
    if record["method"] == "ais":
        rows += [
            ("AIS bracket", f"[{record['lower']:.3f}, {record['upper']:.3f}] nats",
             f"{abs(record['width']):.3f} nats apart" + (", crossed by noise" if record["width"] < 0 else "")),
            ("ESS of the log-weights", f"{record['ess_forward']:.0f} and {record['ess_reverse']:.0f}",
             f"of {record['ais_chains']} chains, forward and reverse, {record['ais_steps']:,} steps"),
            ("annealed by", str(record["sampler"]), f"reverse from {record['starts']}"),
        ]  # fmt: skip
    return rows


def _table(record: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row a figure: name, value with its error, what to compare it with, when it flatters."""
    rows = []
    for name, figures in record.items():
        title, flatters = _TITLES[name]
        if "why_not" in figures:
            rows.append({"name": title, "value": "–", "against": str(figures["why_not"]), "flatters": ""})
        else:
            value, against = _WORDS[name](figures)
            rows.append({"name": title, "value": value, "against": against, "flatters": flatters})
    return rows


def _plus_minus(value: float, error: float) -> str:
    places = min(6, max(0, 1 - math.floor(math.log10(error)))) if error > 0 and math.isfinite(error) else 4
    return f"{value:.{places}f} ± {error:.{places}f}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


_TITLES = {
    "pseudo_log_likelihood": ("Pseudo-log-likelihood", "a model that copies its neighbours"),
    "ksd": ("Kernel Stein discrepancy of the data", "modes far apart in wrong proportions"),
    "mmd": ("Squared MMD, samples and data", "many sites: it sees mostly marginals"),
    "classifier": ("Classifier two-sample test", "a weak classifier, or few rows"),
    "moments": ("Marginals and pair covariances", "a model that is wrong beyond pairs"),
    "imputation": ("Filling in hidden halves", "a background that is easy to guess"),
    "neighbours": ("Nearest training rows", "copies that are shifted by a pixel"),
}
_WORDS: dict[str, Any] = {
    "pseudo_log_likelihood": lambda f: (f"{_plus_minus(f['nats'], f['error'])} nats",
                                        f"{f['bits_per_dim']:.4f} bits per dimension, {f['rows']} rows"),
    "ksd": lambda f: (_plus_minus(f["value"], f["error"]), f"0 in expectation if data are draws of the model; "
                      f"{_p(f['p_value'])}, {f['rows']} rows"),
    "mmd": lambda f: (_plus_minus(f["value"], f["error"]), "0 in expectation for equal laws" + (
        f"; training against these rows: {_plus_minus(f['data_value'], f['data_error'])}"
        if "data_value" in f else "")),
    "classifier": lambda f: (f"{f['accuracy']:.3f} ± {f['error']:.3f} right", f"0.5 = cannot tell; {_p(f['p_value'])}, "
                             f"AUROC {f['auroc']:.3f}, {f['rows']} rows kept aside"),
    "moments": lambda f: (f"{show(f['marginals_rms'])} and {show(f['covariances_rms'])} rms",
                          f"by chance alone {show(f['marginals_rms_by_chance'])} and "
                          f"{show(f['covariances_rms_by_chance'])}; largest {f['marginals_largest_z']:.1f} and "
                          f"{f['covariances_largest_z']:.1f} standard errors"),
    "imputation": lambda f: (f"{f['accuracy']:.3f} ± {f['error']:.3f} right", (
        f"commonest value of each site alone: {f['by_marginals']:.3f}; " if "by_marginals" in f else "") +
        f"log loss {f['log_loss']:.3f} nats a site, {f['hidden_sites']:,} hidden sites"),
    "neighbours": lambda f: (f"{f['median_distance']:g} sites away (median)", (
        f"held-out rows {f['median_distance_held_out']:g}; z = {f['z']:.1f} (−3 and below: memorising; far above 0: "
        "unlike any data); " if "z" in f else "") + f"exact copies {100 * f['copies']:.1f} %" + (
        f", of held-out rows {100 * f['copies_held_out']:.1f} %" if "copies_held_out" in f else "")),
}  # fmt: skip


def _charts(report: Report) -> list[dict[str, Any]]:
    found = []
    if report.energies is not None:
        data, samples = report.energies
        svg = distribution_svg("energy, nats", data.numpy(), samples.numpy(), labels=("data", "samples"))
        found.append({"title": "Energies of data and of samples", "note": "A good model gives both the same.",
                      "svg": Markup(svg)})  # fmt: skip
    if report.trace is not None:
        steps, values = report.trace
        lines = {f"chain {i + 1}": values[:, i].numpy() for i in range(values.shape[1])}
        svg = curves_svg(np.asarray(steps), lines, x_label="step", title="energies of chains")
        found.append({"title": "Energies of chains", "note": "Lines that stay apart have not mixed.",
                      "svg": Markup(svg)})  # fmt: skip
    return found


def _moments(report: Report) -> list[dict[str, Any]]:
    if report.measured is None or not report.measured.moments:
        return []
    (a, b), (c, d) = (report.measured.moments[name] for name in ("marginals", "covariances"))
    pairs = torch.triu_indices(len(c), len(c), offset=1)
    far = c[pairs[0], pairs[1]], d[pairs[0], pairs[1]]
    return [{"title": "Marginals", "note": "A point a site: mean in the data and in the samples.",
             "svg": Markup(_scatter(a, b, "mean in the data", "in the samples"))},
            {"title": "Pair covariances", "note": "A point a pair of sites.",
             "svg": Markup(_scatter(*far, "covariance in the data", "in the samples"))}]  # fmt: skip


def _scatter(x: Tensor, y: Tensor, x_label: str, y_label: str) -> str:
    """Points about the diagonal; of many pairs an even choice."""
    from matplotlib import rc_context

    step = max(1, len(x) // 800)
    horizontal, vertical = x[::step].numpy(), y[::step].numpy()
    with rc_context(STYLE):
        figure, axes = canvas(3.4, 3.0)
        both = np.concatenate([horizontal, vertical, [0.0]])
        low, high = float(both.min()), float(both.max())
        axes.plot([low, high], [low, high], color=BEFORE, lw=1.0)
        axes.scatter(horizontal, vertical, s=8, color=AFTER, alpha=0.5, linewidths=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label, color=MUTED)
        return to_svg(figure, f"{y_label} against {x_label}")


def _imputed(report: Report) -> list[dict[str, Any]]:
    found = report.measured
    if found is None or found.imputation is None or found.imputed is None or report.space.k_max != 2:
        return []
    n = min(16, len(found.imputed))
    shape = pictures.tile_shape(report.space)
    if len(shape) == 3 or math.prod(shape) != report.space.n_sites:
        return []
    truth = report.space.to_index(found.imputed[:n].cpu()).double().numpy()
    hidden = found.imputation.hidden[:n].cpu().reshape(n, -1).numpy()
    filled = np.where(hidden, found.imputation.probabilities[:n, :, 1].cpu().numpy(), truth)
    grey = np.where(hidden, 0.5, truth)
    tiles = np.stack([truth, grey, filled]).reshape(3 * n, *shape)
    image = pictures.grid(np.rint(255 * (1 - tiles)).astype(np.uint8), n if shape[0] > 1 else 1)
    return [_picture(image, f"{n} rows: as they are, with half of the sites hidden (grey), and filled in", 640)]


def _near(report: Report) -> list[dict[str, Any]]:
    found = report.measured
    if found is None or found.neighbours is None or report.samples is None or report.train is None:
        return []
    n = min(16, len(report.samples))
    order = found.neighbours.distance.argsort()[:n]
    both = torch.cat([report.samples[order].cpu(), report.train[found.neighbours.index[order]].cpu()])
    one_line = pictures.tile_shape(report.space)[0] == 1
    image = pictures.grid_of(report.space, both, 2 * n, 1 if one_line else n)
    distances = ", ".join(f"{float(d):g}" for d in found.neighbours.distance[order])
    return [_picture(image, f"the {n} samples that are nearest to a training row, and those rows", 640) | {
        "note": f"sites that differ: {distances}"}]  # fmt: skip


def _curves(history: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    if "iteration" not in history or len(history["iteration"]) < 2:
        return []
    found = []
    for columns, (title, note) in _CURVES.items():
        lines = {name.replace("_", " "): np.asarray(history[name], dtype=float) for name in columns if name in history}
        lines = {name: values for name, values in lines.items() if np.isfinite(values).any()}
        if lines:
            svg = curves_svg(history["iteration"], lines, x_label="update", title=title,
                             zero_line=columns[0] in ("gap", "validation_gap"))  # fmt: skip
            found.append({"title": title, "note": note, "svg": Markup(svg)})
    return found
