"""What every suite shares: the record of a run (resumable, written after every part), models, and the machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import graph_ebm as ge
from discrete_ebm.benchmark.record import Record, identity, read_json
from discrete_ebm.errors import DataError
from discrete_ebm.provenance import available_cores, cpu_model
from discrete_ebm.provenance import commit as commit_of
from graph_ebm.model import MolecularModel
from graph_ebm.run_folder import PACKAGES, plain, write_json

__all__ = ["RESULTS", "ROOT", "Context", "Record", "available_cores", "commit", "cpu_model", "fingerprint", "identity",
           "read_json"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Context(Record):
    """A record with models: ``work`` is the root of models and samples, ``data`` the folder of the full sets (None: the
    packaged ones), ``retrain`` trains again where a model is there."""

    work: Path = Path("runs/bench")
    data: Path | None = None
    retrain: bool = False
    packages: Iterable[str] = PACKAGES
    root: Path = ROOT

    def asked(self) -> dict[str, Any]:
        return super().asked() | {"data": "packaged" if self.data is None else "full sets"}

    # -- models -----------------------------------------------------------------------------------------------------

    def folder(self, suite: str | None = None) -> Path:
        """Where models and samples of a suite with this size and seed lie (suites may share models)."""
        return self.work / f"{suite or self.suite}-{self.size}-seed{self.seed}"

    def model(
        self, name: str, request: dict[str, Any], build: Callable[[], MolecularModel], suite: str | None = None
    ) -> MolecularModel:
        """The model of this name from the work folder, or a new one, saved with its history and cost.

        Raises:
            DataError: the folder holds a model that was trained in another way.
        """
        place = self.folder(suite) / name
        said = place / "training.json"
        asked = plain(request)
        if self.retrain and name not in self.record.setdefault("retrained", []) and place.exists():
            shutil.rmtree(place)
        if not said.exists():
            began, cpu = time.perf_counter(), time.process_time()
            model = build()
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            if model.interrupted:
                raise KeyboardInterrupt
            model.save(place)
            write_json(said, {"request": asked, "seconds": wall, "cpu_seconds": cpu, "history": model.history,
                              "commit": commit(), "load": os.getloadavg()[0]})  # fmt: skip
            self.record.setdefault("retrained", []).append(name)
        found = read_json(said)
        if found["request"] != asked:
            changed = [key for key in asked if found["request"].get(key) != asked[key]]
            raise DataError(
                f"the model in {place} must have been trained as this run asks; got other "
                f"{', '.join(changed) or 'keys'}. Give another --work, or --retrain."
            )
        last = {key: column[-1] for key, column in found["history"].items() if column and key != "acceptance"}
        distances = [d for d in found["history"].get("distance", []) if d is not None]
        self.record.setdefault("training", {})[name] = {
            "seconds": found["seconds"], "cpu_seconds": found["cpu_seconds"], "load": found.get("load"),
            "request": asked, "last": last, "distance of fresh chains": distances[-5:],
        }  # fmt: skip
        self.save()
        model = ge.load_model(place)
        model.history = found["history"]
        return model.to(self.device)


def fingerprint(energy: torch.nn.Module) -> str:
    """Sixteen characters that stand for the parameters: samples of another model are never taken for this one's."""
    digest = hashlib.sha256(type(energy).__name__.encode())
    weights = (getattr(energy, "weights", None), getattr(energy, "base_weight", None))
    digest.update(repr(weights).encode())
    for name, value in sorted(energy.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def commit() -> str | None:
    """The commit of this working tree, with "+" where files differ from it; None outside git."""
    return commit_of(ROOT)
