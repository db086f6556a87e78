"""Bernoulli draws of a whole layer: logits in, zeros and ones out, in one pass."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

from discrete_ebm.samplers.fast._pairwise import _advance, _against, _rest_below
from discrete_ebm.samplers.fast._random import GOLDEN, key, mix, stream_word

__all__ = ["bernoulli"]

LANES = 64
_SCALE31 = 2.0**31


@njit(cache=True, nogil=True, error_model="numpy")
def _limits(local, limit):
    for lane in range(LANES):
        limit[lane] = np.int32(_against(abs(local[lane])) * local.dtype.type(_SCALE31))


@njit(cache=True, nogil=True, error_model="numpy")
def _values(drawn, local, limit, words):
    """1 or 0 in each lane; whether 31 bits have left one undecided."""
    closest = np.uint32(1)
    for lane in range(LANES):
        word = np.int32(words[4 * LANES + lane] >> np.uint32(1))
        closest = min(closest, np.uint32(word ^ limit[lane]))
        drawn[lane] = np.int32(1) if (local[lane] > 0) != (word < limit[lane]) else np.int32(0)
    return closest == 0


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_in(local, rows, r, start, n, scale):
    for lane in range(n):
        local[lane] = rows[r, np.uintp(start) + np.uintp(lane)] * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_out(rows, r, drawn, start, n):
    for lane in range(n):
        rows[r, np.uintp(start) + np.uintp(lane)] = drawn[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def bernoulli(logits, scale, seed0, seed1, first, out):
    """``out`` (R, M) = 1 with probability σ(scale · logits), else 0. ``scale`` (R,) or (1,); ``first``: of the rows.

    A uniform is compared by 31 bits, and by as many more as it takes where those are equal to the probability's.
    """
    words, mine = np.empty(5 * LANES, np.uint32), key(seed0, seed1, np.uint64(first))
    for lane in range(LANES):
        own = mix(mine + np.uint64(lane + 1) * GOLDEN)
        for part in range(2):
            word = stream_word(own, np.uint64(part))
            words[2 * part * LANES + lane] = np.uint32(word)
            words[(2 * part + 1) * LANES + lane] = np.uint32(word >> np.uint64(32))
    local, limit, drawn = np.zeros(LANES, logits.dtype), np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    visit = np.uint64(0)
    for r in range(len(logits)):
        own_scale = scale[r if len(scale) > 1 else 0]
        for start in range(0, logits.shape[1], LANES):
            n = min(LANES, logits.shape[1] - start)
            visit += np.uint64(1)
            _copy_in(local, logits, r, start, n, own_scale)
            _limits(local, limit)
            _advance(words, LANES)
            if _values(drawn, local, limit, words):
                for lane in range(n):
                    if np.int32(words[4 * LANES + lane] >> np.uint32(1)) == limit[lane]:
                        rest = float(_against(abs(local[lane]))) * _SCALE31 - limit[lane]
                        below = _rest_below(rest, mix((mine ^ visit) + np.uint64(lane + 1) * GOLDEN))
                        drawn[lane] = 1 if (local[lane] > 0) != below else 0
            _copy_out(out, r, drawn, start, n)
