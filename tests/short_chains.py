"""Experts over a few short chains, for tests of what is built from experts and how, and not of what they learn.

The chains that an expert is contrasted with take nine tenths of the time of a small training.
"""

from __future__ import annotations

from typing import Any

import pytest

from graph_ebm import experts


def shorten(patch: pytest.MonkeyPatch) -> None:
    """At most 32 chains of 40 steps until ``patch`` is undone."""
    whole = experts._fresh

    def few(kernel: Any, energy: Any, n_chains: int, n_steps: int, every: int = 10, **options: Any) -> Any:
        return whole(kernel, energy, min(n_chains, 32), min(n_steps, 40), every=min(every, 10), **options)

    patch.setattr(experts, "_fresh", few)
