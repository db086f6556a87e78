"""Property functions that behave and that do not; imported by worker processes, so nothing heavy here."""

import ctypes
import math
import os
import random
import signal
import subprocess
import sys
import time

HELD = []


def length(smiles: str) -> float:
    return len(smiles) / 3


def record(smiles: str) -> float:
    """Leaves a line in a file for each call."""
    with open(os.environ["SCORE_LOG"], "a") as file:
        file.write(f"{smiles} {os.getpid()}\n")
    time.sleep(float(os.environ.get("SCORE_SLEEP", "0")))
    if "F" in smiles:
        raise ValueError("no fluorine")
    return len(smiles) / 7


def draws(smiles: str) -> float:
    """Random numbers and what is left of other calls: values must not depend on either."""
    HELD.append(smiles)
    return random.random()


def leaks(smiles: str) -> float:
    """5 MB more at each call."""
    HELD.append(bytearray(5 << 20))
    return float(len(smiles))


def hoards(smiles: str) -> float:
    """Keeps 12 MB for each molecule of carbon alone, and needs 24 MB for anything."""
    if set(smiles) == {"C"}:
        HELD.append(bytearray(12 << 20))
    return len(bytearray(24 << 20)) / len(smiles)


def sometimes(smiles: str) -> float:
    if "N" in smiles:
        raise RuntimeError("no nitrogen here")
    return math.nan if "O" not in smiles else float(len(smiles))


def never(smiles: str) -> float:
    raise RuntimeError("the licence server is down")


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _hang() -> None:
    while True:
        time.sleep(3600)


def _hang_deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    _hang()


def _hang_with_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    with open(os.environ["SCORE_LOG"], "a") as file:
        file.write(f"child {child.pid}\n")
    _hang()


def _grow() -> float:
    parts = []
    while True:
        parts.append(bytearray(8 << 20))


def _meddle() -> float:
    os.chdir("/")
    os.environ["SCORE_MEDDLED"] = "yes"
    os.environ.pop("PATH", None)
    random.seed(0)
    print("hello", flush=True)
    print("hello", file=sys.stderr, flush=True)
    os.write(1, b'[1, 2.0, "", "", false]\n')
    return 1.0


def _look() -> float:
    fine = os.getcwd() != "/" and "SCORE_MEDDLED" not in os.environ and "PATH" in os.environ
    return 1.0 if fine and sys.stdin.read() == "" else 0.0


def _fork() -> float:
    if os.fork() == 0:
        return 666.0
    os.wait()
    return 5.0


def _scribble() -> float:
    """Find the pipe of the answers and write into it."""
    for number in range(3, 20):
        try:
            os.write(number, b"nonsense\n")
        except OSError:
            continue
    return 1.0


def _raise(error: BaseException) -> None:
    raise error


BEHAVIOUR = {
    "hang": _hang,
    "hang_deaf": _hang_deaf,
    "hang_with_child": _hang_with_child,
    "exit": lambda: os._exit(0),
    "exit_3": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "grow": _grow,
    "at_once": lambda: bytearray(8 << 30),
    "recursion": lambda: (lambda f: f(f))(lambda f: f(f)),
    "raises": lambda: _raise(RuntimeError("x" * 10_000_000)),
    "rude": lambda: _raise(Rude()),
    "sys_exit": lambda: sys.exit(0),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "generator_exit": lambda: _raise(GeneratorExit()),
    "nan": lambda: math.nan,
    "inf": lambda: -math.inf,
    "text": lambda: "high",
    "nothing": lambda: None,
    "huge_int": lambda: 10**400,
    "text_number": lambda: "2.5",
    "meddle": _meddle,
    "look": _look,
    "fork": _fork,
    "scribble": _scribble,
    "fine": lambda: 7.0,
}
EXPECTED = {
    "hang": "timeout",
    "hang_deaf": "timeout",
    "hang_with_child": "timeout",
    "exit": "crash",
    "exit_3": "crash",
    "segfault": "crash",
    "abort": "crash",
    "killed": "crash",
    "grow": "memory",
    "at_once": "memory",
    "recursion": "raised",
    "raises": "raised",
    "rude": "raised",
    "sys_exit": "raised",
    "interrupt": "raised",
    "generator_exit": "raised",
    "nan": "nan",
    "inf": "nan",
    "text": "not_a_number",
    "nothing": "not_a_number",
    "huge_int": "not_a_number",
    "scribble": "crash",
    "text_number": 2.5,
    "meddle": 1.0,
    "look": 1.0,
    "fork": 5.0,
    "fine": 7.0,
}


def behave(word: str) -> object:
    """What the word says; words with a number behind are the same again."""
    return BEHAVIOUR[word.rstrip("0123456789~")]() if word not in BEHAVIOUR else BEHAVIOUR[word]()
