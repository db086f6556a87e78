"""The child that runs a user's function on one SMILES after another, under a limit on memory.

Runs as ``python -m graph_ebm.scoring_worker JSON``; imports nothing heavy by itself. Each question is ``[number,
smiles]``, each answer ``[number, value, reason, detail, worn]``, where ``worn`` asks for another child. A function may
print, change the working folder, the environment, RDKit's log and the global random numbers: what it prints is dropped,
the rest is put back, and random numbers begin anew for each molecule, from its SMILES, so that no value depends on
which molecules came before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from graph_ebm.processes import address_space, limit_memory, say_ready

SPARE_SECONDS = 5.0
"""A child whose parent is gone ends by itself this long after the time limit."""
OUT_OF_MEMORY = 86
"""Exit code of a child that has no memory left to answer with."""
_DETAIL = 300  # characters of an error's text that are kept
_MORE_FILES, _MORE_THREADS = 64, 8  # left open or running since the first molecule: the child is worn


class Outcome(NamedTuple):
    """What became of one molecule: ``value``, or NaN with a ``reason`` of :data:`graph_ebm.scoring.REASONS`."""

    value: float
    reason: str = ""
    detail: str = ""


def outcome_of(call: Callable[[], Any], caught: type[BaseException] = Exception) -> Outcome:
    """The number that a call returns, or why there is none; ``caught``: what counts as an error of the call."""
    try:
        value = call()
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            return Outcome(math.nan, "not_a_number", f"returned {type(value).__name__}")
    except MemoryError as error:
        error.__traceback__ = None  # lets go of what the function held
        return Outcome(math.nan, "memory", "MemoryError")
    except caught as error:  # a user's function may raise anything; it is reported, never swallowed
        short = isinstance(error, OSError) and error.errno == errno.ENOMEM
        return Outcome(math.nan, "memory" if short else "raised", _said(error))
    return Outcome(value) if math.isfinite(value) else Outcome(math.nan, "nan", f"returned {value}")


def _said(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"[:_DETAIL]
    except Exception:  # its own __str__ fails: the name must do
        return name


def resolve(name: str) -> Callable[[str], Any]:
    """The function of a SMILES that ``module:function`` or a registered property's name stands for."""
    if ":" not in name:
        from graph_ebm import properties

        return properties.of_smiles(properties.spec(name))
    function = find(name)
    if not callable(function):
        raise TypeError(f"{name} is no function but {type(function).__name__}")
    return function


def find(path: str) -> Any:
    """What ``module:name`` stands for; raises whatever the import of the module raises."""
    module, _, name = path.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


class _World:
    """What a function may change for those after it: remembered, put back, and looked over for what piles up."""

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.folder, self.environment = os.getcwd(), dict(os.environ)
        self.log = self._log_state()
        self.first: tuple[int, int, int] | None = None

    def begin(self, smiles: str) -> None:
        """Random numbers that depend on the molecule alone, and room for ``memory_limit`` bytes more."""
        number = int.from_bytes(hashlib.sha256(smiles.encode()).digest()[:8]) >> 1
        random.seed(number)
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed(number % 2**32)
        if (torch := sys.modules.get("torch")) is not None:
            torch.manual_seed(number)
        if self.memory_limit:
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (min(most, address_space() + self.memory_limit), most))

    def put_back(self) -> bool:
        """Undo what can be undone; whether this child is worn: it holds much more than after its first molecule."""
        try:
            if not os.path.exists(".") or os.getcwd() != self.folder:
                os.chdir(self.folder)
        except OSError:
            return True
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        if self._log_state() != self.log:
            if self.log is None:
                self.log = self._log_state()  # the function has imported RDKit: its log as it was then
            else:
                self._set_log(self.log)
        now = (address_space(), _open_files(), threading.active_count())
        if self.first is None:
            self.first = now
        size, files, threads = (after - before for after, before in zip(now, self.first, strict=True))
        too_big = bool(self.memory_limit) and size > self.memory_limit // 4
        return too_big or files > _MORE_FILES or threads > _MORE_THREADS

    @staticmethod
    def _log_state() -> str | None:
        rdkit = sys.modules.get("rdkit.rdBase")
        return None if rdkit is None else str(rdkit.LogStatus())

    @staticmethod
    def _set_log(state: str) -> None:
        for line in state.splitlines():
            name, _, word = line.partition(":")
            rdkit = sys.modules["rdkit.rdBase"]
            (rdkit.EnableLog if word == "enabled" else rdkit.DisableLog)(name)


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _alarm(seconds: float) -> None:
    """End this process by the system's own clock after ``seconds`` (0: not at all), also where it hangs in C."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def main() -> None:
    """Serve until the input ends."""
    settings = json.loads(sys.argv[1])
    # The pipes move to numbers of their own: what the function reads is empty, what it prints is lost.
    questions, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        function = resolve(settings["name"])
    except BaseException as error:  # whatever an import may raise is told to the parent
        print(_said(error).replace("\n", " "), file=answers, flush=True)
        return
    memory = int(settings["memory_limit"])
    if memory and (size := address_space()):
        limit_memory(size + memory, size + 2 * memory)
    else:
        memory = 0
    world, own = _World(memory), os.getpid()
    say_ready(answers)
    for line in questions:
        number, smiles = json.loads(line)
        world.begin(smiles)
        _alarm(settings["time_limit"] + SPARE_SECONDS)
        outcome = outcome_of(lambda smiles=smiles: function(smiles), BaseException)  # type: ignore[misc]
        if os.getpid() != own:  # the function forked, and this is the copy: it has no parent to answer to
            os._exit(0)
        _alarm(0)
        try:
            worn = world.put_back()
            answers.write(json.dumps([number, *outcome, worn]) + "\n")
            answers.flush()
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
