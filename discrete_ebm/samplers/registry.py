"""The registry of kernels. Registering is being tested: the conformance suite runs over it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from discrete_ebm.errors import RegistryError, SettingError
from discrete_ebm.samplers.base import Kernel

__all__ = ["SamplerSpec", "check_settings", "create", "names", "register", "spec"]


@dataclass(frozen=True)
class SamplerSpec:
    """One row of the registry.

    ``build(**settings)`` makes the kernel; ``source`` names paper and equation; ``spaces`` are class names of spaces;
    ``needs_gradient``: a differentiable energy is required (when it has no exact deltas); ``exact``: the target is
    kept exactly; ``reversible``: one step satisfies detailed balance. For the sampler's page: ``law`` that a step
    keeps, ``cost`` of a step in evaluations, ``use_when``, one or two sentences; what is left empty is read from the
    docstring of the class. ``example``: Python that makes a few draws, for spaces that the page's own examples lack.
    """

    name: str
    build: Callable[..., Kernel]
    summary: str
    source: str
    spaces: frozenset[str]
    needs_gradient: bool
    exact: bool
    reversible: bool
    law: str = ""
    cost: str = ""
    use_when: str = ""
    example: str = ""


_SPECS: dict[str, SamplerSpec] = {}
_BROKEN: dict[str, ImportError] = {}  # plug-ins whose own requirements are not installed, by entry-point name
_plugins_loaded = False


def register(new: SamplerSpec) -> None:
    """Add a sampler; a name that is taken raises :class:`RegistryError`."""
    if new.name in _SPECS:
        raise RegistryError(f"Sampler {new.name!r} is already registered ({_SPECS[new.name].summary}). Pick another.")
    _SPECS[new.name] = new


def _load_plugins() -> None:
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for point in entry_points(group="discrete_ebm.samplers"):
        try:
            loaded = point.load()
        except ImportError as cause:  # said when it is asked for; the other samplers work without it
            _BROKEN[point.name] = cause
            continue
        item = loaded() if callable(loaded) and not isinstance(loaded, SamplerSpec) else loaded
        if isinstance(item, SamplerSpec) and item.name not in _SPECS:
            register(item)


def names() -> list[str]:
    """Names of all registered samplers, sorted; plug-ins included."""
    _load_plugins()
    return sorted(_SPECS)


def spec(name: str) -> SamplerSpec:
    """The row of one sampler; an unknown name suggests the nearest. Plug-ins are imported only when asked for."""
    if name not in _SPECS:
        _load_plugins()
    if name in _BROKEN:
        raise RegistryError(f"Sampler {name!r} needs a package that is missing: {_BROKEN[name]}. Install it.")
    if name not in _SPECS:
        if name == "auto":
            raise RegistryError(
                "`sampler='auto'` must come with an energy, whose capabilities decide; got no energy here. "
                "Use de.sample(energy, sampler='auto') or de.samplers.choose(energy).create()."
            )
        near = difflib.get_close_matches(name, _SPECS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RegistryError(f"Unknown sampler {name!r}.{hint} Available: {', '.join(names())}.")
    return _SPECS[name]


def create(name: str, **settings: Any) -> Kernel:
    """Build a kernel by name with its settings.

    Raises:
        RegistryError: unknown name. SettingError: a setting that this sampler does not have, or a wrong value.
    """
    row = spec(name)
    check_settings(f"sampler {name!r}", row.build, settings)
    return row.build(**settings)


def check_settings(what: str, build: Callable[..., Any], settings: dict[str, Any]) -> None:
    """Raise :class:`SettingError` for a setting that ``build`` does not take; ``what`` names it in the sentence."""
    if not settings:
        return
    parameters = inspect.signature(build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise SettingError(
            f"settings of the {what} must be among {', '.join(known) or 'none at all'}; got {', '.join(unknown)}. "
            "Check the spelling."
        )
