"""Aligned sequences: letters, gaps and refusals as stated; weights against a plain loop."""

import gzip

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import DataError, SettingError

FASTA = """>one
ACD-
>two words
acdE
>three
AXDE
>four
ACDEF
>five
----
>six
"""


def test_letters_gaps_and_refusals_are_counted_by_reason(tmp_path):
    path = tmp_path / "family.fasta.gz"
    path.write_bytes(gzip.compress(FASTA.encode()))
    found = de.datasets.read_alignment(path, max_gaps=0.5)
    assert found.names == ("one", "two words")
    assert found.x.tolist() == [[1, 2, 3, 0], [1, 2, 3, 4]]
    assert dict(found.rejected) == {"three": "unknown letter", "four": "length", "five": "gaps", "six": "empty"}
    assert found.unknown == {"X": 1}
    assert found.gaps == 1 / 8
    assert found.space == de.Categorical(4, 21)
    lenient = de.datasets.read_alignment(path, unknown="gap")
    assert lenient.x.tolist() == [[1, 2, 3, 0], [1, 2, 3, 4], [1, 0, 3, 4], [0, 0, 0, 0]]
    data = de.datasets.get(path, max_gaps=0.5)
    assert data.rejected == {"unknown letter": 1, "length": 1, "gaps": 1, "empty": 1}
    assert "12.5% gaps" in data.note


def test_insertions_of_a3m_are_dropped(tmp_path):
    (tmp_path / "f.a3m").write_text(">a\nACgg-T\n>b\nA..C-T\n")
    found = de.datasets.read_alignment(tmp_path / "f.a3m", "dna")
    assert found.x.tolist() == [[1, 2, 0, 4], [1, 2, 0, 4]]


@pytest.mark.parametrize("identity", [0.8, 0.5, 1.0])
def test_weights_are_one_over_the_number_of_relatives(identity):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 4, (60, 10))
    x[20:40] = x[:20]
    x[20:40, :2] = rng.integers(0, 4, (20, 2))  # relatives at 80 % and more
    plain = [1 / sum((a == b).mean() >= identity - 1e-9 for b in x) for a in x]
    assert de.datasets.sequence_weights(torch.from_numpy(x), identity).tolist() == plain
    assert min(plain) < 1


def test_unusable_alignments_are_refused_with_a_sentence(tmp_path):
    for name, text, words in (
        ("a.fasta", "ACGT\n", "begin with '>'"),
        ("b.fasta", "", "begin with '>'"),
        ("c.fasta", ">a\n>b\n", "all empty"),
        ("d.fasta", ">a\nBBB\n", "unknown letter 1"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=words):
            de.datasets.get(tmp_path / name)
    with pytest.raises(SettingError, match="`letters` must be protein, dna"):
        de.datasets.read_alignment(tmp_path / "a.fasta", "A")
    with pytest.raises(SettingError, match="`identity`"):
        de.datasets.sequence_weights(torch.zeros(2, 2), 0)
