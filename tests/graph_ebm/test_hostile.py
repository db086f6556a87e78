"""Promises 25-27: hostile SMILES cannot hurt, nothing is dropped in silence, no global side effects."""

import os
import random
import time

import numpy as np
import pytest
import torch
from rdkit import rdBase

import graph_ebm as ge
from discrete_ebm.errors import SmilesRejected
from graph_ebm.chem import isolate
from graph_ebm.chem.parse import parse, read_many, read_one
from graph_ebm.chem.reader import REASONS, ParsedGraph, Refusal, screen
from tests.graph_ebm.hostile import MONSTER, complete_graph, corpus


def test_hostile_corpus_is_survived_each_within_two_seconds_with_a_typed_reason():
    entries = corpus()
    assert len(entries) >= 200
    isolate.read("C")  # starting the worker is not part of any string's time
    slowest = 0.0
    for entry in entries:
        start = time.perf_counter()
        outcome = read_one(entry)
        slowest = max(slowest, time.perf_counter() - start)
        if isinstance(outcome, Refusal):
            assert outcome.reason in REASONS, (outcome, str(entry)[:60])
        else:
            assert isinstance(outcome, ParsedGraph)
            assert len(outcome.types) >= 1
            assert outcome.bonds.shape == (len(outcome.types),) * 2
    assert slowest < 3.0  # 2 s of parsing, and starting a new worker where one was killed


@pytest.mark.parametrize(
    ("kind", "belongs"),
    [
        ("deep nests", lambda s: s.count("C(") >= 30_000),
        ("100 kB chains", lambda s: s == "C" * 100_000),
        ("10 MB lines", lambda s: len(s) == 10_000_000),
        ("ring storms", lambda s: s.count("%") >= 40),
        ("NUL", lambda s: "\x00" in s),
        ("zero-width characters", lambda s: "\u200b" in s or "\u200d" in s),
        ("CXSMILES", lambda s: s.count("|") == 2),
        ("known hangs", lambda s: s.startswith(MONSTER)),
        ("half a surrogate pair", lambda s: "\ud800" in s),
        ("no text at all", lambda s: not s.strip()),
    ],
)
def test_the_corpus_has_every_kind(kind, belongs):
    texts = [entry for entry in corpus() if isinstance(entry, str)]
    assert any(map(belongs, texts)), kind
    assert len(set(texts)) >= 200


def test_every_hostile_entry_is_kept_or_rejected_and_no_graph_is_empty():
    entries = corpus()
    graphs, rejections = ge.from_smiles(entries)
    assert len(graphs) + len(rejections) == len(entries) == rejections.n_in
    assert rejections.n_kept == len(graphs)
    assert sum(rejections.counts().values()) == len(rejections)
    assert int(graphs.n_atoms.min()) >= 1
    graphs.space.validate(graphs.x)
    assert str(rejections).startswith(f"{len(entries)} in, {len(graphs)} kept, {len(rejections)} rejected")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (None, "not_text"),
        (b"C", "not_text"),
        ("C" * 1001, "too_long"),
        ("C" * 10_000_000, "too_long"),
        ("C" * 129, "too_many_atoms"),
        ("C(" * 65 + "C" + ")" * 65, "too_deep"),
        ("C\x00C", "control_characters"),
        ("C\u200bC", "non_ascii"),
        ("CCO ethanol", "whitespace"),
        ("C1CC", "parse_error"),
        ("this is not a molecule", "whitespace"),
        ("notasmiles", "parse_error"),
        ("C(C)(C)(C)(C)C", "valence"),
        ("c1cccc1", "sanitize"),
        ("[CH3]", "radical"),
        ("[SH4]", "hydrogen_count"),
        ("[H][H]", "explicit_hydrogen"),
        ("[2H]C", "isotope"),
        ("C~C", "bond_type"),
        ("C.C", "disconnected"),
        ("*C", "unknown_type"),
    ],
)
def test_each_reason_names_its_cause(entry, reason):
    outcome = read_one(entry)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == reason
    with pytest.raises(SmilesRejected) as caught:
        parse(entry)
    assert caught.value.reason == reason
    assert "`smiles` must be readable; got" in str(caught.value)


def test_error_text_of_rdkit_is_kept():
    assert "valence" in read_one("C(C)(C)(C)(C)C").detail
    assert "kekulize" in read_one("c1cccc1").detail.lower()


def test_harmless_strings_stay_in_process_and_suspicious_ones_leave_it():
    assert screen("CN1CCC[C@H]1c1cccnc1C(=O)Nc1ccc(Cl)cc1").safe
    assert screen("[O-][N+](=O)c1ccc([nH]2)c2c1").safe
    assert not screen(MONSTER).safe
    assert not screen(complete_graph(9, "C")).safe
    assert not screen("[#6;$(CC)]").safe
    assert not screen("C(" * 40 + "C" + ")" * 40).safe


def test_worker_gives_the_same_graph_as_this_process():
    for smiles in ("CCO", "c1ccc2[nH]ccc2c1", "C[N+](C)(C)CC([O-])=O", "CC(", "[2H]C"):
        here, there = read_one(smiles), isolate.read(smiles)
        assert type(here) is type(there)
        if isinstance(here, ParsedGraph):
            assert (here.smiles, here.types) == (there.smiles, there.types)
            assert np.array_equal(here.bonds, there.bonds)
        else:
            assert here.reason == there.reason


def test_a_string_that_never_ends_is_killed_and_the_next_one_is_read():
    worker = isolate.Worker(time_limit=0.5)
    try:
        worker.read("C")
        first = worker._child._process
        assert first is not None
        os.kill(first.pid, 19)  # SIGSTOP: the worker hangs as it would on an endless string
        start = time.perf_counter()
        outcome = worker.read("CC")
        assert isinstance(outcome, Refusal)
        assert outcome.reason == "timeout"
        assert time.perf_counter() - start < 5.0
        assert first.poll() is not None
        assert worker.read("CCO").smiles == "CCO"
    finally:
        worker.close()


def test_a_worker_that_dies_is_a_refusal_and_is_replaced():
    worker = isolate.Worker()
    try:
        worker.read("C")
        os.kill(worker._child._process.pid, 19)
        import threading

        threading.Timer(0.3, lambda pid=worker._child._process.pid: os.kill(pid, 9)).start()
        assert worker.read("CC").reason == "crash"
        assert worker.read("CC").smiles == "CC"
    finally:
        worker.close()


def test_the_worker_cannot_take_more_memory_than_its_limit():
    worker = isolate.Worker()
    try:
        worker.read("C")
        with open(f"/proc/{worker._child._process.pid}/limits") as handle:
            line = next(line for line in handle if line.startswith("Max address space"))
        assert str(isolate.MEMORY_LIMIT) in line
    finally:
        worker.close()


def test_public_calls_leave_no_global_side_effects(tmp_path):
    path = tmp_path / "two.smi"
    path.write_text("CCO\nnot a molecule\n")

    def calls() -> None:
        graphs, _ = ge.from_smiles(["CCO", "c1cccc1", "", "C" * 2000, MONSTER, "c1ccccc1"])
        ge.to_smiles(graphs)
        ge.properties.compute(["qed", "sa", "plogp"], ["CCO", "C(", None])
        ge.datasets.load("qm9-sample", limit=5)
        ge.datasets.read(path)
        graphs.to_pyg()
        graphs.space.random(4, torch.Generator().manual_seed(0))

    def world() -> tuple:
        return (
            rdBase.LogStatus(),
            random.getstate(),
            str(np.random.get_state()),  # noqa: NPY002
            torch.get_rng_state().tolist(),
            os.getcwd(),
            dict(os.environ),
        )

    calls()  # imports and caches
    for disabled in (False, True):
        if disabled:
            rdBase.DisableLog("rdApp.error")
        try:
            before = world()
            calls()
            assert world() == before
        finally:
            if disabled:
                rdBase.EnableLog("rdApp.error")


def test_rdkit_prints_nothing(capfd):
    read_many(["C(C)(C)(C)(C)C", "C1CC", "c1cccc1", "[H]"])
    ge.properties.compute("qed", ["C1CC", "c1cccc1"])
    assert capfd.readouterr() == ("", "")


def test_one_string_instead_of_a_list_is_refused_with_a_way_out():
    with pytest.raises(SmilesRejected, match="Put it in a list"):
        ge.from_smiles("CCO")
