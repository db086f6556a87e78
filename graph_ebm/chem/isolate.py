"""Parse in a worker process that cannot hurt this one: 1 GiB of address space, killed after 2 seconds.

One worker is kept for reuse (starting one costs about half a second); it is replaced after a kill or a crash. The
worker is a fresh interpreter, not a fork: no locks, threads or CUDA contexts are inherited, and ``__main__`` of the
caller is not imported again.
"""

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any

import numpy as np

from discrete_ebm.errors import MoleculeError
from graph_ebm.chem.reader import ParsedGraph, Refusal

TIME_LIMIT = 2.0
"""Seconds that one string may take."""
MEMORY_LIMIT = 1 << 30
"""Bytes of address space of the worker."""
_START_LIMIT = 120.0  # importing RDKit on a loaded machine; not part of a string's time


class Worker:
    """One reader process with a time limit per string; safe to call from several threads (one string at a time)."""

    def __init__(self, time_limit: float = TIME_LIMIT, memory_limit: int = MEMORY_LIMIT) -> None:
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._owner = os.getpid()

    def read(self, text: str) -> ParsedGraph | Refusal:
        """Parse one screened SMILES; ``timeout``, ``memory`` and ``crash`` come back as refusals."""
        answer = self._ask("smiles", text)
        if isinstance(answer, Refusal):
            return answer
        types = tuple((element, charge) for element, charge in answer["types"])
        return ParsedGraph(answer["smiles"], types, np.array(answer["bonds"], dtype=np.int8))

    def read_mol_block(self, block: str) -> str | Refusal:
        """Canonical SMILES of one mol block, or a refusal as in :meth:`read`."""
        answer = self._ask("mol", block)
        return answer if isinstance(answer, Refusal) else str(answer["smiles"])

    def _ask(self, kind: str, text: str) -> dict[str, Any] | Refusal:
        """Send one question and wait for its answer, at most ``time_limit`` seconds."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork the pipes belong to the parent: start our own
                self._process, self._owner = None, os.getpid()
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([kind, text]) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=self.time_limit)
            except queue.Empty:
                self._stop()
                return Refusal("timeout", f"not parsed within {self.time_limit:g} s")
            except BrokenPipeError:
                line = None
            if line is None:
                self._stop()
                return Refusal("crash", "RDKit ended the reader process")
        answer: dict[str, Any] = json.loads(line)
        return Refusal(answer["reason"], answer["detail"]) if "reason" in answer else answer

    def close(self) -> None:
        """End the process; the next :meth:`read` starts another."""
        with self._lock:
            if self._owner == os.getpid():
                self._stop()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "graph_ebm.chem.worker", str(self.memory_limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path, **threads},
        )
        # A queue of its own for each process: lines of a killed one can never answer for the next.
        self._process, self._lines = process, queue.SimpleQueue()
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        try:
            ready = self._lines.get(timeout=_START_LIMIT)
        except queue.Empty:
            ready = None
        if ready != "ready\n":
            self._stop()
            raise MoleculeError(
                f"the reader process must start within {_START_LIMIT:g} s and {self.memory_limit >> 20} MiB; it did "
                f"not. Try `{sys.executable} -m graph_ebm.chem.worker {self.memory_limit}` for its error."
            )
        return process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:  # an unflushed line to a dead process: nothing to save
                        continue
            self._process = None


def _pump(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]") -> None:
    """Move the worker's lines to a queue, so that the reader can wait with a time limit on any system."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.put(line)
    except ValueError:  # closed under us by _stop
        pass
    lines.put(None)


_worker = Worker()
atexit.register(_worker.close)


def read(text: str) -> ParsedGraph | Refusal:
    """Parse one screened string in the shared worker process."""
    return _worker.read(text)


def read_mol_block(block: str) -> str | Refusal:
    """Canonical SMILES of one mol block, parsed in the shared worker process."""
    return _worker.read_mol_block(block)
