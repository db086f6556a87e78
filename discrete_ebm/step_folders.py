"""Checkpoints on disk: one folder a step, whole or not at all, each file under its SHA-256, the last few kept.

    checkpoints/step-00000200/  model.safetensors ema.safetensors optimizer.safetensors history.safetensors state.json
                                chains-rank0.safetensors state-rank0.json MANIFEST.json
    checkpoints/latest          the name of the newest folder

A folder is written as ``.tmp-<step>``; its files are synced, it is renamed, the parent is synced, the folder is read
back and compared, ``latest`` is replaced by the same route, and only then an older step is deleted. So whenever the
process or the machine stops, the newest folder that agrees with its manifest is a state to go on from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from discrete_ebm.checkpoint import make_folder, sync_folder, write_text
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, RecoveryWarning, SettingError

__all__ = ["Checkpoints", "StepFiles", "read_step"]

MANIFEST = "MANIFEST.json"
_STEP = re.compile(r"step-(\d{8,})")
_SHARE = 0.01  # of the time that saving may take when nothing is said about how often


@dataclass(frozen=True)
class StepFiles:
    """The verified contents of one checkpoint: ``files`` by name, as bytes; ``path`` of the folder; ``step``."""

    path: Path
    step: int
    files: Mapping[str, bytes]


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: made at the first save.
        every: updates between saves. None: at least ``least_seconds`` pass between two saves, and more where saving
            is slow, so that it takes at most 1 % of the time.
        keep: how many are kept.
        rank, n_ranks, barrier: for several processes that save one checkpoint together: rank 0 writes what is common,
            each its own files; ``barrier(failure)`` returns when all have called it, and raises in all when one of them
            gave an exception in place of None. With ``every=None`` they must agree on what :meth:`due` says.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int | None = None,
        keep: int = 3,
        least_seconds: float = 60.0,
        *,
        rank: int = 0,
        n_ranks: int = 1,
        barrier: Callable[[BaseException | None], object] = lambda failure: None,
    ) -> None:
        for name, value in (("every", 1 if every is None else every), ("keep", keep), ("n_ranks", n_ranks)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
        if not 0 <= rank < n_ranks:
            raise SettingError(f"`rank` must be 0 to {n_ranks - 1}; got {rank!r}.")
        self.folder = Path(folder)
        self.every, self.keep, self.least_seconds = every, keep, least_seconds
        self.rank, self.n_ranks, self._barrier = rank, n_ranks, barrier
        self.saved: int | None = None  # the newest step that is known to be good
        self._cost = 0.0
        self._last_time = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether it is time to save after update ``step``."""
        if self.every is not None:
            return step // self.every > (self.saved or 0) // self.every
        return time.monotonic() - self._last_time >= max(self.least_seconds, self._cost / _SHARE)

    def steps(self) -> list[int]:
        """Steps on disk, oldest first, whether whole or damaged."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / f"step-{step:08d}"

    def write(self, step: int, shared: Mapping[str, bytes], own: Mapping[str, bytes] | None = None) -> Path:
        """Save one step and delete what is older than the last ``keep``.

        Args:
            shared: files by name, the same in every process; rank 0 writes them.
            own: files of this rank, with names that no other rank has.
        Raises:
            CheckpointError: it cannot be written; older ones are intact.
            CorruptCheckpointError: what was written does not read back; older ones are intact.
        """
        began = time.monotonic()
        temporary = self.folder / f".tmp-{step:08d}"
        with _disk_errors(temporary):
            mine = {**(shared if self.rank == 0 else {}), **(own or {})}
            with self._in_step():
                if self.rank == 0:
                    make_folder(self.folder)
                    self._sweep()
                    temporary.mkdir()
            with self._in_step():
                for name, content in mine.items():
                    _write_synced(temporary / name, content)
            with self._in_step():
                if self.rank == 0:
                    self._finish(step, temporary, mine)
        self.saved = step
        self._last_time = time.monotonic()
        self._cost = self._last_time - began
        return self.path(step)

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Do one's part, then wait for the others; where one fails, none waits for it in vain."""
        try:
            yield
        except BaseException as failure:
            self._barrier(failure)
            raise
        self._barrier(None)

    def newest(self, *, set_aside: bool = False) -> StepFiles | None:
        """The newest checkpoint that agrees with its manifest; None where there is none at all.

        A damaged one is passed over with a :class:`RecoveryWarning` that names it and says what is wrong; with
        ``set_aside`` it is renamed to ``damaged-...``, so that it is in nobody's way.

        Raises:
            CorruptCheckpointError: all of them are damaged.
        """
        damage: list[str] = []
        for step in reversed(self.steps()):
            try:
                found = read_step(self.path(step))
            except CorruptCheckpointError as cause:
                damage.append(str(cause))
                if set_aside and self.rank == 0:
                    _move_aside(self.path(step), "damaged-")
                continue
            if damage:
                warnings.warn(f"going on from {found.path}: {' '.join(damage)}", RecoveryWarning, stacklevel=2)
            self.saved = step
            return found
        if damage:
            raise CorruptCheckpointError(
                f"`{self.folder}` must hold a whole checkpoint; got damaged ones alone. {' '.join(damage)}"
            )
        return None

    def _finish(self, step: int, temporary: Path, mine: Mapping[str, bytes]) -> None:
        entries = {}
        for path in sorted(temporary.iterdir()):
            content = mine.get(path.name)
            entries[path.name] = _entry(path.read_bytes() if content is None else content)
        _write_synced(temporary / MANIFEST, _manifest(step, entries))
        sync_folder(temporary)
        final = self.path(step)
        if final.exists():
            _move_aside(final, ".old-")
        os.rename(temporary, final)
        sync_folder(self.folder)
        read_step(final)  # what is on disk, not what was meant to be
        write_text(self.folder / "latest", final.name + "\n")
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))
        self._sweep()

    def _sweep(self) -> None:
        """Take away what a stopped save left behind."""
        for pattern in (".tmp-*", ".old-*", ".latest.*.tmp"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_step(folder: str | Path) -> StepFiles:
    """The files of one checkpoint, every byte compared with the manifest.

    Raises:
        CorruptCheckpointError: names the folder, the file and what is wrong with it.
        CheckpointError: there is no such folder.
    """
    folder = Path(folder)
    match = _STEP.fullmatch(folder.name)
    if match is None or not folder.is_dir():
        raise CheckpointError(f"`folder` must be a checkpoint step-<number>; got {folder}. Look into `checkpoints/`.")
    try:
        step, entries = _read_manifest(folder)
        files = {}
        for name, entry in entries.items():
            content = (folder / name).read_bytes()
            if len(content) != entry["bytes"]:
                raise ValueError(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError(f"{name} does not match its SHA-256")
            files[name] = content
        if step != int(match[1]):
            raise ValueError(f"its manifest is of step {step}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        reason = str(cause)
        if isinstance(cause, OSError):  # one that comes while reading, and not on opening, names no file
            reason = f"{Path(cause.filename or folder).name}: {cause.strerror}"
        raise CorruptCheckpointError(
            f"`{folder}` must be an undamaged checkpoint; got one where {reason}. Use an older one."
        ) from cause
    return StepFiles(folder, step, files)


def _entry(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _manifest(step: int, entries: Mapping[str, object]) -> bytes:
    """The manifest's own bytes, which carry their digest too: there is one way to write each, so any change shows."""
    body = {"files": dict(sorted(entries.items())), "step": step}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1) + "\n").encode()


def _read_manifest(folder: Path) -> tuple[int, dict[str, dict[str, object]]]:
    content = (folder / MANIFEST).read_bytes()
    try:
        read = json.loads(content)
        step, entries = read["step"], read["files"]
        fine = content == _manifest(step, entries) and all(name == Path(name).name for name in entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise ValueError(f"{MANIFEST} cannot be read ({len(content)} bytes)") from cause
    if not fine:
        raise ValueError(f"{MANIFEST} does not match its SHA-256")
    return step, entries


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _move_aside(path: Path, prefix: str) -> None:
    target = path.with_name(prefix + path.name)
    if target.exists():
        shutil.rmtree(target)
    os.rename(path, target)


@contextmanager
def _disk_errors(temporary: Path) -> Iterator[None]:
    """A save that cannot be finished leaves nothing behind and says where and why."""
    try:
        yield
    except OSError as cause:
        written = sum(path.stat().st_size for path in temporary.glob("*")) if temporary.is_dir() else 0
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"`{temporary}` must be writable; got {cause.strerror or cause} after {written} bytes"
            f"{f' ({cause.filename})' if cause.filename else ''}. Free some space, then resume: older checkpoints are "
            "intact."
        ) from cause
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
