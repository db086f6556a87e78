"""The ten losses of LeCun et al. 2006, table 1: values, hand derivatives, exact inference, learning."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import EBMError, SettingError, ShapeError, SpaceError
from discrete_ebm.objectives import StructuredLoss, best_of_chain, chain_answers, losses, predict, table_answers
from discrete_ebm.objectives import structured as module
from tests.reference_objectives import lecun

SETTINGS = {"margin": 1.5, "cap": 0.8, "weight": 0.7}
BETA = 1.3


def examples(n=60, n_answers=5):
    rng = np.random.default_rng(0)
    energies, desired = rng.normal(0, 1.2, (n, n_answers)), rng.integers(0, n_answers, n)
    return energies, desired


def test_there_are_the_ten_of_the_table():
    assert losses() == ["energy", "perceptron", "hinge", "log", "lvq2", "mce", "square-square", "square-exponential",
                        "nll", "mee"]  # fmt: skip


@pytest.mark.parametrize("name", losses())
def test_values_are_those_of_the_table(name):
    energies, desired = examples()
    ours = StructuredLoss(name, **SETTINGS)(table_answers(torch.tensor(energies), torch.tensor(desired), BETA))
    theirs = [lecun(name, row, d, beta=BETA, **SETTINGS) for row, d in zip(energies, desired, strict=True)]
    assert np.allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-12)


def hand_derivative(name, e, desired):
    """dL/dE(y) for every answer y, derived by hand."""
    own, margin, cap, weight = e[desired], SETTINGS["margin"], SETTINGS["cap"], SETTINGS["weight"]
    wrong = min((a for a in range(len(e)) if a != desired), key=lambda a: e[a])
    out = np.zeros_like(e)
    p = np.exp(-BETA * e) / np.exp(-BETA * e).sum()
    pair = 1 / (1 + np.exp(-(own - e[wrong])))
    one = np.eye(len(e))
    if name == "energy":
        out[desired] = 1
    elif name == "perceptron":
        out += one[desired] - one[np.argmin(e)]
    elif name == "hinge":
        out += (one[desired] - one[wrong]) * (margin + own - e[wrong] > 0)
    elif name == "log":
        out += (one[desired] - one[wrong]) * pair
    elif name == "lvq2":
        out += (one[desired] - one[wrong]) * (0 < own - e[wrong] < cap)
    elif name == "mce":
        out += (one[desired] - one[wrong]) * pair * (1 - pair)
    elif name == "square-square":
        out += 2 * own * one[desired] - 2 * max(0, margin - e[wrong]) * one[wrong]
    elif name == "square-exponential":
        out += 2 * own * one[desired] - weight * np.exp(-e[wrong]) * one[wrong]
    elif name == "nll":
        out += one[desired] - p
    elif name == "mee":
        out += BETA * p[desired] * (one[desired] - p)
    return out


@pytest.mark.parametrize("name", losses())
def test_gradients_are_those_derived_by_hand(name):
    energies, desired = examples()
    table = torch.tensor(energies, requires_grad=True)
    StructuredLoss(name, **SETTINGS)(table_answers(table, torch.tensor(desired), BETA)).sum().backward()
    by_hand = np.array([hand_derivative(name, row, d) for row, d in zip(energies, desired, strict=True)])
    assert np.allclose(table.grad.numpy(), by_hand, rtol=1e-10, atol=1e-12)


def test_large_energies_stay_finite():
    energies = torch.tensor([[800.0, -800.0, 0.0], [-800.0, 800.0, 0.0]], requires_grad=True)
    for name in set(losses()) - {"square-exponential"}:  # exp(−Ē) is that large by its definition
        value = StructuredLoss(name)(table_answers(energies, torch.tensor([0, 0])))
        (gradient,) = torch.autograd.grad(value.sum(), energies)
        assert bool(value.isfinite().all() & gradient.isfinite().all()), name


MUTANTS = {
    "hinge": lambda a, s: (s.margin - a.desired + a.offending).clamp(min=0),
    "perceptron": lambda a, s: a.desired - a.offending,
    "log": lambda a, s: torch.nn.functional.softplus(a.desired - a.lowest),
    "lvq2": lambda a, s: (a.desired - a.offending).clamp(min=0),
    "mce": lambda a, s: (a.offending - a.desired).sigmoid(),
    "square-square": lambda a, s: a.desired.square() - (s.margin - a.offending).clamp(min=0).square(),
    "square-exponential": lambda a, s: a.desired.square() + s.weight * torch.exp(a.offending),
    "nll": lambda a, s: a.desired + a.free,
    "mee": lambda a, s: torch.exp(a.beta * (a.free - a.desired)),
    "energy": lambda a, s: -a.desired,
}


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_planted_mutants_die(name):
    row = module.LOSSES[name]._replace(function=MUTANTS[name])
    with mock.patch.dict(module.LOSSES, {name: row}), pytest.raises(AssertionError):
        test_values_are_those_of_the_table(name)


# -- exact inference along a chain -----------------------------------------------------------------------------------


def chain(length=4, k=3, n=6, seed=0):
    rng = np.random.default_rng(seed)
    unary = torch.tensor(rng.normal(0, 1, (n, length, k)), requires_grad=True)
    pairwise = torch.tensor(rng.normal(0, 1, (k, k)), requires_grad=True)
    return unary, pairwise, torch.tensor(rng.integers(0, k, (n, length)))


def all_labellings(unary, pairwise):
    """(B, K^T) energies by listing, and the labellings."""
    length, k = unary.shape[1:]
    listed = list(itertools.product(range(k), repeat=length))
    columns = []
    for labels in listed:
        value = sum(unary[:, t, v] for t, v in enumerate(labels))
        columns.append(value + sum(pairwise[a, b] for a, b in itertools.pairwise(labels)))
    return torch.stack(columns, 1), listed


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_chain_is_solved_exactly(length):
    unary, pairwise, labels = chain(length)
    table, listed = all_labellings(unary, pairwise)
    place = torch.tensor([listed.index(tuple(row)) for row in labels.tolist()])
    ours, theirs = chain_answers(unary, pairwise, labels, BETA), table_answers(table, place, BETA)
    for name in ("desired", "lowest", "offending", "free"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12), name
    assert torch.equal(ours.right, theirs.right)
    best = [listed[i] for i in table.argmin(1).tolist()]
    assert [tuple(row) for row in best_of_chain(unary, pairwise).tolist()] == best


@pytest.mark.parametrize("name", losses())
def test_gradients_through_a_chain_are_those_of_listing_all_labellings(name):
    unary, pairwise, labels = chain()
    table, listed = all_labellings(unary, pairwise)
    place = torch.tensor([listed.index(tuple(row)) for row in labels.tolist()])
    loss = StructuredLoss(name, **SETTINGS)
    found = torch.autograd.grad(loss(chain_answers(unary, pairwise, labels, BETA)).sum(), [unary, pairwise],
                                allow_unused=True)  # fmt: skip
    wanted = torch.autograd.grad(loss(table_answers(table, place, BETA)).sum(), [unary, pairwise], allow_unused=True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


# -- as an objective -------------------------------------------------------------------------------------------------


def labelled():
    """Four bits and a label of three values that the bits decide, in one space; label last."""
    space = de.Product({"bits": de.Binary(4), "label": de.Categorical(1, 3)})
    bits = de.Binary(4).enumerate()
    label = (bits[:, :2].sum(1))[:, None]  # 0, 1, 2 for 4, 8, 4 of the 16
    return space, space.pack({"bits": bits, "label": label.to(torch.int8)})


def test_answer_energies_are_those_of_every_setting_in_order():
    space, data = labelled()
    energy = de.energies.MLPEnergy(space, (8,), seed=0)
    energies, place = module.answer_energies(energy, data, (4, 1))
    assert energies.shape == (16, 6)
    for number, (label, bit) in enumerate(itertools.product(range(3), range(2))):
        x = data.clone()
        x[:, 4], x[:, 1] = label, bit
        assert torch.allclose(energies[:, number], energy(space.encode(x)))
    assert torch.equal(place, data[:, 4] * 2 + data[:, 1])
    pieces, _ = module.answer_energies(energy, data, (4, 1), max_states=5)
    assert torch.allclose(pieces, energies)


def fit(energy, data, name, n_iterations):
    objective = de.objectives.StructuredPrediction(answer=(4,), loss_name=name)
    return de.fit(energy, data, objective, n_iterations=n_iterations, batch_size=16, lr=0.05, ema=None, progress=False)


@pytest.mark.parametrize("name", [name for name in losses() if name not in ("energy", "mee")])
def test_these_losses_learn_to_answer_through_fit(name):
    space, data = labelled()
    energy = de.energies.MLPEnergy(space, (32,), seed=0)
    fitted = fit(energy, data, name, 120)
    asked = data.clone()
    asked[:, 4] = 0  # what the answer site holds does not matter
    assert torch.equal(predict(energy, asked, (4,)), data)
    assert fitted.history["accuracy"][-1] == 1


def test_mee_saturates_from_a_fresh_net_and_is_at_home_after_a_start_by_nll():
    space, data = labelled()
    energy = de.energies.MLPEnergy(space, (32,), seed=0)
    assert fit(energy, data, "mee", 100).history["gradient_norm"][-1] < 0.05  # its own gradient is nearly gone
    energy = de.energies.MLPEnergy(space, (32,), seed=0)
    fit(energy, data, "nll", 100)
    assert fit(energy, data, "mee", 100).history["accuracy"][-1] == 1


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: StructuredLoss("hinged"), SettingError, "`loss` must be one of energy"),
        (lambda: StructuredLoss("hinge", margin=0.0), SettingError, "`margin`"),
        (lambda: table_answers(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)), SettingError, "two answers"),
        (lambda: table_answers(torch.zeros(2, 3), torch.tensor([0, 3])), SettingError, "0 to 2"),
        (lambda: table_answers(torch.zeros(2, 3), torch.tensor([0])), ShapeError, r"\(B, A\)"),
        (lambda: chain_answers(torch.zeros(2, 3, 4), torch.zeros(3, 3), torch.zeros(2, 3).long()), ShapeError, "T, K"),
        (lambda: refused(answer=()), SettingError, "at least one"),
        (lambda: refused(answer=(9,)), SettingError, "0 to 4"),
        (lambda: refused(answer=(1, 1)), SettingError, "different"),
        (lambda: refused(de.Binary(20), answer=tuple(range(20))), SettingError, "4096"),
        (lambda: refused(de.Real(3), answer=(0,)), SpaceError, "discrete"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, EBMError)


def refused(space=None, **settings):
    energy = de.energies.MLPEnergy(space or labelled()[0], (4,))
    data = energy.space.random(4, torch.Generator().manual_seed(0))
    de.objectives.StructuredPrediction(**settings).init(energy, data, generator=torch.Generator().manual_seed(0))
