"""What an optimisation has done so far, in its folder, so that it can go on after it was stopped.

- ``stages/optimize.json``: the settings, how it was started, the time spent
- ``stages/base``, ``stages/expert-1``, ...: trainings with checkpoints of their own
- ``stages/samples.safetensors``: the draws, once all of them are done
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from discrete_ebm import checkpoint
from discrete_ebm.checkpoint import make_folder, write_text
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, RecoveryWarning, SettingError
from graph_ebm.generate import Generated
from graph_ebm.model import MolecularModel

__all__ = ["Stages", "energy_digest", "stage_notes"]

_KIND, _SCHEMA = "graph_ebm.optimize", 1
_RECORD = Path("stages") / "optimize.json"


class Stages:
    """The stages of one optimisation.

    Args:
        output: the run's folder; None = nothing is kept. every: as ``checkpoint_every``; 0 = nothing is kept.
        settings: what a resumed run must agree on, JSON-able. resume: False, True, or "auto". notes: JSON-able.
    Raises:
        SettingError: the folder holds another run, or one with other settings (each is named).
        CheckpointError: there is nothing to resume.
    """

    def __init__(
        self,
        output: str | Path | None,
        settings: Mapping[str, Any],
        *,
        every: int | None,
        resume: bool | str,
        notes: Mapping[str, Any] | None,
    ) -> None:
        if resume not in (False, True, "auto"):
            raise SettingError(f"`resume` must be True, False or 'auto'; got {resume!r}.")
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 0):
            raise SettingError(f"`checkpoint_every` must be a whole number of updates, or None; got {every!r}.")
        if resume and (output is None or every == 0):
            raise SettingError(
                f"`output` must be given and `checkpoint_every` not be 0 to resume; got output={output!r}, "
                f"checkpoint_every={every!r}. Name the run's folder."
            )
        self.folder = None if output is None or every == 0 else Path(output) / "stages"
        self.every, self.spent, self.new = every, 0.0, True
        self.record = {"kind": _KIND, "schema": _SCHEMA, "settings": _plain(settings), "notes": _plain(notes or {})}
        if self.folder is None or output is None:
            return
        before = _read(Path(output))
        if before is None and resume is True:
            raise CheckpointError(
                f"`output` must hold an optimisation to resume; got {output}, which has none. Check the folder, or use "
                "resume='auto' to begin where there is none."
            )
        if before is not None and not resume:
            raise SettingError(
                f"`output` must not hold another optimisation; got {output}. Go on by resume=True (--resume), "
                "or choose another folder."
            )
        if before is not None:
            then, now = before["settings"], self.record["settings"]
            other = [
                f"{name} ({then.get(name)!r} then, {now.get(name)!r} now)"
                for name in sorted({*then, *now})
                if then.get(name) != now.get(name)
            ]
            if other:
                raise SettingError(
                    f"a resumed optimisation must be the one of {output}; got other {'; '.join(other)}. Use the same "
                    "settings, or another output."
                )
            self.spent, self.new = float(before["spent"]), False
            self.record["notes"] = before["notes"]

    def mark(self, seconds: float) -> None:
        """Write the record; ``seconds`` are those spent by now."""
        if self.folder is not None:
            make_folder(self.folder)
            text = json.dumps({**self.record, "spent": seconds}, indent=1, allow_nan=False)
            write_text(self.folder / _RECORD.name, text + "\n")

    def forget(self) -> None:
        """Take the record away again: what was asked for cannot be, and nothing was trained."""
        if self.folder is not None and self.new:
            (self.folder / _RECORD.name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else lies in it
                self.folder.rmdir()

    def training(self, name: str) -> dict[str, Any]:
        """Options of the training of this name: its own folder, and going on where it was."""
        if self.folder is None:
            return {}
        return {"output": self.folder / name, "resume": "auto", "checkpoint_every": self.every}

    def keep(self, generated: Generated, model: MolecularModel) -> None:
        """Save the draws, if they are all that were asked for."""
        if self.folder is None or generated.interrupted:
            return
        tensors = {"x": generated.x, "energy": generated.energy}
        tensors |= {f"expert.{name}": value for name, value in generated.expert_energies.items()}
        config = {
            "kind": f"{_KIND}.samples",
            "energy": energy_digest(model.energy),
            "experts": list(generated.expert_energies),
            "acceptance": generated.acceptance,
            "trace": generated.trace,
            "settings": generated.settings,
        }
        checkpoint.save_tensors(tensors, self.folder / "samples.safetensors", config)

    def kept(self, model: MolecularModel) -> Generated | None:
        """The draws that were saved, if they are of this model; damaged ones are drawn again, with a warning."""
        path = None if self.folder is None else self.folder / "samples.safetensors"
        if path is None or not path.is_file():
            return None
        try:
            tensors, config = checkpoint.load_tensors(path)
        except CorruptCheckpointError as error:
            warnings.warn(f"{error} The samples are drawn again.", RecoveryWarning, stacklevel=2)
            return None
        if config.get("kind") != f"{_KIND}.samples" or config.get("energy") != energy_digest(model.energy):
            return None
        experts = {name: tensors[f"expert.{name}"] for name in config["experts"]}  # the file has another order
        return Generated(
            tensors["x"],
            model.space,
            tensors["energy"],
            config["acceptance"],
            config["trace"],
            config["settings"],
            experts,
        )


def stage_notes(output: str | Path) -> dict[str, Any]:
    """How the optimisation in this folder was started.

    Raises:
        CheckpointError: there is none.
    """
    found = _read(Path(output))
    if found is None:
        raise CheckpointError(f"`{output}` must hold an optimisation to resume; got none. Check the folder.")
    return dict(found["notes"])


def energy_digest(energy: Any) -> str:
    """What tells one trained energy from another: a digest of its tensors, by name."""
    digest = hashlib.sha256()
    for name, value in energy.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(checkpoint.plain(value).reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


def _read(output: Path) -> dict[str, Any] | None:
    path = output / _RECORD
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["kind"] != _KIND or found["schema"] != _SCHEMA:
            raise CheckpointError(
                f"`{path}` must be of kind {_KIND!r}, schema {_SCHEMA}; got {found['kind']!r}, schema "
                f"{found['schema']!r}. Resume it with the version that wrote it."
            )
        return {**found, "settings": dict(found["settings"]), "notes": dict(found["notes"])}
    except (ValueError, KeyError, TypeError, OSError) as cause:
        raise CorruptCheckpointError(
            f"`{path}` must be the record of an optimisation; got one that cannot be read ({type(cause).__name__}: "
            f"{cause}). Begin again in another folder."
        ) from cause


def _plain(value: Any) -> Any:
    """Settings as JSON gives them back: tuples as lists, dataclasses as dicts, what is neither as text."""

    def other(item: Any) -> Any:
        return asdict(item) if is_dataclass(item) and not isinstance(item, type) else str(item)

    return json.loads(json.dumps(value, default=other))
