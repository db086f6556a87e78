"""The plug-in keeps what a sampler promises, and is found once it is installed."""

import pytest
import torch
from ebm_pairflip import PairFlip, spec

import discrete_ebm as de
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.testing import check_sampler


def test_the_kernel_conforms():
    report = check_sampler(spec)
    assert report.passed
    print(report)


def test_a_broken_copy_of_it_does_not():
    class Greedy(PairFlip):
        def step(self, energy, state, **options):
            options["beta"] = 2 * torch.as_tensor(options.get("beta", 1.0))  # the law of another temperature
            return super().step(energy, state, **options)

    with pytest.raises(ConformanceError, match="law at beta"):
        check_sampler(de.samplers.SamplerSpec("greedy", Greedy, "", "", spec.spaces, False, True, True))


def test_it_is_registered_by_its_entry_point():
    if "pair-flip" not in de.samplers.names():
        pytest.skip("not installed: pip install ./examples/plugin")
    assert de.samplers.create("pair-flip") == PairFlip()
    chains = de.sample(de.energies.Ising.lattice((4, 4), 0.3), "pair-flip", n_chains=4, n_steps=50, seed=0)
    assert 0.05 <= float(chains.scale.min()) <= float(chains.scale.max()) <= 1.0


def test_wrong_settings_and_spaces_get_a_sentence():
    with pytest.raises(SettingError, match="`pair` must be between"):
        PairFlip(2.0)
    potts = de.energies.Potts.lattice((2, 2), 0.5, 3)
    with pytest.raises(CapabilityError, match="must be used on Binary or Spin"):
        PairFlip().init(potts, potts.space.enumerate(), generator=torch.Generator())
