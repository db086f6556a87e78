"""Options and fixtures of the whole suite: seeds, and the command that repeats a failure."""

from __future__ import annotations

import os
import secrets

import pytest
import torch

DEFAULT_SEED = 17


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("random numbers")
    group.addoption("--seed", type=int, default=None, help=f"seed of every random test (default {DEFAULT_SEED})")
    group.addoption("--vary-seed", action="store_true", help="draw a new seed for this run")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    seed = config.getoption("--seed")
    if seed is None:
        seed = secrets.randbelow(2**31) if config.getoption("--vary-seed") else DEFAULT_SEED
    config.stash[SEED] = seed


SEED = pytest.StashKey[int]()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed: fixed by default, `--seed N`, or new with `--vary-seed`."""
    return request.config.stash[SEED]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):  # type: ignore[no-untyped-def]
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        slow = " -m 'slow or not slow'" if item.get_closest_marker("slow") else ""
        command = f"python -m pytest{slow} --seed {item.config.stash[SEED]} '{item.nodeid}'"
        threads = os.environ.get("OMP_NUM_THREADS")
        report.sections.append(("repeat with", f"OMP_NUM_THREADS={threads} {command}" if threads else command))
