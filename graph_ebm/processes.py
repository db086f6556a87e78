"""Child interpreters that may hang, crash or leak without hurting this one: one line is asked, one is answered.

A child is a fresh interpreter, not a fork: no locks, threads or CUDA contexts are inherited, and ``__main__`` of the
caller is not imported again. It runs ``python -m MODULE ARGUMENTS``, writes ``ready`` when it is, and answers each line
of its input with one line. It is the head of a process group of its own: a Ctrl-C at the terminal does not reach it,
and what it has started (a docking program) is killed with it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time

START_LIMIT = 120.0
"""Seconds that a child may take to start: imports on a loaded machine, not part of any question's time."""
_LONGEST = 1 << 22  # bytes of an answer; a child that writes more without a line break is broken
_READY = "ready"


class Late(Exception):
    """No answer within the time; the child was killed."""


class Gone(Exception):
    """The child ended, or wrote what is no answer; the message says how."""


class NotStarted(Exception):
    """A child that could not start; the message is what it said, if anything."""


class Child:
    """One child interpreter; started by the first question, and again by the next one after it was killed.

    Safe to use from several threads (one question at a time), and after a fork (which starts its own child).

    Attributes:
        answered: questions answered since the last start: 0 for a child that nothing has touched yet.
    """

    def __init__(self, module: str, *arguments: str, start_limit: float = START_LIMIT) -> None:
        self.module, self.arguments, self.start_limit = module, arguments, start_limit
        self.answered = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._owner = os.getpid()
        self._abandoned = False

    def start(self) -> None:
        """Start the child where it does not run.

        Raises:
            NotStarted: it did not get ready.
        """
        with self._lock:
            self._running()

    def ask(self, line: str, time_limit: float) -> str:
        """The answer to a line, at most ``time_limit`` seconds later; starting the child is not part of that time.

        Raises:
            Late, Gone: there is no answer; the next question starts another child.
            NotStarted: the child did not get ready.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(line.encode("ascii") + b"\n")
                process.stdin.flush()
                answer = self._lines.get(timeout=time_limit)
            except queue.Empty:
                self._stop()
                raise Late from None
            except BrokenPipeError:
                answer = None
            if answer is None:
                _wait_for_the_end(process)
                raise Gone(self._stop())
            self.answered += 1
            return answer

    def close(self) -> None:
        """End the child; the next question starts another."""
        with self._lock:
            if self._owner == os.getpid():
                self._stop()

    def abandon(self) -> None:
        """End the child for good, also while another thread waits for its answer (which then raises Gone)."""
        self._abandoned = True
        process = self._process
        if process is not None and self._owner == os.getpid():
            _kill(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork the pipes belong to the parent: start our own
            self._process, self._owner = None, os.getpid()
        if self._abandoned:
            raise Gone("closed")
        if self._process is not None and _alive(self._process):
            return self._process
        self._stop()
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **threads},
            start_new_session=True,
        )
        # A queue of its own for each process: lines of a killed one can never answer for the next.
        self._process, self._lines, self.answered = process, queue.SimpleQueue(), 0
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        if self._abandoned:  # closed while it was being started
            raise Gone(self._stop())
        try:
            first = self._lines.get(timeout=self.start_limit)
        except queue.Empty:
            first = f"not ready after {self.start_limit:g} s"
        if first is None or first.rstrip() != _READY:
            if first is None:
                _wait_for_the_end(process)
            ended = self._stop()
            if self._abandoned:
                raise Gone("closed")
            raise NotStarted(ended if first is None else first.rstrip())
        return process

    def _stop(self) -> str:
        """Kill what runs; how it ended, in words."""
        process, self._process = self._process, None
        if process is None:
            return "not started"
        ended = not _alive(process)
        _kill(process)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that the system cannot end is left to it
            process.wait(timeout=5)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # an unflushed line to a dead process: nothing to save
                    stream.close()
        code = process.returncode
        if not ended or code is None:
            return "killed"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether it runs. It is not reaped by the look, so that its group's number is nobody else's when it is killed."""
    if not hasattr(os, "waitid") or process.returncode is not None:
        return process.poll() is None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:  # somebody else waited for it
        return False


def _wait_for_the_end(process: subprocess.Popen[bytes], seconds: float = 1.0) -> None:
    """A process whose pipe is closed ends a moment later; then it can be said how."""
    until = time.monotonic() + seconds
    while _alive(process) and time.monotonic() < until:
        time.sleep(0.002)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its group, once: not after it was waited for."""
    if process.returncode is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
            return
    process.kill()


def _pump(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    """Move the child's lines to a queue, so that the reader can wait with a time limit on any system."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # closed under us by _stop
        while (line := process.stdout.readline(_LONGEST)).endswith(b"\n"):
            lines.put(line.decode("utf-8", errors="replace"))
    lines.put(None)


# -- what a child calls for itself ----------------------------------------------------------------------------------


def say_ready(stream: object) -> None:
    """Tell the parent that questions may come."""
    print(_READY, file=stream, flush=True)  # type: ignore[call-overload]


def limit_memory(n_bytes: int, most: int | None = None) -> None:
    """Cap the address space of this process where the system can; no core dumps from planned crashes.

    Args:
        n_bytes: the cap. most: what it may be raised to later (default: the cap).
    """
    try:
        import resource
    except ImportError:  # not a POSIX system: the time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes if most is None else most))


def address_space() -> int:
    """Bytes of address space that this process has in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
