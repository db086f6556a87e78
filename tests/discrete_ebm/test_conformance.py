"""Registering is being tested: every registered sampler passes the suite that plug-in authors run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.errors import ConformanceError, SettingError
from discrete_ebm.samplers import Gibbs, SamplerSpec
from discrete_ebm.spaces import Binary
from discrete_ebm.testing import FALSE_FAIL, PairwiseFeatures, Target, check_sampler, default_targets

NAMES = [name for name in samplers.names()
         if all(default_targets(space, 0) for space in samplers.spec(name).spaces)]  # others bring their own targets
# One step of these is many steps of another kernel: test_tempering.py has smaller ones, and these in the slow tier.
QUICK = [name for name in NAMES if name not in ("parallel-tempering", "tempered-transitions")]
REFUSED = {"chromatic": {"Binary BernoulliRBM"}}  # targets whose energy lacks what the sampler is made for
OTHERS = {t.name for space in ("Binary", "Spin", "Categorical") for t in default_targets(space, 0)}
REFUSED |= {name: OTHERS - {"Spin Ising", "Categorical Potts"} for name in ("swendsen-wang", "wolff")}


# Several seconds each, on every space: in the slow tier. Their own files keep them on one space in every run, beside
# their rows: test_combine.py, test_dhams.py, test_path_auxiliary.py, test_dlmc.py, test_cyclical.py, test_any_scale.py,
# test_discrete_langevin.py, test_locally_balanced.py, test_enumerated.py, test_annealing.py, test_reals.py.
LONG = ("repeat", "mixture", "sweep", "dhams", "pas", "dlmc", "acs", "any-scale", "dmala", "locally-balanced",
        "hamming-ball", "enumerated-gibbs", "chromatic", "simulated-annealing", "hmc")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
                                  for name in QUICK])
def test_every_registered_sampler_conforms(name: str, seed: int) -> None:
    """False-fail budget 4e-9 a sampler (tests/conftest.py)."""
    report = check_sampler(name, seed=seed)
    assert report.passed
    assert {target for target, _ in report.skipped} == REFUSED.get(name, set())
    assert report.detectable_tv <= 0.04
    assert FALSE_FAIL <= 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_every_registered_sampler_conforms_with_210000_draws(name: str, seed: int) -> None:
    assert check_sampler(name, seed=seed + 1, quick=False).detectable_tv <= 0.018


@pytest.mark.parametrize(("name", "settings"), [
    ("gibbs", {"scan": "random"}), ("gibbs", {"conditionals": False}), ("gwg", {"balancing": "barker"}),
    ("gwg", {"balancing": "min", "exact_deltas": False}), ("gwg", {"balancing": "max"})])
def test_settings_conform_too(name: str, settings: dict, seed: int) -> None:
    targets = [t for t in default_targets("Categorical", 1) if t.depth == "full"]
    assert check_sampler(name, seed=seed, targets=targets, **settings).passed


def test_a_chance_of_a_false_failure_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="`false_fail` must be between 0 and 1; got 0"):
        check_sampler("gibbs", false_fail=0)


def test_a_spec_that_calls_a_biased_kernel_exact_is_caught() -> None:
    row = dataclasses.replace(samplers.spec("langevin"), exact=True)
    with pytest.raises(ConformanceError, match=r"kernel\.exact is False"):
        check_sampler(row)


def test_a_raster_sweep_declared_reversible_is_caught() -> None:
    row = dataclasses.replace(samplers.spec("gibbs"), reversible=True)
    with pytest.raises(ConformanceError, match="detailed balance"):
        check_sampler(row, targets=[t for t in default_targets("Spin", 0) if t.name == "Spin coupled"])


def test_a_spec_need_not_be_registered_and_may_bring_targets() -> None:
    row = SamplerSpec("mine", Gibbs, "", "", frozenset({"Elsewhere"}), False, True, False)
    with pytest.raises(ConformanceError, match="targets"):
        check_sampler(row)
    energy = PairwiseFeatures(Binary(3), seed=5)
    states = Binary(3).enumerate()
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])  # any order, with the map that goes with it
    inverse = order.argsort()

    def row_of(x: torch.Tensor) -> torch.Tensor:
        return inverse[(x.long() * torch.tensor([4, 2, 1])).sum(1)]

    report = check_sampler(row, targets=[Target("mine", energy, states[order], row_of=row_of)])
    assert report.passed
    assert "checks passed" in str(report)


def test_a_sampler_that_refuses_everything_is_not_called_conforming() -> None:
    with pytest.raises(ConformanceError, match="at least one target"):
        check_sampler("langevin", targets=default_targets("Binary", 0))


def test_a_log_measure_is_part_of_the_law() -> None:
    energy = PairwiseFeatures(Binary(2), strength=0.0)
    wrong = Target("weighted", energy, Binary(2).enumerate(), log_measure=torch.tensor([0.0, 0.0, 0.0, 2.0]))
    with pytest.raises(ConformanceError, match="law at beta"):
        check_sampler("gibbs", targets=[wrong])
