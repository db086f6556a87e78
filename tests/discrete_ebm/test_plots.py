"""Pictures show the numbers they claim to: what is drawn is read back from the figure."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm import cli, plots
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError

matplotlib = pytest.importorskip("matplotlib")

LATTICE = de.energies.Ising.lattice((3, 4), coupling=0.3, field=0.1)
PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def no_screen():
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    yield
    plt.close("all")


def draw(energy=LATTICE, sampler="block-gibbs", **settings):
    return de.sample(energy, sampler, **({"n_chains": 6, "n_steps": 60, "burn_in": 10, "seed": 1} | settings))


def test_a_trace_shows_the_first_chains_and_every_draw():
    chains = draw()
    axes = plots.trace(chains)
    assert len(axes.lines) == 5
    assert np.allclose(axes.lines[3].get_ydata(), chains.energy[:, 3])
    assert axes.get_ylabel() == "energy (nats)"
    assert axes.get_xlabel() == "kept draw"
    assert axes.get_title(loc="left") == "Trace of 5 of 6 chains"
    axes = plots.trace(chains, lambda x: x.flatten(1).float().mean(1), label="magnetisation", n_chains=99)
    assert len(axes.lines) == 6
    assert axes.get_ylabel() == "magnetisation"


def test_a_long_trace_is_thinned(monkeypatch):
    monkeypatch.setattr(plots, "_POINTS", 20)
    line = plots.trace(draw()).lines[0]
    assert line.get_xdata().tolist() == list(range(0, 50, 3))


def test_a_rank_plot_is_even_for_agreeing_chains_and_shows_one_that_does_not():
    chains = draw(n_chains=4, n_steps=4100, burn_in=100)
    image = plots.rank(chains, lambda x: (x[:, 0, 0] > 0).long(), n_bins=10).images[0].get_array()
    # 4,000 draws a chain; independent draws would have a standard deviation of 0.05 a cell, these have more
    assert np.abs(image - 1).max() < 0.5
    assert np.allclose(image.sum(0), 4)  # every range of ranks holds its share
    assert np.allclose(image.sum(1), 10)  # and every chain
    chains.energy[:, 2] += 100
    image = plots.rank(chains, n_bins=4).images[0].get_array()
    assert np.allclose(image[2], [0, 0, 0, 4])


def test_the_ranks_of_one_chain_compare_its_halves():
    chains = draw(n_chains=1)
    chains.energy[:25] -= 100
    axes = plots.rank(chains, n_bins=2)
    assert np.allclose(axes.images[0].get_array(), [[2, 0], [0, 2]])
    assert axes.get_ylabel() == "half of the chain"


def test_the_autocorrelation_plot_shows_the_mean_over_chains_and_tau():
    chains = draw()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", de.diagnostics.DiagnosticWarning)
        tau = float(chains.autocorrelation_time())
    axes = plots.autocorrelation(chains, max_lag=7)
    assert np.allclose(axes.lines[-1].get_ydata(), chains.autocorrelation(max_lag=7).mean(1))
    assert f"{tau:.3g} draws" in axes.get_title(loc="left")


def test_the_autocorrelation_of_frozen_chains_says_so():
    chains = draw()
    chains.energy[:, :2] = 1.0
    assert "2 of 6 chains never changed" in plots.autocorrelation(chains).get_title(loc="left")
    chains.energy[:] = 1.0
    title = plots.autocorrelation(chains).get_title(loc="left")
    assert "not defined" in title
    assert "6 of 6" in title


def test_the_energy_histogram_meets_the_exact_law():
    chains = draw(n_chains=64, n_steps=300)
    axes = plots.energy_histogram(chains, LATTICE)
    exact = de.evaluate.exact(LATTICE)
    points = axes.lines[0].get_xydata()
    assert points[:, 1].sum() == pytest.approx(1)
    mean = float((points[:, 0] * points[:, 1]).sum())
    assert mean == pytest.approx(exact.mean_energy, abs=0.02 if not len(axes.patches) > 1 else 0.25)
    assert "total variation" in axes.get_title(loc="left")
    # drawn independently from the exact law, 18,560 draws in at most 60 cells stay below 0.5·sqrt(60/18560) = 0.03 on
    # average; the chains' correlation leaves them far below 0.1
    assert float(axes.get_title(loc="left").rsplit(" ", 1)[1]) < 0.1
    tempered = draw(beta=torch.linspace(0.5, 1, 6))
    assert not plots.energy_histogram(tempered, LATTICE).lines  # no single law to compare with


def test_distinct_levels_have_a_bar_each():
    energy = de.energies.Ising.lattice((3, 3), coupling=0.44)  # float32 sums and float64 differ in the last digits
    chains = draw(energy)
    axes = plots.energy_histogram(chains, energy)
    heights = {round(float(bar.get_x() + bar.get_width() / 2), 3): bar.get_height() for bar in axes.patches}
    values, counts = np.unique(chains.energy.numpy().round(3), return_counts=True)
    for value, count in zip(values, counts / counts.sum(), strict=True):
        assert heights[round(float(value), 3)] == pytest.approx(count)
    assert sum(heights.values()) == pytest.approx(1)


def test_states_are_painted_as_they_are():
    chains = draw()
    figure = plots.lattice(chains, n=4)
    images = [axes.images[0] for axes in figure.axes[:4]]
    for chain, image in enumerate(images):
        assert np.array_equal(image.get_array(), chains.x[-1, chain])
    colours = images[0].cmap(images[0].norm(np.array([-1, 1])))
    assert not np.allclose(colours[0], colours[1])
    figure = plots.lattice(chains, over="draws", n=3, chain=2)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["draw 0", "draw 24", "draw 49"]
    assert np.array_equal(figure.axes[1].images[0].get_array(), chains.x[24, 2])


@pytest.mark.parametrize("space", [
    de.Binary((1, 4, 4)), de.Categorical((4, 5), 3), de.Categorical((4, 4), 20), de.Categorical((2, 2), [2, 3, 2, 4]),
    de.Ordinal((4, 4), [0.0, 0.5, 2.0]), de.Real((4, 4)),
], ids=repr)  # fmt: skip
def test_every_kind_of_picture_is_painted(space, tmp_path):
    def fn(encoding):
        return encoding.flatten(1).square().sum(1) * 0.5

    chains = draw(de.from_callable(fn, space), "gwg" if space.is_discrete else "langevin", n_steps=12)
    figure = plots.lattice(chains, path=tmp_path / "states.png")
    assert (tmp_path / "states.png").read_bytes().startswith(PNG)
    shown = figure.axes[0].images[0].get_array()
    expected = chains.x[-1, 0].reshape(shown.shape)
    assert np.allclose(shown, space.values[expected.long()] if isinstance(space, de.Ordinal) else expected)


def test_flat_states_need_a_shape():
    energy = de.energies.BernoulliRBM(12, 3)
    chains = draw(energy)
    with pytest.raises(ShapeError, match=r"Pass shape=\(H, W\)"):
        plots.lattice(chains)
    figure = plots.lattice(chains, shape=(3, 4))
    assert np.array_equal(figure.axes[0].images[0].get_array(), chains.x[-1, 0].reshape(3, 4))
    with pytest.raises(ShapeError, match="H x W = 12"):
        plots.lattice(chains, shape=(3, 5))


@pytest.mark.parametrize("name", ["trace", "rank", "autocorrelation", "energy_histogram"])
def test_a_plot_is_saved_drawn_into_given_axes_and_leaves_no_window(name, tmp_path):
    import matplotlib.pyplot as plt

    chains = draw()
    plot = getattr(plots, name)
    before = dict(matplotlib.rcParams)
    for ending in ("png", "svg", "pdf"):
        plot(chains, path=tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").stat().st_size > 1000
    assert not plt.get_fignums()
    with pytest.raises(SettingError, match="`path` must end in a format"):
        plot(chains, path=tmp_path / "a.nonsense")
    assert not plt.get_fignums()
    figure, (left, right) = plt.subplots(1, 2)
    assert plot(chains, ax=right, path=tmp_path / "both.png") is right
    assert not left.lines
    assert plt.get_fignums() == [figure.number]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda c: plots.trace(c, "x"), ShapeError, "one number per state"),
    (lambda c: plots.rank(c, lambda x: x), ShapeError, "one number per state"),
    (lambda c: plots.trace(c, "spin"), SettingError, "'x', 'energy'"),
    (lambda c: plots.trace(c, n_chains=0), SettingError, "`n_chains` must be"),
    (lambda c: plots.rank(c, n_bins=1), SettingError, "`n_bins` must be a whole number of at least 2"),
    (lambda c: plots.energy_histogram(c, n_bins=0), SettingError, "`n_bins`"),
    (lambda c: plots.energy_histogram(c, de.energies.Ising.lattice((2, 2), 1.0)), SettingError, "that was sampled"),
    (lambda c: plots.autocorrelation(c, max_lag=999), SettingError, "`max_lag`"),
    (lambda c: plots.lattice(c, over="sites"), SettingError, "'chains' or 'draws'"),
    (lambda c: plots.lattice(c, n=0), SettingError, "`n` must be"),
    (lambda c: plots.lattice(c, over="draws", chain=6), SettingError, "one of 0 to 5; got 6"),
])  # fmt: skip
def test_bad_input_is_refused_with_a_sentence_and_no_figure(call, error, words):
    import matplotlib.pyplot as plt

    with pytest.raises(error, match=words):
        call(draw(n_steps=20, burn_in=4))
    assert not plt.get_fignums()


def test_without_matplotlib_a_sentence_says_what_to_install():
    with mock.patch.dict(sys.modules, {"matplotlib": None, "matplotlib.pyplot": None}), \
            pytest.raises(CapabilityError, match="pip install"):
        plots.trace(draw())


def test_naming_the_module_does_not_load_matplotlib():
    code = "import sys, discrete_ebm as de; de.plots.trace; print('matplotlib' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(de.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.strip() == "False", done.stderr


def test_the_command_line_writes_them_to_the_run_folder(tmp_path):
    run = ["sample", "ising", "--shape", "3x3", "--n-steps", "30", "--sampler", "block-gibbs", "--open", "--quiet"]
    assert cli.main([*run, "--plots", "--output", str(tmp_path)]) == 0
    expected = ["trace.png", "rank.png", "autocorrelation.png", "energy.png", "lattice.png"]
    assert json.loads((tmp_path / "run.json").read_text())["plots"] == expected
    for name in expected:
        assert (tmp_path / name).read_bytes().startswith(PNG)
    assert cli.main([*run, "--output", str(tmp_path / "plain")]) == 0
    assert not list((tmp_path / "plain").glob("*.png"))


# -- planted bugs -----------------------------------------------------------------------------------------------------

MUTANTS = {
    "ties in order of the chains": (
        lambda: mock.patch.object(torch, "rand", lambda size, **rest: torch.arange(float(size)) % 4),
        test_a_rank_plot_is_even_for_agreeing_chains_and_shows_one_that_does_not),
    "exact law at another temperature": (
        lambda: mock.patch.object(plots, "exact", lambda energy, beta: de.evaluate.exact(energy, beta / 2)),
        test_the_energy_histogram_meets_the_exact_law),
    "levels of float32 and float64 kept apart": (
        lambda: mock.patch.object(plots, "_shares", lambda values, weights, distinct, digits: np.bincount(
            np.searchsorted(distinct, values).clip(max=len(distinct) - 1), weights=weights, minlength=len(distinct))),
        test_distinct_levels_have_a_bar_each),
    "rows and columns exchanged": (
        lambda: mock.patch.object(plots, "_values", lambda states, space: states.mT.numpy()),
        test_states_are_painted_as_they_are),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", list(MUTANTS))
def test_planted_bugs_are_found(name):
    plant, check = MUTANTS[name]
    check()
    with plant(), pytest.raises(AssertionError):
        check()
