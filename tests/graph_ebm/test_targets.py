"""Targets: how they are written, which molecules meet them, and what the figures over them say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from discrete_ebm.errors import DataError, RegistryError, SettingError
from graph_ebm import from_smiles, properties
from graph_ebm.targets import Target, best_part, desirability, lift_interval, meets, property_table

MINE = "tests.graph_ebm.test_targets:returns_ten"
SMILES = ["C", "CC", "CCC", "CCCC", "CCCCC", "CCO", "CCN", "C1CC1"]


def table(**columns: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(column, dtype=float) for name, column in columns.items()}


def returns_ten(smiles: str) -> float:
    return 10.0


def fails_on_nitrogen(smiles: str) -> float:
    if "N" in smiles:
        raise RuntimeError("no nitrogen here")
    return math.nan if "O" in smiles else float(len(smiles))


def always_raises(smiles: str) -> float:
    raise RuntimeError("the licence server is down")


# -- writing a target -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "direction", "low", "high"),
    [
        ("qed", "max", -math.inf, math.inf),
        ("sa", "min", -math.inf, math.inf),  # the property knows which way is better
        ("sa:max", "max", -math.inf, math.inf),
        ("logp:1..3", "range", 1, 3),
        ("logp:-1.5..1e1", "range", -1.5, 10),
        ("mw:..300", "range", -math.inf, 300),
        ("mw:100..", "range", 100, math.inf),
        ("sa:2..2", "range", 2, 2),
        ("qed:>0.9", "max", 0.9, math.inf),
        ("sa:<2.5", "min", -math.inf, 2.5),
        (" qed : > 0.9 ", "max", 0.9, math.inf),
        (MINE, "max", -math.inf, math.inf),
        (f"{MINE}:min", "min", -math.inf, math.inf),
        (f"{MINE}:1..3", "range", 1, 3),
    ],
)
def test_a_target_is_read_from_text(text, direction, low, high):
    found = Target.parse(text)
    assert (found.direction, found.low, found.high, found.weight) == (direction, low, high, 1.0)
    assert found.name == (MINE if MINE in text else text.strip()[:4].split(":")[0].strip())


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("qedd", RegistryError, "'qed'"),
        ("logp:3..1", SettingError, "low to high"),
        ("logp:..", SettingError, "must have a bound"),
        ("logp:a..b", SettingError, "must be a number"),
        ("qed:>", SettingError, "must be a number"),
        ("qed:>nan", SettingError, "low to high"),
        ("qed:>inf", SettingError, "low to high"),
        ("qed:maximum", SettingError, "ending of a target"),
        ("no_module_of_that_name:f", SettingError, "importable"),
        (5, SettingError, "must be a string"),
    ],
)
def test_a_wrong_target_is_refused_with_a_sentence(text, error, word):
    with pytest.raises(error, match=word):
        Target.parse(text)


def test_a_target_checks_its_own_fields():
    for wrong in ({"direction": "up"}, {"direction": "range"}, {"weight": math.nan}, {"low": 2.0, "high": 1.0}):
        with pytest.raises(SettingError, match=r"got"):
            Target("qed", **wrong)


def test_a_target_says_its_bounds():
    assert str(Target.parse("logp:1..3")) == "logp (range, ≥ 1, ≤ 3)"
    assert str(Target.parse("qed")) == "qed (max)"


# -- values ---------------------------------------------------------------------------------------------------------


def test_failures_are_nan_and_counted():
    molecules, _ = from_smiles(SMILES)
    name = "tests.graph_ebm.test_targets:fails_on_nitrogen"
    values, failures = property_table(molecules, [Target.parse(name), Target.parse("logp")])
    assert np.isnan(values[name]).tolist() == [s in ("CCO", "CCN") for s in molecules.smiles]
    assert failures == {f"{name}: raised": 1, f"{name}: nan": 1}
    assert np.isfinite(values["logp"]).all()


def test_a_property_that_always_fails_is_a_sentence_with_the_cause():
    molecules, _ = from_smiles(SMILES)
    target = Target.parse("tests.graph_ebm.test_targets:always_raises")
    with pytest.raises(DataError, match=r"must have a value on some molecule.*raised \(8\)"):
        property_table(molecules, [target])
    values, failures = property_table(molecules, [target], required=False)  # samples: the run is not lost
    assert np.isnan(values[target.name]).all()
    assert list(failures.values()) == [8]


def test_a_column_is_used_only_where_it_holds_the_property(monkeypatch):
    molecules, _ = from_smiles(SMILES)
    right = properties.compute("logp", molecules.smiles)[0]["logp"]
    asked = []
    whole = properties.compute

    def counted(names, mols, *more):
        asked.append(len(mols))
        return whole(names, mols, *more)

    monkeypatch.setattr(properties, "compute", counted)
    molecules.properties = {"logp": right + 0.001}
    assert property_table(molecules[[0] * 100], [Target("logp")])[0]["logp"][0] == right[0] + 0.001
    assert asked == [16], "a right column is checked on a few molecules and not computed again"
    for wrong in (right + 1.0, np.where(np.arange(8) == 3, np.nan, right)):
        molecules.properties = {"logp": wrong}
        np.testing.assert_array_equal(property_table(molecules, [Target("logp")])[0]["logp"], right)


# -- what is good, and what is a hit --------------------------------------------------------------------------------


def test_meets_is_inclusive_and_false_for_nan():
    values = table(qed=[0.5, 0.9, math.nan, math.inf, 0.7], logp=[2, 2, 2, 2, 9])
    both = [Target("qed", low=0.5), Target("logp", "range", 1, 3)]
    assert meets(values, both).tolist() == [True, True, False, False, False]
    assert meets(values, [Target("qed", "range", high=0.5)]).tolist() == [True, False, False, False, False]


def test_desirability_is_the_rank_among_the_reference_and_nan_is_worst():
    data = table(qed=[0.1, 0.2, 0.3, 0.4], sa=[4, 3, 2, math.nan])
    score = desirability(table(qed=[0.05, 0.25, 0.4, 9.0, math.nan]), [Target("qed")], data)
    assert score.tolist() == [0.0, 0.5, 1.0, 1.0, 0.0]
    assert desirability(table(sa=[1, 2.5, 5]), [Target("sa", "min")], data).tolist() == [1.0, 2 / 3, 0.0]
    # all that lie inside a range are equally good, those outside by their distance
    inside = [Target("qed", "range", 0.2, 0.3)]
    assert desirability(table(qed=[0.2, 0.25, 0.3]), inside, data).tolist() == [1.0, 1.0, 1.0]
    far, near = desirability(table(qed=[0.9, 0.38]), inside, data)
    assert far < near < 1.0
    # several targets: the mean
    two = desirability(table(qed=[0.4], sa=[5.0]), [Target("qed"), Target("sa", "min")], data)
    assert two.tolist() == [0.5]


def test_best_part_is_the_best_fraction_with_the_bound_that_it_keeps():
    rng = np.random.default_rng(0)
    values = {"qed": rng.permutation(1000) / 1000.0}
    rows, bounded = best_part(values, [Target("qed", weight=2.0)], 0.1)
    assert len(rows) == 100
    assert (values["qed"][rows] >= 0.9).all()
    assert bounded[0].low == pytest.approx(0.9, abs=1e-9)
    assert bounded[0].weight == 2.0
    assert meets(values, bounded).sum() == 100
    rows, bounded = best_part(values, [Target("qed", "min")], 0.1)
    assert values["qed"][rows].max() == pytest.approx(0.099)
    assert meets(values, bounded).sum() == 100


def test_bounds_select_and_open_targets_rank_among_them():
    values = {"qed": np.arange(1000) / 1000.0, "logp": np.tile([0.0, 2.0], 500)}
    rows, bounded = best_part(values, [Target("qed"), Target("logp", "range", 1, 3)], 0.1)
    assert (values["logp"][rows] == 2.0).all()
    assert len(rows) == 100
    assert values["qed"][rows].min() == pytest.approx(0.801)
    assert bounded[1] == Target("logp", "range", 1, 3)
    nan = dict(values, qed=np.where(np.arange(1000) > 500, math.nan, values["qed"]))
    rows, _ = best_part(nan, [Target("qed")], 0.1)
    assert np.isfinite(nan["qed"][rows]).all()


def test_an_empty_selection_says_what_was_asked_and_how_many_there_are():
    values = {"qed": np.arange(1000) / 1000.0}
    with pytest.raises(DataError, match=r"at least 50 molecules that meet qed \(max, ≥ 0\.99\); got 10 of 1000"):
        best_part(values, [Target.parse("qed:>0.99")], 0.1)
    with pytest.raises(DataError, match=r"got 20 of 20"):
        best_part({"qed": np.arange(20.0)}, [Target("qed")], 0.5)
    for fraction in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(SettingError, match="fraction"):
            best_part(values, [Target("qed")], fraction)


# -- lift -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "n", "b", "m"), [(30, 200, 10, 200), (1, 50, 900, 1000), (200, 200, 20, 400)])
def test_the_interval_of_the_lift_is_that_of_katz(a, n, b, m):
    found = lift_interval(a, n, b, m)
    expected = stats.contingency.relative_risk(a, n, b, m)
    assert found["lift"] == pytest.approx(expected.relative_risk)
    low, high = expected.confidence_interval(0.95)
    # 1.96 here, 1.95996 there
    assert (found["lift_low"], found["lift_high"]) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))
    assert (found["hit_rate"], found["base_rate"]) == (a / n, b / m)


def test_rates_are_those_counted_where_half_a_hit_is_added():
    none = lift_interval(10, 100, 0, 1000)
    assert (none["hit_rate"], none["base_rate"]) == (0.1, 0.0)
    assert math.isnan(none["lift"])  # nothing to divide by; the interval still has a lower end
    assert 5 < none["lift_low"] < none["lift_high"] < math.inf
    zero = lift_interval(0, 100, 100, 1000)
    assert (zero["lift"], zero["lift_low"]) == (0.0, 0.0)
    assert 0 < zero["lift_high"] < 1


def test_the_interval_covers_the_true_lift_at_its_level(seed):
    """4,000 pairs of binomials with lift 3; coverage 0.95 within 5 standard errors: false failure below 1e-5."""
    rng = np.random.default_rng(seed)
    covered = 0
    for a, b in zip(rng.binomial(400, 0.3, 4000), rng.binomial(2000, 0.1, 4000), strict=True):
        found = lift_interval(int(a), 400, int(b), 2000)
        covered += found["lift_low"] <= 3 <= found["lift_high"]
    assert abs(covered / 4000 - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 4000)
