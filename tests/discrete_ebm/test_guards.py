"""Promises 13 and 16: divergence and non-finite numbers are noticed, named, and only then."""

import math

import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import DivergenceError, NonFiniteEnergyError, SettingError
from discrete_ebm.guards import Guard, Watch, check_finite_tensors, check_finite_terms, natural_gap


def gaps(seed, n, size=0.3):
    return (size * torch.randn(n, generator=torch.Generator().manual_seed(seed))).tolist()


def test_a_runaway_gap_is_noticed_within_fifty_updates():
    watch = Watch(Guard(), least_gap=5.5)
    for gap in gaps(0, 300):
        watch.see({"gap": gap})

    def run_away():
        for n in range(50):
            watch.see({"gap": -(1.3**n)})

    with pytest.raises(DivergenceError, match=r"`gap` .* for 10 updates"):
        run_away()


def test_ordinary_noise_a_growing_gap_at_the_start_and_single_spikes_are_no_divergence():
    watch = Watch(Guard(), least_gap=5.5)
    for n in range(300):
        watch.see({"gap": 5e-5 * 1.05 ** min(n, 200)})  # grows by 4 orders of magnitude, to 0.9 nats
    for n, gap in enumerate(gaps(1, 2000)):
        watch.see({"gap": 500.0 if n % 50 == 49 else gap})
    assert watch.calm is False or watch.wide <= 1


def test_frozen_chains_are_noticed_after_fifty_updates_and_not_before():
    watch = Watch(Guard(), 1.0)
    for _ in range(49):
        watch.see({"acceptance": 0.0})
    watch.see({"acceptance": 0.5})
    assert watch.calm
    for _ in range(49):
        watch.see({"acceptance": 0.0})
    with pytest.raises(DivergenceError, match="frozen"):
        watch.see({"acceptance": 0.0})
    relaxed = Watch(Guard(least_acceptance=0), 1.0)
    for _ in range(200):
        relaxed.see({"acceptance": 0.0})


def test_non_finite_terms_and_tensors_are_named():
    with pytest.raises(NonFiniteEnergyError, match="positive_energy = nan"):
        check_finite_terms({"loss": 1.0, "positive_energy": math.nan})
    check_finite_terms({"loss": 1.0})
    tensors = [("a", torch.ones(2)), ("b", torch.tensor([1.0, math.inf])), ("c", None), ("d", torch.ones(1).long())]
    with pytest.raises(NonFiniteEnergyError, match="`gradient` must be finite; got NaN or infinity in b"):
        check_finite_tensors("gradient", tensors)
    check_finite_tensors("gradient", tensors[:1] + tensors[2:])
    check_finite_tensors("gradient", [])


def test_the_natural_scale_of_a_gap_is_the_spaces():
    assert natural_gap(de.Binary(8)) == pytest.approx(8 * math.log(2))
    assert natural_gap(de.Binary(5000)) == pytest.approx(5000 * math.log(2))
    assert natural_gap(de.Real(3)) == 100.0


def test_bad_settings_are_refused():
    with pytest.raises(SettingError, match="`window`"):
        Guard(window=0)
    with pytest.raises(SettingError, match="`gap_ratio`"):
        Guard(gap_ratio=1.0)
