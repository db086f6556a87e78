"""JEM: a classifier's energies add up, its gradient is that of the exact likelihood, and its chains have their law."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import discrete_ebm as de
from discrete_ebm import checkpoint
from discrete_ebm.chain_bank import ChainBank
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import (
    CapabilityError,
    CheckpointError,
    DataError,
    EBMError,
    SettingError,
    ShapeError,
    SpaceError,
)
from discrete_ebm.guards import Guard
from discrete_ebm.objectives import JEM, LabelledStates, jem_loss
from discrete_ebm.objectives import jem as jem_module
from discrete_ebm.objectives.jem import JEMState, sharpness_aware
from discrete_ebm.samplers.sgld import SGLD
from tests.statistical import assert_law, spend

SITES, CLASSES = 3, 3


def small(seed: int = 0, space: de.Space | None = None) -> de.energies.ClassifierEnergy:
    """A float64 classifier on 3 bits whose laws can be summed; weights large enough for classes to matter."""
    space = de.Binary(SITES) if space is None else space
    network = de.energies.ImageClassifier(space, CLASSES, (8,), seed=seed).double()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    return de.energies.ClassifierEnergy(network, space)


@pytest.fixture(scope="module")
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = de.Binary(SITES).random(7, generator)
    return x, torch.tensor([0, 2, -1, 1, 1, -1, 0])


def exact_gradient(energy, x, y, *, x_weight=1.0, y_weight=1.0, by_class=False):
    """Autograd of the log-likelihoods with every sum over states written out."""
    states = energy.space.enumerate()
    logits = energy.logits(energy.space.encode_as(states, torch.float64))  # (S, Y)
    own = energy.logits(energy.space.encode_as(x, torch.float64))
    known = y >= 0
    frequencies = torch.bincount(y[known], minlength=CLASSES).double() / known.sum()
    if by_class:  # log p(x | y) of labelled rows; others against the mixture of the same negatives
        log_z = (frequencies * logits.logsumexp(0)).sum()
        score = torch.where(known, own.gather(1, y.clamp(min=0)[:, None])[:, 0], own.logsumexp(1))
        log_x = score.mean() - log_z
    else:
        log_x = own.logsumexp(1).mean() - logits.flatten().logsumexp(0)
    log_y = own.log_softmax(1)[known, y[known]].mean()
    return torch.autograd.grad(-(x_weight * log_x + y_weight * log_y), list(energy.parameters()))


def jem_gradient(energy, x, y, *, x_weight=1.0, y_weight=1.0, by_class=False):
    """The objective's gradient with exact expectations over its negatives: it is affine in their mean."""
    states = energy.space.enumerate()
    with torch.no_grad():
        logits = energy.logits(energy.space.encode_as(states, torch.float64))
        known = y[y >= 0]
        frequencies = torch.bincount(known, minlength=CLASSES).double() / len(known)
        law = frequencies * logits.softmax(0) if by_class else logits.flatten().softmax(0).reshape(logits.shape)
    total = [torch.zeros_like(p) for p in energy.parameters()]
    for s, c in itertools.product(range(len(states)), range(CLASSES)):
        energies = energy.class_energies(energy.space.encode_as(torch.cat([x, states[s: s + 1]]), torch.float64))
        output = jem_loss(energies[:-1], y, energies[-1:], torch.tensor([c]), x_weight=x_weight, y_weight=y_weight,
                          by_class=by_class)
        found = torch.autograd.grad(output.loss, list(energy.parameters()))
        total = [t + law[s, c] * g for t, g in zip(total, found, strict=True)]
    return total


def distance(a, b) -> float:
    return float(torch.cat([(p - q).flatten() for p, q in zip(a, b, strict=True)]).abs().max())


CASES = [{}, {"x_weight": 0.3, "y_weight": 2.0}, {"by_class": True}, {"y_weight": 0.0}]


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_exact_log_likelihood(rows, case):
    energy = small()
    assert distance(jem_gradient(energy, *rows, **case), exact_gradient(energy, *rows, **case)) < 1e-12


def test_with_all_labels_joint_and_factored_likelihood_are_one(rows):
    energy, (x, _) = small(), rows
    y = torch.tensor([0, 2, 1, 1, 0, 2, 0])
    states = energy.space.enumerate()
    joint = energy.joint()
    packed = joint.space.pack({"x": states.repeat_interleave(CLASSES, 0),
                               "label": torch.arange(CLASSES).repeat(len(states))[:, None]})
    log_z = (-evaluate_energy(joint, packed)).logsumexp(0)
    log_p = -evaluate_energy(joint, joint.space.pack({"x": x, "label": y[:, None]})) - log_z
    exact = torch.autograd.grad(-log_p.mean(), list(energy.parameters()))
    assert distance(jem_gradient(energy, x, y), exact) < 1e-12


def _mutant(name):
    true = jem_module.jem_loss

    def wrong_sign(e, y, n, z=None, **k):
        return true(e, y, n, z, **{**k, "x_weight": -k.get("x_weight", 1.0)})

    def no_negatives(e, y, n, z=None, **k):
        return true(e, y, n.detach(), z, **k)

    def all_rows_labelled(e, y, n, z=None, **k):
        return true(e, y.clamp(min=0), n, z, **k)

    def best_class_for_sum(e, y, n, z=None, **k):
        return true(e, y, n.min(1, keepdim=True).values.expand_as(n) + math.log(CLASSES), z, **k)

    def other_label(e, y, n, z=None, **k):
        return true(e, y, n, None if z is None else (z + 1) % CLASSES, **k)

    def mean_over_all_rows(e, y, n, z=None, **k):
        share = float((y >= 0).double().mean())
        return true(e, y, n, z, **{**k, "y_weight": k.get("y_weight", 1.0) * share})

    return locals()[name]


@pytest.mark.mutants
@pytest.mark.parametrize("name", ["wrong_sign", "no_negatives", "all_rows_labelled", "best_class_for_sum",
                                  "other_label", "mean_over_all_rows"])
def test_planted_bugs_of_the_loss_are_seen(rows, name, monkeypatch):
    monkeypatch.setitem(globals(), "jem_loss", _mutant(name))
    energy = small()
    worst = max(distance(jem_gradient(energy, *rows, **case), exact_gradient(energy, *rows, **case)) for case in CASES)
    assert worst > 1e-3


# -- energies ---------------------------------------------------------------------------------------------------------


def test_marginal_conditional_and_joint_energies_are_one_law():
    energy = small()
    states = energy.space.enumerate()
    logits = energy.logits(energy.space.encode_as(states, torch.float64))
    assert torch.allclose(evaluate_energy(energy, states), -logits.logsumexp(1), atol=1e-12)
    labels = torch.arange(len(states)) % CLASSES
    assert torch.equal(evaluate_energy(energy.given(labels), states), -logits[torch.arange(len(states)), labels])
    assert torch.equal(evaluate_energy(energy.given(2), states), -logits[:, 2])
    joint = de.evaluate.exact(energy.joint())
    marginal = de.evaluate.exact(energy)
    assert joint.log_z == pytest.approx(marginal.log_z, abs=1e-10)
    assert torch.allclose(energy.label_log_probabilities(states), logits.log_softmax(1))


def test_uncertainty_is_the_entropy_or_the_surprise_of_the_labels():
    energy = small()
    x = energy.space.enumerate()
    p = energy.label_log_probabilities(x).exp().detach().numpy()
    entropy = evaluate_energy(de.energies.UncertaintyEnergy(energy), x).detach().numpy()
    np.testing.assert_allclose(entropy, stats.entropy(p, axis=1), rtol=1e-10)
    surprise = evaluate_energy(de.energies.UncertaintyEnergy(energy, "surprise"), x).detach().numpy()
    np.testing.assert_allclose(surprise, -np.log(p.max(1)), rtol=1e-10)
    with pytest.raises(SettingError, match="kind"):
        de.energies.UncertaintyEnergy(energy, "doubt")


class Normed(nn.Module):
    def __init__(self, drop: bool = False):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5) if drop else nn.BatchNorm1d(4), nn.Linear(4, 2))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("drop", [False, True])
def test_layers_in_training_mode_are_refused_frozen_or_taken_as_said(drop):
    space = de.Real(2, -1.0, 1.0)
    network = Normed(drop)
    x = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    energy = de.energies.ClassifierEnergy(network, space)
    assert not drop or energy.n_classes == 2
    with pytest.raises(SettingError, match=r"training mode.*energy.eval\(\).*'frozen'"):
        de.sample(energy, "sgld", n_chains=2, n_steps=2, x0=x[:2])
    frozen = de.energies.ClassifierEnergy(network, space, in_training="frozen")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    alone = torch.cat([frozen(x[i: i + 1]) for i in range(6)])
    assert torch.allclose(alone, frozen(x))  # a state's energy does not depend on its batch
    assert network.training  # nobody's mode was changed
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()
    assert torch.allclose(energy(x), frozen(x))
    network.train()
    if not drop:
        batch = de.energies.ClassifierEnergy(network, space, in_training="batch")
        assert not torch.allclose(batch(x)[:3], batch(x[:3]))


@pytest.mark.parametrize(("network", "space", "n_classes", "says"), [
    (nn.Linear(4, 3), de.Real(5), None, "must take encodings"),
    (nn.Linear(5, 3), de.Real(5), 10, r"logits of shape \(2, 10\).*got shape \(2, 3\)"),
    (nn.Linear(5, 1), de.Real(5), None, "number for each row and class"),
    (nn.Linear(3, 4), de.Real((2, 3)), None, r"got shape \(2, 2, 4\)"),
])
def test_a_network_of_wrong_shapes_is_refused_with_a_sentence(network, space, n_classes, says):
    with pytest.raises(ShapeError, match=says):
        de.energies.ClassifierEnergy(network, space, n_classes)


@pytest.mark.parametrize(("make", "error", "says"), [
    (lambda: LabelledStates(de.Real((3, 4, 4), -1.0, 1.0), torch.zeros(2, 4, 4, 3), [0, 1], 2), ShapeError,
     "colours last"),
    (lambda: LabelledStates(de.Real((4, 4), -1.0, 1.0), torch.full((2, 4, 4), 255.0), [0, 1], 2), SpaceError,
     "as of bytes"),
    (lambda: LabelledStates(de.Real((4, 4), -1.0, 1.0), torch.full((2, 4, 4), 1.01), [0, 1], 2), SpaceError,
     "must stay between"),
    (lambda: LabelledStates(de.Real(2), torch.zeros(2, 2), [0, 7], 2), SettingError, "from 0 to 1, or −1"),
    (lambda: LabelledStates(de.Real(2), torch.zeros(2, 2), torch.eye(2), 2), ShapeError, "one-hot"),
    (lambda: LabelledStates(de.Real(2), torch.zeros(2, 2), [0], 2), ShapeError, "one label for each"),
    (lambda: LabelledStates(de.Real(2), torch.zeros(0, 2), [], 2), (DataError, ShapeError), "."),
    (lambda: JEM(chains="both"), SettingError, "marginal, joint, class"),
    (lambda: JEM(x_weight=0.0, y_weight=0.0), SettingError, "not both be 0"),
    (lambda: JEM(start="noise"), SettingError, "gaussian, random, data"),
    (lambda: JEM(centre="data"), SettingError, "for RBMs"),
    (lambda: de.fit(small(), torch.eye(3, dtype=torch.int8), "jem", progress=False), DataError, "LabelledStates"),
    (lambda: de.fit(de.energies.MLPEnergy(de.Real(2)), LabelledStates(de.Real(2), torch.rand(4, 2), None, 2), "jem",
                    progress=False), CapabilityError, "ClassifierEnergy"),
    (lambda: de.fit(small(space=de.Real(3)), LabelledStates(de.Real(3), torch.rand(4, 3), None, CLASSES), "jem",
                    progress=False), DataError, "labelled row"),
    (lambda: de.fit(small(), LabelledStates(de.Binary(3), torch.zeros(4, 3), [0, 1, 2, 0], CLASSES),
                    JEM(sampler="gibbs", noise=0.0), progress=False), SpaceError, "start='random'"),
])
def test_bad_input_is_refused_with_a_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()


# -- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["marginal", "joint", "class"])
def test_chains_draw_from_the_law_that_they_say(kind):
    """8,000 independent chains of each kind, Gibbs; each law tested at a false-failure chance of 1e-6."""
    energy = small()
    n = 8000
    objective = JEM(sampler="gibbs", n_steps=3, bank_size=n, restart=0.0, start="random", noise=0.0, chains=kind)
    data = LabelledStates(energy.space, torch.zeros(6, SITES), [0, 0, 0, 1, 1, 2], CLASSES)
    generator = torch.Generator().manual_seed(5)
    state = objective.init(energy, data, generator=generator)
    begun = state.labels.clone()
    for _ in range(12):
        objective._negatives(energy, n, state, generator)
    states = energy.space.enumerate()
    with torch.no_grad():
        logits = energy.logits(energy.space.encode_as(states, torch.float64))
    powers = 2 ** torch.arange(SITES)
    order = (energy.space.to_index(states) * powers).sum(1)
    code = (energy.space.to_index(state.chains) * powers).sum(1)
    if kind == "marginal":
        counts = torch.bincount(code, minlength=2**SITES)[order]
        law = logits.logsumexp(1).softmax(0)
    else:
        counts = torch.bincount(code * CLASSES + state.labels, minlength=2**SITES * CLASSES)
        counts = counts.reshape(-1, CLASSES)[order]
        law = logits.flatten().softmax(0).reshape(logits.shape)
        if kind == "class":
            assert torch.equal(state.labels, begun)  # a chain keeps its class for life
            counts, law = counts[:, 0], logits[:, 0].softmax(0)
    assert_law(counts.flatten().numpy(), law.flatten().numpy(), false_fail=1e-6, must_see=0.08)


def test_a_chain_comes_back_to_its_own_row_with_its_own_label():
    bank = ChainBank(de.Real(1), 6, torch.arange(6.0)[:, None])
    known = LabelledStates(de.Real(1), torch.zeros(1, 1), [0], 3)
    state = JEMState(bank, torch.tensor([0, 1, 2, 0, 1, 2]), None, known)
    energy = small(space=de.Real(1))
    objective = JEM(sampler=SGLD(step_size=1e-12, noise=0.0), n_steps=1, restart=0.0, chains="class", start="random")
    generator = torch.Generator().manual_seed(0)
    negatives, labels, _ = objective._negatives(energy, 4, state, generator)
    place = negatives[:, 0].round().long()
    assert torch.equal(labels, state.labels[place])
    assert torch.allclose(state.chains[:, 0], torch.arange(6.0), atol=1e-6)
    other = JEMState(ChainBank(de.Real(1), 6, torch.zeros(1, 1)), torch.zeros(6, dtype=torch.int64), None, known)
    other.load_state_dict(state.state_dict())
    assert torch.equal(other.labels, state.labels)
    assert torch.equal(other.chains, state.chains)
    with pytest.raises(CheckpointError, match="labels"):
        other.load_state_dict(bank.state_dict())


# -- the Gaussian of each class ---------------------------------------------------------------------------------------


def test_class_gaussians_are_the_densities_of_scipy_and_draw_them():
    generator = torch.Generator().manual_seed(0)
    space = de.Real(2)
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    factor = torch.tensor([[[1.0, 0.0], [0.5, 0.3]], [[0.2, 0.0], [-0.4, 1.5]]], dtype=torch.float64)
    law = de.energies.ClassGaussians(space, torch.tensor([0.3, 0.7]).double(), means, factor)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    parts = [w * stats.multivariate_normal(m, f @ f.T).pdf(x.numpy())
             for w, m, f in zip([0.3, 0.7], means.numpy(), factor.numpy(), strict=True)]
    np.testing.assert_allclose(evaluate_energy(law, x).numpy(), -np.log(sum(parts)), rtol=1e-6)
    n = 40_000
    drawn = law.sample(generator=generator, label=torch.ones(n, dtype=torch.int64))
    covariance = factor[1] @ factor[1].T
    error = torch.sqrt((covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2) / n)
    assert bool(((torch.cov(drawn.t()) - covariance).abs() < 5.5 * error).all())  # four at 4e-8 each
    assert bool(((drawn.mean(0) - means[1]).abs() < 5.5 * (covariance.diagonal() / n).sqrt()).all())
    fitted = de.energies.ClassGaussians.fit(space, drawn, torch.zeros(n, dtype=torch.int64), shrink=1e-9, ridge=1e-9)
    assert torch.allclose(fitted.mean[0].double(), drawn.mean(0), atol=1e-5)
    with pytest.raises(DataError, match=r"none of class \[1\]"):
        de.energies.ClassGaussians.fit(space, drawn[:5], torch.zeros(5, dtype=torch.int64), 2)


# -- stabilisers ------------------------------------------------------------------------------------------------------


def test_sharpness_aware_gradients_are_those_at_the_moved_parameters():
    energy = small()
    weight = next(energy.parameters())
    others = [p.detach().clone() for p in energy.parameters()]

    def output():
        return de.objectives.ObjectiveOutput((weight**4).sum())

    moved = sharpness_aware(energy, output, 0.05)
    (found,) = torch.autograd.grad(moved.loss, [weight])
    first = 4 * weight.detach() ** 3
    at = weight.detach() + 0.05 * first / first.norm()
    assert torch.allclose(found, 4 * at**3, rtol=1e-12)
    assert all(torch.equal(p, old) for p, old in zip(energy.parameters(), others, strict=True))

    calls = []

    def breaks():
        calls.append(1)
        if len(calls) == 2:
            raise SettingError("broken on purpose")
        return output()

    with pytest.raises(SettingError):
        sharpness_aware(energy, breaks, 0.05)
    assert all(torch.equal(p, old) for p, old in zip(energy.parameters(), others, strict=True))


def test_labels_are_hidden_evenly_and_the_rest_is_kept():
    y = torch.arange(30) % 3
    data = LabelledStates(de.Real(1), torch.arange(30.0)[:, None], y, 3)
    few = data.hide_labels(7, seed=3)
    assert sorted(torch.bincount(few.labelled.y).tolist()) == [2, 2, 3]
    assert torch.equal(few.labelled.y, few.labelled.x[:, 0].long() % 3)
    assert torch.equal(few.x, data.x)
    assert torch.equal(data.y, y)  # the original is not changed
    with pytest.raises(DataError, match="n_kept"):
        data.hide_labels(31)


# -- training, saving -------------------------------------------------------------------------------------------------


def blobs(n: int = 200, seed: int = 0) -> LabelledStates:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.2 * torch.randn(n, 2, generator=generator) + torch.tensor([[-0.5, 0.0], [0.5, 0.0]])[y]
    return LabelledStates(de.Real(2, -2.0, 2.0), x.clamp(-2, 2), y, 2)


def blob_energy(seed: int = 0) -> de.energies.ClassifierEnergy:
    space = de.Real(2, -2.0, 2.0)
    return de.energies.ClassifierEnergy(de.energies.ImageClassifier(space, 2, (16,), seed=seed), space)


@pytest.mark.parametrize("settings", [{}, {"chains": "joint"}, {"chains": "class", "sam": 0.05, "penalty": 0.01},
                                      {"labelled_batch": 8, "augment": lambda x, g: -x, "gradient_penalty": 0.1}])
def test_training_lowers_the_energy_of_data_below_that_of_elsewhere(settings, tmp_path):
    data = blobs()
    objective = JEM(sampler=SGLD(step_size=0.02, noise=0.2), n_steps=4, bank_size=100, noise=0.03, **settings)
    fitted = de.fit(blob_energy(), data.hide_labels(40), objective, n_iterations=150, batch_size=50, lr=1e-2,
                    progress=False, ema=None)
    with torch.no_grad():
        inside = evaluate_energy(fitted.energy, data.x)
        outside = evaluate_energy(fitted.energy, data.space.random(200, torch.Generator().manual_seed(0)))
    assert de.evaluate.auroc(outside, inside).value > 0.8
    right = (fitted.energy.label_log_probabilities(data.x).argmax(1) == data.y).double().mean()
    assert right > 0.95 or "augment" in settings
    assert getattr(fitted.energy, "implied_temperature", 1.0) == 1.0  # .2² / (2 · .02)
    assert all(math.isfinite(value) for value in fitted.history["gap"])


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(tmp_path):
    settings = {"batch_size": 20, "lr": 1e-2, "progress": False, "checkpoint_every": 5, "seed": 3}
    objective = JEM(sampler=SGLD(step_size=0.02, noise=0.2), n_steps=2, bank_size=30, chains="joint", restart=0.2)
    whole = de.fit(blob_energy(), blobs(), objective, n_iterations=10, output=tmp_path / "a", **settings)
    de.fit(blob_energy(), blobs(), objective, n_iterations=10, output=tmp_path / "b",
           callbacks=[lambda trainer, terms: trainer.iteration == 5], **settings)
    again = de.fit(blob_energy(1), blobs(), objective, n_iterations=10, output=tmp_path / "b", resume=True, **settings)
    assert all(torch.equal(p, q) for p, q in zip(whole.energy.parameters(), again.energy.parameters(), strict=True))
    assert torch.equal(whole.chains, again.chains)


def test_the_temperature_of_the_training_is_saved_and_an_estimate_of_log_z_refuses_another(tmp_path):
    objective = JEM(sampler=SGLD(step_size=1.0, noise=0.01), n_steps=1, bank_size=20)
    fitted = de.fit(blob_energy(), blobs(), objective, n_iterations=2, batch_size=10, progress=False,
                    output=tmp_path / "run")
    saved = (tmp_path / "run", tmp_path / "run" / "energy.safetensors")
    for energy in (fitted.energy, *map(checkpoint.load, saved)):
        assert energy.implied_temperature == pytest.approx(5e-5)
        with pytest.raises(CapabilityError, match=r"temperature 5e-05.*energy / 5e-05.*1\.0 \* energy"):
            de.evaluate.ais(energy, 4, 4)
        with pytest.raises(CapabilityError, match="temperature"):
            de.evaluate.raise_log_likelihood(energy, blobs().x[:2], 2, 2)
    loaded = checkpoint.load(tmp_path / "run" / "energy.safetensors")
    x = blobs().x[:5]
    assert torch.equal(evaluate_energy(loaded, x), evaluate_energy(fitted.energy, x))
    warm = replace(objective, sampler=SGLD(step_size=0.01))
    assert de.fit(loaded, blobs(), warm, n_iterations=1, batch_size=10, progress=False).ema.implied_temperature == 1.0


def test_every_objective_with_chains_remembers_a_temperature_that_is_not_one():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    for sampler, temperature in ((SGLD(step_size=0.1, noise=0.1), 0.05), ("langevin", None)):
        energy = de.energies.MLPEnergy(de.Real(2), (4,))
        objective = de.objectives.PCD(sampler=sampler, n_steps=1, bank_size=10)
        fitted = de.fit(energy, x, objective, n_iterations=1, batch_size=10, progress=False)
        assert getattr(fitted.ema, "implied_temperature", None) == (temperature and pytest.approx(temperature))


def test_who_says_which_law_is_meant_gets_its_log_z():
    """Three Gaussians are normalised: log Z = 0 within 6 of AIS's own standard errors (2e-9)."""
    spend(2e-9)
    space = de.Real(2)
    law = de.energies.ClassGaussians(space, torch.full((3,), 1 / 3), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]),
                                     torch.eye(2).expand(3, -1, -1))
    base = de.energies.ClassGaussians(space, torch.ones(1), torch.zeros(1, 2), 2 * torch.eye(2)[None])
    law.implied_temperature = 5e-5
    with pytest.raises(CapabilityError, match="temperature"):
        de.evaluate.ais(law, 50, 20, base=base, sampler="mala")
    found = de.evaluate.ais(1.0 * law, 200, 40, base=base, sampler="mala")
    assert abs(found.log_z) < 6 * found.std_error
    assert found.std_error < 0.2


def test_a_network_of_the_users_own_is_saved_and_loaded_into_one(tmp_path):
    space = de.Real(2, -1.0, 1.0)
    energy = de.energies.ClassifierEnergy(Normed(), space, in_training="frozen")
    energy.implied_temperature = 0.5
    checkpoint.save(energy, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="your own class"):
        checkpoint.load(tmp_path / "own.safetensors")
    other = checkpoint.load(tmp_path / "own.safetensors", energy=de.energies.ClassifierEnergy(Normed(), space))
    assert other.implied_temperature == 0.5
    x = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.eval()(x), energy.eval()(x))


def test_chains_that_explode_end_in_a_sentence_and_the_last_good_parameters():
    class Runaway(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            grown = (self.scale * x).pow(6).sum(1, keepdim=True)
            return torch.cat([grown, grown], 1)

    space = de.Real(2)
    energy = de.energies.ClassifierEnergy(Runaway(), space)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    data = LabelledStates(space, x, torch.arange(20) % 2, 2)
    with pytest.raises(EBMError, match=r"finite|gap|above -inf"):
        de.fit(energy, data, JEM(sampler=SGLD(step_size=1.0, noise=0.1), n_steps=20, start="random"), n_iterations=5,
               batch_size=10, progress=False, guard=Guard(retries=0))
    assert float(energy.network.scale.detach()) == 1.0


def test_the_command_trains_on_the_digits_inside_and_says_how_good_both_are(tmp_path, monkeypatch, capsys):
    import json

    from discrete_ebm import cli

    monkeypatch.chdir(tmp_path)
    code = cli.main(["train", "jem", "--iterations", "3", "--hidden", "8", "--sampler-steps", "1", "--output", "run",
                     "--seed", "1"])
    told = capsys.readouterr().out
    assert code == 0
    assert "accuracy" in told
    assert "temperature 0.001" in told
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 0 <= record["validation"]["accuracy"] <= 1
    assert record["validation"]["AUROC of log p(x) against random states"] >= 0
    energy = checkpoint.load(tmp_path / "run")
    assert energy.space.shape == (8, 8)
    assert energy.n_classes == 10
    assert energy.implied_temperature == pytest.approx(1e-3)
