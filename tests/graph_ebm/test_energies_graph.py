"""Molecular energies: invariances, agreement of the fast and the differentiable path, gradients, composition."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import graph_ebm as ge
from discrete_ebm import checkpoint
from discrete_ebm.energies.base import energy_and_gradient, evaluate_energy
from discrete_ebm.errors import SettingError, ShapeError, SpaceError
from graph_ebm.energies import (
    ComposedEnergy,
    EBMWarning,
    LocalEnergy,
    MolecularEnergy,
    RelationalEnergy,
    TransformerEnergy,
    _fast,
    energy_from_dict,
)
from graph_ebm.energies.base import GraphEnergy
from graph_ebm.energies.features import CountLayout, count_indices, count_indices_torch, soft_one_hot
from graph_ebm.energies.packed import neighbour_sum, pack, pack_torch, segment_sum
from graph_ebm.space import GraphEncoding, MolecularSpace
from graph_ebm.vocabulary import Vocabulary

SMILES = [
    "C",
    "O",
    "C#N",
    "CC(=O)[O-]",
    "C[N+](=O)[O-]",
    "c1ccc2[nH]ccc2c1",
    "c1ccc2ccccc2c1",
    "O=C1C=CC(=O)C=C1",
    "C12C3C4C1C5C2C3C45",
    "CS(=O)(=O)c1ccncc1F",
    "O=C(NCc1ccco1)C1CC1",
    "CC12CCC3C(CCC4CC(O)CCC43C)C1CCC2O",
]


@pytest.fixture(scope="module")
def space() -> MolecularSpace:
    return MolecularSpace(Vocabulary.build(SMILES), max_atoms=22)


@pytest.fixture(scope="module")
def states(space: MolecularSpace) -> Tensor:
    graphs, rejected = ge.from_smiles(SMILES, space.vocabulary, max_atoms=space.max_atoms)
    assert len(rejected) == 0
    return graphs.x


def randomised(energy: GraphEnergy, seed: int = 0, scale: float = 0.5) -> GraphEnergy:
    """The energy with every parameter moved, so that zero-initialised parts take part too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return energy


KINDS = {
    "local": lambda space: LocalEnergy(space),
    "local-plain": lambda space: LocalEnergy(space, angles=False, rings=False),
    "relational": lambda space: RelationalEnergy(space, hidden=16, layers=3, zero_output=False),
    "relational-no-rings": lambda space: RelationalEnergy(space, hidden=8, layers=1, rings=False, zero_output=False),
    "transformer": lambda space: TransformerEnergy(space, 16, 8, layers=2, heads=2, zero_output=False),
    "molecular": lambda space: MolecularEnergy(space, network=RelationalEnergy(space, 8, 2, zero_output=False)),
}


@pytest.fixture(params=sorted(KINDS))
def energy(request: pytest.FixtureRequest, space: MolecularSpace) -> GraphEnergy:
    scale = 0.5 if request.param.startswith("local") else 0.05
    return randomised(KINDS[request.param](space), scale=scale)


def test_energy_does_not_depend_on_the_order_of_atoms(energy: GraphEnergy, states: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    before = energy.state_energy(states)
    for _ in range(3):
        after = energy.state_energy(energy.space.permute(states, generator))
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-5)


def test_fast_and_differentiable_paths_agree(energy: GraphEnergy, states: Tensor) -> None:
    dense = energy(energy.space.encode(states))
    torch.testing.assert_close(energy.state_energy(states), dense, atol=1e-4, rtol=1e-5)
    energy.double()
    dense = energy(energy.space.encode_as(states, torch.float64))
    torch.testing.assert_close(energy.state_energy(states), dense, atol=1e-10, rtol=1e-9)
    energy.float()


def test_parameter_gradients_of_both_paths_agree(energy: GraphEnergy, states: Tensor) -> None:
    energy.double()
    weights = torch.linspace(-1, 1, len(states), dtype=torch.float64)
    parameters = list(energy.parameters())
    fast = torch.autograd.grad(energy.state_energy(states) @ weights, parameters, allow_unused=True)
    dense = torch.autograd.grad(
        energy(energy.space.encode_as(states, torch.float64)) @ weights, parameters, allow_unused=True
    )
    for a, b, p in zip(fast, dense, parameters, strict=True):
        zero = torch.zeros_like(p)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, atol=1e-9, rtol=1e-7)
    energy.float()


def test_gradient_in_nodes_and_bonds_is_the_slope(energy: GraphEnergy, states: Tensor) -> None:
    """Finite differences along random directions, absent atoms and bonds included.

    Tables are interpolated once differentiably: a central difference is off by its step times the jump of the second
    derivative, hence the small step.
    """
    energy.double()
    _, gradient = energy_and_gradient(energy, states)
    encoding = energy.space.encode_as(states, torch.float64)
    generator = torch.Generator().manual_seed(2)
    step = 1e-6
    for _ in range(3):
        nodes, bonds = (torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in encoding)
        bonds = bonds + bonds.transpose(1, 2)
        bonds.diagonal(dim1=1, dim2=2).zero_()
        length = (nodes.square().sum((1, 2)) + bonds.square().sum((1, 2, 3))).sqrt()
        nodes, bonds = nodes / length[:, None, None], bonds / length[:, None, None, None]
        ahead = energy(GraphEncoding(encoding.nodes + step * nodes, encoding.bonds + step * bonds))
        behind = energy(GraphEncoding(encoding.nodes - step * nodes, encoding.bonds - step * bonds))
        slope = (gradient.nodes * nodes).sum((1, 2)) + (gradient.bonds * bonds).sum((1, 2, 3))
        torch.testing.assert_close((ahead - behind).detach() / (2 * step), slope, rtol=1e-4, atol=2e-5)
    assert gradient.bonds[:, :, :, 1:][:, 0, 1].abs().sum() > 0
    energy.float()


def test_energies_are_the_same_without_the_compiled_kernels(
    energy: GraphEnergy, states: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = energy.state_energy(states)
    gradients = torch.autograd.grad(compiled.sum(), list(energy.parameters()), allow_unused=True)
    monkeypatch.setattr(_fast, "AVAILABLE", False)
    plain = energy.state_energy(states)
    torch.testing.assert_close(plain, compiled, atol=1e-4, rtol=1e-5)
    again = torch.autograd.grad(plain.sum(), list(energy.parameters()), allow_unused=True)
    for a, b in zip(again, gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_a_molecule_alone_has_the_energy_it_has_in_a_batch(energy: GraphEnergy, states: Tensor) -> None:
    batch = energy.state_energy(states)
    alone = torch.cat([energy.state_energy(x[None]) for x in states])
    torch.testing.assert_close(alone, batch, atol=1e-5, rtol=1e-5)


def test_empty_slots_do_not_count(energy: GraphEnergy, states: Tensor) -> None:
    torch.testing.assert_close(
        energy.state_energy(states[:3, :3, :3].contiguous()), energy.state_energy(states[:3]), atol=1e-5, rtol=1e-5
    )


def test_energies_are_called_through_the_shared_contract(energy: GraphEnergy, states: Tensor) -> None:
    torch.testing.assert_close(evaluate_energy(energy, states), energy.state_energy(states))
    assert energy.surrogate(states).shape == (len(states),)


def test_wrong_states_are_refused_with_a_sentence(space: MolecularSpace, states: Tensor) -> None:
    for bad in (states.float(), states[0], states[:, :3], torch.zeros(1, 23, 23, dtype=torch.int8)):
        with pytest.raises(ShapeError, match="must be int8 states of shape"):
            LocalEnergy(space).state_energy(bad)
    with pytest.raises(SpaceError, match="must be a MolecularSpace"):
        LocalEnergy(5)


# -- count features -------------------------------------------------------------------------------------------------


def test_tensor_only_features_equal_the_compiled_ones(space: MolecularSpace, states: Tensor) -> None:
    if not _fast.AVAILABLE:
        pytest.skip("needs numba")
    for angles, rings in ((True, True), (False, True), (True, False)):
        layout = CountLayout(space.vocabulary.size, 22, space.vocabulary.charges, (), angles, rings)
        fast, pointer = count_indices(states, layout)
        slow, slow_pointer = count_indices_torch(states, layout)
        assert torch.equal(pointer, slow_pointer)
        for a, b in zip(pointer[:-1].tolist(), pointer[1:].tolist(), strict=True):
            assert torch.equal(fast[a:b].sort().values, slow[a:b].sort().values)


def test_features_count_what_they_say(space: MolecularSpace, states: Tensor) -> None:
    energy = LocalEnergy(space)
    counts = energy.feature_counts(states)

    def table(name: str, smiles: str) -> Tensor:
        return energy.layout.view(counts[SMILES.index(smiles)], name)

    carbon, oxygen = space.vocabulary.index("C") - 1, space.vocabulary.index("O") - 1
    assert table("size", "C#N")[2] == 1
    assert table("size", "C#N").sum() == 1
    assert table("atom", "O")[oxygen, 0, 0] == 1
    assert table("atom", "C#N")[carbon, 3, 1] == 1
    assert table("bond", "C").sum() == 0
    assert table("bond", "c1ccc2ccccc2c1")[0, 1] == 5  # five C=C of naphthalene in either Kekulé form
    assert table("double", "c1ccc2ccccc2c1")[5] == 1
    assert table("triple", "C#N")[1] == 1
    assert table("charge", "CC(=O)[O-]")[2, 1] == 1  # net −1, one charged atom
    assert table("charge", "C[N+](=O)[O-]")[3, 2] == 1  # net 0, two
    assert table("cyclomatic", "CC12CCC3C(CCC4CC(O)CCC43C)C1CCC2O")[4] == 1
    assert table("aromatic", "c1ccc2[nH]ccc2c1")[2] == 1
    assert table("aromatic", "CC12CCC3C(CCC4CC(O)CCC43C)C1CCC2O")[0] == 1
    assert table("ring_count", "C12C3C4C1C5C2C3C45")[1, 4] == 1  # cubane: six 4-rings, the last bucket is "4 or more"
    assert table("angle", "CC(=O)[O-]").sum() == 3  # one centre with three neighbours
    torch.testing.assert_close(table("ring_atom", "c1ccc2ccccc2c1").sum((1, 2))[3], torch.tensor(12.0))


def test_buffers_grow_for_a_graph_with_very_many_features(space: MolecularSpace) -> None:
    complete = torch.ones(1, 9, 9, dtype=torch.int8)
    layout = CountLayout(space.vocabulary.size, 22)
    fast, _ = count_indices(complete, layout)
    slow, _ = count_indices_torch(complete, layout)
    assert torch.equal(fast.sort().values, slow.sort().values)


def test_soft_one_hot_is_exact_at_integers_and_smooth_between() -> None:
    value = torch.arange(5, dtype=torch.float64)
    assert torch.equal(soft_one_hot(value, 5), torch.eye(5, dtype=torch.float64))
    table = torch.tensor([3.0, -1.0, 4.0, 1.0, 5.0], dtype=torch.float64)
    value.requires_grad_()
    (slope,) = torch.autograd.grad((soft_one_hot(value, 5) @ table).sum(), value)
    torch.testing.assert_close(slope[1:4], (table[2:] - table[:-2]) / 2)
    torch.testing.assert_close(slope[0], table[1] - table[0])
    outside = soft_one_hot(torch.tensor([-1.0, -3.0, 7.0]), 5, clip_below=True)
    assert torch.equal(outside, torch.eye(5)[[0, 0, 4]])
    between = torch.linspace(0, 4, 41, dtype=torch.float64)
    torch.testing.assert_close(soft_one_hot(between, 5).sum(-1), torch.ones(41, dtype=torch.float64))


# -- packed molecules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rings", [True, False])
def test_tensor_only_packing_equals_the_compiled_one(states: Tensor, rings: bool) -> None:
    if not _fast.AVAILABLE:
        pytest.skip("needs numba")
    fast, slow = pack(states, 4, rings), pack_torch(states, 4, rings)
    assert torch.equal(fast.pointer, slow.pointer)
    assert torch.equal(fast.codes, slow.codes)
    for a, b in zip(fast.orders, slow.orders, strict=True):
        assert torch.equal(a.rows, b.rows)
        assert torch.equal(a.pointer, b.pointer)
        assert torch.equal(a.cols, b.cols)


def test_packed_sums_are_the_dense_products(states: Tensor) -> None:
    packed = pack(states, 4)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(len(packed.codes), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: neighbour_sum(v, packed.orders[0]), h[:, :1].detach().requires_grad_())
    present = states.diagonal(dim1=1, dim2=2) > 0
    dense = torch.zeros(*present.shape, 3, dtype=torch.float64).masked_scatter(present[..., None], h.detach())
    for order, neighbours in enumerate(packed.orders, start=1):
        bonds = ((states == order) & ~torch.eye(states.shape[1], dtype=torch.bool)).double()
        expected = (bonds @ dense)[present][neighbours.rows]
        torch.testing.assert_close(neighbour_sum(h.detach()[neighbours.rows], neighbours), expected)
    torch.testing.assert_close(segment_sum(h, packed.pointer), dense.sum(1))


def test_large_batches_without_gradients_are_cut_without_changing_values(space: MolecularSpace, states: Tensor) -> None:
    energy = randomised(RelationalEnergy(space, hidden=8, layers=2, zero_output=False), scale=0.05)
    many = states.repeat(40, 1, 1)
    with torch.no_grad():
        cut = energy.state_energy(many)
    torch.testing.assert_close(cut, energy.state_energy(many).detach(), atol=1e-5, rtol=1e-5)


def test_zero_output_starts_flat_and_the_seed_decides_the_weights(space: MolecularSpace, states: Tensor) -> None:
    assert torch.equal(RelationalEnergy(space).state_energy(states), torch.zeros(len(states)))
    energies = [RelationalEnergy(space, zero_output=False, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (energy.state_energy(states) for energy in energies)
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_relational_energy_tells_rings_apart_that_messages_cannot(space: MolecularSpace) -> None:
    """Bicyclo-decalin against two joined five-rings: every atom has the same local trees in both."""
    graphs, _ = ge.from_smiles(["C1CCC2CCCCC2C1", "C1CCC(C1)C1CCCC1"], space.vocabulary, max_atoms=22)
    seeing = RelationalEnergy(space, zero_output=False).state_energy(graphs.x)
    blind = RelationalEnergy(space, rings=False, zero_output=False).state_energy(graphs.x)
    assert (seeing[0] - seeing[1]).abs() > 1e-3
    assert (blind[0] - blind[1]).abs() < 1e-5


# -- composition ----------------------------------------------------------------------------------------------------


@pytest.fixture
def experts(space: MolecularSpace) -> list[GraphEnergy]:
    def network(seed: int) -> RelationalEnergy:
        return RelationalEnergy(space, 8, 2, zero_output=False, seed=seed)

    return [randomised(MolecularEnergy(space, network=network(seed)), seed, 0.1) for seed in range(3)]


def test_molecular_energy_is_local_plus_network(space: MolecularSpace, states: Tensor) -> None:
    network = RelationalEnergy(space, 8, 2, zero_output=False)
    energy = randomised(MolecularEnergy(space, network=network), scale=0.1)
    parts = energy.local.state_energy(states) + energy.network.state_energy(states)
    torch.testing.assert_close(energy.state_energy(states), parts)
    torch.testing.assert_close(energy.surrogate(states), energy.local.state_energy(states))
    assert torch.equal(MolecularEnergy(space, None, network).surrogate(states), torch.zeros(len(states)))
    with pytest.raises(SettingError, match="must not both be None"):
        MolecularEnergy(space, None)
    with pytest.raises(SpaceError, match="must have the space"):
        MolecularEnergy(space, LocalEnergy(MolecularSpace(space.vocabulary, 5)))


def test_composed_energy_is_linear_in_its_experts(experts: list[GraphEnergy], states: Tensor) -> None:
    one, two, base = (expert.state_energy(states) for expert in experts)
    composed = ComposedEnergy({"qed": experts[0], "logp": experts[1]}, [2.0, -0.5], experts[2], 0.25, [4.0, 1.0])
    expected = 0.5 * one - 0.5 * two - 0.25 * base
    torch.testing.assert_close(composed.state_energy(states), expected)
    dense = composed(composed.space.encode(states))
    torch.testing.assert_close(dense, expected, atol=1e-4, rtol=1e-4)
    local = [expert.surrogate(states) for expert in experts]
    torch.testing.assert_close(composed.surrogate(states), 0.5 * local[0] - 0.5 * local[1] - 0.25 * local[2])
    parts = composed.expert_energies(states)
    assert list(parts) == ["qed", "logp", "base"]
    torch.testing.assert_close(parts["logp"], two)


def test_the_default_base_weight_counts_the_data_once(experts: list[GraphEnergy], states: Tensor) -> None:
    one, two, base = (expert.state_energy(states) for expert in experts)
    composed = ComposedEnergy(experts[:2], base=experts[2])
    torch.testing.assert_close(composed.state_energy(states), one + two - base)
    torch.testing.assert_close(ComposedEnergy(experts[:2]).state_energy(states), one + two)
    torch.testing.assert_close(composed.reweighted([1.0, 0.0]).state_energy(states), one)


def test_negation_through_the_shared_arithmetic(experts: list[GraphEnergy], states: Tensor) -> None:
    torch.testing.assert_close(evaluate_energy(-experts[0], states), -experts[0].state_energy(states))


def test_wrong_compositions_are_refused_and_doubtful_ones_warned_about(
    space: MolecularSpace, experts: list[GraphEnergy], states: Tensor
) -> None:
    shorter = MolecularSpace(Vocabulary(space.vocabulary.types[:-1], space.vocabulary.max_valence[:-1]), 22)
    swapped = MolecularSpace(Vocabulary(space.vocabulary.types[::-1]), 22)
    with pytest.raises(SpaceError, match="must know the atom types"):
        ComposedEnergy([experts[0], LocalEnergy(swapped)])
    with pytest.raises(SpaceError, match="must take molecules of 22 atoms"):
        ComposedEnergy([experts[0], LocalEnergy(MolecularSpace(space.vocabulary, 9))])
    with pytest.warns(EBMWarning, match="vocabularies differ"):
        composed = ComposedEnergy([LocalEnergy(shorter), experts[0]])
    few = states[:2]
    torch.testing.assert_close(composed(composed.space.encode(few)), composed.state_energy(few), atol=1e-4, rtol=1e-4)
    with pytest.warns(EBMWarning, match="largest sizes differ"):
        ComposedEnergy([experts[0], LocalEnergy(MolecularSpace(space.vocabulary, 30))])
    for bad in ({"weights": [1.0]}, {"weights": [1.0, float("nan")]}, {"temperatures": [1.0, 0.0]}):
        with pytest.raises(SettingError):
            ComposedEnergy(experts[:2], **bad)
    with pytest.raises(SettingError, match="at least one"):
        ComposedEnergy([])


def test_every_energy_is_rebuilt_from_its_json_description(
    energy: GraphEnergy, experts: list[GraphEnergy], states: Tensor
) -> None:
    for original in (energy, ComposedEnergy(experts[:2], [1.0, 2.0], experts[2])):
        copy = GraphEnergy.from_dict(json.loads(json.dumps(original.to_dict())))
        copy.load_state_dict(original.state_dict())
        assert copy.space == original.space
        torch.testing.assert_close(copy.state_energy(states), original.state_energy(states))


def test_every_energy_is_saved_and_loaded(energy: GraphEnergy, states: Tensor, tmp_path: Path) -> None:
    checkpoint.save(energy, tmp_path / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "model.safetensors")
    assert type(loaded) is type(energy)
    torch.testing.assert_close(loaded.state_energy(states), energy.state_energy(states))


def test_large_transformer_batches_keep_their_order(space: MolecularSpace, states: Tensor) -> None:
    energy = TransformerEnergy(space, 16, 8, layers=1, heads=2, zero_output=False)
    many = states.repeat(30, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            energy.state_energy(many), energy.state_energy(states).repeat(30), atol=1e-5, rtol=1e-5
        )


def test_wrong_descriptions_are_refused(space: MolecularSpace) -> None:
    for config in ({}, {"kind": "Wrong"}, {"kind": "LocalEnergy", "colour": 1}):
        with pytest.raises(SettingError):
            energy_from_dict(config, space)
    with pytest.raises(SettingError, match="must be a dict with"):
        GraphEnergy.from_dict({"energy": {}})
    with pytest.raises(SettingError, match="must be an int >= 1"):
        RelationalEnergy(space, hidden=0)
    with pytest.raises(SettingError, match="multiple of heads"):
        TransformerEnergy(space, hidden=10, heads=4)
