"""The import arrows: space → energy → kernel → chain → objective → trainer → evaluation, imports point left only."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "discrete_ebm"
HEAVY = ("graph_ebm", "rdkit", "torch_geometric", "fcd_torch")

# A module may import its own layer and those above it in this list.
LAYERS = [
    {"errors"},
    {"space_base", "spaces"},
    {"energies"},
    {"samplers"},
    {"diagnostics", "chain_inputs", "chains", "chain_bank", "annealing", "hidden_units"},
    {"objectives"},
    {"guards", "checkpoint", "checkpoint_models", "packing", "step_folders", "training_state", "trainer", "fitting",
     "distributed", "launch", "batches",
     "datasets", "schedules"},
    {"evaluate", "plot_figures", "plots", "adapters"},
    {"testing", "testing_checks", "testing_real", "testing_real_checks", "testing_statistics", "testing_targets",
     "cli_support", "docs_pages", "models", "run_config", "run_log", "pictures", "judge",
     "report", "report_charts", "report_page", "measures", "filters", "evaluation_page",
     "provenance"},
    {"benchmark"},
    {"cli", "cli_devices", "cli_evaluate", "cli_jem", "cli_models", "cli_results", "cli_sample", "cli_samplers",
     "cli_train", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, functions included; ``from a import b`` counts as a and a.b."""
    names: set[str] = set()
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def core_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def layer_of(path: Path) -> str:
    part = path.relative_to(CORE).parts[0]
    return part.removesuffix(".py").lstrip("_") if part != "__init__.py" else ""


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_never_imports_molecules(path):
    for name in imported(path):
        assert name.split(".")[0] not in HEAVY, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [p for p in core_files() if layer_of(p)], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_left_only(path):
    own = layer_of(path)
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS in {Path(__file__).name}"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "discrete_ebm" and len(parts) > 1 and is_module(parts[1]):
            assert LEVEL[parts[1].lstrip("_")] <= LEVEL[own], f"{path.relative_to(ROOT)} imports {name}"


def test_the_scan_sees_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    package = tmp_path / "discrete_ebm" / "samplers"
    package.mkdir(parents=True)
    file = package / "late.py"
    file.write_text("import rdkit.Chem\nfrom ..chains import sample\ndef f():\n    from discrete_ebm import trainer\n")
    assert imported(file) >= {"rdkit.Chem", "discrete_ebm.chains", "discrete_ebm.trainer"}


def is_module(name: str) -> bool:
    return (CORE / f"{name}.py").exists() or (CORE / name).is_dir()


def run_python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_core_is_quick_and_light():
    loaded = run_python("import sys, discrete_ebm; print(*sys.modules)").split()
    for name in ("rdkit", "torch_geometric", "matplotlib", "arviz", "scipy", "torch"):
        assert name not in loaded


def test_using_the_whole_core_leaves_the_molecule_packages_out():
    code = (
        "import sys, discrete_ebm as de\n"
        "for name in de.__all__: getattr(de, name)\n"
        "energy = de.energies.Ising.lattice((2, 2), 0.4)\n"
        "de.sample(energy, sampler='gibbs', n_chains=2, n_steps=2, burn_in=0, seed=0)\n"
        "print(*sys.modules)"
    )
    loaded = run_python(code).split()
    for name in ("rdkit", "torch_geometric", "matplotlib", "fcd_torch", "graph_ebm"):
        assert name not in loaded


def test_the_core_works_where_the_molecule_packages_are_missing():
    code = (
        "import sys\n"
        "for name in ('rdkit', 'torch_geometric', 'matplotlib', 'scipy', 'arviz'): sys.modules[name] = None\n"
        "import discrete_ebm as de\n"
        "print(de.evaluate.exact(de.energies.Ising.lattice((2, 2), 0.4)).log_z)"
    )
    assert float(run_python(code)) > 0


def test_public_names_are_the_contract():
    import discrete_ebm as de

    contract = {"sample", "fit", "samplers", "objectives", "energies", "evaluate", "testing", "Binary", "Spin",
                "Categorical", "Ordinal", "Real", "Product", "from_callable", "from_log_prob", "ChainBank", "errors"}
    assert contract <= set(de.__all__) <= set(dir(de))
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        de.smaple  # noqa: B018
