"""Tables of the molecule benchmarks; how tables are made is :mod:`discrete_ebm.benchmark.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discrete_ebm.benchmark.tables import Column, by_part, get, heading, markdown, notes, page, spread

__all__ = ["COST", "DISTRIBUTION", "Column", "by_part", "get", "heading", "markdown", "notes", "page", "spread",
           "training"]

DISTRIBUTION: list[Column] = [
    ("FCD", "fcd", ".3f"),
    ("valid and connected", "valid_connected", ".2%"),
    ("unique", "unique", ".2%"),
    ("novel", "novel", ".1%"),
    ("known in the full set", "known", ".1%"),
    ("TV atoms", "tv_atoms", ".3f"),
    ("TV bonds", "tv_bonds", ".3f"),
    ("TV sizes", "tv_size", ".3f"),
    ("TV ring sizes", "tv_rings", ".3f"),
    ("rings per molecule", "mean_rings", ".2f"),
    ("aromatic bonds", "aromatic_bonds", ".3f"),
    ("nearest training molecule", "similarity_to_training", ".3f"),
]
COST: list[Column] = [
    ("acceptance", "cost.acceptance", ".3f"),
    ("energy evaluations per molecule", "cost.energy_calls_per_molecule", ".0f"),
    ("sampling s (CPU)", "cost.cpu_seconds", ".0f"),
]


def training(records: Sequence[dict[str, Any]]) -> str:
    """One line a model: minutes asked and taken, and the machine's load then."""
    names = list(dict.fromkeys(name for record in records for name in record.get("training", {})))
    rows = []
    for name in names:
        found = [record.get("training", {}).get(name) for record in records]
        rows.append([name, *(spread([get(item, path) for item in found], form) for path, form in (
            ("request.molecules", ".0f"), ("request.minutes", ".2f"), ("seconds", ".0f"), ("cpu_seconds", ".0f"),
            ("load", ".1f")))])  # fmt: skip
    head = ("trained model", "molecules", "minutes asked", "seconds", "CPU seconds", "machine load")
    return markdown(head, rows) if rows else ""
