"""Known models learned back by the exact gradient, and bugs planted in the formulas: each must be noticed."""

from unittest import mock

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm import energies
from discrete_ebm.energies import (
    boltzmann,
    categorical_rbm,
    deep_boltzmann,
    factor_graph,
    general_potts,
    hidden,
    labelled_rbm,
    latent,
    mean_field,
    product_of_experts,
)
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.objectives.hidden import Completed
from tests import model_cases, reference
from tests.discrete_ebm import test_models

F64 = torch.float64


def learn(energy, law, n_steps=300):
    """KL(law ‖ model) in nats after minimising it exactly over all states."""
    x = energy.space.enumerate()
    parameters = [p for p in energy.parameters() if p.requires_grad]
    optimiser = torch.optim.LBFGS(parameters, max_iter=n_steps, line_search_fn="strong_wolfe", tolerance_grad=1e-10,
                                  tolerance_change=1e-14)

    def divergence():
        values = evaluate_energy(energy, x)
        return (law * values).sum() + torch.logsumexp(-values, 0) + torch.special.xlogy(law, law).sum()

    def closure():
        optimiser.zero_grad()
        loss = divergence()
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(divergence().detach())


def law_of(energy):
    return torch.tensor(reference.boltzmann(evaluate_energy(energy, energy.space.enumerate()).detach().numpy(), 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_a_boltzmann_machine_of_four_visible_and_two_hidden_units_is_learned_back(seed):
    truth = energies.BoltzmannMachine(4, 2, scale=1.5, seed=seed).double().visible_marginal()
    model = energies.BoltzmannMachine(4, 2, scale=0.3, seed=100 + seed).double().visible_marginal()
    start = law_of(model)
    law = law_of(truth)
    before = float((law * (law / start).log()).sum())
    assert learn(model, law) < min(1e-3, before / 10)


@pytest.mark.parametrize("name", ["general-potts-dense", "general-potts-sparse", "factors-ragged", "factors-spin",
                                  "boltzmann-sparse", "boltzmann", "mean-field-ragged"])
def test_models_without_hidden_units_are_learned_back_from_nothing(name):
    """Convex: whatever the start, the law is found, and with it the energies but for a constant."""
    case = model_cases.BUILDERS[name]()
    model = case.energy
    if name.startswith("mean-field"):
        model = energies.MeanField(model.space, torch.zeros_like(model.logits), trainable=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert learn(model, torch.tensor(reference.boltzmann(case.table, 1.0))) < 1e-8
    gap = evaluate_energy(model, case.x(np.arange(len(case.table)))).detach().numpy() - case.table
    assert gap.max() - gap.min() < 1e-3


def test_dense_couplings_stay_symmetric_with_a_zero_diagonal_while_they_learn():
    case = model_cases.general_potts("dense")
    model = energies.GeneralPotts(3, 3, field=torch.zeros(3, 3, dtype=F64))
    learn(model.double(), torch.tensor(reference.boltzmann(case.table, 1.0)))
    table = model.coupling_table().detach()
    assert bool(table.any())
    assert torch.equal(table, table.permute(2, 3, 0, 1))
    assert not torch.diagonal(table, dim1=0, dim2=2).any()
    again = energies.GeneralPotts(3, 3, table, model.field.detach())  # what it learned is what its constructor takes
    x = again.space.enumerate()
    torch.testing.assert_close(evaluate_energy(again, x), evaluate_energy(model, x))


def test_a_labelled_rbm_learns_to_classify_by_its_closed_form():
    """The parity of two bits, which no linear classifier knows."""
    rbm = energies.LabelledRBM(2, 2, 6, scale=0.5, seed=1).double()
    v = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.int8)
    y = v.sum(1) % 2
    optimiser = torch.optim.Adam(rbm.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        torch.nn.functional.nll_loss(rbm.label_log_probabilities(v), y.long()).backward()
        optimiser.step()
    assert rbm.label_log_probabilities(v).exp().detach()[torch.arange(4), y.long()].min() > 0.9


def test_hidden_units_drawn_with_the_data_clamped_give_the_gradient_of_the_free_energy():
    energy = energies.BoltzmannMachine(3, 2, scale=1.0, seed=4).double()
    v = torch.tensor([[1, 1, 0]], dtype=torch.int8)
    exact = torch.autograd.grad(energy.free_energy(v).sum(), energy.bias)[0]
    x = de.draw_hidden(energy, v.expand(40_000, 3), generator=torch.Generator().manual_seed(0), n_steps=15)
    drawn = torch.autograd.grad(evaluate_energy(energy, x).mean(), energy.bias)[0]
    torch.testing.assert_close(drawn, exact, rtol=0, atol=0.02)  # eight deviations of a mean of 40,000 coins


# -- planted bugs ------------------------------------------------------------------------------------------------------


def notices(case):
    """Whether the checks of every family of models see something wrong."""
    checks = (test_models.test_the_energy_is_the_formula_from_states_and_from_encodings,
              test_models.test_flip_deltas_equal_enumeration_and_padding_is_zero,
              test_models.test_conditionals_equal_enumeration_at_any_choice_of_sites)
    for check in checks:
        try:
            check(case)
        except AssertionError:
            return True
    return False


def _twice_pairs(self, encoding):
    z = encoding.reshape(encoding.shape[0], -1)
    return -(z * (self._pair_sum(z) + self.bias)).sum(-1)


def _twice_potts(self, encoding):
    v = encoding.reshape(encoding.shape[0], *self.field.shape)
    return -(v * (self._pair_sum(v) + self.field)).sum((-2, -1))


def _no_bias(self, encoding):
    v = encoding.flatten(1)
    return -(v @ self.visible_bias.flatten()) - latent.sum_softplus(v @ self.weight.flatten(0, 1))


def _stale_values(total, index, table, bias, score=latent.sum_softplus):
    """The value that leaves is not taken out of the hidden fields."""
    return bias + score(total[:, None, None] + table)


def _one_way(self, v):
    if self.edge_index is None:
        size = v.shape[1] * v.shape[2]
        return (v.flatten(1) @ torch.triu(self.coupling.reshape(size, size))).reshape(v.shape)
    i, j = self.edge_index
    return torch.zeros_like(v).index_add(1, i, torch.einsum("ceb,eab->cea", v[:, j], self.coupling))


def _lower_only(self, layers):
    fields = [part.expand(len(layers[0]), -1) for part in self.bias.split(self.layer_sizes)]
    for lower, weight in enumerate(self.weights):
        fields[lower + 1] = fields[lower + 1] + layers[lower] @ weight
    return fields


def _own_field_kept(self, x, sites):
    v = self.joint._floats(x)
    weights, h = self.joint._log_weights(v)
    across = self.joint.hidden_terms(v)[2] @ h.t()
    sign = 1 - 2 * v[:, sites]
    there = (weights[:, None, :] + sign[..., None] * across[sites]).logsumexp(-1)
    return sign * (there - weights.logsumexp(-1, keepdim=True))


def _codes_without_strides(self, index, group):
    shape = self.tables[group].shape[1:]
    sites = self.sites(group)
    strides = [int(np.prod(shape[:position])) for position in range(len(shape))]  # column-major
    return sum(index[:, sites[:, p]] * stride for p, stride in enumerate(strides)), strides


def _unnormalised(self):
    return self.logits.masked_fill(self.padding, 0)


MUTANTS = [
    ("edges counted twice", "boltzmann", (boltzmann.BoltzmannMachine, "forward"), _twice_pairs),
    ("±1 instead of 0/1", "boltzmann", (boltzmann.BoltzmannMachine, "_encoded"),
     lambda self, flat: 2 * flat.to(self.bias.dtype) - 1),
    ("±1 instead of 0/1, sparse", "boltzmann-sparse", (boltzmann.BoltzmannMachine, "_encoded"),
     lambda self, flat: 2 * flat.to(self.bias.dtype) - 1),
    ("visible couplings dropped", "boltzmann-marginal", (boltzmann.BoltzmannMachine, "visible_field"),
     lambda self, v: self.bias[:v.shape[1]].expand_as(v)),
    ("visible bias dropped", "boltzmann-marginal", (hidden.VisibleMarginal, "_log_odds"), _own_field_kept),
    ("upper layer forgotten", "deep-boltzmann", (deep_boltzmann.DeepBoltzmannMachine, "_fields"), _lower_only),
    ("pairs counted twice", "general-potts-dense", (general_potts.GeneralPotts, "forward"), _twice_potts),
    ("pairs seen from one side", "general-potts-sparse", (general_potts.GeneralPotts, "_pair_sum"), _one_way),
    ("pairs seen from one side, dense", "general-potts-dense", (general_potts.GeneralPotts, "_pair_sum"), _one_way),
    ("hidden bias dropped", "categorical-rbm", (categorical_rbm.CategoricalRBM, "forward"), _no_bias),
    ("the old value stays in the fields", "categorical-rbm", (categorical_rbm, "site_logits"), _stale_values),
    ("the old value stays in the fields, labels", "labelled-rbm", (labelled_rbm, "site_logits"), _stale_values),
    ("experts not normalised", "experts-ragged", (product_of_experts.ProductOfExperts, "_table"),
     lambda self: self.logits.masked_fill(self.padding[..., None, None], 0)),
    ("sum of components instead of their mixture", "experts-binary", (product_of_experts, "_score"),
     lambda components: components.sum((-1, -2))),
    ("tables read by columns", "factors-ragged", (factor_graph.FactorGraph, "_codes"), _codes_without_strides),
    ("base not normalised", "mean-field-ragged", (mean_field.MeanField, "_table"), _unnormalised),
]


@pytest.mark.mutants
@pytest.mark.parametrize(("case", "target", "bug"), [mutant[1:] for mutant in MUTANTS],
                         ids=[mutant[0] for mutant in MUTANTS])
def test_planted_bugs_are_noticed(case, target, bug):
    healthy = model_cases.BUILDERS[case]()
    assert not notices(healthy)
    with mock.patch.object(*target, bug):
        assert notices(model_cases.BUILDERS[case]())


# -- hidden units by sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: energies.BoltzmannMachine(3, 2, scale=0.7, seed=9),
                                   lambda: energies.DeepBoltzmannMachine(3, (2, 1), scale=0.7, seed=9)],
                         ids=["boltzmann", "deep"])
def test_the_gradient_with_sampled_hidden_units_is_that_of_the_likelihood(build):
    """Every entry within 0.02 of the exact one: five deviations of the difference of two means of 20,000 coins."""
    machine, g = build().double(), torch.Generator().manual_seed(0)
    data = (torch.rand(20_000, 3, generator=g) < torch.tensor([0.8, 0.3, 0.5])).to(torch.int8)
    everything = de.Binary(3).enumerate()
    likelihood = machine.free_energy(data).mean() + (-machine.free_energy(everything)).logsumexp(0)
    parameters = list(machine.parameters())
    exact = torch.autograd.grad(likelihood, parameters)
    objective = Completed(de.objectives.PCD(sampler="block-gibbs", n_steps=25, bank_size=20_000), n_steps=15)
    rows = de.draw_hidden(machine, data, generator=g, n_steps=1)
    state = objective.init(machine, rows, generator=g)
    found = torch.autograd.grad(objective.loss(machine, rows, state, generator=g).loss, parameters)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)
    assert max(float(part.abs().max()) for part in exact) > 0.1


def test_machines_with_hidden_units_are_trained_by_fit():
    machine = energies.DeepBoltzmannMachine(4, (2, 2), scale=0.1, seed=9)
    g = torch.Generator().manual_seed(0)
    data = (torch.rand(100, 4, generator=g) < 0.2).to(torch.int8)
    rows = de.draw_hidden(machine, data, generator=g, n_steps=2)
    before = float(machine.free_energy(data).mean().detach()) + machine.log_z()
    fitted = de.fit(machine, rows, objective=Completed(n_steps=2), n_iterations=15, batch_size=50, lr=0.05, seed=0,
                    progress=False)
    assert len(fitted.history) > 0
    assert float(machine.free_energy(data).mean().detach()) + machine.log_z() < before - 0.3


def test_completed_data_are_refused_where_there_is_nothing_to_complete():
    with pytest.raises(de.errors.SettingError, match="must contrast data with draws"):
        Completed(de.objectives.PseudoLikelihood())
    with pytest.raises(de.errors.SettingError, match="`n_steps`"):
        Completed(n_steps=0)
    with pytest.raises(de.errors.CapabilityError, match="Use PCD alone"):
        Completed().init(energies.BernoulliRBM(2, 1), None, generator=torch.Generator())
