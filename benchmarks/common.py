"""What every suite shares: the record of a run (resumable, written after every part), models, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import graph_ebm as ge
from discrete_ebm.errors import DataError
from graph_ebm.run_folder import plain, provenance, write_json
from graph_ebm.training import MolecularModel

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Context:
    """One run of a suite with one seed.

    ``settings``: of the suite, plain numbers and texts. ``path``: the result's JSON file. ``work``: root of models and
    samples. ``data``: folder of the full sets, or None for the packaged ones. ``again``: repeat parts that are done.
    ``retrain``: train again where a model is there.
    """

    suite: str
    seed: int
    size: str
    settings: dict[str, Any]
    path: Path
    work: Path
    data: Path | None = None
    device: str = "cpu"
    again: bool = False
    retrain: bool = False
    progress: bool = False
    record: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(f"no setting {name!r} in the suite {self.__dict__.get('suite')!r}") from None

    # -- the record -------------------------------------------------------------------------------------------------

    def begin(self, extendable: Sequence[str] = ()) -> bool:
        """Open the record; False if this run is finished already and is not to be repeated.

        A record of other settings is replaced, unless they differ only in those named ``extendable``.
        """
        asked = plain({"settings": self.settings, "size": self.size, "device": self.device,
                       "data": "packaged" if self.data is None else "full sets"})  # fmt: skip
        old = read_json(self.path) if self.path.exists() and not self.again else None
        if old is not None and identity(old, extendable) == identity(asked, extendable):
            if old.get("finished") and {key: old.get(key) for key in asked} == asked:
                return False
            self.record = old | asked
        else:
            self.record = {"suite": self.suite, "seed": self.seed, **asked, "parts": {}, "seconds": {}, "notes": []}
        self.record |= {"commit": commit(), **provenance(), "finished": False}
        self.record["machine"] |= {"cpu": cpu_model(), "cores": available_cores(), "load": os.getloadavg()[0]}
        self.save()
        return True

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """A named part of the result: computed and written at once, or what an earlier run left."""
        parts = self.record["parts"]
        if name not in parts:
            began = time.perf_counter()
            parts[name] = plain(compute())
            self.record["seconds"][name] = round(time.perf_counter() - began, 3)
            self.save()
        return parts[name]

    def note(self, text: str) -> None:
        """A sentence that a reader of the figures needs, once."""
        if text not in self.record["notes"]:
            self.record["notes"].append(text)
            self.save()

    def finish(self) -> None:
        self.record |= {"finished": True, "total_seconds": round(sum(self.record["seconds"].values()), 3)}
        self.record["machine"]["load_at_end"] = os.getloadavg()[0]
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.record)

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


def identity(record: dict[str, Any], extendable: Sequence[str] = ()) -> dict[str, Any]:
    """What two records must share for their figures to be of one experiment."""
    fixed = {key: value for key, value in record.get("settings", {}).items() if key not in extendable}
    return {"settings": fixed, **{key: record.get(key) for key in ("size", "device", "data")}}


def read_json(path: Path) -> Any:
    """Content of a JSON file; DataError says which one is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise DataError(f"{path} must be a JSON file; got {cause}. Delete it to start this run again.") from cause


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
    """The commit of the working tree, with "+" where files differ from it; None outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        command = ["git", "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return None if head.returncode else head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's word is next
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
