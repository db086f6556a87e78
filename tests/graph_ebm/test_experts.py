"""Experts by contrast: what they learn, what they leave alone, and what they refuse."""

import copy
import itertools

import pytest
import torch

import graph_ebm as ge
from discrete_ebm.errors import DataError, SettingError, SpaceError
from discrete_ebm.trainer import CLOCKS, Batches, Trainer
from graph_ebm import experts
from graph_ebm.experts import OwnContrast, tilt_of, train_expert
from graph_ebm.model import load_model
from graph_ebm.training import train

SMALL = {"hidden": 16, "layers": 1, "batch": 64, "n_chains": 64, "n_steps": 4}


@pytest.fixture(scope="module")
def data():
    return ge.datasets.load("qm9-sample", limit=400, max_atoms=9)


@pytest.fixture(scope="module")
def base(data):
    return train(data, n_iterations=6, progress=False, **SMALL)


@pytest.fixture(scope="module")
def best(data):
    """The molecules without nitrogen: a property that count tables and network can both learn."""
    nitrogen = data.space.vocabulary.index("N")
    return data[(data.x.diagonal(dim1=1, dim2=2) != nitrogen).all(1)]


@pytest.fixture(scope="module")
def expert(best, base, data):
    return train_expert(best, base, data, minutes=1, epochs=20, correct=False, progress=False, **SMALL)


def roc_area(inside, outside):
    """P(inside < outside) + ties / 2; a tilt that is 0 everywhere gives 0.5."""
    above = (inside[:, None] < outside[None, :]).float() + 0.5 * (inside[:, None] == outside[None, :]).float()
    return float(above.mean())


def test_the_tilt_tells_the_best_from_the_rest(expert, best, base, data):
    nitrogen = data.space.vocabulary.index("N")
    others = data[(data.x.diagonal(dim1=1, dim2=2) == nitrogen).any(1)]
    tilt = tilt_of(expert)
    with torch.no_grad():
        assert roc_area(tilt.state_energy(best.x), tilt.state_energy(others.x)) > 0.9


def test_the_energy_is_the_base_plus_the_tilt_and_the_base_is_left_alone(expert, base, data):
    before = {name: value.clone() for name, value in base.energy.state_dict().items()}
    with torch.no_grad():
        whole = expert.energy.state_energy(data.x)
        parts = base.energy.state_energy(data.x) + tilt_of(expert).state_energy(data.x)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in base.energy.state_dict().items())


def test_an_expert_is_saved_and_loaded(expert, data, tmp_path):
    expert.save(tmp_path / "expert")
    again = load_model(tmp_path / "expert")
    with torch.no_grad():
        assert torch.equal(again.energy.state_energy(data.x), expert.energy.state_energy(data.x))
        assert torch.equal(tilt_of(again).state_energy(data.x), tilt_of(expert).state_energy(data.x))


@pytest.mark.usefixtures("short_chains")
def test_one_seed_gives_one_expert(best, base, data):
    settings = {"n_iterations": 8, "progress": False, "seed": 3, **SMALL}
    first, second = (train_expert(best, base, data, **settings) for _ in range(2))
    states = (first.energy.state_dict(), second.energy.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_correction_learns_what_the_experts_own_samples_have_too_much_of(expert, data):
    """Samples with a surplus of oxygen: the change of the tilt must see it, whatever the tilt was before."""
    tilt = copy.deepcopy(tilt_of(expert)).requires_grad_(True)
    old = copy.deepcopy(tilt).requires_grad_(False)
    oxygen = (data.x.diagonal(dim1=1, dim2=2) == data.space.vocabulary.index("O")).sum(1)
    surplus, wanted = data.x[oxygen >= 2], data.x[oxygen < 2]
    generator = torch.Generator().manual_seed(0)
    trainer = Trainer(tilt, OwnContrast(surplus, old), wanted, generator=generator, n_iterations=60, lr=3e-3, ema=None)
    trainer.run(Batches(wanted, 64, generator))
    with torch.no_grad():
        change = [tilt.state_energy(x) - old.state_energy(x) for x in (wanted, surplus)]
    assert roc_area(*change) > 0.9
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), tilt_of(expert).parameters(), strict=True))


@pytest.mark.usefixtures("short_chains")
def test_the_correction_starts_from_the_contrast_and_can_be_left_out(best, base, data):
    settings = {"n_iterations": 10, "progress": False, "seed": 3, **SMALL}
    with_it, without = (train_expert(best, base, data, correct=correct, **settings) for correct in (True, False))
    assert (with_it.settings["updates"], without.settings["updates"]) == (12, 10)
    assert with_it.history["stage"][-1] == "expert, corrected"
    assert with_it.history["seconds"] == sorted(with_it.history["seconds"])
    assert with_it.history["contrast"][: len(without.history["contrast"])] == without.history["contrast"]
    x = data.x[:50]
    with torch.no_grad():
        assert not torch.equal(tilt_of(with_it).state_energy(x), tilt_of(without).state_energy(x))


def ticking(monkeypatch, tick):
    """A clock that goes on by ``tick`` seconds each time it is looked at."""
    ticks = itertools.count()
    monkeypatch.setitem(CLOCKS, "wall", lambda: tick * next(ticks))


@pytest.mark.slow
def test_contrast_samples_and_correction_share_the_minutes(best, base, data, monkeypatch):
    ticking(monkeypatch, 0.01)
    found = train_expert(best, base, data, minutes=1 / 60, epochs=1e4, progress=False, **SMALL)
    assert found.history["stage"][-1] == "expert, corrected"
    assert found.history["seconds"][-1] <= 1.02


def test_samples_of_chains_that_are_still_hot_correct_nothing(best, base, data, monkeypatch):
    ticking(monkeypatch, 0.1)  # the time is over at the second of eight looks at the chains, at beta 0.475
    found = train_expert(best, base, data, minutes=1 / 60, epochs=1e4, progress=False, **SMALL)
    assert set(found.history["stage"]) == {"expert"}
    assert not found.interrupted


@pytest.mark.usefixtures("short_chains")
@pytest.mark.parametrize("growing", [True, False])
def test_an_interruption_between_the_updates_keeps_the_expert(best, base, data, monkeypatch, growing):
    """While the background's chains grow, and while the expert's own are drawn."""
    fresh = experts._fresh

    def interrupted(*args, **options):
        if growing or options.get("settled"):
            raise KeyboardInterrupt
        return fresh(*args, **options)

    monkeypatch.setattr(experts, "_fresh", interrupted)
    found = train_expert(best, base, data, n_iterations=4, progress=False, **SMALL)
    assert found.interrupted
    assert found.settings["updates"] == (0 if growing else 4)


def test_epochs_bound_the_updates(expert, best):
    assert expert.settings["updates"] == max(20, round(20 * len(best) / min(64, len(best))))


def test_what_does_not_fit_is_refused(best, base, data):
    with pytest.raises(DataError, match="at least 2"):
        train_expert(best[:1], base, data, progress=False)
    wider = ge.datasets.load("qm9-sample", limit=10, max_atoms=10)
    with pytest.raises(SpaceError, match="`background` must have the base's space"):
        train_expert(best, base, wider, progress=False)
    with pytest.raises(SettingError, match="train_expert"):
        tilt_of(base)
