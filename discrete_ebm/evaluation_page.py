"""The page of one evaluation: what ``discrete-ebm evaluate`` found, put into :class:`discrete_ebm.report.Report`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from discrete_ebm.chain_inputs import energy_device
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import DataError

__all__ = ["build", "energies_of"]

_FRAMES, _FILMED, _TRACED = 12, 6, 5
_FILES = {
    "evaluation.json": "every number of this page",
    "energy.safetensors": "the model after its last update",
    "ema.safetensors": "its average over updates",
    "log.csv": "what the training logged",
    "config.toml": "its settings, for discrete-ebm train --config",
}


def energies_of(energy: Any, x: torch.Tensor) -> torch.Tensor:
    """(B,) float64 energies of states (B, *shape), on the CPU."""
    with torch.no_grad():
        parts = [evaluate_energy(energy, part.to(energy_device(energy) or "cpu")).double() for part in x.split(4096)]
    return torch.cat(parts).cpu()


def build(record: dict[str, Any], past: dict[str, Any], run: Path, energy: Any, of_data: tuple[Any, Any], chains: Any,
          x: Any, train: Any, found: Any, command: str) -> str | None:  # fmt: skip
    """The HTML text; None where jinja2 or matplotlib is missing.

    Args:
        record: of the evaluation. past: the run.json of ``run``. of_data: (space, states of the model -> of the data).
        x, train: rows judged by, training rows, or None. found: what ``measure`` returned, or None.
    """
    try:
        from discrete_ebm import report
    except ImportError as cause:
        if (cause.name or "").partition(".")[0] not in ("jinja2", "matplotlib", "markupsafe"):
            raise
        return None
    space, visible = of_data
    draws = len(chains.x)
    at = sorted({round(i * (draws - 1) / (_FRAMES - 1)) for i in range(_FRAMES)})
    own = energy.space == space
    shown = ("acceptance_rate", "ess_energy", "rhat_energy", "ess_worst_site", "sites_that_never_changed")
    kept = ("seed", "n_chains", "n_steps", "torch", "python", "discrete_ebm")
    return report.render(
        report.Report(
            title=f"{past.get('model') or type(energy).__name__} on {Path(record.get('data', 'no data')).name}",
            kind="discrete-ebm evaluate",
            summary=_summary(energy, past, record),
            command=command,
            headline=_headline(record, found, draws),
            likelihood=record.get("likelihood", {}),
            measured=found,
            space=space,
            rows=x,
            part=record.get("part", ""),
            samples=visible(chains.last).cpu(),
            chains=torch.stack([visible(chains.x[i, :_FILMED]).cpu() for i in at]),
            steps=[i + 1 for i in at],
            energies=(energies_of(energy, x), chains.energy[-1].double().cpu()) if x is not None and own else None,
            trace=(range(1, draws + 1), chains.energy[:, :_TRACED].double().cpu()),
            chain_figures={name: record[name] for name in shown},
            history=_history(run),
            energy=energy,
            train=train,
            caveats=record["caveats"],
            provenance={name: record[name] for name in kept if name in record}
            | {"sampler": record["sampler"], "run": str(run), **_settings(past)},
            files=[(name, what) for name, what in _FILES.items()
                   if name == "evaluation.json" or (run.is_dir() and (run / name).is_file())],
        )
    )  # fmt: skip


def _headline(record: dict[str, Any], found: Any, draws: int) -> list[tuple[str, str]]:
    """The figures that a reader should see first."""
    likelihood, figures = record.get("likelihood", {}), {} if found is None else found.record
    shown = []
    if "nats" in likelihood:
        shown += [(f"{likelihood['nats']:.2f}", f"nats a row ({record['part']}, {likelihood['bound']})"),
                  (f"{likelihood['bits_per_dim']:.4f}", "bits per dimension")]  # fmt: skip
    if likelihood.get("method") == "ais":
        shown.append((f"{abs(likelihood['width']):.2f}", "nats between forward and reverse AIS"))
    if "accuracy" in figures.get("classifier", {}):
        shown.append((f"{100 * figures['classifier']['accuracy']:.0f} %", "of samples and rows told apart (50 = none)"))
    if "accuracy" in figures.get("imputation", {}):
        shown.append((f"{100 * figures['imputation']['accuracy']:.0f} %", "of hidden sites filled in rightly"))
    effective = record["ess_energy"]
    if isinstance(effective, float) and math.isfinite(effective):
        shown.append((f"{effective:,.0f}", f"effective samples of {draws * record['n_chains']:,} (energy)"))
    return shown


def _summary(energy: Any, past: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    n = sum(p.numel() for p in energy.parameters())
    by = past["config"]["objective"]["name"] if "config" in past else ""
    how = f", trained by {by} for {past['iterations']:,} updates" if by else ""
    rows = f"; judged on {record['rows']:,} rows ({record['part']})" if "rows" in record else ""
    note = f". Data: {past['data_note']}" if past.get("data_note") else ""
    return f"{type(energy).__name__} on {energy.space!r}, {n:,} parameters{how}{rows}{note}."


def _settings(past: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, keys in past.get("config", {}).items():
        if section in ("model", "objective", "sampler", "training"):
            found |= {f"{section}.{key}": value for key, value in keys.items() if value is not None}
    return found


def _history(run: Path) -> dict[str, list[float]]:
    """Columns of the run's log.csv, else of its history.csv, thinned to what a curve can show."""
    folder = run if run.is_dir() else run.parent
    path = next((folder / name for name in ("log.csv", "history.csv") if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            head, *lines = list(csv.reader(stream))
        lines = [line for line in lines if len(line) == len(head)][:: max(1, len(lines) // 400)]
        return {name: [float(line[i] or "nan") for line in lines] for i, name in enumerate(head)}
    except (ValueError, UnicodeDecodeError) as cause:
        raise DataError(f"`{path}` must be a table of numbers; got {cause}. Remove it, or restore it.") from cause
