"""The suites by name: settings for a small and a full run, and a function that fills a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SUITES = {
    "default-job": "default_job",
    "qm9": "qm9",
    "druglike": "druglike",
    "experts": "experts",
    "composed": "composed",
    "nulls": "nulls",
    "cost": "cost",
    "moves": "moves",
    "graph-energy": "graph_energy_suite",
    "ais": "ais",
    "networks": "networks",
    "jem": "jem",
    "densities": "densities",
    "speed-ising": "speed_ising",
    "speed-langevin": "speed_langevin",
    "speed-gwg": "speed_gwg",
    "speed-rbm": "speed_rbm",
    "speed-sparse": "speed_sparse",
    "anneal-peers": "anneal_peers",
    "train-rbm-mnist": "train_rbm_mnist",
    "train-digits": "train_digits",
    "train-speed": "train_speed",
    "learn-ising": "learn_ising",
}


@dataclass(frozen=True)
class Suite:
    """``settings``: by size ("small", "full"). ``run``: fills the context's record. ``title``: of its table.

    ``extendable``: settings that only say which parts there are; a record that differs in them alone is gone on with.
    """

    name: str
    title: str
    settings: dict[str, dict[str, Any]]
    run: Callable[[Any], None]
    tables: Callable[[list[dict[str, Any]]], str]
    extendable: tuple[str, ...] = ()


def suite(name: str) -> Suite:
    """The suite of that name (a module of this package); its settings, its run and its tables."""
    module = import_module(f"benchmarks.suites.{SUITES[name]}")
    return Suite(name, module.TITLE, module.SETTINGS, module.run, module.tables, getattr(module, "EXTENDABLE", ()))
