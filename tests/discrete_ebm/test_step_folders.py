"""Rare turns of the folders of checkpoints, each taken on purpose."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from discrete_ebm import step_folders
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, RecoveryWarning
from discrete_ebm.step_folders import Checkpoints, read_step


def test_a_step_that_is_saved_again_replaces_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.write(1, {"a": b"old"})
    checkpoints.write(1, {"a": b"new"})
    assert read_step(tmp_path / "step-00000001").files == {"a": b"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


def test_a_step_that_is_damaged_twice_is_put_aside_twice(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.write(1, {"a": b"x"})
    for _ in range(2):
        checkpoints.write(2, {"a": b"x"})
        (tmp_path / "step-00000002" / "a").write_bytes(b"y")
        with pytest.warns(RecoveryWarning, match="step-00000002"):
            found = checkpoints.newest(set_aside=True)
        assert found is not None
        assert found.step == 1
    assert (tmp_path / "damaged-step-00000002").is_dir()


@pytest.mark.parametrize("name", ["elsewhere", "step-1", "step-00000009"])
def test_what_is_no_folder_of_a_step_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(CheckpointError, match="must be a checkpoint step-<number>"):
        read_step(tmp_path / name)


def test_a_step_under_another_number_is_damaged(tmp_path: Path) -> None:
    Checkpoints(tmp_path, 1).write(1, {"a": b"x"})
    os.rename(tmp_path / "step-00000001", tmp_path / "step-00000002")
    with pytest.raises(CorruptCheckpointError, match="its manifest is of step 1"):
        read_step(tmp_path / "step-00000002")


def test_a_manifest_that_vouches_for_files_elsewhere_is_damaged(tmp_path: Path) -> None:
    Checkpoints(tmp_path, 1).write(1, {"a": b"x"})
    body = {"files": {"../latest": {"bytes": 1, "sha256": "0"}}, "step": 1}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    forged = json.dumps({**body, "sha256": digest}, indent=1) + "\n"
    (tmp_path / "step-00000001" / step_folders.MANIFEST).write_text(forged)
    with pytest.raises(CorruptCheckpointError, match=r"MANIFEST\.json does not match"):
        read_step(tmp_path / "step-00000001")


def test_a_disk_that_fails_while_it_is_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an error names no file; found by fuzzing."""
    Checkpoints(tmp_path, 1).write(1, {"a": b"x"})

    def fails(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(CorruptCheckpointError, match="step-00000001: Input/output error"):
        read_step(tmp_path / "step-00000001")


def test_a_disk_that_fails_without_a_name_or_a_word_still_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise OSError("gone")

    checkpoints = Checkpoints(tmp_path, 1)
    monkeypatch.setattr(Checkpoints, "_sweep", fails)
    with pytest.raises(CheckpointError, match=r"must be writable; got gone after 0 bytes\. Free"):
        checkpoints.write(1, {"a": b"x"})


def test_an_interrupted_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(step_folders, "_write_synced", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path, 1).write(1, {"a": b"x"})
    assert list(tmp_path.iterdir()) == []
