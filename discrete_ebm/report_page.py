"""The page that every report is made from: one HTML file that opens anywhere, offline, and holds no script."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

__all__ = ["page_environment", "show"]


def page_environment(package: str = "discrete_ebm") -> Environment:
    """Templates of ``package`` and, under them, ``page.html.j2``, which they extend; text of users is escaped."""
    folders = list(dict.fromkeys([package, "discrete_ebm"]))
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in folders]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def show(value: Any) -> str:
    """A value as people read it: three or four digits, thousands apart, a dash for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    if isinstance(value, (float, np.floating)):
        size = abs(float(value))
        if size == 0:
            return "0"
        if size < 1e-3 or size >= 1e6:
            return f"{float(value):.2e}"
        return f"{float(value):,.0f}" if size >= 1000 else f"{float(value):.3f}" if size < 10 else f"{float(value):.1f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(show(item) for item in value)
    return str(value)
