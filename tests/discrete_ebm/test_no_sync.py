"""No step of any registered kernel makes the host wait for the device: counted, for every kernel on every space."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.errors import CapabilityError
from discrete_ebm.samplers import fast
from discrete_ebm.testing import default_targets
from tests.gpu.sync_counter import SyncCounter

CASES = [(name, space) for name in samplers.names() for space in sorted(samplers.spec(name).spaces)
         if default_targets(space, 0)]
# Branches that a kernel takes only where clamp and states are on the CPU, where looking costs nothing.
CPU_ONLY = {
    **{name: {"index by a mask"} for name in ("gibbs", "alternate", "parallel-tempering", "simulated-annealing",
                                              "sweep", "mixture", "repeat", "tempered-transitions")},
    **{name: {"masked_select", "tolist"} for name in ("hamming-ball", "enumerated-gibbs")},
    **{name: {"numpy", "equal"} for name in ("wolff", "swendsen-wang")},
}


def count(kernel: Any, energy: Any, *, beta: Any = 0.7, clamp: Any = None, n_steps: int = 2) -> dict[str, int]:
    """What two steps found. Starting a chain and its first step may look: plans and tables are made there."""
    generator = torch.Generator().manual_seed(0)
    x = energy.space.random(4, generator)
    state = kernel.init(energy, x, generator=generator, clamp=clamp)
    state, _ = kernel.step(energy, state, generator=generator, beta=beta, clamp=clamp)
    counter = SyncCounter()
    for _ in range(n_steps):
        counter.allow(state.step)
        with counter:
            state, _ = kernel.step(energy, state, generator=generator, beta=beta, clamp=clamp)
    return dict(counter.found)


@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_step_waits_for_nothing(name: str, space: str) -> None:
    """On each default target, with one beta and with one for each chain, free and clamped; reference forms."""
    ran = 0
    with fast.set_fused(False):
        for target in default_targets(space, 0):
            if "peaked" in target.name or "single" in target.name:
                continue
            kernel = samplers.create(name)
            mask = torch.zeros(target.space.shape, dtype=torch.bool)
            mask.view(-1)[0] = True
            for options in ({}, {"beta": torch.linspace(0.5, 1.0, 4)}, {"clamp": mask}):
                try:
                    found = count(kernel, target.energy, **options)
                except CapabilityError:
                    break
                ran += 1
                if "clamp" in options or name in ("wolff", "swendsen-wang"):
                    found = {op: n for op, n in found.items() if op not in CPU_ONLY.get(name, set())}
                assert not found, f"{name} on {target.name} with {sorted(options)}: {found}"
    if not ran:
        pytest.skip("the sampler refuses every target of this space")


def test_the_guard_sees_every_kind_of_wait() -> None:
    """A guard that counts nothing would pass everything."""
    x = torch.arange(6.0)
    waits = {
        "_local_scalar_dense": [lambda: x.sum().item(), lambda: bool(x[0] > 0), lambda: float(x[1]), lambda: int(x[2])],
        "nonzero": [lambda: x.nonzero(), lambda: torch.where(x > 2)],
        "index by a mask": [lambda: x[x > 2]],
        "index_put_ by a mask": [lambda: x.clone().__setitem__(x > 2, torch.tensor(1.0))],
        "masked_select": [lambda: x.masked_select(x > 2)],
        "equal": [lambda: torch.equal(x, x)],
        "tolist": [lambda: x.tolist()],
        "numpy": [lambda: x.numpy()],
    }
    for name, calls in waits.items():
        for call in calls:
            with SyncCounter() as counter:
                call()
            assert counter.found[name] >= 1, (name, dict(counter.found))
    with SyncCounter() as counter:
        torch.where(x > 2, x, -x).masked_fill(x > 4, 0.0).gather(0, torch.tensor([1, 2])).cumsum(0)
        x[torch.tensor([0, 1])]
    assert not counter.found


def test_a_planted_wait_in_a_kernel_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from discrete_ebm.samplers import heat_bath

    original = heat_bath.tempered

    def looking(logits: torch.Tensor, *rest: Any) -> Any:
        if bool(logits.isnan().any()):
            raise RuntimeError
        return original(logits, *rest)

    monkeypatch.setattr(heat_bath, "tempered", looking)
    target = default_targets("Spin", 0)[0]
    assert count(samplers.create("gibbs"), target.energy)["_local_scalar_dense"] >= 2
