"""The budget of false failures: what an assertion may spend, what it says it sees, and that the sum is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests import statistical
from tests.conftest import CONFORMANCE, RUN_BUDGET


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistical, "ledger", [])


def test_an_assertion_spends_what_it_says_or_what_the_run_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, law = np.full(4, 5000), np.full(4, 0.25)
    monkeypatch.setattr(statistical, "cap", 1.0)
    statistical.assert_law(counts, law, false_fail=1e-6, must_see=0.05)
    monkeypatch.setattr(statistical, "cap", statistical.EACH)
    statistical.assert_law(counts, law, false_fail=1e-6, must_see=0.05)
    statistical.assert_rows_match(np.stack([counts, counts]), np.stack([law, law]), false_fail=1e-12, must_see=0.05)
    assert statistical.ledger == [1e-6, statistical.EACH, 1e-12]


def test_what_is_claimed_is_seen_at_the_level_that_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller budget sees less, and an assertion that claims more than it then sees fails."""
    counts, law = np.full(8, 2500), np.full(8, 0.125)
    seen = statistical.detectable_tv(8, 20_000, 1e-6)
    monkeypatch.setattr(statistical, "cap", 1.0)
    statistical.assert_law(counts, law, false_fail=1e-6, must_see=seen + 1e-4)
    monkeypatch.setattr(statistical, "cap", statistical.EACH)
    with pytest.raises(AssertionError, match="is claimed"):
        statistical.assert_law(counts, law, false_fail=1e-6, must_see=seen + 1e-4)


def test_a_gap_of_the_size_that_is_claimed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """999 times in 1,000 (the claim); 200 samples of a law that is as far away, none may pass more than five times."""
    monkeypatch.setattr(statistical, "cap", statistical.EACH)
    n, gap = 20_000, statistical.detectable_tv(8, 20_000, statistical.EACH)
    law = np.full(8, 1 / 8)
    other = law + np.tile([1, -1], 4) * gap / 4
    rng, passed = np.random.default_rng(0), 0
    for _ in range(200):
        p, _ = statistical.chi_square(rng.multinomial(n, other), law)
        passed += p > statistical.EACH
    assert passed <= 5


def test_p_values_of_right_samples_are_not_too_small() -> None:
    """2,000 samples of the law: no more below a tenth than binomial(2000, 0.1) has but for 1e-9; fixed numbers."""
    rng, law = np.random.default_rng(1), np.array([0.4, 0.3, 0.2, 0.1])
    small = sum(statistical.chi_square(rng.multinomial(3000, law), law)[0] < 0.1 for _ in range(2000))
    assert stats.binomtest(small, 2000, 0.1, alternative="greater").pvalue > 1e-9


def test_a_thousand_assertions_and_a_hundred_calls_of_the_conformance_suite_keep_the_budget() -> None:
    assert 1000 * statistical.EACH + 100 * CONFORMANCE <= RUN_BUDGET
