"""The example plug-in: found through its own pyproject's entry point, conforming, and its own tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import discrete_ebm as de
from discrete_ebm.samplers import registry
from discrete_ebm.testing import check_sampler

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"
ROOT = PLUGIN.parents[1]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after ``pip install ./examples/plugin``: its source can be imported and its entry points are listed."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [EntryPoint(name, value, group) for group, points in project["entry-points"].items()
              for name, value in points.items()]
    monkeypatch.syspath_prepend(str(PLUGIN / "src"))
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    monkeypatch.setattr(registry, "_BROKEN", dict(registry._BROKEN))
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in listed if point.group == group])


@pytest.mark.usefixtures("installed")
def test_the_plug_in_is_found_by_name_and_conforms() -> None:
    assert "pair-flip" in de.samplers.names()
    assert check_sampler("pair-flip").passed


@pytest.mark.usefixtures("installed")
def test_it_is_driven_and_tuned_like_a_kernel_of_ours() -> None:
    energy = de.energies.Ising.lattice((6, 6), 0.3)
    chains = de.sample(energy, "pair-flip", n_chains=8, n_steps=100, burn_in=50, seed=0)
    assert float(chains.scale.std()) > 0
    with pytest.raises(de.EBMError, match="'pair-flip' must be used on Binary, Spin"):
        de.sample(de.energies.Potts.lattice((2, 2), 0.5, 3), "pair-flip")


def test_without_the_plug_in_the_name_is_unknown() -> None:
    if "pair-flip" in registry._SPECS:
        pytest.skip("the plug-in is installed here")
    with pytest.raises(de.EBMError, match="Unknown sampler 'pair-flip'"):
        de.samplers.create("pair-flip")


@pytest.mark.slow
def test_the_plug_in_installs_with_pip_and_its_own_tests_pass(tmp_path: Path) -> None:
    target, source = tmp_path / "site", tmp_path / "plugin"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    quiet = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    made = subprocess.run([*quiet, str(target), str(source)], capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    environment = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(source),
                           "-c", os.devnull, "-rs", str(source / "tests")],
                          env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout  # none skipped: the entry point was found
