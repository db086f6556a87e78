"""The same tables on a CUDA device: conformance on the device, no synchronisation in a step, CPU and GPU laws agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.energies import Ising
from discrete_ebm.errors import CapabilityError
from discrete_ebm.testing import Target, default_targets
from discrete_ebm.testing_statistics import goodness_of_fit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CASES = [(name, space) for name in samplers.names() for space in sorted(samplers.spec(name).spaces)
         if space != "Real" and default_targets(space, 0)]


def run(kernel: Any, target: Target, rows: torch.Tensor, n_steps: int, beta: Any = 0.7) -> torch.Tensor:
    """Rows after ``n_steps`` on the device; ``rows`` (C,) are where the chains start."""
    energy = target.energy.to("cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    assert target.states is not None
    state = kernel.init(energy, target.states[rows].cuda(), generator=generator)
    for _ in range(n_steps):
        state, _ = kernel.step(energy, state, generator=generator, beta=beta)
    x = state.x.cpu()
    target.energy.to("cpu")
    return target.rows(x)


@pytest.mark.parametrize(("name", "space"), CASES)
def test_exact_draws_stay_exact_draws_on_the_device(name: str, space: str) -> None:
    """False-fail 1e-7 each; 20,000 chains from exact draws at beta = 0.7, after 1 and 6 steps."""
    if not samplers.spec(name).exact:
        pytest.skip("the law is biased by its step size")
    ran = 0
    for target in default_targets(space, 0):
        if "peaked" in target.name:
            continue
        law = target.law(0.7)
        uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        rows = torch.searchsorted(law.cumsum(0), uniform).clamp(max=len(law) - 1)
        for n_steps in (1, 6):
            try:
                after = run(samplers.create(name), target, rows, n_steps)
            except CapabilityError:
                break
            ran += 1
            assert goodness_of_fit(torch.bincount(after, minlength=len(law)), law) >= 1e-8
    assert ran


@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_step_on_the_device_never_synchronises(name: str, space: str) -> None:
    """CUDA itself raises where the host would wait; starting a chain and its first step may."""
    target = default_targets(space, 0)[0]
    energy, generator = target.energy.to("cuda"), torch.Generator("cuda").manual_seed(0)
    kernel = samplers.create(name)
    try:
        state = kernel.init(energy, energy.space.random(8, generator), generator=generator)
    except CapabilityError:
        pytest.skip("refused")
    state, _ = kernel.step(energy, state, generator=generator)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            state, _ = kernel.step(energy, state, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_fused_cpu_kernels_and_the_device_have_the_same_energy_at_the_critical_point() -> None:
    """16 × 16 Ising, 1,024 chains each."""
    means, errors = [], []
    for device, sweeps in (("cpu", 2000), ("cuda", 300)):
        energy = Ising.lattice((16, 16), 1.0).to(device)
        generator = torch.Generator(device).manual_seed(2)
        kernel = samplers.create("chromatic", sweeps=sweeps)
        state = kernel.init(energy, energy.space.random(1024, generator), generator=generator)
        state, _ = kernel.step(energy, state, generator=generator, beta=0.4)
        values = state.energy.double().cpu()
        means.append(float(values.mean()))
        errors.append(float(values.std()) / 32)
    assert abs(means[0] - means[1]) <= 5 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
