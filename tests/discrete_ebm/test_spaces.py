"""Spaces: one place where states, indices and encodings change, and sentences for what does not fit."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_ebm import spaces as sp
from discrete_ebm.errors import ShapeError, SpaceError

quick = settings(max_examples=40, deadline=None, derandomize=True)
shapes = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)


def _categorical_per_site(shape, data_seed):
    generator = torch.Generator().manual_seed(data_seed)
    return sp.Categorical(shape, torch.randint(2, 5, shape, generator=generator))


def _site_spaces(shape, seed):
    return [
        sp.Binary(shape),
        sp.Spin(shape),
        sp.Categorical(shape, 3),
        _categorical_per_site(shape, seed),
        sp.Ordinal(shape, [-1.5, 0.0, 0.25, 7.0]),
        sp.Product({"a": sp.Spin(shape), "b": _categorical_per_site((2,), seed), "c": sp.Ordinal(1, [0.0, 0.1])}),
    ]


discrete_spaces = st.builds(_site_spaces, shapes, st.integers(0, 10**6)).flatmap(st.sampled_from)
seeds = st.integers(0, 10**6)


def _draw(space, seed, n=5):
    return space.random(n, torch.Generator().manual_seed(seed))


@quick
@given(discrete_spaces, seeds)
def test_states_indices_and_encodings_round_trip(space, seed):
    x = _draw(space, seed)
    index = space.to_index(x)
    assert x.dtype == space.dtype
    assert index.dtype == torch.int64
    assert index.shape == (5, space.n_sites)
    assert (index >= 0).all()
    assert (index < space.n_values).all()
    assert torch.equal(space.from_index(index), x)
    assert torch.equal(space.decode(space.encode(x)), x)
    assert torch.equal(space.decode(space.encode_as(x, torch.float64)), x)
    assert torch.equal(space.validate(x), x)
    assert torch.equal(space.validate(x.long()), x)


@quick
@given(discrete_spaces, seeds)
def test_allowed_lists_every_legal_change_and_nothing_else(space, seed):
    x = _draw(space, seed)
    allowed, index = space.allowed(x), space.to_index(x)
    assert allowed.shape == (5, space.n_sites, space.k_max)
    for chain in range(5):
        for site in range(space.n_sites):
            legal = {v for v in range(int(space.n_values[site])) if v != index[chain, site]}
            assert set(allowed[chain, site].nonzero()[:, 0].tolist()) == legal
    assert space.value_mask.sum(1).equal(space.n_values)


@quick
@given(discrete_spaces, seeds)
def test_taylor_deltas_are_exact_for_an_energy_linear_in_the_encoding(space, seed):
    x = _draw(space, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    weights = sp.map_encoding(lambda e: torch.randn(e.shape[1:], generator=generator, dtype=e.dtype),
                              space.encode_as(x, torch.float64))

    def linear(states):
        parts = _tensors(space.encode_as(states, torch.float64))
        pairs = zip(parts, _tensors(weights), strict=True)
        return sum((part * weight).reshape(len(part), -1).sum(1) for part, weight in pairs)

    gradient = sp.map_encoding(lambda w: w.expand(5, *w.shape), weights)
    deltas, allowed, index = space.taylor_deltas(x, gradient), space.allowed(x), space.to_index(x)
    before = linear(x)
    for site in range(space.n_sites):
        for value in range(space.k_max):
            legal = allowed[:, site, value]
            changed = index.clone()
            changed[:, site] = torch.where(legal, value, changed[:, site])
            expected = linear(space.from_index(changed)) - before
            assert torch.allclose(deltas[:, site, value], expected, atol=1e-12)  # also 0 where nothing changes


def _tensors(encoding):
    return list(encoding.values()) if isinstance(encoding, dict) else [encoding]


@quick
@given(discrete_spaces)
def test_enumeration_lists_every_state_once_first_site_slowest(space):
    if space.n_states > 5000:
        return
    x = space.enumerate()
    index = space.to_index(x)
    assert len(x) == space.n_states
    place = torch.tensor([int(space.n_values[site + 1:].prod()) for site in range(space.n_sites)])
    assert torch.equal((index * place).sum(1), torch.arange(len(x)))


def test_encodings_are_the_documented_numbers():
    assert sp.Binary(2).encode(torch.tensor([[0, 1]])).tolist() == [[0.0, 1.0]]
    assert sp.Spin(2).encode(torch.tensor([[-1, 1]])).tolist() == [[-1.0, 1.0]]
    assert sp.Spin(2).to_index(torch.tensor([[-1, 1]])).tolist() == [[0, 1]]
    assert sp.Ordinal(2, [0.5, 2.0]).encode(torch.tensor([[1, 0]])).tolist() == [[2.0, 0.5]]
    one_hot = sp.Categorical(2, [2, 3]).encode(torch.tensor([[1, 2]]))
    assert one_hot.tolist() == [[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    assert one_hot.dtype == torch.get_default_dtype()


def test_spin_and_binary_convert_on_states_and_encodings():
    binary = torch.tensor([[0, 1, 1]], dtype=torch.int8)
    spins = sp.binary_to_spin(binary)
    assert spins.tolist() == [[-1, 1, 1]]
    assert spins.dtype == torch.int8
    assert torch.equal(sp.spin_to_binary(spins), binary)
    assert torch.equal(sp.spin_to_binary(sp.binary_to_spin(binary.double())), binary.double())
    assert sp.binary_to_spin(binary.bool()).tolist() == [[-1, 1, 1]]


def test_states_take_one_byte_where_they_fit():
    assert sp.Categorical(3, 128).dtype == torch.int8
    big = sp.Categorical(3, 300)
    assert big.dtype == torch.int64
    x = torch.tensor([[0, 150, 299]])
    assert torch.equal(big.decode(big.encode(big.validate(x))), x)


def test_random_is_uniform_over_the_values_of_each_site():
    """z-test of each cell, n = 40,000; 23 cells at |z| ≤ 6 give a false-failure chance below 23 · 2e-9 = 5e-8."""
    for space in (sp.Spin(2), sp.Categorical(3, [2, 3, 5]), sp.Categorical(1, 4), sp.Ordinal(1, [0.0, 1.0, 4.0])):
        n = 40_000
        index = space.to_index(_draw(space, 1, n))
        for site, k in enumerate(space.n_values.tolist()):
            counts = torch.bincount(index[:, site], minlength=k).double()
            z = (counts - n / k) / (n / k * (1 - 1 / k)) ** 0.5
            assert z.abs().max() <= 6.0


def test_random_repeats_with_the_seed_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    real = [sp.Real(3), sp.Real(3, 0.0, 1.0), sp.Real(2, low=1.0), sp.Real(2, high=1.0)]
    for space in (*_site_spaces((2, 2), 3), *real):
        assert torch.equal(_draw(space, 7), _draw(space, 7))
        assert not torch.equal(_draw(space, 7, 50), _draw(space, 8, 50))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_real_draws_stay_inside_the_bounds():
    low = torch.tensor([0.0, -2.0])
    for space in (sp.Real(2, low, 1.0), sp.Real(2, low=low), sp.Real(2, high=-3.0)):
        x = _draw(space, 0, 500)
        assert torch.equal(space.validate(x), x)
    assert torch.equal(space.decode(space.encode(x)), x)
    with pytest.raises(SpaceError, match="between `low` and `high`"):
        space.validate(torch.zeros(1, 2))
    with pytest.raises(SpaceError, match="finite numbers"):
        sp.Real(2).validate(torch.tensor([[0.0, float("nan")]]))
    assert sp.Real(2).validate(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_product_splits_and_packs_losslessly_with_real_members():
    space = sp.Product({"spin": sp.Spin((2, 2)), "real": sp.Real(3)})
    x = _draw(space, 0)
    assert x.dtype == torch.float64
    assert not space.is_discrete
    parts = space.split(x)
    assert parts["spin"].shape == (5, 2, 2)
    assert parts["spin"].dtype == torch.int8
    assert torch.equal(space.pack(parts), x)
    assert torch.equal(space.decode(space.encode(x)), x)
    with pytest.raises(SpaceError, match="must be discrete"):
        space.to_index(x)
    with pytest.raises(SpaceError, match="exactly the names"):
        space.pack({"spin": parts["spin"]})
    bad = x.clone()
    bad[0, 0] = 0.5
    with pytest.raises(SpaceError, match="only −1 and \\+1"):
        space.validate(bad)


def test_products_nest():
    inner = sp.Product({"a": sp.Binary(2), "b": sp.Categorical(1, 3)})
    outer = sp.Product({"inner": inner, "spin": sp.Spin(1)})
    x = outer.enumerate()
    assert len(x) == 4 * 3 * 2
    assert torch.equal(outer.decode(outer.encode(x)), x)
    assert outer.allowed(x).shape == (24, 4, 3)


@pytest.mark.parametrize(("space", "x", "words"), [
    (sp.Binary(2), torch.tensor([[-1, 1]]), r"only 0 and 1 .* got -1 \(shape \(1, 2\), torch.int64\).*spin_to_binary"),
    (sp.Binary(2), torch.tensor([[0.5, 1.0]]), r"got 0.5 .*decode"),
    (sp.Binary(2), torch.tensor([[float("nan"), 1.0]]), "got nan"),
    (sp.Spin(2), torch.tensor([[0, 1]]), r"only −1 and \+1 .*binary_to_spin"),
    (sp.Spin(2), torch.tensor([[255, 1]], dtype=torch.uint8), "got 255"),
    (sp.Categorical(2, 3), torch.tensor([[0, 3]]), "only 0 to 2 .*got 3"),
    (sp.Categorical(2, [2, 3]), torch.tensor([[2, 2]]), "0 to k−1 at each site.*got 2"),
    (sp.Ordinal(2, [0.0, 1.0]), torch.tensor([[0.0, 1.0]]), "must hold integers .*decode"),
    (sp.Ordinal(2, [0.0, 1.0]), torch.tensor([[0, 2]]), "got 2"),
    (sp.Binary(2), "nonsense", "must be a tensor of states"),
])
def test_wrong_values_are_refused_in_one_sentence(space, x, words):
    with pytest.raises(SpaceError, match=words):
        space.validate(x)


@pytest.mark.parametrize(("x", "words"), [
    (torch.zeros(2, 3), r"\(n_chains, 2, 3\) .* got \(2, 3\) .* x\[None\]"),
    (torch.zeros(5, 6), r"got \(5, 6\) .* x.reshape\(-1, 2, 3\)"),
    (torch.zeros(5, 3, 2), r"got \(5, 3, 2\)"),
])
def test_wrong_shapes_are_refused_with_a_way_out(x, words):
    with pytest.raises(ShapeError, match=words):
        sp.Binary((2, 3)).validate(x)


@pytest.mark.parametrize("build", [
    lambda: sp.Binary(0),
    lambda: sp.Binary((2, -1)),
    lambda: sp.Binary("ab"),
    lambda: sp.Binary(2.5),
    lambda: sp.Binary(True),
    lambda: sp.Categorical(3, 1),
    lambda: sp.Categorical(3, 2.5),
    lambda: sp.Categorical(3, [2, 3]),
    lambda: sp.Categorical(3, "many"),
    lambda: sp.Categorical(3, torch.tensor([True, True, True])),
    lambda: sp.Ordinal(3, [1.0]),
    lambda: sp.Ordinal(3, [1.0, 0.0]),
    lambda: sp.Ordinal(3, [0.0, float("inf")]),
    lambda: sp.Ordinal(3, "abc"),
    lambda: sp.Real(3, 1.0, 0.0),
    lambda: sp.Real(3, torch.zeros(2)),
    lambda: sp.Real(3, low=float("nan")),
    lambda: sp.Product({}),
    lambda: sp.Product({"a": 3}),
])
def test_impossible_spaces_are_refused(build):
    with pytest.raises((SpaceError, ShapeError), match="must"):
        build()


def test_spaces_too_large_to_enumerate_say_so():
    with pytest.raises(SpaceError, match=r"at most 4194304 states .*de.sample"):
        sp.Binary(23).enumerate()
    with pytest.raises(SpaceError, match="more than 1e300"):
        sp.Binary(100_000).enumerate()
    with pytest.raises(SpaceError, match="must be discrete"):
        sp.Real(3).enumerate()


def test_equality_is_by_content_and_survives_copying():
    assert sp.Binary(3) == sp.Binary((3,))
    assert sp.Binary(3) != sp.Spin(3)
    assert sp.Binary(3) != sp.Binary((3, 1))
    assert sp.Categorical(2, [2, 3]) != sp.Categorical(2, 3)
    assert sp.Categorical(2, [3, 3]) == sp.Categorical(2, 3)
    assert sp.Ordinal(2, [0.0, 1.0]) != sp.Ordinal(2, [0.0, 2.0])
    assert sp.Real(2, low=0.0) != sp.Real(2)
    for space in (*_site_spaces((2,), 0), sp.Real(2, 0.0, 1.0)):
        twin = copy.deepcopy(space)
        assert twin == space
        assert hash(twin) == hash(space)
        assert space.name == type(space).__name__


def test_empty_and_single_batches_work():
    for space in _site_spaces((2, 2), 0):
        for n in (0, 1):
            x = _draw(space, 0, n)
            assert torch.equal(space.validate(x), x)
            assert space.allowed(x).shape == (n, space.n_sites, space.k_max)
            assert torch.equal(space.decode(space.encode(x)), x)
