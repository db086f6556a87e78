"""Persistent chains keep their identity: drawn without replacement, written back to the same rows."""

import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import CheckpointError, SettingError, ShapeError, SpaceError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(size=20):
    """A bank whose chain r holds the number r in its first sites."""
    x = torch.zeros(size, 5, dtype=torch.int8)
    for bit in range(5):
        x[:, bit] = (torch.arange(size) >> bit) & 1
    return de.ChainBank(de.Binary(5), size, x), x


def test_draws_are_without_replacement_and_copies():
    bank, x = numbered()
    rows, drawn = bank.draw(20, generator())
    assert sorted(rows.tolist()) == list(range(20))
    assert torch.equal(drawn, x[rows])
    drawn.fill_(1)
    assert torch.equal(bank.x, x)


def test_chains_are_written_back_to_the_rows_they_came_from():
    bank, x = numbered()
    g = generator(1)
    for _ in range(50):
        rows, drawn = bank.draw(7, g)
        bank.write(rows, drawn)  # a kernel that does nothing must change nothing
    assert torch.equal(bank.x, x)
    assert int(bank.ages.sum()) == 350
    rows, drawn = bank.draw(7, g)
    bank.write(rows, 1 - drawn)
    changed = (bank.x != x).any(1)
    assert sorted(changed.nonzero()[:, 0].tolist()) == sorted(rows.tolist())


def test_every_row_is_drawn_equally_often():
    # n = 20,000 draws of 4 of 20 rows; a row's count is binomial(20000, 0.2). |z| <= 5.4: false failure
    # 1e-6 over 20 rows.
    bank, _ = numbered()
    counts = torch.zeros(20)
    g = generator(2)
    for _ in range(20000):
        counts[bank.draw(4, g)[0]] += 1
    assert float(((counts - 4000) / (20000 * 0.2 * 0.8) ** 0.5).abs().max()) <= 5.4


def test_starting_states_are_repeated_to_fill_the_bank_or_random():
    x = torch.tensor([[0, 1], [1, 0], [1, 1]])
    assert de.ChainBank(de.Binary(2), 7, x).x.tolist() == x[[0, 1, 2, 0, 1, 2, 0]].tolist()
    first, again = (de.ChainBank(de.Binary(30), 4, generator=generator(3)).x for _ in range(2))
    assert torch.equal(first, again)
    assert bool((first[0] != first[1]).any())


def test_restarted_chains_are_young_again():
    bank, _ = numbered()
    rows, x = bank.draw(5, generator())
    bank.write(rows, x)
    bank.restart(rows[:2], x[:2])
    assert bank.ages[rows].tolist() == [0, 0, 1, 1, 1]


def test_state_dict_restores_to_the_bit_and_refuses_another_size():
    bank, _ = numbered()
    rows, x = bank.draw(5, generator())
    bank.write(rows, 1 - x)
    other, _ = numbered()
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.x, bank.x)
    assert torch.equal(other.ages, bank.ages)
    assert all(torch.equal(a, b) for a, b in zip(other.draw(3, generator(9)), bank.draw(3, generator(9)), strict=True))
    with pytest.raises(CheckpointError, match="to fit this bank"):
        numbered(10)[0].load_state_dict(bank.state_dict())


def test_bad_input_is_refused_with_a_sentence():
    bank, x = numbered()
    with pytest.raises(SettingError, match="`n` must be 1 to 20"):
        bank.draw(21, generator())
    with pytest.raises(ShapeError, match="one state per row"):
        bank.write(torch.arange(3), x[:2])
    with pytest.raises(SettingError, match="`size`"):
        de.ChainBank(de.Binary(2), 0, generator=generator())
    with pytest.raises(SettingError, match="`generator`"):
        de.ChainBank(de.Binary(2), 3)
    with pytest.raises(ShapeError, match="1 to 3"):
        de.ChainBank(de.Binary(5), 3, x)
    with pytest.raises(SpaceError, match="0 and 1"):
        de.ChainBank(de.Binary(2), 3, torch.full((3, 2), 5))
