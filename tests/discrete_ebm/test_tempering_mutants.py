"""Planted bugs in parallel tempering and tempered transitions are found by the conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

from discrete_ebm.errors import ConformanceError
from discrete_ebm.samplers import parallel_tempering, tempered_transitions
from discrete_ebm.samplers.base import ChainState
from discrete_ebm.samplers.parallel_tempering import ParallelTempering
from discrete_ebm.testing import check_sampler, default_targets


@contextmanager
def _swap_downhill() -> Iterator[None]:
    original = parallel_tempering.metropolis_hastings
    with mock.patch.object(parallel_tempering, "metropolis_hastings", lambda a, **o: original(-a, **o)):
        yield


@contextmanager
def _one_beta() -> Iterator[None]:
    """The swap compares β E with all replicas at the chain's own β over the hottest one's."""
    original = parallel_tempering._decide
    with mock.patch.object(parallel_tempering, "_decide",
                           lambda inner, betas, *rest: original(inner, betas * betas, *rest)):
        yield


@contextmanager
def _energies_left_behind() -> Iterator[None]:
    original = ParallelTempering._swap

    def swap(self: Any, inner: ChainState, *rest: Any) -> ChainState:
        return original(self, inner, *rest)._replace(energy=inner.energy)

    with mock.patch.object(ParallelTempering, "_swap", swap):
        yield


@contextmanager
def _cache_left_behind() -> Iterator[None]:
    original = ParallelTempering._swap

    def swap(self: Any, inner: ChainState, *rest: Any) -> ChainState:
        return original(self, inner, *rest)._replace(cache=inner.cache)

    with mock.patch.object(ParallelTempering, "_swap", swap):
        yield


@contextmanager
def _all_accepted() -> Iterator[None]:
    original = tempered_transitions.metropolis_hastings
    with mock.patch.object(tempered_transitions, "metropolis_hastings",
                           lambda a, **o: original(torch.zeros_like(a), **o)):
        yield


@contextmanager
def _beta_ignored() -> Iterator[None]:
    with mock.patch.object(tempered_transitions, "beta_column", lambda beta, energy: torch.ones_like(energy)):
        yield


@contextmanager
def _ratio_tempered() -> Iterator[None]:
    """The journey's weight counted at half its strength, as if β multiplied it twice."""
    original = tempered_transitions.metropolis_hastings
    with mock.patch.object(tempered_transitions, "metropolis_hastings", lambda a, **o: original(a / 2, **o)):
        yield


PLANTED = [
    ("swap ratio upside down", "parallel-tempering", _swap_downhill, {}, "law"),
    ("betas squared in the swap", "parallel-tempering", _one_beta, {}, "law"),
    ("energies left behind", "parallel-tempering", _energies_left_behind, {"inner": "gwg"}, "energy of x"),
    ("gradients left behind", "parallel-tempering", _cache_left_behind, {"inner": "gwg"}, "cache of x"),
    ("every journey accepted", "tempered-transitions", _all_accepted, {}, "law"),
    ("beta ignored", "tempered-transitions", _beta_ignored, {}, "law at beta"),
    ("journey's weight halved", "tempered-transitions", _ratio_tempered, {}, "law"),
]


@pytest.mark.mutants
@pytest.mark.parametrize(("name", "kernel", "plant", "settings", "killer"), PLANTED, ids=[row[0] for row in PLANTED])
def test_a_planted_bug_is_found(name: str, kernel: str, plant: Callable, settings: dict, killer: str) -> None:
    size = {"ladder": (1.0, 0.3)}
    with plant(), pytest.raises(ConformanceError) as caught:
        check_sampler(kernel, targets=[t for t in default_targets("Spin", 0) if t.name == "Spin Ising"], **size,
                      **settings)
    failed = [line for line in str(caught.value).splitlines() if line.strip().startswith("failed:")]
    assert any(killer in line for line in failed), failed
