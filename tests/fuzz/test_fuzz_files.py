"""Damaged and forged files: each checkpoint and saved model is read as it was written, or refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_bytes

import discrete_ebm as de
from discrete_ebm import checkpoint, step_folders, training_state
from discrete_ebm.checkpoint import build_space, describe_space
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, EBMError
from discrete_ebm.step_folders import Checkpoints, StepFiles, read_step
from tests.fuzz import strategies


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint of a small training."""
    folder = tmp_path_factory.mktemp("run")
    energy = de.energies.BernoulliRBM(4, 2, scale=0.1, seed=0)
    data = energy.space.random(10, torch.Generator().manual_seed(1))
    objective = de.objectives.PCD(sampler="gibbs", n_steps=1, bank_size=4)
    de.fit(energy, data, objective, 2, 5, output=folder, seed=3, progress=False, checkpoint_every=2)
    return folder / "checkpoints" / "step-00000002"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Saved energies of several classes."""
    folder, made = tmp_path_factory.mktemp("models"), de.energies
    kinds = [made.BernoulliRBM(4, 2, scale=0.1, seed=0), made.Ising.lattice((2, 3), 0.3),
             made.Potts.lattice((2, 2), 0.3, 3),
             made.MLPEnergy(de.Categorical(3, [2, 3, 2]), [4]), made.MLPEnergy(de.Ordinal(2, [0.0, 0.5]), [3, 3])]
    made_of = [kinds[0], made.BernoulliRBM(4, 3, scale=0.1, seed=1)]
    kinds.append(made.SumEnergy(made_of, [1.0, 0.5]))
    for number, energy in enumerate(kinds):
        checkpoint.save(energy, folder / f"{number}.safetensors")
    return sorted(folder.iterdir())


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# -- damage: what is on disk has changed by itself ------------------------------------------------------------------


def check_damaged_step(step: Path, folder: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    kept = {path.name: path.read_bytes() for path in sorted(step.iterdir())}
    name = sorted(kept)[number % len(kept)]
    target = folder / step.name
    target.mkdir(exist_ok=True)
    for other, content in kept.items():
        (target / other).write_bytes(change(content) if other == name else content)
    if (target / name).read_bytes() == kept[name]:
        assert read_step(target).files.items() <= kept.items()
        return
    with pytest.raises(CorruptCheckpointError) as caught:
        read_step(target)
    assert str(target) in str(caught.value)
    with pytest.raises(CorruptCheckpointError), warnings.catch_warnings():
        Checkpoints(folder).newest()


@strategies.short(25)
@given(st.integers(0, 20), strategies.damage())
def test_a_damaged_checkpoint_is_noticed(
    step: Path, tmp_path_factory: pytest.TempPathFactory, number: int, change: Callable[[bytes], bytes]
) -> None:
    check_damaged_step(step, tmp_path_factory.mktemp("damaged"), number, change)


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.integers(0, 20), strategies.damage())
def test_any_damage_to_a_checkpoint_is_noticed(
    step: Path, tmp_path_factory: pytest.TempPathFactory, number: int, change: Callable[[bytes], bytes]
) -> None:
    check_damaged_step(step, tmp_path_factory.mktemp("damaged"), number, change)


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.integers(0, 20), strategies.damage())
def test_any_damage_to_a_saved_model_is_noticed(
    models: list[Path], tmp_path_factory: pytest.TempPathFactory, number: int, change: Callable[[bytes], bytes]
) -> None:
    """Header and tensors; a change that leaves the contents as they are (spaces in the header) may load."""
    source = models[number % len(models)]
    path = written(tmp_path_factory.mktemp("model") / "m.safetensors", change(source.read_bytes()))
    whole = checkpoint.load(source).state_dict()
    try:
        found = checkpoint.load(path).state_dict()
    except CheckpointError:
        return
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


# -- forgery: the digests agree, what they vouch for is nonsense ----------------------------------------------------


def forged_manifest(value: Any) -> bytes:
    """A manifest whose own digest agrees."""
    body = value if isinstance(value, dict) else {"files": value, "step": 2}
    body = {key: body[key] for key in sorted(body) if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1) + "\n").encode()


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.data())
def test_forged_manifests_are_refused(
    step: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = json.loads((step / step_folders.MANIFEST).read_bytes())
    target = tmp_path_factory.mktemp("forged") / step.name
    target.mkdir()
    for path in step.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (target / step_folders.MANIFEST).write_bytes(forged_manifest(data.draw(strategies.altered(whole))))
    try:
        found = read_step(target)
    except CorruptCheckpointError:
        return
    assert all((target / name).read_bytes() == content for name, content in found.files.items())
    assert all(Path(name).name == name for name in found.files)


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.data())
def test_forged_records_of_a_training_are_refused(step: Path, data: st.DataObject) -> None:
    found = read_step(step)
    files = dict(found.files)
    name = data.draw(st.sampled_from(["state.json", "state-rank0.json"]))
    files[name] = json.dumps(data.draw(strategies.altered(json.loads(files[name])))).encode()
    try:
        state, _ = training_state.read(StepFiles(found.path, found.step, files))
    except CheckpointError:
        return
    assert {"model", "optimizer", "loop", "own"} & state.keys()


def forged_model(path: Path, value: Any) -> bytes:
    tensors, _ = checkpoint.load_tensors(path)
    text = json.dumps(value)
    return to_bytes(tensors, metadata={"config": text, "sha256": checkpoint._digest(tensors, text)})


def check_forged_model(path: Path, value: Any, folder: Path) -> None:
    target = written(folder / "m.safetensors", forged_model(path, value))
    try:
        assert isinstance(checkpoint.load(target), torch.nn.Module)
    except CheckpointError:
        return


@pytest.mark.fuzz
@strategies.fuzz()
@given(st.integers(0, 20), st.data())
def test_forged_descriptions_of_a_model_are_refused(
    models: list[Path], tmp_path_factory: pytest.TempPathFactory, number: int, data: st.DataObject
) -> None:
    path = models[number % len(models)]
    _, config = checkpoint.load_tensors(path)
    check_forged_model(path, data.draw(strategies.altered(config)), tmp_path_factory.mktemp("forged"))


@pytest.mark.parametrize("value", [
    [], "x", 1, None, {"schema": "1"}, {"schema": None}, {"schema": 1, "energy": {"type": []}},
    {"schema": 1, "energy": {"type": "MLPEnergy"}},
    {"schema": 1, "energy": {"type": "BernoulliRBM", "n_visible": 10**30}},
    {"schema": 1, "energy": {"type": "BernoulliRBM", "n_visible": []}}], ids=str)  # fmt: skip
def test_forged_descriptions_that_were_found_are_refused(models: list[Path], tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.load(written(tmp_path / "m.safetensors", forged_model(models[0], value)))


# -- spaces ---------------------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
levels = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=5, unique=True).map(sorted)
simple = st.one_of(
    st.builds(de.Binary, shapes), st.builds(de.Spin, shapes), st.builds(de.Categorical, shapes, st.integers(2, 300)),
    st.lists(st.integers(2, 9), min_size=1, max_size=5).map(lambda k: de.Categorical(len(k), k)),
    st.builds(de.Ordinal, shapes, levels))  # fmt: skip
spaces = st.one_of(simple, st.dictionaries(st.sampled_from("abc"), simple, min_size=1).map(de.Product))


@pytest.mark.fuzz
@strategies.fuzz()
@given(spaces, st.integers(0, 10**6))
def test_spaces_come_back_from_json_and_states_from_every_form(space: Any, seed: int) -> None:
    again = build_space(json.loads(json.dumps(describe_space(space))))
    assert again == space
    x = space.random(4, torch.Generator().manual_seed(seed))
    assert torch.equal(again.validate(x), x)
    assert torch.equal(space.from_index(space.to_index(x)), x)
    assert torch.equal(space.decode(space.encode(x)), x)


@pytest.mark.fuzz
@strategies.fuzz()
@given(simple, st.lists(strategies.numbers.filter(lambda n: isinstance(n, (int, float))), min_size=1, max_size=12))
def test_foreign_states_are_taken_as_they_are_or_refused(space: Any, values: list[Any]) -> None:
    n = max(1, space.n_sites)
    try:
        x = torch.tensor((values * n)[:n], dtype=torch.float64).reshape(1, *space.shape)
    except (OverflowError, RuntimeError):
        return  # torch itself cannot hold the number
    try:
        taken = space.validate(x)
    except EBMError:
        return
    assert torch.equal(taken.double(), x)
