"""Fréchet ChemNet Distance: closed forms, the package it wraps, and a published value."""

import builtins
import gzip
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg

from discrete_ebm.errors import CapabilityError, DataError, MoleculeError, SettingError
from graph_ebm import fcd as module
from graph_ebm.fcd import SmallSampleWarning, Statistics, fcd, frechet_distance, load_statistics, statistics

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DISCRETE_EBM_DATA", ROOT.parent / "shared" / "data")) / "molecules"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data folder is not here (set DISCRETE_EBM_DATA)")
needs_chemnet = pytest.mark.skipif(not module.available(), reason="fcd_torch is not installed")

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C1CC1C", "C[NH2+]CC(=O)[O-]", "C#CC=C", "O=C1CCCN1", "Clc1ccncc1"]


def test_frechet_distance_of_one_dimension_is_the_closed_form():
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(2.0**2 + (2.0 - 3.0) ** 2)


def test_frechet_distance_is_zero_for_equal_and_symmetric():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 6)), rng.normal(1.0, 2.0, size=(40, 6))
    one, two = (a.mean(0), np.cov(a.T)), (b.mean(0), np.cov(b.T))
    assert frechet_distance(*one, *one) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(*one, *two) == pytest.approx(frechet_distance(*two, *one), rel=1e-9)


def test_frechet_distance_agrees_with_a_matrix_square_root():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(60, 8)), rng.normal(0.3, 1.5, size=(60, 8))
    s1, s2 = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(s1 @ s2).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(a.mean(0), s1, b.mean(0), s2) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_stands_singular_covariances():
    s1, s2 = np.diag([1.0, 0.0, 0.0]), np.diag([0.0, 4.0, 0.0])
    assert frechet_distance(np.zeros(3), s1, np.zeros(3), s2) == pytest.approx(5.0)


def test_frechet_distance_refuses_other_shapes_and_nan():
    with pytest.raises(SettingError, match="one size"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(SettingError, match="finite"):
        frechet_distance(np.zeros(2), np.eye(2) * np.nan, np.zeros(2), np.eye(2))


def test_statistics_files_round_trip_and_bad_ones_are_named(tmp_path):
    made = Statistics(np.arange(3.0), np.eye(3), 7)
    made.save(tmp_path / "s.npz")
    back = load_statistics(tmp_path / "s.npz")
    assert np.array_equal(back.mu, made.mu)
    assert back.n == 7
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("bad.npz", "other.npz", "shape.npz", "pickle.npy", "missing.npz"):
        with pytest.raises(DataError, match=r"mu"):
            load_statistics(tmp_path / name)


@needs_chemnet
def test_activations_and_distance_agree_with_fcd_torch():
    import fcd_torch
    from fcd_torch.utils import SmilesDataset

    theirs = fcd_torch.FCD(device="cpu")
    batch = torch.from_numpy(np.stack([SmilesDataset(SMILES)[i] for i in range(len(SMILES))]))
    with torch.no_grad():
        expected = theirs.model(batch.transpose(1, 2).float()).numpy()
    canonical = module.check_samples(SMILES).valid
    ours = module.activations(canonical, batch_size=3, threads=1)
    assert ours == pytest.approx(expected, abs=1e-5)
    found = statistics(SMILES, threads=1)
    assert found.mu == pytest.approx(expected.astype(np.float64).mean(0), abs=1e-6)
    assert found.sigma == pytest.approx(np.cov(expected.astype(np.float64).T), abs=1e-6)


@needs_chemnet
def test_repeats_count_and_failures_are_left_out_and_counted():
    repeated = statistics([*SMILES, *SMILES[:3]], threads=1)
    every = np.stack([*(module.activations(module.check_samples([*SMILES, *SMILES[:3]]).valid, threads=1))])
    assert repeated.n == 11
    assert repeated.sigma == pytest.approx(np.cov(every.astype(np.float64).T), abs=1e-7)
    threads = torch.get_num_threads()
    with pytest.warns(SmallSampleWarning, match="biased"):
        result = fcd([*SMILES, None, "C1CC"], SMILES, threads=1)
    assert (result.n, result.n_rejected, result.n_reference) == (8, 2, 8)
    assert float(result) == result.value == pytest.approx(0.0, abs=1e-3)
    assert torch.get_num_threads() == threads


@needs_chemnet
def test_fewer_than_two_molecules_are_refused():
    with pytest.raises(MoleculeError, match="at least 2"):
        fcd(["CCO", None], SMILES)


def test_missing_package_is_said_with_the_way_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "fcd_torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert not module.available()
    with pytest.raises(CapabilityError, match=r"pip install 'discrete-ebm\[eval\]'"):
        fcd(SMILES, SMILES)


@needs_data
@needs_chemnet
def test_small_sample_of_published_molecules_is_near_its_reference():
    """500 published DiGress QM9 samples: the distance is the small-sample bias (floor at 1,000 is 0.39) plus 0.26."""
    with gzip.open(DATA / "reference_samples" / "digress_qm9_noH_10k.smi.gz", "rt") as file:
        samples = file.read().splitlines()[1:501]
    with pytest.warns(SmallSampleWarning):
        near = fcd(samples, DATA / "fcd_reference" / "qm9_test_flat.npz", threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)
        far = fcd(samples, DATA / "fcd_reference" / "zinc250k_test_flat.npz", threads=1)
    assert 0.3 < near.value < 2.0
    assert far.value > 10 * near.value


@pytest.mark.slow
@needs_data
@needs_chemnet
def test_published_samples_have_their_published_distance():
    """DiGress's 10,000 QM9 samples against the test part: 0.26 (fcd 1.2.2), about 35 s on one core."""
    with gzip.open(DATA / "reference_samples" / "digress_qm9_noH_10k.smi.gz", "rt") as file:
        samples = file.read().splitlines()[1:]
    result = fcd(samples, DATA / "fcd_reference" / "qm9_test_flat.npz", threads=1)
    assert result.n == 9_921
    assert result.n_reference == 12_914
    assert result.caveat == ""
    assert result.value == pytest.approx(0.26, abs=0.005)
