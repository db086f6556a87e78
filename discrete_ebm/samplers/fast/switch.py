"""Whether fused kernels may be used."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec

from discrete_ebm.errors import SettingError

__all__ = ["IMPLEMENTATIONS", "check_implementation", "fused_available", "fused_enabled", "set_fused"]

IMPLEMENTATIONS = ("auto", "reference", "fused")
_AVAILABLE = find_spec("numba") is not None
_ENABLED = [os.environ.get("DISCRETE_EBM_FUSED", "1").strip().lower() not in ("0", "false", "off", "no")]


def check_implementation(value: str) -> None:
    """Raise :class:`SettingError` unless ``value`` names an implementation."""
    if value not in IMPLEMENTATIONS:
        raise SettingError(f"`implementation` must be one of {', '.join(IMPLEMENTATIONS)}; got {value!r}. "
                           "Leave it out for 'auto'.")


def fused_available() -> bool:
    """Whether numba is installed."""
    return _AVAILABLE


def fused_enabled() -> bool:
    """Whether implementation="auto" may use fused kernels: numba is there and nobody switched them off."""
    return _AVAILABLE and _ENABLED[0]


class _Restore(contextlib.AbstractContextManager[None]):
    def __init__(self, before: bool) -> None:
        self.before = before

    def __exit__(self, *_: object) -> None:
        _ENABLED[0] = self.before


def set_fused(enabled: bool) -> contextlib.AbstractContextManager[None]:
    """Switch fused kernels on or off for the whole process, or for a ``with`` block. Safe to call at any time.

    Kernels made with implementation="fused" are not affected.
    """
    before = _ENABLED[0]
    _ENABLED[0] = bool(enabled)
    return _Restore(before)
