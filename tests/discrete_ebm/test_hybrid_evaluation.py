"""Calibration, attacks and outsiders: closed forms, independent formulas, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import discrete_ebm as de
from discrete_ebm.errors import CapabilityError, NonFiniteEnergyError, SettingError, ShapeError, SpaceError
from discrete_ebm.evaluate import calibration, fit_temperature, outsider_scores, pgd, robust_accuracy
from discrete_ebm.samplers.sgld import SGLD
from tests.statistical import spend


def two(confidence: list[float]) -> torch.Tensor:
    """log p of two classes, the first with the given probability."""
    p = torch.tensor(confidence, dtype=torch.float64)
    return torch.stack((p, 1 - p), 1).log()


# -- calibration ------------------------------------------------------------------------------------------------------


def test_the_calibration_error_of_four_rows_is_what_a_pencil_says():
    found = calibration(two([0.95, 0.95, 0.65, 0.65]), [0, 1, 0, 0], n_bins=10)
    assert found.ece == pytest.approx(0.5 * abs(0.5 - 0.95) + 0.5 * abs(1.0 - 0.65))
    assert found.largest == pytest.approx(0.45)
    assert found.accuracy == 0.75
    assert found.confidence == pytest.approx(0.8)
    assert found.brier == pytest.approx((2 * 0.05**2 + 2 * 0.95**2 + 4 * 0.35**2) / 4)
    assert found.nll == pytest.approx(-(math.log(0.95) + math.log(0.05) + 2 * math.log(0.65)) / 4)
    assert found.bin_counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]


def test_it_equals_a_plain_loop_on_random_rows_in_both_kinds_of_bins():
    generator = torch.Generator().manual_seed(0)
    log_p = (2 * torch.randn(500, 7, generator=generator, dtype=torch.float64)).log_softmax(1)
    y = torch.randint(7, (500,), generator=generator)
    p, label = log_p.exp().numpy(), y.numpy()
    top, right = p.max(1), p.argmax(1) == label
    by_width = 0.0
    for b in range(15):
        inside = (top > b / 15) & (top <= (b + 1) / 15)
        if inside.any():
            by_width += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert calibration(log_p, y).ece == pytest.approx(by_width, abs=1e-12)
    parts = np.array_split(np.argsort(top, kind="stable"), 10)
    by_count = sum(len(part) / 500 * abs(right[part].mean() - top[part].mean()) for part in parts)
    assert calibration(log_p, y, 10, equal_counts=True).ece == pytest.approx(by_count, abs=1e-12)


def test_labels_drawn_from_the_probabilities_are_calibrated_and_a_temperature_is_found_again():
    """20,000 rows. ECE is at most the noise of its bins; T within 6 standard errors (2e-9)."""
    spend(2e-9)
    generator = torch.Generator().manual_seed(1)
    logits = 1.5 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert calibration(logits.log_softmax(1), y).ece < 0.5 * math.sqrt(15 / 20_000) * 2
    sharp = (3 * logits).log_softmax(1)
    assert calibration(sharp, y).ece > 0.15
    law = logits.softmax(1)  # Fisher information of 1/T = 3 · b at b = 1/3, for the standard error of T
    information = float((((3 * logits) ** 2 * law).sum(1) - (3 * logits * law).sum(1) ** 2).sum())
    error = 9 / math.sqrt(information)  # dT = db / b²
    assert fit_temperature(sharp, y) == pytest.approx(3.0, abs=6 * error)


@pytest.mark.parametrize(("log_p", "y", "error", "says"), [
    (torch.randn(4, 3), [0, 1, 2, 0], NonFiniteEnergyError, "log_softmax"),
    (torch.zeros(4), [0, 1, 2, 0], ShapeError, "column for each class"),
    (two([0.5, 0.5]), [0], ShapeError, "one entry for each"),
    (two([0.5, 0.5]), [0, 2], SettingError, "from 0 to 1"),
])
def test_what_is_no_probability_or_label_is_refused(log_p, y, error, says):
    with pytest.raises(error, match=says):
        calibration(log_p, y)


# -- attacks ----------------------------------------------------------------------------------------------------------


def linear(weight: torch.Tensor, space: de.Space) -> de.energies.ClassifierEnergy:
    """Logits (w·x, 0): the margin of class 0 is w·x, so worst cases are known."""
    layer = nn.Linear(weight.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack((weight, torch.zeros_like(weight))))
    return de.energies.ClassifierEnergy(layer, space)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_of_a_linear_classifier_the_attack_finds_the_worst_case_and_accuracy_is_exact(norm, dual):
    generator = torch.Generator().manual_seed(2)
    weight = 0.01 * torch.randn(6, generator=generator)  # the direction counts, not the size of the gradient
    energy = linear(weight, de.Real(6))
    x = torch.randn(300, 6, generator=generator)
    y = (x @ weight < 0).long()
    for epsilon in (0.1, 0.4):
        reach = epsilon * torch.linalg.vector_norm(weight, dual)
        worst = (x @ weight).abs() - reach
        found = robust_accuracy(energy, x, y, epsilon, norm=norm, n_steps=40, step_size=epsilon / 4)
        clear = worst.abs() > 1e-3 * reach  # the angle to the worst direction shrinks by 4/5 a step
        assert torch.equal(found.broken[clear], (worst < 0)[clear])
        assert found.accuracy == pytest.approx(float((worst > 0).float().mean()), abs=2 / 300)
        assert found.clean == 1.0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_stays_in_its_ball_and_in_the_bounds_and_repeats(norm):
    space = de.Real((2, 3), -1.0, 1.0)
    network = de.energies.ImageClassifier(space, 4, (16,), seed=0)
    energy = de.energies.ClassifierEnergy(network, space)
    generator = torch.Generator().manual_seed(0)
    x = space.random(50, generator).clamp(-0.95, 1.0)
    x[0] = 1.0
    y = torch.randint(4, (50,), generator=generator)
    for refine in (None, de.evaluate.Refinement(SGLD(step_size=0.1, noise=0.05), 2, n_draws=2)):
        moved = pgd(energy, x, y, 0.3, norm=norm, n_steps=6, step_size=0.2, restarts=2, refine=refine, seed=3)
        away = (moved - x).flatten(1)
        length = away.abs().max(1).values if norm == "linf" else away.norm(dim=1)
        assert float(length.max()) <= 0.3 + 1e-6
        space.validate(moved)
        again = pgd(energy, x, y, 0.3, norm=norm, n_steps=6, step_size=0.2, restarts=2, refine=refine, seed=3)
        assert torch.equal(moved, again)
        assert float(length.max()) > 0.2
    gone = torch.nn.functional.nll_loss(energy.label_log_probabilities(moved), y)
    assert gone > torch.nn.functional.nll_loss(energy.label_log_probabilities(x), y)
    assert all(p.grad is None for p in energy.parameters())
    assert torch.equal(pgd(energy, x, y, 0.0), x)


def test_an_attack_refuses_what_it_cannot_do():
    energy = linear(torch.ones(3), de.Real(3))
    x, y = torch.zeros(2, 3), [0, 1]
    with pytest.raises(SettingError, match="'linf' or 'l2'"):
        pgd(energy, x, y, 0.1, norm="l1")
    with pytest.raises(SettingError, match="epsilon"):
        pgd(energy, x, y, -0.1)
    with pytest.raises(SettingError, match="one entry for each"):
        pgd(energy, x, [0], 0.1)
    with pytest.raises(CapabilityError, match="ClassifierEnergy"):
        pgd(de.energies.MLPEnergy(de.Real(3)), x, y, 0.1)
    bits = de.energies.ClassifierEnergy(de.energies.ImageClassifier(de.Binary(3), 2, (4,)), de.Binary(3))
    with pytest.raises(SpaceError, match="Real"):
        pgd(bits, x, y, 0.1)


# -- outsiders, and the whole judgement -------------------------------------------------------------------------------


def test_the_scores_of_outsiders_are_their_formulas():
    weight = torch.tensor([0.5, -2.0, 1.0])
    energy = linear(weight, de.Real(3))
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    scores = outsider_scores(energy, x)
    f = (x @ weight).double()
    p = torch.sigmoid(f)
    assert torch.allclose(scores["log p(x)"], -torch.log1p(f.exp()), atol=1e-6)
    assert torch.allclose(scores["max softmax"], torch.minimum(p, 1 - p), atol=1e-6)
    assert torch.allclose(scores["entropy"], -(p * p.log() + (1 - p) * (1 - p).log()), atol=1e-5)
    assert torch.allclose(scores["gradient norm"], p * weight.norm().double(), atol=1e-6)


def test_gaussian_classes_are_judged_as_classifier_and_density_and_drawn(tmp_path):
    """Two Gaussians whose Bayes accuracy is Φ(1): the model is the truth, so it is calibrated and that accurate."""
    spend(1e-9)
    space = de.Real(2)
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    law = de.energies.ClassGaussians(space, torch.full((2,), 0.5), means, torch.eye(2).expand(2, -1, -1))
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(10_000) % 2
    x = law.sample(generator=generator, label=y)
    far = x + torch.tensor([0.0, 6.0])
    found = de.evaluate.judge_hybrid(law, x, y, {"moved": far}, attacks={"l2": 0.5}, n_attacked=1000)
    bayes = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert found.calibration.accuracy == pytest.approx(bayes, abs=6.2 * math.sqrt(bayes * (1 - bayes) / 10_000))
    assert found.calibration.ece < 0.03
    # moved by ½ along the line between the means, a row of margin 1 keeps half of it
    half = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    assert found.robust["l2 0.5"] == pytest.approx(half, abs=6.2 * math.sqrt(half * (1 - half) / 1000))
    assert found.outsiders["moved"]["log p(x)"].value > 0.99
    assert found.outsiders["moved"]["max softmax"].value == pytest.approx(0.5, abs=0.03)
    assert "AUROC against moved" in str(found)
    pytest.importorskip("matplotlib")
    de.evaluate.reliability({"truth": found.calibration}, path=tmp_path / "a.png")
    groups = de.evaluate.class_log_densities(law, x, y)
    assert sum(map(len, groups)) == 10_000
    de.evaluate.log_density_histograms({"truth": groups}, path=tmp_path / "b.png")
    de.evaluate.curves({"truth": ([0, 1], [0.9, 0.5])}, x_label="radius", y_label="accuracy",
                       spread={"truth": [0.01, 0.02]}, path=tmp_path / "c.png")
    images = torch.rand(5, 4, 4, generator=generator)
    figure = de.evaluate.image_grid(images, 3, titles=["a", "b"], low=0, high=1, path=tmp_path / "d.png")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown[5:9, 5:9], images[4].numpy())  # second row, second column, a line between
    assert all((tmp_path / f"{name}.png").stat().st_size > 2000 for name in "abcd")
    with pytest.raises(ShapeError, match="height, width"):
        de.evaluate.image_grid(torch.rand(5, 2, 4, 4))


# -- planted bugs -----------------------------------------------------------------------------------------------------


@pytest.mark.mutants
@pytest.mark.parametrize("bug", ["no projection", "no bounds", "downhill", "no sign"])
def test_planted_bugs_of_the_attack_are_seen(bug, monkeypatch):
    from discrete_ebm.evaluate import adversarial

    true_inside, true_direction = adversarial._inside, adversarial._direction
    if bug == "no projection":
        monkeypatch.setattr(adversarial, "_inside", lambda e, x, at, epsilon, norm: true_inside(e, x, at, 9.0, norm))
    elif bug == "no bounds":
        monkeypatch.setattr(adversarial, "_inside", lambda e, x, at, r, norm: x + (at - x).clamp(-r, r))
    elif bug == "downhill":
        monkeypatch.setattr(adversarial, "_direction", lambda slope, norm: -true_direction(slope, norm))
    else:
        monkeypatch.setattr(adversarial, "_direction", lambda slope, norm: slope)

    def proofs() -> None:
        test_an_attack_stays_in_its_ball_and_in_the_bounds_and_repeats("linf")
        test_of_a_linear_classifier_the_attack_finds_the_worst_case_and_accuracy_is_exact("linf", 1)

    with pytest.raises((AssertionError, SpaceError)):
        proofs()
