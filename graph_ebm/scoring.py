"""Run a user's function (``module:function``) on many molecules: in worker processes, under limits, remembered on disk.

Nothing that the function does on a molecule can end the run: it may hang, crash, leak, raise, print or change the
process it runs in. Each molecule gets a value or a reason, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from discrete_ebm.errors import DataError, SettingError
from graph_ebm.processes import Child, Gone, Late, NotStarted
from graph_ebm.scoring_cache import ScoreCache
from graph_ebm.scoring_worker import OUT_OF_MEMORY, Outcome, outcome_of, resolve

__all__ = ["REASONS", "Outcome", "Scored", "Scoring", "Task", "score", "source_version"]

REASONS: dict[str, str] = {
    "raised": "the function raised an error",
    "nan": "the function returned NaN or infinity",
    "not_a_number": "the function returned something that is no number",
    "timeout": "no value within the time limit",
    "memory": "the function asked for more memory than allowed",
    "crash": "the function ended its process",
}
"""Why a molecule has no value; the words of :data:`graph_ebm.chem.reader.REASONS` come before, where it is none."""
_WRITE_EVERY = 0.2  # seconds between two writes to the cache
_GIB = 1 << 30


@dataclass(frozen=True)
class Scoring:
    """How functions named ``module:function`` are run.

    Args:
        workers: processes that run at once; None = one a core (as far as there are molecules); 0 = in this process,
            without any limit.
        time_limit: seconds for one molecule. Loading the module is not part of them.
        memory_limit: GiB of address space for one molecule, beyond what the module takes when it is loaded; 0 = any
            (functions that use CUDA need 0).
        cache: SQLite file of scores, see :class:`graph_ebm.scoring_cache.ScoreCache`; None = nothing is kept.
        key: version of the function in the cache; None = a digest of the source file it is in. Give one where the
            value depends on more than that file (a receptor, another module, a program).
        retry: score again what the cache has without a value.
        engine: where to run instead of worker processes of this machine: anything with the ``submit`` of a
            ``concurrent.futures.Executor``, or with a ``map(function, items)`` that gives results in order, or such a
            map itself. Each of its processes keeps a child of its own, so the limits hold there too.
        progress: show a bar.
    """

    workers: int | None = None
    time_limit: float = 60.0
    memory_limit: float = 1.0
    cache: str | Path | None = None
    key: str | None = None
    retry: bool = False
    engine: Any = None
    progress: bool = False

    def __post_init__(self) -> None:
        workers, number = self.workers, (int, float)
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
            raise SettingError(f"`workers` must be a whole number of at least 0, or None; got {workers!r}. Try 2.")
        for name, low in (("time_limit", 0.0), ("memory_limit", -1e-300)):
            value = getattr(self, name)
            fine = isinstance(value, number) and not isinstance(value, bool) and low < value < math.inf
            if not fine:
                least = "positive" if low == 0 else "of at least 0"
                raise SettingError(f"`{name}` must be a finite number {least}; got {value!r}.")
        if self.key is not None and (not isinstance(self.key, str) or not self.key):
            raise SettingError(f"`key` must be text that names the function's version; got {self.key!r}. Try 'v1'.")
        if self.engine is not None and not (
            callable(self.engine) or callable(getattr(self.engine, "submit", None)) or hasattr(self.engine, "map")
        ):
            raise SettingError(
                f"`engine` must have `submit` or `map`, or be a map itself; got {type(self.engine).__name__}. Try "
                "concurrent.futures.ThreadPoolExecutor(4), or a dask client's get_executor()."
            )


@dataclass(frozen=True)
class Scored:
    """One :class:`Outcome` for each SMILES asked for, in that order. ``n_cached``: distinct ones that were known."""

    outcomes: list[Outcome]
    n_cached: int = 0

    @property
    def n_scored(self) -> int:
        """With a value: always ``len(outcomes) - n_refused``."""
        return sum(not outcome.reason for outcome in self.outcomes)

    @property
    def n_refused(self) -> int:
        """Without one."""
        return len(self.outcomes) - self.n_scored

    def counts(self) -> dict[str, int]:
        """``{reason: number}`` of what was refused, most frequent first."""
        return dict(Counter(outcome.reason for outcome in self.outcomes if outcome.reason).most_common())


@dataclass(frozen=True)
class Task:
    """A property and its limits: what is sent to an engine, and called there with one SMILES.

    Each process that calls it keeps as many children as call at once. Limits in seconds and bytes.
    """

    name: str
    time_limit: float
    memory_limit: int

    def __call__(self, smiles: str) -> Outcome:
        """Value or reason.

        Raises:
            SettingError: the function cannot be loaded there.
        """
        return _children(self).score(smiles)


def score(name: str, smiles: Sequence[str], scoring: Scoring | None = None) -> Scored:
    """Values of one property for canonical SMILES; :func:`graph_ebm.properties.compute` reads the molecules before.

    Args:
        name: ``module:function`` of a SMILES, or a registered property's name.
        smiles: what the function is called with; equal ones are scored once.
        scoring: workers, limits, cache, engine.
    Returns:
        Scored: N in = N scored + N refused, each with its reason. Ctrl-C and errors leave what is done in the cache.
    Raises:
        SettingError: the function cannot be loaded, or the cache needs a ``key``. CheckpointError: the cache cannot be
        used.
    """
    plan = Scoring() if scoring is None else scoring
    task = Task(name, float(plan.time_limit), round(plan.memory_limit * _GIB))
    distinct = list(dict.fromkeys(smiles))
    known: dict[str, Outcome] = {}
    if plan.cache is None:
        with contextlib.closing(_run(task, distinct, plan)) as found:
            known |= found
        return Scored([known[text] for text in smiles])
    version = plan.key if plan.key is not None else source_version(name)
    with ScoreCache(plan.cache, name, version, time_limit=task.time_limit, memory_limit=task.memory_limit) as cache:
        known |= cache.read(distinct, refusals=not plan.retry)
        n_cached, new = len(known), {}
        written = time.monotonic()
        missing = [text for text in distinct if text not in known]
        try:
            with contextlib.closing(_run(task, missing, plan)) as found:
                for text, outcome in found:
                    known[text] = new[text] = outcome
                    if time.monotonic() - written > _WRITE_EVERY:
                        cache.write(new)
                        new, written = {}, time.monotonic()
        finally:  # also after Ctrl-C: what is done is kept
            cache.write(new)
    return Scored([known[text] for text in smiles], n_cached)


def source_version(name: str) -> str:
    """What tells one version of a function from another: a digest of the files that it and its module are in.

    Raises:
        SettingError: there is no such file (a function typed into a notebook).
    """
    if ":" not in name:
        import rdkit

        from graph_ebm import properties

        properties.spec(name)
        return f"rdkit {rdkit.__version__}, source {_digest(str(properties.__file__))}"
    function = _load(name)
    modules = dict.fromkeys([name.partition(":")[0], getattr(function, "__module__", None) or ""])
    parts = []
    for module in filter(None, modules):
        file = getattr(sys.modules.get(module) or import_module(module), "__file__", None)
        if file is not None and Path(file).is_file():
            parts.append(_digest(file))
        elif module in sys.builtin_module_names:
            parts.append(f"python {platform.python_version()}")
    if not parts:
        raise SettingError(
            f"`key` must be given to keep the scores of {name!r}, whose source is in no file; got None. Name its "
            "version, e.g. key='v1'."
        )
    return "source " + " ".join(parts)


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _load(name: str) -> Callable[[str], Any]:
    """The function, in this process; SettingError where it cannot be imported."""
    from graph_ebm import properties

    properties.spec(name)
    return resolve(name)


# -- running --------------------------------------------------------------------------------------------------------


def _run(task: Task, smiles: list[str], plan: Scoring) -> Generator[tuple[str, Outcome], None, None]:
    """(SMILES, outcome) as they come, with a bar."""
    if not smiles:
        return
    if plan.engine is not None:
        found = _by_engine(plan.engine, task, smiles)
    elif plan.workers == 0 or task.name.startswith("__main__:"):  # no other process can import this one's __main__
        function = _load(task.name)
        found = ((text, outcome_of(functools.partial(function, text))) for text in smiles)
    else:
        found = _by_workers(task, smiles, plan.workers or _cores())
    label = f"scoring {task.name}"
    with tqdm(total=len(smiles), disable=not plan.progress, desc=label, unit="mol", leave=False) as bar:
        for text, outcome in found:
            bar.update()
            yield text, outcome


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_workers(task: Task, smiles: list[str], workers: int) -> Iterator[tuple[str, Outcome]]:
    children = _Children(task)
    executor = ThreadPoolExecutor(min(workers, len(smiles)), "scoring")
    try:
        yield from _by_engine(executor, children.score, smiles)
    finally:
        children.close()  # first: the threads wait for them
        executor.shutdown(wait=True, cancel_futures=True)


def _by_engine(engine: Any, function: Callable[[str], Any], smiles: list[str]) -> Iterator[tuple[str, Outcome]]:
    if callable(getattr(engine, "submit", None)):
        futures = {engine.submit(function, text): text for text in smiles}
        try:
            for future in as_completed(futures):
                yield futures[future], _outcome(future.result())
        finally:
            for future in futures:
                future.cancel()
        return
    mapped: Iterable[Any] = (engine.map if hasattr(engine, "map") else engine)(function, smiles)
    outcomes = iter(mapped)
    for text in smiles:
        yield text, _outcome(next(outcomes, None))


def _outcome(result: Any) -> Outcome:
    """What an engine brought back; some make lists of tuples."""
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise DataError(
            f"`engine` must give one result for each molecule, in order; got {type(result).__name__}. A map that "
            "returns futures is none: give its executor (a dask client's get_executor())."
        )
    return Outcome(*result)


class _Children:
    """Children of one task: as many as are asked at once, kept for the next question."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._all: list[Child] = []
        self._number = 0
        self._owner = os.getpid()

    def score(self, smiles: str) -> Outcome:
        child = self._take()
        try:
            outcome = self._ask(child, smiles)
            if outcome is None:  # it had other molecules before: only a fresh child's word counts
                child.close()
                outcome = self._ask(child, smiles)
                assert outcome is not None
            return outcome
        except NotStarted as cause:
            raise SettingError(
                f"`{self.task.name}` must be a function that another process can load; it did not: {cause}. Check "
                "that `import` of its module works by itself, within "
                f"{child.start_limit:g} s."
            ) from cause
        finally:
            with self._lock:
                self._idle.append(child)

    def close(self) -> None:
        """End them all, also while they are asked."""
        with self._lock:
            children = list(self._all)
        for child in children:
            child.abandon()
        for child in children:
            child.close()

    def _take(self) -> Child:
        with self._lock:
            if self._owner != os.getpid():  # a fork: the parent's children are not ours
                self._idle, self._all, self._owner = [], [], os.getpid()
            if self._idle:
                return self._idle.pop()
            limits = {"time_limit": self.task.time_limit, "memory_limit": self.task.memory_limit}
            child = Child("graph_ebm.scoring_worker", json.dumps({"name": self.task.name, **limits}))
            self._all.append(child)
            return child

    def _ask(self, child: Child, smiles: str) -> Outcome | None:
        """The outcome; None where a child that is not fresh failed in a way that what came before may be guilty of."""
        child.start()
        fresh = child.answered == 0
        with self._lock:
            self._number += 1
            number = self._number
        try:
            line = child.ask(json.dumps([number, smiles]), self.task.time_limit)
            told, value, reason, detail, worn = json.loads(line)
            if told != number:
                raise ValueError(f"answer {told} to question {number}")
            outcome = Outcome(float(value), str(reason), str(detail))
        except Late:
            return Outcome(math.nan, "timeout", f"no value within {self.task.time_limit:g} s")
        except Gone as cause:
            if not fresh:
                return None
            if str(cause) == f"exit code {OUT_OF_MEMORY}":
                return Outcome(math.nan, "memory", "no memory was left to answer with")
            return Outcome(math.nan, "crash", f"its process ended: {cause}")
        except (ValueError, TypeError) as cause:  # it wrote into the pipe of the answers
            child.close()
            return Outcome(math.nan, "crash", f"its process answered nonsense ({cause})") if fresh else None
        if outcome.reason == "memory":
            child.close()
            return outcome if fresh else None
        if worn:
            child.close()
        return outcome


_KEPT: dict[Task, _Children] = {}
_KEPT_LOCK = threading.Lock()


def _children(task: Task) -> _Children:
    """The children that this process keeps for tasks of an engine; they end when it does."""
    with _KEPT_LOCK:
        if task not in _KEPT:
            if not _KEPT:
                import atexit

                atexit.register(close_children)
            _KEPT[task] = _Children(task)
        return _KEPT[task]


def close_children() -> None:
    """End the children that calls of a :class:`Task` have left in this process."""
    with _KEPT_LOCK:
        kept = list(_KEPT.values())
        _KEPT.clear()
    for children in kept:
        with contextlib.suppress(OSError):
            children.close()
