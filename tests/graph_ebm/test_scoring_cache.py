"""Scores on disk: what is known is not computed again, by any process; what is damaged is never believed."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from discrete_ebm.errors import CheckpointError, SettingError
from graph_ebm.scoring import Scoring, score, source_version
from graph_ebm.scoring_cache import ScoreCache
from graph_ebm.scoring_worker import Outcome

HERE = "tests.graph_ebm.score_functions"
ROOT = Path(__file__).resolve().parents[2]
TEXTS = [a * n for n in range(1, 6) for a in ("C", "O", "F")]


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SCORE_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def words(found) -> list[object]:
    return [o.reason or o.value for o in found.outcomes]


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_what_is_known_is_not_computed_again_and_refusals_keep_their_reason(tmp_path, log):
    plan = Scoring(workers=2, cache=tmp_path / "scores.sqlite")
    first = score(f"{HERE}:record", TEXTS[:9] * 2, plan)
    assert (first.n_cached, calls(log)) == (0, 9), "equal molecules are scored once"
    second = score(f"{HERE}:record", TEXTS, plan)
    assert (second.n_cached, calls(log)) == (9, len(TEXTS))
    third = score(f"{HERE}:record", TEXTS, Scoring(workers=0, cache=plan.cache))
    assert (third.n_cached, calls(log)) == (len(TEXTS), len(TEXTS))
    assert words(third) == words(second)
    assert third.counts() == {"raised": 5}
    assert third.outcomes[2].detail == "ValueError: no fluorine"
    assert [o.value for o in third.outcomes if not o.reason] == [len(t) / 7 for t in TEXTS if "F" not in t]
    again = score(f"{HERE}:record", TEXTS, Scoring(workers=0, cache=plan.cache, retry=True))
    assert (again.n_cached, calls(log)) == (len(TEXTS) - 5, len(TEXTS) + 5), "`retry` scores what has no value"


def test_another_version_of_the_function_has_scores_of_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "a_score_with_versions.py"
    plan = {"cache": tmp_path / "scores.sqlite", "workers": 1}
    source.write_text("def f(smiles): return 1.0\n")
    assert score("a_score_with_versions:f", ["C"], Scoring(**plan)).outcomes == [Outcome(1.0)]
    source.write_text("def f(smiles): return 22.0\n")
    assert score("a_score_with_versions:f", ["C"], Scoring(**plan)).outcomes == [Outcome(22.0)]
    assert score("a_score_with_versions:f", ["C"], Scoring(key="1", **plan)).n_cached == 0
    source.write_text("def f(smiles): return 333.0\n")
    known = score("a_score_with_versions:f", ["C"], Scoring(key="1", **plan))
    assert (known.n_cached, known.outcomes) == (1, [Outcome(22.0)]), "a key of yours is believed"
    assert source_version("qed").startswith("rdkit ")
    nowhere = types.ModuleType("a_notebook_of_scores")
    nowhere.f = lambda smiles: 1.0
    nowhere.f.__module__ = nowhere.__name__
    monkeypatch.setitem(sys.modules, nowhere.__name__, nowhere)
    with pytest.raises(SettingError, match="`key` must be given"):
        source_version("a_notebook_of_scores:f")


def test_a_refusal_for_want_of_time_or_memory_counts_only_where_no_more_is_given(tmp_path):
    def known(**limits) -> set[str]:
        with ScoreCache(tmp_path / "scores.sqlite", "p", "1", **limits) as cache:
            return set(cache.read(["a", "b", "c", "d"]))

    with ScoreCache(tmp_path / "scores.sqlite", "p", "1", time_limit=10, memory_limit=100) as cache:
        cache.write({word: Outcome(math.nan, reason) for word, reason in
                     (("a", "timeout"), ("b", "memory"), ("c", "raised"))} | {"d": Outcome(0.1)})  # fmt: skip
    assert known(time_limit=10, memory_limit=100) == set("abcd")
    assert known(time_limit=5, memory_limit=50) == set("abcd")
    assert known(time_limit=11, memory_limit=100) == set("bcd")
    assert known(time_limit=10, memory_limit=101) == set("acd")
    assert known(time_limit=10, memory_limit=0) == set("acd"), "no limit is more than any"


def test_a_killed_scoring_goes_on_where_it_was(tmp_path, log, monkeypatch):
    monkeypatch.setenv("SCORE_SLEEP", "0.25")
    code = (
        "import sys\nfrom graph_ebm.scoring import Scoring, score\n"
        f"score('{HERE}:record', {TEXTS!r}, Scoring(workers=2, cache=sys.argv[1]))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "scores.sqlite")], env=env, cwd=ROOT)
    until = time.monotonic() + 120
    while calls(log) < 8 and time.monotonic() < until:
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    assert parent.wait() == -9
    time.sleep(1.0)  # its workers finish the molecule they are at, and end
    before = calls(log)
    found = score(f"{HERE}:record", TEXTS, Scoring(workers=2, cache=tmp_path / "scores.sqlite"))
    assert found.n_cached >= 4
    assert calls(log) == before + len(TEXTS) - found.n_cached
    assert calls(log) <= len(TEXTS) + 4
    assert words(found) == words(score(f"{HERE}:record", TEXTS, Scoring(workers=0)))


def test_several_processes_write_one_file(tmp_path):
    code = (
        "import sys\nfrom graph_ebm.scoring_cache import ScoreCache, Outcome\n"
        "for i in range(40):\n"
        "    with ScoreCache(sys.argv[1], 'p', '1') as cache:\n"
        "        cache.read([str(i)])\n"
        "        cache.write({str(i): Outcome(i / 7), f'{sys.argv[2]} {i}': Outcome(float('nan'), 'raised', 'no')})\n"
    )
    path = tmp_path / "scores.sqlite"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(i)], env=env, stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    with ScoreCache(path, "p", "1") as cache:
        assert len(cache) == 4 * 40
        assert cache.read(map(str, range(40))) == {str(i): Outcome(i / 7) for i in range(40)}
    assert not list(tmp_path.glob("*-wal"))


def filled(path: Path, n: int = 60) -> dict[str, Outcome]:
    truth = {f"{'C' * i}O": Outcome(i / 7) if i % 5 else Outcome(math.nan, "raised", f"at {i}") for i in range(n)}
    with ScoreCache(path, "module:function", "source 0123") as cache:
        cache.write(truth)
    return truth


def same(a: Outcome, b: Outcome) -> bool:
    return a[1:] == b[1:] and (a.value == b.value or (math.isnan(a.value) and math.isnan(b.value)))


def read(path: Path, texts) -> tuple[dict[str, Outcome], CheckpointError | None]:
    try:
        with ScoreCache(path, "module:function", "source 0123") as cache:
            return cache.read(texts), None
    except CheckpointError as error:
        return {}, error


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_a_damaged_file_is_refused_and_never_believed(tmp_path, kind):
    """At 100 bytes in use (the others are zeros that mean nothing): an error that names the file, every time; in
    SQLite's own head, which has counters that do not matter, an error or every value as it was."""
    path, damaged = tmp_path / "scores.sqlite", tmp_path / "damaged.sqlite"
    truth = filled(path, 300)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")  # nothing is left of rows that were moved
    content = path.read_bytes()
    used = [at for at, byte in enumerate(content) if byte]
    for i in range(100):
        at = used[i * len(used) // 100]
        spoiled = bytearray(content)
        if kind == "flip":
            spoiled[at] ^= 0x10
        else:
            del spoiled[max(1, at) :]
        damaged.write_bytes(spoiled)
        for extra in tmp_path.glob("damaged.sqlite-*"):
            extra.unlink()
        found, error = read(damaged, truth)
        if error is not None:
            assert str(damaged) in str(error)
            continue
        assert kind == "flip"
        assert at < 100
        assert found.keys() == truth.keys()
        assert all(same(found[text], truth[text]) for text in found)


def test_what_is_no_cache_is_refused(tmp_path):
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    newer = tmp_path / "newer.sqlite"
    filled(newer, 1)
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    (tmp_path / "short").write_text("no database")
    (tmp_path / "long").write_text("no database" * 1000)
    shutil.copytree(tmp_path, tmp_path / "folder")
    for name, words in (
        ("other.sqlite", "another program's"),
        ("newer.sqlite", "schema 1; got 2"),
        ("short", "less than a page"),
        ("long", "not a database"),
        ("folder", "must be a file that this process can open"),
        ("missing/scores.sqlite", "must be a file that this process can open"),
    ):
        with pytest.raises(CheckpointError, match=words):
            ScoreCache(tmp_path / name, "p", "1")


def test_a_full_disk_is_told_in_a_sentence_and_loses_nothing(tmp_path):
    path = tmp_path / "scores.sqlite"
    truth = filled(path)
    with ScoreCache(path, "module:function", "source 0123") as cache:
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(CheckpointError, match=r"can write; got: database or disk is full.*the space"):
            cache.write({f"N{'C' * i}": Outcome(1.0) for i in range(1000)})
    with ScoreCache(path, "module:function", "source 0123") as cache:
        found = cache.read([*truth, "NC"])
    assert found.keys() == truth.keys()
    assert all(same(found[text], truth[text]) for text in truth)
