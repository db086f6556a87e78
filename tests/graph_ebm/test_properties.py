"""Properties agree with the published columns; failures are counted, never silent."""

import csv
import gzip
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import graph_ebm as ge
from discrete_ebm.errors import RegistryError, SettingError
from graph_ebm import properties

RAW = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "molecules"


def rows(name: str, n: int) -> list[dict[str, str]]:
    if not (RAW / name).exists():
        pytest.skip(f"{RAW / name} is not on this machine")
    with gzip.open(RAW / name, "rt") as handle:
        return list(itertools.islice(csv.DictReader(handle), n))


def assert_columns(table, pairs, tolerance=1e-4):
    values, failures = properties.compute([ours for ours, _ in pairs], [row["smiles"] for row in table])
    assert len(failures) == 0
    for ours, theirs in pairs:
        np.testing.assert_allclose(values[ours], [float(row[theirs]) for row in table], rtol=0, atol=tolerance)


def test_values_agree_with_the_zinc_columns():
    assert_columns(rows("zinc250k_test.csv.gz", 200), [("qed", "qed"), ("logp", "logp"), ("sa", "sa")])


def test_both_definitions_of_penalised_logp_agree_with_the_published_list():
    table = rows("optimisation/plogp_lowest800.csv.gz", 200)
    assert_columns(table, [("plogp", "plogp_raw"), ("plogp-normalized", "plogp_norm")])


def test_packaged_columns_are_what_compute_gives():
    for name in ge.datasets.names():
        molecules = ge.datasets.load(name, limit=60)
        columns = [column for column in molecules.properties if column in properties.names()]
        assert len(columns) == 6
        values, failures = properties.compute(columns, molecules)
        assert len(failures) == 0
        for column in columns:
            np.testing.assert_allclose(molecules.properties[column], values[column], rtol=0, atol=1e-4)


def test_penalised_logp_by_hand():
    values, _ = properties.compute(["logp", "sa", "plogp", "plogp-normalized"], ["C1CCCCCCCCC1"])  # a ring of ten
    assert values["plogp"][0] == pytest.approx(values["logp"][0] - values["sa"][0] - 4)
    expected = (
        (values["logp"][0] - 2.4570953396190123) / 1.434324401111988
        + (-values["sa"][0] + 3.0525811293166134) / 0.8335207024513095
        + (-4 + 0.0485696876403053) / 0.2860212110245455
    )
    assert values["plogp-normalized"][0] == pytest.approx(expected)


def test_known_values():
    values, _ = properties.compute(["mw", "tpsa", "rings", "heavy_atoms"], ["CC(=O)Oc1ccccc1C(=O)O"])
    assert values["mw"][0] == pytest.approx(180.159, abs=1e-3)
    assert values["tpsa"][0] == pytest.approx(63.6, abs=1e-6)
    assert (values["rings"][0], values["heavy_atoms"][0]) == (1, 13)


def raises_on_oxygen(smiles: str) -> float:
    if "O" in smiles:
        raise RuntimeError("no oxygen please")
    return math.nan if "N" in smiles else math.inf if "F" in smiles else float(len(smiles))


def returns_text(smiles: str) -> str:
    return "high"


def test_user_callables_by_path_with_every_failure_counted():
    path = f"{__name__}:raises_on_oxygen"
    wanted = [path, "mw", f"{__name__}:returns_text"]
    values, failures = properties.compute(wanted, ["CC", "CO", "CN", "CF", None, "C("])
    assert values[path][0] == 2
    assert np.isnan(values[path][1:]).all()
    assert failures.counts()[(path, "raised")] == 1
    assert failures.counts()[(path, "nan")] == 2
    assert failures.counts()[(path, "no_molecule")] == failures.counts()[("mw", "no_molecule")] == 1
    assert failures.counts()[("mw", "parse_error")] == 1
    assert failures.counts()[(f"{__name__}:returns_text", "not_a_number")] == 4
    assert "RuntimeError: no oxygen please" in str(failures)
    assert np.isfinite(values["mw"][:4]).all()
    # N values asked for = N given + N failed, for each property
    for name, column in values.items():
        assert np.isnan(column).sum() == sum(item.property == name for item in failures.items)


@pytest.mark.parametrize("text", ["def score(smiles:", "1 / 0", "import a_package_that_is_not_there"])
def test_a_module_that_cannot_be_imported_is_refused_in_a_sentence(text, tmp_path, monkeypatch):
    (tmp_path / "a_broken_property.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match=r"must name an importable function .*(SyntaxError|ZeroDiv|ModuleNotFound)"):
        properties.spec("a_broken_property:score")


def test_unknown_names_and_paths_say_what_would_work():
    with pytest.raises(RegistryError, match="Did you mean 'plogp'"):
        properties.compute("plog", ["C"])
    with pytest.raises(RegistryError, match="module:function"):
        properties.compute("zzz", ["C"])
    with pytest.raises(SettingError, match="must name an importable function"):
        properties.compute("no_such_module:f", ["C"])
    with pytest.raises(SettingError, match="must name an importable function"):
        properties.compute("math:no_such_function", ["C"])
    with pytest.raises(SettingError, match="must be callable"):
        properties.compute("math:pi", ["C"])
    with pytest.raises(SettingError, match="named by a string"):
        properties.compute([3], ["C"])


def test_a_property_can_be_registered_once():
    item = properties.from_callable("test-length", len)
    properties.register(item)
    try:
        assert properties.compute("test-length", ["CCO"])[0]["test-length"].tolist() == [3.0]
        with pytest.raises(RegistryError, match="must be new"):
            properties.register(item)
    finally:
        properties._REGISTRY.pop("test-length")


def test_no_molecules_is_no_error():
    values, failures = properties.compute(["qed", "sa"], [])
    assert values["qed"].shape == (0,)
    assert str(failures) == "no failures"


def test_long_work_on_molecules_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    from functools import partial

    import tqdm.auto

    from graph_ebm import cli_data
    from graph_ebm.chem import parse
    from graph_ebm.scoring import Scoring

    for module in (parse, properties):  # without the second that they wait
        monkeypatch.setattr(module, "tqdm", lambda *args, **kw: tqdm.auto.tqdm(*args, **{**kw, "delay": 0}))
    (tmp_path / "mine.smi").write_text("CCO\nCC\nC1CC\n")
    read = partial(cli_data.load_molecules, str(tmp_path / "mine.smi"))
    assert len(read(quiet=True)) == 2
    properties.compute(["mw"], ["CC", "CO"])
    assert "mol" not in capsys.readouterr().err
    read()
    assert "reading molecules" in (shown := capsys.readouterr().err)
    assert "/3" in shown
    properties.compute(["mw"], ["CC", "CO"], Scoring(progress=True))
    assert "properties" in (shown := capsys.readouterr().err)
    assert "/2" in shown
