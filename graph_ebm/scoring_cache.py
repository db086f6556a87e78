"""Scores that outlive a run: one SQLite file, which any number of processes may read and write at once.

One table, keyed by the property's name, the version of its source and the canonical SMILES; what was refused is kept
with its reason. Each row carries a digest of itself, the whole file is looked over when it is opened (about half a
second for 100,000 rows), and a damaged one is refused. The file is in SQLite's write-ahead mode, which needs a disk of
this machine (no network file system); what was written is there after a kill of the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from discrete_ebm.errors import CheckpointError, CorruptCheckpointError
from graph_ebm.scoring_worker import Outcome

__all__ = ["ScoreCache"]

_APPLICATION, _SCHEMA = 0x47454253, 1  # "GEBS", in the file's head
_WAIT = 60.0  # seconds for another process that is writing
_TABLE = """CREATE TABLE IF NOT EXISTS scores (
    property TEXT NOT NULL, version TEXT NOT NULL, smiles TEXT NOT NULL,
    value REAL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    time_limit REAL NOT NULL, memory_limit INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (property, version, smiles)) WITHOUT ROWID"""
_BATCH = 500  # SMILES in one look-up


class ScoreCache:
    """Scores of one property in one version, on disk.

    Args:
        path: the file, made where it is missing.
        name, version: of the property.
        time_limit, memory_limit: of this run. A refusal for want of time or memory counts only where this run gives
            no more of it (a limit of 0 bytes means none).
    Raises:
        CheckpointError: the file cannot be opened or is something else. CorruptCheckpointError: it is damaged.
    """

    def __init__(
        self, path: str | Path, name: str, version: str, *, time_limit: float = math.inf, memory_limit: int = 0
    ) -> None:
        self.path, self.name, self.version = Path(path), name, version
        self.time_limit, self.memory_limit = float(time_limit), int(memory_limit)
        self._open()

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._owner == os.getpid():
            self._connection.close()

    def read(self, smiles: Iterable[str], *, refusals: bool = True) -> dict[str, Outcome]:
        """What is known of these SMILES; ``refusals=False`` leaves out those without a value."""
        wanted, found = list(smiles), {}
        connection = self._own()
        for at in range(0, len(wanted), _BATCH):
            part = wanted[at : at + _BATCH]
            marks = ",".join("?" * len(part))
            with self._errors("read"):
                rows = connection.execute(
                    "SELECT smiles, value, reason, detail, time_limit, memory_limit, digest FROM scores "
                    f"WHERE property = ? AND version = ? AND smiles IN ({marks})",
                    [self.name, self.version, *part],
                ).fetchall()
            for text, value, reason, detail, seconds, memory, digest in rows:
                if digest != _digest(self.name, self.version, text, value, reason, detail, seconds, memory):
                    raise self._damaged(f"the row of {text!r} does not match its digest")
                if reason and not (refusals and self._still_refused(reason, seconds, memory)):
                    continue
                found[text] = Outcome(math.nan if value is None else value, reason, detail)
        return found

    def write(self, outcomes: Mapping[str, Outcome]) -> None:
        """Keep these, in one transaction; what another process has written of the same SMILES is replaced."""
        rows = []
        for text, (value, reason, detail) in outcomes.items():
            kept = None if math.isnan(value) else float(value)
            detail = detail.encode("utf-8", errors="backslashreplace").decode()  # no half characters in the file
            seconds, memory = self.time_limit, self.memory_limit
            row = (self.name, self.version, text, kept, reason, detail, seconds, memory)
            rows.append((*row, _digest(*row)))
        connection = self._own()
        with self._errors("write"), connection:
            connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def __len__(self) -> int:
        with self._errors("read"):
            query = "SELECT count(*) FROM scores WHERE property = ? AND version = ?"
            return int(self._own().execute(query, (self.name, self.version)).fetchone()[0])

    def _still_refused(self, reason: str, seconds: float, memory: int) -> bool:
        if reason == "timeout":
            return self.time_limit <= seconds
        if reason == "memory":
            return memory == 0 or 0 < self.memory_limit <= memory
        return True

    # -- the file -----------------------------------------------------------------------------------------------------

    def _own(self) -> sqlite3.Connection:
        """This process's connection: one must not be used across a fork."""
        if self._owner != os.getpid():
            self._open()
        return self._connection

    def _open(self) -> None:
        self._owner = os.getpid()
        with self._errors("open"):
            if self.path.is_file() and 0 < self.path.stat().st_size < 512:
                raise self._damaged(f"it has {self.path.stat().st_size} bytes, less than a page")
            connection = sqlite3.connect(self.path, timeout=_WAIT)
        try:
            with self._errors("open"):
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application, schema, tables = self._head(connection)
        if application != _APPLICATION:
            if application or tables:
                raise CheckpointError(
                    f"`{self.path}` must be a cache of scores; got another program's SQLite file. Name another file."
                )
            self._set_up(connection)
        elif schema != _SCHEMA:
            raise CheckpointError(
                f"`{self.path}` must be a cache of schema {_SCHEMA}; got {schema}. Name another file for this version."
            )
        connection.execute("PRAGMA synchronous = NORMAL")  # a commit survives a kill; a power cut may lose the last
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise self._damaged(found)
        for *row, digest in connection.execute("SELECT * FROM scores"):  # a key that changed is found by no look-up
            if digest != _digest(*row):
                raise self._damaged(f"the row of {row[2]!r} does not match its digest")

    @staticmethod
    def _head(connection: sqlite3.Connection) -> tuple[int, int, int]:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return application, schema, tables

    def _set_up(self, connection: sqlite3.Connection) -> None:
        """Make the table. Two processes may come here at once; SQLite does not wait when it changes the mode."""
        until = time.monotonic() + _WAIT
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_SCHEMA}")

    def _damaged(self, how: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"`{self.path}` must be an undamaged cache of scores; got one where {' '.join(how.split())}. Move it away "
            "(what it holds is scored again), or use a copy."
        )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "malformed" in str(error) or "decode" in str(error):
                raise self._damaged(str(error)) from error
            raise CheckpointError(
                f"`{self.path}` must be a file that this process can {what}; got: {error}. Check the folder, the space "
                "on its disk and who else uses it."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise CheckpointError(
                f"`{self.path}` must be a file that this process can {what}; got: {error.strerror or error}. Check it."
            ) from error


def _digest(*row: object) -> str:
    """Of a row's fields; damage may have made any type of them."""
    return hashlib.sha256(json.dumps(row, default=repr).encode()).hexdigest()[:24]
