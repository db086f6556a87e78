"""The registry of objectives, in the form of the samplers'."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from discrete_ebm.errors import RegistryError
from discrete_ebm.objectives.base import Objective
from discrete_ebm.samplers.registry import check_settings

__all__ = ["ObjectiveSpec", "create", "names", "register", "spec"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """One row of the registry.

    ``needs_sampler``: negatives come from a Markov chain. ``spaces``: what an energy's space must be, in words ("any"
    as far as the sampler goes). ``needs_gradient``: of the energy in its encoding. ``uses``: optional capabilities that
    make it faster. ``task``: "density" learns p(x) by itself; "structured" learns to answer and must be told what the
    answer is; "labelled" takes a classifier's energy and LabelledStates. ``cost``: energies evaluated per row and
    update. ``use_when``: one or two sentences.
    """

    name: str
    build: Callable[..., Objective]
    summary: str
    source: str
    needs_sampler: bool
    spaces: str = "any"
    needs_gradient: bool = False
    uses: tuple[str, ...] = ()
    task: str = "density"
    cost: str = ""
    use_when: str = ""


_SPECS: dict[str, ObjectiveSpec] = {}


def register(new: ObjectiveSpec) -> None:
    """Add an objective; a name that is taken raises :class:`RegistryError`."""
    if new.name in _SPECS:
        raise RegistryError(f"Objective {new.name!r} is already registered ({_SPECS[new.name].summary}). Pick another.")
    _SPECS[new.name] = new


def names() -> list[str]:
    """Names of all registered objectives, sorted."""
    return sorted(_SPECS)


def spec(name: str) -> ObjectiveSpec:
    """The row of one objective; an unknown name suggests the nearest."""
    if name not in _SPECS:
        near = difflib.get_close_matches(name, _SPECS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RegistryError(f"Unknown objective {name!r}.{hint} Available: {', '.join(names())}.")
    return _SPECS[name]


def create(name: str, **settings: Any) -> Objective:
    """Build an objective by name with its settings; :class:`SettingError` for one that it does not have."""
    row = spec(name)
    check_settings(f"objective {name!r}", row.build, settings)
    return row.build(**settings)
