"""The record of a measurement: a JSON file written after every part; an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from discrete_ebm import checkpoint
from discrete_ebm.cli_support import plain
from discrete_ebm.errors import DataError
from discrete_ebm.provenance import PACKAGES, available_cores, commit, cpu_model, provenance

__all__ = ["Record", "identity", "read_json"]


@dataclass
class Record:
    """One run of a suite with one seed.

    ``settings``: of the suite, plain numbers and texts, also read as attributes. ``path``: the result's JSON file.
    ``again``: repeat parts that are done. ``packages``: whose versions are noted. ``root``: the tree whose commit is.
    """

    suite: str
    seed: int
    size: str
    settings: dict[str, Any]
    path: Path
    device: str = "cpu"
    again: bool = False
    progress: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    packages: Iterable[str] = PACKAGES
    root: Path = Path(__file__).resolve().parents[2]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(f"no setting {name!r} in the suite {self.__dict__.get('suite')!r}") from None

    def asked(self) -> dict[str, Any]:
        """What a record must agree with to be of this run."""
        return plain({"settings": self.settings, "size": self.size, "device": self.device})

    def begin(self, extendable: Sequence[str] = ()) -> bool:
        """Open the record; False if this run is finished already and is not to be repeated.

        A record of other settings is replaced, unless they differ only in those named ``extendable``.
        """
        asked = self.asked()
        old = read_json(self.path) if self.path.exists() and not self.again else None
        if old is not None and identity(old, extendable) == identity(asked, extendable):
            if old.get("finished") and {key: old.get(key) for key in asked} == asked:
                return False
            self.record = old | asked
        else:
            self.record = {"suite": self.suite, "seed": self.seed, **asked, "parts": {}, "seconds": {}, "notes": []}
        self.record |= {"commit": commit(self.root), **provenance(self.packages), "finished": False}
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
        checkpoint.make_folder(self.path.parent)
        text = json.dumps(plain(self.record), indent=2, ensure_ascii=False, allow_nan=False)
        checkpoint.write_text(self.path, text + "\n")


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
