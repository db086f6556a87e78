"""Damaged bytes, JSON of every kind, SMILES that are nearly right: the inputs of the fuzz job, and how long it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1000"))


def fuzz(share: float = 1.0) -> settings:
    """``FUZZ_EXAMPLES`` examples (1,000 where the variable is not set) times ``share``, new ones each run."""
    return settings(max_examples=max(1, int(EXAMPLES * share)), deadline=None, print_blob=True,
                    suppress_health_check=list(HealthCheck))


def short(n: int) -> settings:
    """For the quick tier: the same few examples each run."""
    return settings(max_examples=n, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change of some bytes: bits flipped, a piece cut out, doubled, overwritten or put in, or the end lost."""
    steps = draw(st.lists(st.tuples(st.sampled_from(["flip", "cut", "double", "write", "insert", "truncate"]),
                                    st.floats(0, 1), st.integers(1, 64), st.binary(min_size=1, max_size=16)),
                          min_size=1, max_size=4))  # fmt: skip

    def change(content: bytes) -> bytes:
        for kind, where, length, piece in steps:
            at = int(where * max(len(content) - 1, 0))
            if kind == "flip" and content:
                content = content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1:]
            elif kind == "cut":
                content = content[:at] + content[at + length:]
            elif kind == "double":
                content = content[:at + length] + content[at:]
            elif kind == "write":
                content = content[:at] + piece + content[at + len(piece):]
            elif kind == "insert":
                content = content[:at] + piece + content[at:]
            else:
                content = content[:at]
        return content

    return change


FILES = ["", ".", "..", "/etc/passwd", "../x", "a\0b", "x" * 300, "state.json"]
names = st.one_of(st.text(max_size=8), st.sampled_from(FILES))
# Sizes are small or impossible: nothing between them, which would really be allocated.
whole = st.one_of(st.integers(-3, 40), st.sampled_from([2**63, -(2**63), 10**30]))
numbers = st.one_of(whole, st.floats(), st.booleans(), st.none())
anything = st.recursive(st.one_of(numbers, names),
                        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
                        max_leaves=12)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A copy of a JSON value with one to three of its parts replaced, taken out, or put in anew."""
    copy = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        here, above, key = copy, None, None
        while isinstance(here, (dict, list)) and here and draw(st.booleans()):
            above, key = here, draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
            here = above[key]
        if above is None:
            if draw(st.integers(0, 9)) == 0:
                copy = draw(anything)
            elif isinstance(copy, dict):
                copy[draw(names)] = draw(anything)
        elif draw(st.booleans()):
            above[key] = draw(anything)
        else:
            del above[key]
    return copy


ATOMS = ["C", "c", "N", "n", "O", "o", "S", "s", "F", "Cl", "Br", "I", "P", "B", "[nH]", "[N+]", "[O-]", "[C@H]",
         "[C@@]", "[13CH4]", "[Na+]", "[2H]", "[H]", "[CH2]", "[Fe]", "[*]", "*", "[C:7]", "[se]", "[99999C]", "[C+9]",
         "[]", "[C"]  # fmt: skip
OTHER = ["(", ")", "=", "#", "$", "-", ":", "/", "\\", ".", "1", "2", "3", "%10", "%(100)", "%", "~", "->", "<-", ">",
         " ", "@"]  # fmt: skip
grammar = st.lists(st.sampled_from(ATOMS * 3 + OTHER), max_size=40).map("".join)
noise = st.one_of(st.text(max_size=60), st.text(st.characters(codec="ascii"), max_size=60),
                  st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))


@st.composite
def mutated(draw: st.DrawFn, corpus: list[str]) -> str:
    """A real SMILES, or two crossed, with some pieces of the grammar put in, taken out or moved."""
    text = draw(st.sampled_from(corpus))
    if draw(st.booleans()):
        other = draw(st.sampled_from(corpus))
        text = text[:draw(st.integers(0, len(text)))] + other[draw(st.integers(0, len(other))):]
    for _ in range(draw(st.integers(0, 4))):
        at, n = draw(st.integers(0, len(text))), draw(st.integers(0, 5))
        piece = draw(st.one_of(st.sampled_from(ATOMS + OTHER), st.just(""), st.just(text[at:at + n] * 2)))
        text = text[:at] + piece + text[at + n:]
    return text
