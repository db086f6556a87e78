"""Rare turns of the SMILES reader, each taken on purpose: with the other tests of reading, every branch is run."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from rdkit import Chem

from graph_ebm.chem import compact, parse, reader, valence, worker
from graph_ebm.chem.reader import ParsedGraph, Refusal, kekulised, read_graph, read_mol_block, smiles_of, token_type

BLOCK = Chem.MolToMolBlock(Chem.MolFromSmiles("c1ccncc1"))


def test_mol_blocks_are_read_or_refused() -> None:
    assert read_mol_block(BLOCK) == "c1ccncc1"
    assert read_mol_block("nothing of the kind") == read_mol_block("")._replace(detail=read_mol_block("nothing").detail)
    large = Chem.MolToMolBlock(Chem.MolFromSmiles("C" * (reader.MAX_BLOCK_ATOMS + 1)))
    assert read_mol_block(large).reason == "too_many_atoms"
    assert read_mol_block(Chem.MolToMolBlock(Chem.MolFromSmiles(""))).reason in ("empty", "parse_error")


def test_molecules_built_from_atoms_and_bonds_are_written_or_refused() -> None:
    assert smiles_of(Chem.RWMol(Chem.MolFromSmiles("OCC"))) == "CCO"
    assert smiles_of(Chem.RWMol()) == Refusal("empty", "no atoms")


def test_an_rdkit_molecule_of_more_atoms_than_are_read_is_refused_without_writing_it() -> None:
    found = parse.read_one(Chem.MolFromSmiles("C" * 12), n_atoms=10)
    assert found == Refusal("too_many_atoms", "12 atoms; at most 10 are allowed")


@pytest.mark.parametrize(("error", "reason", "detail"), [
    (MemoryError(), "memory", "RDKit ran out of memory"), (RuntimeError("first\nsecond"), "parse_error", "first"),
    (OverflowError("too far"), "parse_error", "too far")])
def test_what_rdkit_raises_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, detail: str
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(reader.Chem, "MolFromSmiles", broken)
    assert read_graph("CC") == Refusal(reason, detail)


def test_an_rdkit_that_cannot_capture_its_errors_still_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases before 2025.09."""
    monkeypatch.delattr(reader.rdBase, "CaptureErrorLog", raising=False)
    assert read_graph("C1CC") == Refusal("parse_error", "not a SMILES that RDKit can read")
    assert isinstance(read_graph("CC"), ParsedGraph)


def test_tokens_that_are_not_understood_are_refused_and_not_guessed() -> None:
    assert token_type("[C;H1]") is None
    assert kekulised("[C;H1]").reason == "unknown_type"
    assert kekulised("[Xx]C").reason == "unknown_type"


@pytest.mark.parametrize(("smiles", "detail"), [
    ("C1CC", "its canonical SMILES cannot be read back"),
    ("c1cccc1", "its canonical SMILES cannot be kekulised again")])
def test_a_canonical_smiles_that_does_not_come_back_is_refused(smiles: str, detail: str) -> None:
    assert kekulised(smiles) == Refusal("round_trip", detail)


def test_a_ring_that_closes_with_a_bond_of_its_own_is_packed_and_unpacked() -> None:
    """Biphenylene: RDKit writes the single bond between its aromatic rings at a ring mark."""
    graph = parse.parse("c1ccc2c(c1)-c1ccccc1-2")
    assert "-2" in graph.smiles
    again = compact.unpack(graph.smiles, compact.pack(graph))
    assert again.types == graph.types
    assert (again.bonds == graph.bonds).all()


def test_hydrogens_are_those_of_rdkit_and_none_where_it_has_no_answer() -> None:
    assert valence.implicit_hydrogens("C", 0, 1) == 3
    assert valence.implicit_hydrogens("C", 0, 5) is None
    assert valence.implicit_hydrogens("Xx", 0, 1) is None
    assert (valence.atomic_number("Xx"), valence.atomic_number("*"), valence.atomic_number("N")) == (0, 0, 7)


def test_the_worker_answers_each_line_and_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own loop, run here: as a process it is killed, so nothing counts its lines."""
    lines = [["smiles", "CCO"], ["smiles", "C1CC"], ["mol", BLOCK], ["mol", "x"]]
    said = io.StringIO()
    monkeypatch.setattr(worker, "limit_memory", lambda limit: None)  # of this process it stays
    monkeypatch.setattr(sys, "argv", ["worker", "1073741824"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(line) + "\n" for line in lines)))
    monkeypatch.setattr(sys, "stdout", said)
    worker.main()
    monkeypatch.undo()
    _, *answers = said.getvalue().splitlines()
    graph, refused, block, none = map(json.loads, answers)
    assert (graph["smiles"], len(graph["types"]), len(graph["bonds"])) == ("CCO", 3, 3)
    assert refused["reason"] == none["reason"] == "parse_error"
    assert block == {"smiles": "c1ccncc1"}
