"""The command `benchmark`: every suite runs, an interrupted run goes on, and fast-and-wrong shows as wrong."""

import json
from unittest import mock

import networkx as nx
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.benchmark import annealing_suite, measure, runner, sampling
from discrete_ebm.benchmark.contenders import contenders
from discrete_ebm.benchmark.suites import SUITES, suite
from discrete_ebm.cli import main
from discrete_ebm.errors import DataError, RegistryError, SettingError, ShapeError
from discrete_ebm.evaluate.mmd import hamming_kernel, squared_mmd
from discrete_ebm.samplers import fast, gwg, registry

FEW = ("gibbs", "gwg", "dula")
TINY = {
    "ising": {"sizes": [4], "couplings": [0.3], "n_steps": 40, "burn_in": 20, "start_steps": 20, "law_steps": 120},
    "potts": {"side": 3, "categories": [3], "n_steps": 30, "burn_in": 10, "start_steps": 20, "law_steps": 60},
    "fhmm": {"models": [[4, 2]], "n_steps": 30, "burn_in": 10, "law_steps": 60},
    "rbm": {"iterations": 40, "n_steps": 30, "burn_in": 10, "start_steps": 20, "law_steps": 60, "mmd_chains": 20,
            "mmd_steps": [2, 5], "reference_chains": 30, "reference_steps": 20},
    "bernoulli": {"sizes": [10], "n_steps": 30, "burn_in": 10, "law_steps": 60},
    "mis": {"steps": {"default": 60}},
    "maxcut": {"steps": {"default": 60}},
}  # fmt: skip


def tiny(name, folder, **more):
    options = {"samplers": FEW, "changes": TINY[name], "plot": False, "output": folder} | more
    return runner.run_suite(name, **options)


def without_timings(record):
    """What two runs of one thing must share."""
    timed = {"seconds", "wall_seconds", "ess_per_second", "total_seconds", "created", "machine", "versions", "commit"}

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(part) for key, part in value.items() if key not in timed}
        return [strip(part) for part in value] if isinstance(value, list) else value

    return strip(record)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    return folder, {name: tiny(name, folder / name) for name in SUITES}


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_runs_and_leaves_its_record_and_table(records, name):
    folder, made = records
    record = made[name]
    assert record["finished"]
    assert json.loads((folder / name / "record.json").read_text()) == json.loads(json.dumps(record))
    text = (folder / name / "table.md").read_text()
    assert text == runner.table(record)
    assert all(f"| {label} |" in text for label in ("gibbs", "gwg", "gwg (barker)", "dula"))
    assert "its figures mean nothing" in text
    assert not any("failed" in part for part in record["parts"].values() if isinstance(part, dict))


@pytest.mark.parametrize("name", ["ising", "rbm", "mis"])
def test_figures_are_drawn(records, name, tmp_path):
    pytest.importorskip("matplotlib")
    from discrete_ebm.benchmark import figures

    figures.save(suite(name).figure(records[1][name]), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["ising", "rbm", "mis"])
def test_an_interrupted_run_that_goes_on_equals_an_unbroken_one(records, name, tmp_path, monkeypatch):
    """Ctrl-C in every third part, until it is done."""
    count = {"parts": 0}
    plain = runner._Spoken.part

    def part(self, part_name, compute):
        if part_name not in self.record["parts"]:
            count["parts"] += 1
            if count["parts"] % 3 == 0:
                raise KeyboardInterrupt
        return plain(self, part_name, compute)

    monkeypatch.setattr(runner._Spoken, "part", part)
    for _ in range(100):
        try:
            record = tiny(name, tmp_path)
            break
        except KeyboardInterrupt:
            assert not json.loads((tmp_path / "record.json").read_text())["finished"]
    assert count["parts"] > 8
    assert without_timings(record) == without_timings(records[1][name])


def test_a_finished_run_is_left_alone_and_again_repeats_it(records, tmp_path):
    made = tiny("bernoulli", tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    tiny("bernoulli", tmp_path)
    assert (tmp_path / "record.json").read_bytes() == before
    again = tiny("bernoulli", tmp_path, again=True)
    assert (tmp_path / "record.json").read_bytes() != before
    assert without_timings(again) == without_timings(made)


# -- what is wrong shows -----------------------------------------------------------------------------------------------


def test_biased_kernels_are_called_biased_and_exact_ones_are_not(records):
    parts = records[1]["ising"]["parts"]
    assert sampling.standing(parts["law/3x3, J 0.4407/dula"]) == "biased"
    for label in ("gibbs", "gwg", "gwg (barker)"):
        assert sampling.standing(parts[f"law/3x3, J 0.4407/{label}"]) == "ok"
    table = runner.table(records[1]["ising"])
    assert "Another law than the target's: **dula**" in table
    assert "**dula** (" not in table  # it wins nothing


def test_a_planted_kernel_that_is_fast_and_wrong_is_found(tmp_path):
    """GWG that accepts everything makes more moves a second and more effective draws; its law shows."""
    energy = de.energies.Ising.lattice((3, 3), 0.44, 0.1)
    right = measure.law_error(energy, registry.create("gwg"), n_chains=128, n_steps=300, burn_in=50, seed=0)
    accepting = mock.patch.object(gwg, "metropolis_log_alpha", lambda delta, beta, ratio: torch.zeros_like(delta))
    with accepting, fast.set_fused(False):
        wrong = measure.law_error(energy, registry.create("gwg"), n_chains=128, n_steps=300, burn_in=50, seed=0)
        record = tiny("ising", tmp_path, samplers=("gwg", "gibbs"), changes=TINY["ising"] | {"law_steps": 400})
    assert abs(right["tv_z"]) < sampling.SIGMAS
    assert wrong["tv_z"] > 2 * sampling.SIGMAS
    assert wrong["tv"] > 3 * wrong["tv_noise"]
    part = record["parts"]["law/3x3, J 0.4407/gwg"]
    assert sampling.standing(part) == "WRONG"
    table = runner.table(record)
    assert "Another law than the target's: **gwg" in table
    assert "Most effective draws per second: **gwg" not in table


def test_a_kernel_that_never_moves_is_called_frozen():
    energy = de.energies.Ising.lattice((4, 4), 0.3)
    kernel = registry.create("gwg")
    never = mock.patch.object(gwg, "metropolis_log_alpha", lambda delta, beta, ratio: torch.full_like(delta, -1e9))
    with never, fast.set_fused(False):
        part = measure.efficiency(energy, kernel, n_chains=8, n_steps=40, burn_in=5, seed=0)
    assert part["ess"] == 0
    assert sampling.standing({"exact": True, **part}) == "frozen"


def test_a_wrong_mean_energy_is_in_the_table_in_units_of_its_error():
    base = {"exact": True, "ess": 100.0, "rhat": 1.0, "tv_z": 0.1}
    assert sampling.standing(base | {"energy_z": 2.0}) == "ok"
    assert sampling.standing(base | {"energy_z": -7.0}) == "WRONG or not mixed"
    assert sampling.standing(base | {"energy_z": None}) == "WRONG or not mixed"  # infinite, as JSON has it
    assert sampling.standing(base | {"exact": False, "energy_z": 7.0}) == "biased"
    assert sampling.standing(base | {"rhat": 1.2}) == "not mixed"
    assert sampling.standing(base | {"tv_z": 7.0}) == "WRONG"


def test_effective_draws_and_evaluations_are_those_of_the_library():
    """Independent draws: as many effective draws as draws, whatever the number of steps; false once in 10^4."""
    energy = suite("bernoulli").independent(30, 0)
    part = measure.efficiency(energy, registry.create("gibbs"), n_chains=16, n_steps=250, burn_in=1, seed=0)
    assert part["evaluations"] == 1
    assert 0.75 < part["ess_per_evaluation"] < 1.35
    assert part["ess_per_second"] == pytest.approx(part["ess"] / part["seconds"])
    field = energy.field.detach().double()
    assert abs(part["mean_energy"] + float((field * field.tanh()).sum())) < 6 * part["mean_energy_error"]


# -- the distance ------------------------------------------------------------------------------------------------------


def test_squared_mmd_is_its_definition_and_unbiased():
    """Mean of 400 estimates between two samples of one law within 5 standard errors of 0; of two laws, of the truth."""
    law = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.int8)
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    kernel = hamming_kernel(law, law)
    torch.testing.assert_close(kernel[0], torch.exp(-torch.tensor([0, 0.5, 0.5, 1.0], dtype=torch.float64)))
    gap = (p - q).double()
    truth = float(gap @ kernel @ gap)
    generator = torch.Generator().manual_seed(0)

    def draws(weights, n):
        return law[torch.multinomial(weights, n, replacement=True, generator=generator)]

    for other, expected in ((p, 0.0), (q, truth)):
        found = torch.tensor([squared_mmd(draws(p, 20), draws(other, 30)) for _ in range(400)], dtype=torch.float64)
        values, errors = found.T
        assert abs(values.mean() - expected) < 5 * values.std() / 20
        # the jackknife is right for different laws and too large for equal ones, where the estimate is degenerate
        assert 0.85 * values.std() < errors.square().mean().sqrt() < (1.15 if other is q else 2.5) * values.std()


def test_few_or_unlike_states_have_no_distance():
    with pytest.raises(ShapeError, match="at least 3 states of one shape"):
        squared_mmd(torch.zeros(2, 4), torch.zeros(5, 4))


# -- optimisation ------------------------------------------------------------------------------------------------------


def test_annealed_answers_are_feasible_never_above_the_optimum_and_reach_it(records):
    for name in ("mis", "maxcut"):
        parts = records[1][name]["parts"]
        graphs = [part.removeprefix("graph/") for part in parts if part.startswith("graph/")]
        for graph in graphs:
            best = parts[f"optimum/{graph}"]
            assert best["proven"]
            for label in ("gibbs", "gwg", "dula"):
                part = parts[f"anneal/{graph}/{label}"]
                assert part["feasible"] == part["chains"]
                assert part["best"] <= best["value"]
        assert any(parts[f"anneal/{graph}/gibbs"]["best"] == parts[f"optimum/{graph}"]["value"] for graph in graphs)


def test_an_answer_above_a_proven_optimum_would_show(records):
    record = json.loads(json.dumps(records[1]["mis"]))
    graph = next(name for name in record["parts"] if name.startswith("optimum/")).removeprefix("optimum/")
    record["parts"][f"anneal/{graph}/gibbs"]["best"] += 1
    assert "1 ABOVE it" in runner.table(record)


def test_graphs_are_of_their_family():
    graph = annealing_suite.random_graph({"kind": "er", "nodes": [700, 800], "density": 0.15}, 5)
    n = graph.number_of_nodes()
    assert 700 <= n <= 800
    assert abs(nx.density(graph) - 0.15) < 0.005
    assert nx.utils.graphs_equal(graph, annealing_suite.random_graph(
        {"kind": "er", "nodes": [700, 800], "density": 0.15}, 5))
    ba = annealing_suite.random_graph({"kind": "ba", "nodes": [50, 50], "attach": 4}, 1)
    assert ba.number_of_edges() == 4 * 46


# -- which kernels, and bad input --------------------------------------------------------------------------------------


def test_every_kernel_that_takes_the_energy_is_compared():
    energy = de.energies.Ising.lattice((3, 3), 0.3)
    labels = {one.name for one in contenders(energy)[0]}
    assert labels >= {"gibbs", "block-gibbs", "gwg", "pas", "dmala", "dula", "dlmc", "swendsen-wang", "wolff"}
    assert not labels & {"mixture", "sweep", "repeat", "alternate", "simulated-annealing", "langevin"}
    callable_energy = de.from_callable(lambda x: x.sum(-1), de.Spin(4))
    found, refused = contenders(callable_energy)
    assert "swendsen-wang" in refused
    assert "must be energies.Ising" in refused["swendsen-wang"]
    assert not {one.label for one in found} & set(refused)


@pytest.mark.gpu
def test_kernels_are_tried_and_their_laws_measured_where_the_suite_runs(tmp_path, monkeypatch):
    devices = set()
    measured = measure.law_error

    def law_error(energy, *args, **options):
        devices.add(next(energy.parameters()).device.type)
        return measured(energy, *args, **options)

    monkeypatch.setattr(sampling, "law_error", law_error)
    record = tiny("ising", tmp_path, device="cuda")
    assert record["finished"]
    assert devices == {"cuda"}


@pytest.mark.parametrize(("options", "error", "said"), [
    ({"name": "isin"}, SettingError, "SUITE must be one of .*; got 'isin'. Did you mean 'ising'?"),
    ({"size": "huge"}, SettingError, "`size` must be one of small, full; got 'huge'"),
    ({"samplers": ["gibs"]}, RegistryError, "Unknown sampler 'gibs'. Did you mean 'gibbs'?"),
    ({"samplers": ["langevin"]}, SettingError, "must name a kernel that takes this suite's energy; got langevin"),
    ({"changes": {"n_step": 3}}, SettingError, "must be among sizes, .*; got 'n_step'"),
    ({"changes": {"n_steps": "many"}}, SettingError, "setting 'n_steps' must be like 1"),
    ({"changes": {"n_chains": 1}}, SettingError, "'n_chains' must be at least 4"),
])  # fmt: skip
def test_bad_input_is_one_sentence_before_any_work(tmp_path, options, error, said):
    options = {"name": "ising", "output": tmp_path / "run"} | options
    with pytest.raises(error, match=said):
        runner.run_suite(**options)
    assert not list(tmp_path.glob("run/table.md"))


def test_a_folder_of_another_run_is_not_overwritten(records):
    folder, _ = records
    with pytest.raises(SettingError, match="holds a run with another seed"):
        tiny("ising", folder / "ising", seed=1)
    with pytest.raises(SettingError, match="holds a run with another n_steps"):
        tiny("ising", folder / "ising", changes=TINY["ising"] | {"n_steps": 41})
    with pytest.raises(SettingError, match="holds a run with another suite"):
        tiny("bernoulli", folder / "ising")


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(DataError, match=r"record\.json must be a JSON file"):
        tiny("ising", tmp_path)


def test_the_command_runs_a_suite_and_helps_to_choose_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["benchmark", "bernoulli", "--sampler", "gibbs", "--no-figure", "--set", "n_steps=20",
                 "--set", "law_steps=30", "--set", "sizes=[6]"]  # fmt: skip
    assert main([*arguments, "--quiet", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["n_steps"] == 20
    assert (tmp_path / "runs" / "benchmark-bernoulli-small-seed0" / "table.md").exists()
    assert main(arguments) == 0
    assert "| gibbs |" in capsys.readouterr().out
    assert main(["benchmark", "--help"]) == 0
    helped = capsys.readouterr().out
    assert all(name in helped for name in SUITES)
    assert "Which suite?" in helped


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "SUITE must be given: one of ising"),
    (["isingg"], "Did you mean 'ising'?"),
    (["ising", "--set", "n_steps"], "--set must be NAME=JSON"),
    (["ising", "--set", "n_steps=many"], "--set n_steps must be JSON"),
    (["ising", "--device", "abacus"], "--device must name a usable device"),
])  # fmt: skip
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_site_of_the_pictures_of_the_rbm_suite_takes_both_values():
    pictures = suite("rbm").strokes(28, 10_000, seed=0).float()
    assert float(pictures.mean(0).min()) > 0
    assert float(pictures.mean(0).max()) < 1


def test_a_part_over_its_limit_is_not_run_and_says_so():
    energy = de.energies.Ising.lattice((4, 4), 0.3)
    part = measure.efficiency(energy, registry.create("gibbs"), n_chains=4, n_steps=10**9, burn_in=5, seed=0, limit=1.0)
    assert "the limit is 1 s" in part["skipped"]
    assert sampling.standing({"exact": True, **part}) == "not run"


def test_a_part_over_its_limit_is_made_shorter_where_enough_steps_are_left():
    energy = de.energies.Ising.lattice((4, 4), 0.3)
    part = measure.efficiency(energy, registry.create("gibbs"), n_chains=4, n_steps=10**9, burn_in=10**7, seed=0,
                              limit=0.2, least_steps=20)
    assert 20 <= part["steps"] < 10**5
    assert part["evaluations"] == 1.0  # a sweep; counted over the steps that were made
