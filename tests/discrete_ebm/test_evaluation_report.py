"""From `train` without data to the page of `evaluate`, as a new user would go."""

import json
import re

import pytest

import discrete_ebm as de
from discrete_ebm import checkpoint
from discrete_ebm.cli import main

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    assert main(["train", "rbm", "--iterations", "30", "--hidden", "8", "--rows", "300", "--pictures", "30", "--quiet",
                 "--output", str(folder)]) == 0  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def page(run):
    command = ["evaluate", str(run), "--n-chains", "40", "--n-steps", "30", "--quiet"]
    assert main(command) == 0
    return (run / "evaluation.html").read_text(encoding="utf-8")


def test_training_without_data_takes_digits_and_ends_with_an_exact_figure_on_rows_it_did_not_see(run):
    record = json.loads((run / "run.json").read_text())
    assert record["parts"] == {"train": 300, "valid": 180, "test": 180}
    found = record["validation"]
    law = de.evaluate.exact(checkpoint.load(run))
    likelihood = de.evaluate.log_likelihood(checkpoint.load(run), de.datasets.digits().valid, law)
    assert found["part"] == "valid"
    assert found["nats"] == pytest.approx(likelihood.nats, abs=1e-4)
    assert {"config.toml", "log.csv", "history.csv", "pictures"} <= {path.name for path in run.iterdir()}


def test_the_page_stands_alone_and_shows_every_part(run, page):
    record = json.loads((run / "evaluation.json").read_text())
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', page)
    assert page.count("data:image/png;base64,") >= 6
    for part in ("numbers", "samples", "chains", "moments", "imputation", "memory", "weights", "training"):
        assert f'<section id="{part}">' in page
    assert f"{record['likelihood']['nats']:.3f} nats a row" in page
    assert f"{record['likelihood']['bits_per_dim']:.4f}" in page
    assert not [name for name, figures in record["measures"].items() if "why_not" in figures]
    assert record["part"] == "valid"


def test_other_rows_other_weights_and_data_that_do_not_fit(run, page, tmp_path, capsys):
    base = ["evaluate", str(run), "--n-chains", "4", "--n-steps", "4", "--no-html", "--quiet"]
    base += ["--output", str(tmp_path)]
    seen = {}
    for name, more in (("test", ["--part", "test"]), ("last", ["--weights", "last"]), ("valid", [])):
        assert main([*base, "--likelihood", "exact", *more, "--json"]) == 0
        seen[name] = json.loads(capsys.readouterr().out)
    assert seen["test"]["part"] == "test"
    assert any("test rows" in caveat for caveat in seen["test"]["caveats"])
    assert len({round(found["likelihood"]["nats"], 6) for found in seen.values()}) == 3
    assert seen["valid"]["measures"]["classifier"]["why_not"].startswith("`samples` and `data` must have at least 20")
    for command, words in (
        ([*base, "--likelihood", "best"], "`method` must be one of"),
        ([*base, "--part", "test", "--data", "x.npy"], "--part is of the training's own data"),
        (["train", "--resume", str(run), "--hidden", "3"], "got --hidden as well"),
    ):
        code = main(command)
        err = capsys.readouterr().err
        assert code == 2
        assert words in err
        assert len(err.strip().splitlines()) == 1


def test_a_saved_model_alone_has_a_page_without_data(tmp_path):
    checkpoint.save(de.energies.Ising.lattice((4, 4), 0.3), tmp_path / "ising.safetensors")
    assert main(["evaluate", str(tmp_path / "ising.safetensors"), "--n-chains", "4", "--n-steps", "20", "--quiet"]) == 0
    text = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert '<section id="chains">' in text
    assert '<section id="weights">' in text
    assert '<section id="samples">' not in text
