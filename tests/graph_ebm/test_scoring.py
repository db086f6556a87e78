"""Promise 25 for functions of users: whatever they do on a molecule, the run goes on with a typed reason."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import rdBase

from discrete_ebm.errors import DataError, SettingError
from graph_ebm import properties, scoring
from graph_ebm.scoring import REASONS, Outcome, Scoring, Task, score
from graph_ebm.scoring_worker import SPARE_SECONDS, outcome_of
from tests.graph_ebm.score_functions import EXPECTED

HERE = "tests.graph_ebm.score_functions"
ROOT = Path(__file__).resolve().parents[2]


def plain(outcomes) -> list[object]:
    return [o.reason or o.value for o in outcomes]


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_function_may_do_what_it_likes_and_every_molecule_gets_its_value_or_reason(tmp_path, monkeypatch, capfd):
    """Hangs, exits, segfaults, leaks, raises, prints, meddles, forks, scribbles: all in one run, three at a time."""
    monkeypatch.setenv("SCORE_LOG", str(tmp_path / "log"))
    words = [*EXPECTED, *(f"{word}~{i}" for i in range(3) for word in ("fine", "look", "meddle", "raises", "nan"))]

    def world() -> tuple:
        return (rdBase.LogStatus(), random.getstate(), str(np.random.get_state()), os.getcwd(),  # noqa: NPY002
                dict(os.environ), signal.getsignal(signal.SIGALRM))  # fmt: skip

    before, children = world(), children_of(os.getpid())
    found = score(f"{HERE}:behave", words, Scoring(workers=3, time_limit=4.0, memory_limit=0.1))
    assert plain(found.outcomes) == [EXPECTED[word.split("~")[0]] for word in words]
    assert len(words) == len(found.outcomes) == found.n_scored + found.n_refused
    assert sum(found.counts().values()) == found.n_refused
    assert set(found.counts()) == set(REASONS)
    assert world() == before
    assert children_of(os.getpid()) == children
    assert capfd.readouterr() == ("", "")
    assert max(len(o.detail) for o in found.outcomes) <= 300
    assert "SIGSEGV" in found.outcomes[words.index("segfault")].detail
    grandchild = int((tmp_path / "log").read_text().split()[1])
    assert not runs(grandchild), "what the function had started is killed with it"


def test_a_hang_costs_its_limit_and_at_most_two_seconds_more():
    children = scoring._Children(Task(f"{HERE}:behave", 0.5, 1 << 28))
    try:
        assert children.score("fine").value == 7.0
        began = time.perf_counter()
        assert children.score("hang_deaf").reason == "timeout"
        assert time.perf_counter() - began < 0.5 + 2.0
        assert children.score("fine").value == 7.0
    finally:
        children.close()


@pytest.mark.parametrize("name", ["draws", "leaks", "hoards"])
def test_values_depend_neither_on_the_workers_nor_on_what_came_before(name):
    """Random numbers, a leak at each call, and memory that some molecules take away from the others."""
    texts = [a * n for n in (1, 2, 3) for a in ("C", "O", "N")]
    plan = {"time_limit": 60.0, "memory_limit": 0.04}
    one = score(f"{HERE}:{name}", texts, Scoring(workers=1, **plan))
    three = score(f"{HERE}:{name}", texts[::-1], Scoring(workers=3, **plan))
    assert one.n_refused == 0
    assert one.outcomes == three.outcomes[::-1]
    if name == "draws":
        assert len({o.value for o in one.outcomes}) == len(texts)


def test_here_and_there_are_the_same_values():
    texts = ["CCO", "c1ccccc1O", "C1CCCCCCC1", "CC(=O)Oc1ccccc1C(=O)O"]
    paths = [f"{HERE}:length", "plogp", "qed"]
    for path in paths:
        assert score(path, texts, Scoring(workers=0)) == score(path, texts, Scoring(workers=2))
    table, _ = properties.compute(paths, texts)
    for path in paths:
        assert table[path].tolist() == plain(score(path, texts, Scoring(workers=0)).outcomes)


def test_every_entry_has_a_value_or_a_failure_in_the_order_of_the_input():
    entries = ["CCO", None, "C(", "CCF", "OCC", "", "CCO"]
    path = f"{HERE}:length"
    values, failures = properties.compute([path, "mw"], entries, Scoring(workers=2))
    assert values[path][[0, 3, 4, 6]].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert [(f.index, f.property, f.reason) for f in failures.items] == [
        (index, name, reason)
        for index, reason in ((1, "no_molecule"), (2, "parse_error"), (5, "empty"))
        for name in (path, "mw")
    ]


def test_a_function_that_cannot_be_loaded_elsewhere_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text, said in (
        ("ends_at_import", "import os, sys\nif '-P' in sys.orig_argv: os._exit(3)", "exit code 3"),
        ("raises_at_import", "import sys\nif '-P' in sys.orig_argv: 1 / 0", "ZeroDivisionError"),
    ):
        (tmp_path / f"{name}.py").write_text(f"{text}\ndef score(smiles): return 1.0\n")
        with pytest.raises(SettingError, match=rf"another process can load; it did not: {said}"):
            properties.compute(f"{name}:score", ["C", "CC"])


def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_LOG", str(tmp_path / "log"))
    before = children_of(os.getpid())
    texts = ["C", "CC", *(f"{'C' * i}O" for i in range(1, 30))]
    monkeypatch.setenv("SCORE_SLEEP", "0.3")
    log = tmp_path / "log"

    def interrupt() -> None:
        while not log.exists() or len(log.read_text().splitlines()) < 6:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    plan = Scoring(workers=2, cache=tmp_path / "scores.sqlite")
    before_signal = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            score(f"{HERE}:record", texts, plan)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before_signal)
    assert children_of(os.getpid()) == before
    monkeypatch.setenv("SCORE_SLEEP", "0")
    again = score(f"{HERE}:record", texts, plan)
    assert again.n_cached >= 4
    assert plain(again.outcomes) == [len(text) / 7 for text in texts]
    assert len(log.read_text().splitlines()) <= len(texts) + 2, "only what was under way is done again"


@pytest.mark.slow
def test_a_worker_that_hangs_ends_soon_after_its_parent_was_killed(tmp_path):
    code = (
        "from graph_ebm.scoring import *\n"
        f"score('{HERE}:behave', ['hang', 'hang~1'], Scoring(workers=2, time_limit=2.0))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT)
    workers: list[int] = []
    until = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < until:
        time.sleep(0.1)
        workers = children_of(parent.pid)
    time.sleep(1.0)  # until they hang
    parent.kill()
    parent.wait()
    time.sleep(2.0 + SPARE_SECONDS + 2.0)
    assert workers
    assert not any(runs(pid) for pid in workers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": -1}, "`workers` must be"),
        ({"workers": 1.5}, "`workers` must be"),
        ({"time_limit": 0}, "`time_limit` must be a finite number positive"),
        ({"time_limit": float("inf")}, "`time_limit` must be"),
        ({"memory_limit": -1}, "`memory_limit` must be"),
        ({"key": ""}, "`key` must be text"),
        ({"engine": 3}, "`engine` must have `submit` or `map`"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, words):
    with pytest.raises(SettingError, match=words):
        Scoring(**options)


def test_outcomes_of_a_call():
    assert outcome_of(lambda: "2.5") == Outcome(2.5)
    assert outcome_of(lambda: 10**400).reason == "not_a_number"
    assert outcome_of(lambda: [][1]).detail == "IndexError: list index out of range"
    with pytest.raises(KeyboardInterrupt):
        outcome_of(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


# -- engines --------------------------------------------------------------------------------------------------------


class Mapper:
    """An engine with a map alone, as multiprocessing's and Ray's pools have it."""

    def map(self, function, items):
        return [pickle.loads(pickle.dumps(function))(item) for item in items]


def test_any_executor_or_map_gives_the_same_outcomes():
    texts = ["fine", "nan", "exit", "meddle", "look"]
    plan = {"time_limit": 30.0, "memory_limit": 0.25}
    own = score(f"{HERE}:behave", texts, Scoring(workers=1, **plan))
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            for engine in (executor, Mapper(), map):
                assert score(f"{HERE}:behave", texts, Scoring(engine=engine, **plan)).outcomes == own.outcomes
    finally:
        scoring.close_children()


@pytest.mark.parametrize("engine", [lambda f, items: [f(items[0])], lambda f, items: ["?" for _ in items]])
def test_an_engine_that_loses_results_is_refused(engine):
    try:
        with pytest.raises(DataError, match="`engine` must give one result for each molecule"):
            score(f"{HERE}:behave", ["fine", "nan"], Scoring(engine=engine))
    finally:
        scoring.close_children()


@pytest.mark.slow
def test_a_dask_cluster_runs_the_same_function(tmp_path):
    pytest.importorskip("distributed")
    code = f"""
import json, sys
from distributed import Client, LocalCluster
from graph_ebm.scoring import Scoring, score
if __name__ == "__main__":
    words = ["fine", "hang", "exit", "segfault", "raises", "nan", "meddle", "look"] + [f"fine~{{i}}" for i in range(20)]
    plan = dict(time_limit=5.0, memory_limit=0.25)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        found = score("{HERE}:behave", words, Scoring(engine=client.get_executor(), cache=sys.argv[1], **plan))
    own = score("{HERE}:behave", words, Scoring(workers=2, **plan))
    print(json.dumps([[list(o)[1:] for o in s.outcomes] == [list(o)[1:] for o in own.outcomes]
                      for s in (found,)] + [found.counts()]))
"""
    (tmp_path / "job.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "scores.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    same, counts = json.loads(done.stdout.splitlines()[-1])
    assert same
    assert counts == {"crash": 2, "timeout": 1, "raised": 1, "nan": 1}
