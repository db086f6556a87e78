"""Random words inside numba functions: hashed counters, and xoshiro256++ for long vector streams.

Every step draws one 128-bit seed from the torch generator and derives all else from it by position, so a saved
generator resumes to the bit and no stream depends on how many chains there are or on the number of threads.

Source: Steele, Lea & Flood 2014 (the mixer of SplitMix64, with Stafford's constants); Blackman & Vigna 2021 (xoshiro).
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["GOLDEN", "key", "mix", "stream_word"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0xD1342543DE82EF95)  # another odd number, so that nested counters do not line up
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@njit(cache=True, nogil=True, inline="always")
def mix(word):
    """A bijection of 64-bit words in which every bit depends on every bit."""
    word = (word ^ (word >> _30)) * _A
    word = (word ^ (word >> _27)) * _B
    return word ^ (word >> _31)


@njit(cache=True, nogil=True, inline="always")
def key(seed0, seed1, number):
    """The key (uint64) of stream ``number`` (uint64) under a 128-bit seed."""
    return mix(mix(seed0 + number * GOLDEN) ^ seed1)


@njit(cache=True, nogil=True, inline="always")
def stream_word(stream, count):
    """Word ``count`` (uint64) of the stream with this key."""
    return mix(stream + (count + np.uint64(1)) * _STEP)
