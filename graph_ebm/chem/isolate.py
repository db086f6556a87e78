"""Parse in a worker process that cannot hurt this one: 1 GiB of address space, killed after 2 seconds.

One worker is kept for reuse (starting one costs about half a second); it is replaced after a kill or a crash. How
processes are started, asked and killed is in :mod:`graph_ebm.processes`.
"""

import atexit
import json
import sys
from typing import Any

import numpy as np

from discrete_ebm.errors import MoleculeError
from graph_ebm.chem.reader import ParsedGraph, Refusal
from graph_ebm.processes import Child, Gone, Late, NotStarted

TIME_LIMIT = 2.0
"""Seconds that one string may take."""
MEMORY_LIMIT = 1 << 30
"""Bytes of address space of the worker."""


class Worker:
    """One reader process with a time limit per string; safe to call from several threads (one string at a time)."""

    def __init__(self, time_limit: float = TIME_LIMIT, memory_limit: int = MEMORY_LIMIT) -> None:
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self._child = Child("graph_ebm.chem.worker", str(memory_limit))

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
        try:
            answer: dict[str, Any] = json.loads(self._child.ask(json.dumps([kind, text]), self.time_limit))
        except Late:
            return Refusal("timeout", f"not parsed within {self.time_limit:g} s")
        except Gone:
            return Refusal("crash", "RDKit ended the reader process")
        except NotStarted as cause:
            raise MoleculeError(
                f"the reader process must start within {self._child.start_limit:g} s and {self.memory_limit >> 20} "
                f"MiB; it did not ({cause}). Try `{sys.executable} -m graph_ebm.chem.worker {self.memory_limit}` for "
                "its error."
            ) from cause
        return Refusal(answer["reason"], answer["detail"]) if "reason" in answer else answer

    def close(self) -> None:
        """End the process; the next :meth:`read` starts another."""
        self._child.close()


_worker = Worker()
atexit.register(_worker.close)


def read(text: str) -> ParsedGraph | Refusal:
    """Parse one screened string in the shared worker process."""
    return _worker.read(text)


def read_mol_block(block: str) -> str | Refusal:
    """Canonical SMILES of one mol block, parsed in the shared worker process."""
    return _worker.read_mol_block(block)
