"""Fixtures for tests of molecules."""

from __future__ import annotations

from typing import Any

import pytest

from graph_ebm import experts


@pytest.fixture
def short_chains(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts are contrasted with a few short chains, nine tenths of the time of a small training.

    For tests of what is built from experts and how; what an expert learns is looked at with the chains as they are.
    """
    if request.node.get_closest_marker("slow"):
        return
    whole = experts._fresh

    def few(kernel: Any, energy: Any, n_chains: int, n_steps: int, **options: Any) -> Any:
        return whole(kernel, energy, min(n_chains, 32), min(n_steps, 40), **options)

    monkeypatch.setattr(experts, "_fresh", few)
