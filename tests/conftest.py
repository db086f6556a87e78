"""Options and fixtures of the whole suite: seeds, the budget of false failures, the command that repeats a failure."""

from __future__ import annotations

import functools
import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests import statistical

DEFAULT_SEED = 17
RUN_BUDGET = 1e-6  # chance that a run over one seed fails although nothing is wrong
CONFORMANCE = 4e-9  # of it, for each call of check_sampler

SEED = pytest.StashKey[int]()
SPENT = pytest.StashKey[dict[str, list[float]]]()  # per test with the run's seed: what its assertions may spend


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("random numbers")
    group.addoption("--seed", type=int, default=None, help=f"seed of every random test (default {DEFAULT_SEED})")
    group.addoption("--vary-seed", action="store_true", help="draw a new seed for this run")
    group.addoption("--seeds", type=int, default=1, metavar="N",
                    help="run each test that takes the seed N times, with N seeds, and leave the others out")
    parser.getgroup("reporting").addoption(
        "--times", default=None, metavar="FILE",
        help="append a line of JSON for each test: its name, and the processor seconds that it took with its fixtures "
             "and with the processes that it started")
    group.addoption("--budget", default=None, metavar="FILE", help="write what each test may fail by chance to FILE")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    seed = config.getoption("--seed")
    worker = getattr(config, "workerinput", None)  # pytest-xdist: all processes use the seed of the first
    if worker is not None:
        seed = worker["seed"]
    elif seed is None:
        seed = secrets.randbelow(2**31) if config.getoption("--vary-seed") else DEFAULT_SEED
    if config.getoption("--seeds") < 1:
        raise pytest.UsageError(f"--seeds must be at least 1; got {config.getoption('--seeds')}.")
    config.stash[SEED] = seed
    config.stash[SPENT] = {}
    _count_conformance()


def _count_conformance() -> None:
    """The suite that tests samplers spends CONFORMANCE whenever a test gives it the run's seed."""
    from discrete_ebm import testing

    shipped = testing.check_sampler
    if hasattr(shipped, "__wrapped__"):
        return

    @functools.wraps(shipped)
    def counted(*args: Any, **options: Any) -> Any:
        if "seed" in options:
            options.setdefault("false_fail", CONFORMANCE)
            statistical.spend(options["false_fail"])
        return shipped(*args, **options)

    testing.check_sampler = counted


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["seed"] = node.config.stash[SEED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[SPENT].update(getattr(node, "workeroutput", {}).get("spent", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["spent"] = session.config.stash[SPENT]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With ``--seeds N`` a test that takes the run's seed becomes N tests, with seeds that follow from it."""
    n = metafunc.config.getoption("--seeds")
    own = {name for mark in metafunc.definition.iter_markers("parametrize")
           for name in ([part.strip() for part in mark.args[0].split(",")] if isinstance(mark.args[0], str)
                        else mark.args[0])}
    if n > 1 and "seed" in metafunc.fixturenames and "seed" not in own:
        first = metafunc.config.stash[SEED]
        seeds = [(first + 1_000_003 * i) % 2**31 for i in range(n)]
        metafunc.parametrize("seed", seeds, ids=[f"seed{value}" for value in seeds])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share what a fixture makes for a whole file go to one process (`--dist loadgroup`): made once."""
    for item in items:
        used = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
        if any(found and found[-1].scope == "module" for found in used.values()):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    if config.getoption("--seeds") > 1:
        kept = [item for item in items if _takes_seed(item)]
        config.hook.pytest_deselected(items=[item for item in items if not _takes_seed(item)])
        items[:] = kept


def _takes_seed(item: pytest.Item) -> bool:
    return "seed" in getattr(item, "fixturenames", ())


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed: fixed by default, `--seed N`, new with `--vary-seed`, several with `--seeds N`."""
    return request.config.stash[SEED]


def _processor_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    began = _processor_seconds()
    yield
    if item.config.getoption("--times"):
        with open(item.config.getoption("--times"), "a") as file:
            file.write(json.dumps([item.nodeid, round(_processor_seconds() - began, 3)]) + "\n")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    statistical.ledger.clear()
    statistical.cap = statistical.EACH if _takes_seed(item) else 1.0
    yield
    if _takes_seed(item):  # fixed numbers have no chance: they fail always or never
        item.config.stash[SPENT][item.nodeid] = list(statistical.ledger)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    spent = config.stash[SPENT]
    if not spent:
        return
    n, total = config.getoption("--seeds"), sum(sum(each) for each in spent.values())
    stated = sum(1 for each in spent.values() if each)
    terminalreporter.section("random numbers")
    terminalreporter.line(
        f"seed {config.stash[SEED]}, {n} of them; {len(spent)} tests take it, {stated} spend a chance of failing by "
        f"chance: {total / n:.1e} in all for a seed (at most {RUN_BUDGET:.0e})",
        red=total / n > RUN_BUDGET)
    if config.getoption("--budget"):
        with open(config.getoption("--budget"), "w") as file:
            json.dump(dict(sorted(spent.items(), key=lambda pair: -sum(pair[1]))), file, indent=1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):  # type: ignore[no-untyped-def]
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        callspec = getattr(item, "callspec", None)
        seed = item.config.stash[SEED] if callspec is None else callspec.params.get("seed", item.config.stash[SEED])
        name, at, group = item.nodeid.rpartition("@")
        if not at or "]" in group:  # no name of a group: see pytest_collection_modifyitems
            name = item.nodeid
        name = name.replace(f"-seed{seed}]", "]").replace(f"[seed{seed}]", "").replace(f"[seed{seed}-", "[")
        deselected = any(item.get_closest_marker(marker) for marker in ("slow", "gpu", "mutants", "fuzz"))
        command = f"python -m pytest{' -m ' + repr('') if deselected else ''} --seed {seed} '{name}'"
        threads = os.environ.get("OMP_NUM_THREADS")
        report.sections.append(("repeat with", f"OMP_NUM_THREADS={threads} {command}" if threads else command))
