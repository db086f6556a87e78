"""Data helpers: what they promise, and sentences for files that cannot be used."""

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import DataError, SettingError


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_bars_and_stripes_are_all_different_and_of_whole_rows_or_columns(side):
    x = de.datasets.bars_and_stripes(side)
    assert len(x) == 2 ** (side + 1) - 2
    assert len(x.unique(dim=0)) == len(x)
    rows = (x == x[:, :, :1]).flatten(1).all(1)
    columns = (x == x[:, :1, :]).flatten(1).all(1)
    assert bool((rows | columns).all())
    with pytest.raises(SettingError, match="`side`"):
        de.datasets.bars_and_stripes(0)


def test_ising_draws_have_the_exact_mean_energy_and_repeat():
    energy = de.energies.Ising.lattice((3, 3), coupling=0.3)
    truth = de.evaluate.exact(energy)
    x = de.datasets.ising((3, 3), 0.3, 20_000, seed=1)
    values = energy(energy.space.encode(x)).detach().double()
    # n = 20,000 independent draws; |z| <= 4.89: false failure 1e-6
    assert abs(float(values.mean()) - truth.mean_energy) <= 4.89 * float(values.std()) / 20_000**0.5
    assert torch.equal(x, de.datasets.ising((3, 3), 0.3, 20_000, seed=1))
    large = de.datasets.ising((6, 6), 0.2, 4)
    assert large.shape == (4, 6, 6)
    assert bool((large.abs() == 1).all())


def test_files_are_read_as_they_are(tmp_path):
    x = np.arange(6, dtype=np.uint8).reshape(3, 2)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "one.npz", bits=x)
    np.savez(tmp_path / "two.npz", x=x, y=x + 1)
    for loaded in (
        de.datasets.load(tmp_path / "a.npy"),
        de.datasets.load(tmp_path / "one.npz"),
        de.datasets.load(tmp_path / "two.npz"),
        de.datasets.load(tmp_path / "two.npz", "y") - 1,
    ):
        assert loaded.tolist() == x.tolist()


def test_unusable_files_are_refused_with_a_sentence(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:60])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name, words in (
        ("two.npz", "one of a, b"),
        ("flat.npy", r"shape \(n, \.\.\.\)"),
        ("text.npy", "numbers"),
        ("torn.npz", "whole"),
        ("empty.npy", "whole"),
        ("missing.npy", "not a file"),
    ):
        with pytest.raises(DataError, match=words):
            de.datasets.load(tmp_path / name)
