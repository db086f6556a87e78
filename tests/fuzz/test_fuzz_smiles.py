"""Random, mutated and half-right SMILES: each is a graph that reads back as itself, or a refusal with a known reason.

`pytest -m fuzz tests/fuzz`; the coverage-guided search is ``python -m tests.fuzz.guided_smiles``.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_ebm import datasets
from graph_ebm.chem import compact
from graph_ebm.chem.parse import read_many, read_one
from graph_ebm.chem.reader import REASONS, ParsedGraph, Refusal, screen
from graph_ebm.chem.valence import atomic_number, implicit_hydrogens
from tests.fuzz import strategies
from tests.graph_ebm.hostile import corpus

SMILES = [
    *datasets.load("qm9-sample", limit=150, max_atoms=9).smiles,
    "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C[N+](C)(C)CC(=O)[O-]", "c1ccc2[nH]ccc2c1",
    "O=S(=O)(c1ccc(F)cc1)N1CCC(Cl)CC1", "C1CC2CC1CC2", "OB(O)c1ccsc1", "FC(F)(F)c1nnn[nH]1",
]  # fmt: skip
HOSTILE = [entry for entry in corpus() if isinstance(entry, str) and len(entry) <= 300]
LIMIT = 4.0  # seconds: two for the worker, and as much again for a busy machine


def check(text: Any) -> None:
    """What every string has to come to."""
    began = time.monotonic()
    found = read_one(text)
    assert time.monotonic() - began < LIMIT, f"{text!r} took {time.monotonic() - began:.1f} s"
    if isinstance(found, Refusal):
        assert found.reason in REASONS, found
        assert isinstance(found.detail, str)
        return
    assert isinstance(found, ParsedGraph)
    bonds, n = found.bonds, len(found.types)
    assert bonds.shape == (n, n)
    assert n >= 1
    assert (bonds == bonds.T).all()
    assert not bonds.diagonal().any()
    assert bonds.min() >= 0
    assert bonds.max(initial=0) <= 3
    for (element, charge), used in zip(found.types, bonds.sum(0), strict=True):
        assert atomic_number(element) > 0
        implicit_hydrogens(element, charge, int(used))
    reached = {0}
    for _ in range(n):
        reached |= {int(j) for i in reached for j in np.flatnonzero(bonds[i])}
    assert len(reached) == n, "a graph in pieces"
    again = read_one(found.smiles)
    assert isinstance(again, ParsedGraph), (text, found.smiles, again)
    assert (again.smiles, again.types) == (found.smiles, found.types)
    assert (again.bonds == bonds).all()
    unpacked = compact.unpack(found.smiles, compact.pack(found))
    assert unpacked.types == found.types
    assert (unpacked.bonds == bonds).all()


@strategies.short(60)
@given(st.one_of(strategies.mutated(SMILES), strategies.grammar, strategies.noise))
def test_a_few_of_each_kind_in_every_run(text: str) -> None:
    if screen(text).safe:  # without a second process, which costs half a second
        check(text)


@pytest.mark.fuzz
@strategies.fuzz()
@given(strategies.mutated(SMILES))
def test_mutated_molecules_are_read_or_refused(text: str) -> None:
    check(text)


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.one_of(strategies.grammar, strategies.mutated(HOSTILE)))
def test_pieces_of_the_grammar_in_any_order_are_read_or_refused(text: str) -> None:
    check(text)


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.one_of(strategies.noise, st.none(), st.integers(), st.binary(max_size=20), st.lists(st.text(max_size=3))))
def test_noise_is_read_or_refused(text: Any) -> None:
    check(text)


@pytest.mark.fuzz
@strategies.fuzz(0.2)
@given(st.lists(st.one_of(strategies.mutated(SMILES), strategies.noise, st.none()), max_size=12))
def test_what_goes_in_is_kept_or_rejected(entries: list[Any]) -> None:
    graphs, rejections = read_many(entries)
    assert rejections.n_in == len(entries) == len(graphs) + len(rejections)
    assert sum(rejections.counts().values()) == len(rejections)
    assert str(rejections)
