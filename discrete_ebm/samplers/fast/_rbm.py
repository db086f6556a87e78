"""Layers of binary units in one pass each: log odds in, draws out, with all that a step needs to know of them."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from discrete_ebm.samplers.fast._math import exp_minus
from discrete_ebm.samplers.fast._pairwise import _advance, _against, _rest_below
from discrete_ebm.samplers.fast._random import GOLDEN, key, mix, stream_word

__all__ = ["bernoulli", "free_energy", "visible"]

LANES = 64
FOLD = 64  # factors of at most 2 in a product of a lane before its logarithm is taken: 2^64 is within float32
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
def _begin(words, mine):
    """Fill the state of 64 generators from the key ``mine``."""
    for lane in range(LANES):
        own = mix(mine + np.uint64(lane + 1) * GOLDEN)
        for part in range(2):
            word = stream_word(own, np.uint64(part))
            words[2 * part * LANES + lane] = np.uint32(word)
            words[(2 * part + 1) * LANES + lane] = np.uint32(word >> np.uint64(32))


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(drawn, local, limit, words, mine, visit, n):
    """1 with probability σ(local), else 0, in the first ``n`` lanes; ``visit``: a number for each call of a stream."""
    _limits(local, limit)
    _advance(words, LANES)
    if _values(drawn, local, limit, words):
        for lane in range(n):
            if np.int32(words[4 * LANES + lane] >> np.uint32(1)) == limit[lane]:
                rest = float(_against(abs(local[lane]))) * _SCALE31 - limit[lane]
                below = _rest_below(rest, mix((mine ^ visit) + np.uint64(lane + 1) * GOLDEN))
                drawn[lane] = 1 if (local[lane] > 0) != below else 0


@njit(cache=True, nogil=True, error_model="numpy")
def bernoulli(logits, scale, seed0, seed1, first, out):
    """``out`` (R, M) = 1 with probability σ(scale · logits), else 0. ``scale`` (R,) or (1,); ``first``: of the rows.

    A uniform is compared by 31 bits, and by as many more as it takes where those are equal to the probability's.
    """
    words, mine = np.empty(5 * LANES, np.uint32), key(seed0, seed1, np.uint64(first))
    _begin(words, mine)
    local, limit, drawn = np.zeros(LANES, logits.dtype), np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    visit = np.uint64(0)
    for r in range(len(logits)):
        own_scale = scale[r if len(scale) > 1 else 0]
        for start in range(0, logits.shape[1], LANES):
            n = min(LANES, logits.shape[1] - start)
            visit += np.uint64(1)
            _copy_in(local, logits, r, start, n, own_scale)
            _draw(drawn, local, limit, words, mine, visit, n)
            _copy_out(out, r, drawn, start, n)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_in(local, rows, r, bias, start, n):
    for lane in range(n):
        local[lane] = rows[r, np.uintp(start) + np.uintp(lane)] + bias[np.uintp(start) + np.uintp(lane)]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_products(sums, drawn, bias, start, n):
    for lane in range(n):
        sums[lane] += bias[np.uintp(start) + np.uintp(lane)] * bias.dtype.type(drawn[lane])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_changes(sums, drawn, rows, r, start, n):
    for lane in range(n):
        sums[lane] += np.int32(drawn[lane] != rows[r, np.uintp(start) + np.uintp(lane)])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_rows(sums, local, n):
    for lane in range(n):
        sums[lane] += local[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def visible(logits, bias, seed0, seed1, first, old, new, floats, fields, totals, changed):
    """Draw visible units: ``new`` (R, N) int8 and ``floats`` (R, N) = 1 with probability σ(logits + bias), else 0.

    ``fields`` (R,) float64 = new · bias; ``totals`` (R,) float64: finite if all log odds are; ``changed`` (R,) int64:
    units that differ from ``old`` (R, N).
    """
    words, mine = np.empty(5 * LANES, np.uint32), key(seed0, seed1, np.uint64(first))
    _begin(words, mine)
    local, limit, drawn = np.zeros(LANES, logits.dtype), np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    field, total, moved = np.zeros(LANES, logits.dtype), np.zeros(LANES, logits.dtype), np.zeros(LANES, np.int32)
    visit = np.uint64(0)
    for r in range(len(logits)):
        field[:], total[:], moved[:] = 0, 0, 0
        for start in range(0, logits.shape[1], LANES):
            n = min(LANES, logits.shape[1] - start)
            visit += np.uint64(1)
            _add_in(local, logits, r, bias, start, n)
            _draw(drawn, local, limit, words, mine, visit, n)
            _copy_out(new, r, drawn, start, n)
            _copy_out(floats, r, drawn, start, n)
            _add_products(field, drawn, bias, start, n)
            _add_changes(moved, drawn, old, r, start, n)
            _add_rows(total, local, n)
        fields[r], totals[r], changed[r] = 0.0, 0.0, 0
        for lane in range(LANES):
            fields[r] += field[lane]
            totals[r] += total[lane]
            changed[r] += moved[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _put_back(rows, r, local, start, n):
    for lane in range(n):
        rows[r, np.uintp(start) + np.uintp(lane)] = local[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_softplus(positive, product, local, n):
    """log(1 + e^a) = max(a, 0) + log(1 + e^−|a|): the first is summed, the arguments of the second are multiplied."""
    one = local.dtype.type(1.0)
    for lane in range(n):
        positive[lane] += max(local[lane], local.dtype.type(0.0))
        product[lane] *= one + exp_minus(abs(local[lane]))


@njit(cache=True, nogil=True, error_model="numpy")
def free_energy(odds, bias, softplus, totals):
    """Add ``bias`` (H,) to ``odds`` (R, H) in place; ``softplus`` (R,) float64 = Σ log(1 + e^odds).

    ``totals`` (R,) float64: finite if all odds are.
    """
    local = np.zeros(LANES, odds.dtype)
    positive, product, total = np.zeros(LANES, odds.dtype), np.ones(LANES, odds.dtype), np.zeros(LANES, odds.dtype)
    for r in range(len(odds)):
        positive[:], product[:], total[:] = 0, 1, 0
        softplus[r], totals[r], factors = 0.0, 0.0, 0
        for start in range(0, odds.shape[1], LANES):
            n = min(LANES, odds.shape[1] - start)
            _add_in(local, odds, r, bias, start, n)
            _put_back(odds, r, local, start, n)
            _add_softplus(positive, product, local, n)
            _add_rows(total, local, n)
            factors += 1
            if factors == FOLD:
                for lane in range(LANES):
                    softplus[r] += math.log(float(product[lane]))
                product[:] = 1
                factors = 0
        for lane in range(LANES):
            softplus[r] += float(positive[lane]) + math.log(float(product[lane]))
            totals[r] += total[lane]
