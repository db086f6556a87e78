"""Fixtures for tests of molecules."""

from __future__ import annotations

import pytest

from tests.short_chains import shorten


@pytest.fixture
def short_chains(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts over a few short chains (see tests/short_chains.py), except in the slow tier."""
    if not request.node.get_closest_marker("slow"):
        shorten(monkeypatch)
