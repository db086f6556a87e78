"""Multi-spin coding: heat-bath sweeps of 64 Ising chains at once on a square lattice with one coupling and one field.

Bit c of a word is the spin of chain c; the words of a colour's half row lie side by side. A site's four neighbours are
added by bit-sliced adders into indicators of n = 0..4 neighbours up. The spin then aligns with its local field unless a
uniform u falls below q_n = σ(−2β|J(2n − d) + h|), d the number of neighbours. u < q is decided for all lanes bit by bit
from the top: while the random bits equal those of q nothing is known; the first that differs decides. Every lane has
its own random bits, half of the undecided lanes are decided by each word, and the loop goes on until none is left or q,
a float64 with finitely many bits, has no more of them: the comparison is exact for the float64 q, no bit is rounded.

The first FAST words come from vectors of xoshiro256++; lanes that these leave open (2^-FAST of them) are finished by
hashed counters. So the numbers that a chain uses depend on its place in the batch and on nothing else of the batch.

Source: Jacobs & Rebbi 1981, J. Comput. Phys. 41, 203 (multi-spin coding); Ito & Kanada 1988 (bit-sliced sums);
Blackman & Vigna 2021 (xoshiro256++).
"""

# mypy: disable-error-code="no-untyped-def, call-arg, var-annotated"
from __future__ import annotations

import math

import numpy as np
from numba import njit

from discrete_ebm.samplers.fast._random import GOLDEN, key, mix, stream_word
from discrete_ebm.samplers.fast._vector import LANES, any_bit, broadcast, load, rotate, shift_left, store

__all__ = ["DEGREES", "FAST", "PLANES", "counts", "pack", "sweep", "tables", "unpack"]

FAST = 10  # vector rounds; 64 lanes are then all decided with probability 0.94
DEGREES = 5  # 0 to 4 neighbours
PLANES = 40  # binary digits of a lane's counter
ZERO, ONE = np.uint64(0), np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True, error_model="numpy")
def tables(betas, coupling, field, n_bits, bits, favoured):
    """Fill the binary digits of q for every number of neighbours and of neighbours up.

    Args:
        betas: (B,) float64, one for all lanes (B = 1) or one a lane (B ≤ 64).
        n_bits: digits that ``bits`` has room for; call with 0 first to learn how many are needed.
        bits: (DEGREES, n_bits, 5) uint64, digit k of q_n under degree d in each lane. favoured: (DEGREES, 5) uint64,
            lanes where up is the likelier value.
    Returns:
        the number of digits needed.
    """
    needed = FAST
    bits[:] = ZERO
    favoured[:] = ZERO
    for lane in range(len(betas)):
        own = ALL if len(betas) == 1 else ONE << np.uint64(lane)
        for degree in range(DEGREES):
            for up in range(degree + 1):
                odds = 2.0 * betas[lane] * (coupling * (2 * up - degree) + field)
                if odds > 0:
                    favoured[degree, up] |= own
                small = math.exp(-abs(odds))
                rest = small / (1.0 + small)
                digit = 0
                while rest > 0:  # doubling and taking off 1 are exact
                    rest *= 2.0
                    if rest >= 1.0:
                        rest -= 1.0
                        if digit < n_bits:
                            bits[degree, digit, up] |= own
                    digit += 1
                needed = max(needed, digit)
    return needed


@njit(cache=True, nogil=True, inline="always")
def _classes(a, b, c, d):
    """Indicators of 0, 1, 2, 3, 4 of four bits set, in every lane."""
    ab, cd = a ^ b, c ^ d
    two_ab, two_cd = a & b, c & d
    odd, four = ab ^ cd, two_ab & two_cd
    two = (two_ab ^ two_cd) | (ab & cd)
    return ~(odd | two | four), odd & ~two, two & ~odd, two & odd, four


@njit(cache=True, nogil=True, inline="always")
def _pick(m0, m1, m2, m3, m4, row):
    """The entry of ``row`` (5,) that belongs to each lane's class."""
    return ((m0 & broadcast(row[0])) | (m1 & broadcast(row[1])) | (m2 & broadcast(row[2]))
            | (m3 & broadcast(row[3])) | (m4 & broadcast(row[4])))


@njit(cache=True, nogil=True, error_model="numpy")
def _row(new, above, below, row, side, n, bits, favoured, stream, undecided):
    """Draw ``n`` words (a multiple of LANES) of one half row; open lanes are left in ``undecided``."""
    for at in range(0, n, LANES):
        m0, m1, m2, m3, m4 = _classes(load(above, at), load(below, at), load(row, at), load(side, at))
        base = 4 * at
        s0, s1 = load(stream, base), load(stream, base + LANES)
        s2, s3 = load(stream, base + 2 * LANES), load(stream, base + 3 * LANES)
        flag = broadcast(ZERO)
        still = ~flag
        for k in range(FAST):
            random = rotate(s0 + s3, 23) + s0  # xoshiro256++
            shifted = shift_left(s1, 17)
            s2 = s2 ^ s0
            s3 = s3 ^ s1
            s1 = s1 ^ s2
            s0 = s0 ^ s3
            s2 = s2 ^ shifted
            s3 = rotate(s3, 45)
            digit = _pick(m0, m1, m2, m3, m4, bits[k])
            flag = flag | (still & digit & ~random)
            still = still & ~(digit ^ random)
        store(stream, base, s0)
        store(stream, base + LANES, s1)
        store(stream, base + 2 * LANES, s2)
        store(stream, base + 3 * LANES, s3)
        store(new, at, flag ^ _pick(m0, m1, m2, m3, m4, favoured))
        store(undecided, at, still)


@njit(cache=True, nogil=True, error_model="numpy")
def _below(m0, m1, m2, m3, m4, still, bits, first, stream):
    """Lanes of ``still`` with u < q, from digit ``first`` on, until every lane is decided or q has no digit left."""
    flag = ZERO
    for k in range(first, bits.shape[0]):
        random = stream_word(stream, np.uint64(k))
        digit = ((m0 & bits[k, 0]) | (m1 & bits[k, 1]) | (m2 & bits[k, 2]) | (m3 & bits[k, 3]) | (m4 & bits[k, 4]))
        flag |= still & digit & ~random
        still &= ~(digit ^ random)
        if still == ZERO:
            break
    return flag


@njit(cache=True, nogil=True, error_model="numpy")
def sweep(words, keep, clamped, lanes, height, width, ring_rows, ring_columns, bits, favoured, seed0, seed1, group,
          n_sweeps):
    """``n_sweeps`` checkerboard sweeps, in place: first the sites with i + j even.

    Args:
        words: (2, H, P) uint64, colour, row, half row padded with zeros to P, a multiple of LANES.
        keep: the same shape, bits that stay as they are; looked at where ``clamped``. lanes: uint64, lanes in use.
        ring_rows, ring_columns: whether the lattice is closed in that direction (then the side is even and above 2).
        bits, favoured: of :func:`tables`.
        seed0, seed1: of this step. group: number of these 64 chains.
    """
    padded = words.shape[2]
    zeros, side = np.zeros(padded, np.uint64), np.zeros(padded, np.uint64)
    undecided, drawn = np.zeros(padded, np.uint64), np.zeros(padded, np.uint64)
    stream = np.empty(4 * padded, np.uint64)
    mine = key(seed0, seed1, np.uint64(group))
    for place in range(padded):
        own = mix(mine + np.uint64(place + 1) * GOLDEN)
        for part in range(4):
            at = 4 * LANES * (place // LANES) + LANES * part + place % LANES
            stream[at] = stream_word(own, np.uint64(part))
    mine = mix(mine ^ seed1)
    site = ZERO
    for _ in range(n_sweeps):
        for colour in range(2):
            other = words[1 - colour]
            for i in range(height):
                odd = (i + colour) & 1
                n, n_other = (width - odd + 1) // 2, (width + odd) // 2
                old, row = words[colour, i], other[i]
                up, down = ring_rows or i > 0, ring_rows or i < height - 1
                above = other[i - 1 if i > 0 else height - 1] if up else zeros
                below = other[i + 1 if i < height - 1 else 0] if down else zeros
                if odd:
                    for j in range(n_other - 1):
                        side[j] = row[j + 1]
                    side[n_other - 1] = row[0] if ring_columns else ZERO
                else:
                    for j in range(n_other):
                        side[j + 1 if j + 1 < padded else 0] = row[j]
                    side[0] = row[n_other - 1] if ring_columns else ZERO
                degree = int(up) + int(down)
                new = drawn if clamped else old  # a site is not its own neighbour
                _row(new, above, below, row, side, padded, bits[degree + 2], favoured[degree + 2], stream, undecided)
                for j in range(n):
                    column = 2 * j + odd
                    missing = 0 if ring_columns else int(column == 0) + int(column == width - 1)
                    still = lanes & (ALL if missing else undecided[j])
                    if still == ZERO:
                        continue
                    m0, m1, m2, m3, m4 = _classes(above[j], below[j], row[j], side[j])
                    at = degree + 2 - missing
                    first = 0 if missing else FAST
                    if missing:
                        new[j] = ((m0 & favoured[at, 0]) | (m1 & favoured[at, 1]) | (m2 & favoured[at, 2])
                                  | (m3 & favoured[at, 3]) | (m4 & favoured[at, 4]))
                    own = mix(mine + (site + np.uint64(j)) * GOLDEN)
                    new[j] ^= _below(m0, m1, m2, m3, m4, still, bits[at], first, own)
                site += np.uint64(padded)
                if clamped:
                    for j in range(n):
                        old[j] = (new[j] & ~keep[colour, i, j]) | (old[j] & keep[colour, i, j])
                for j in range(n, padded):
                    old[j] = ZERO


# -- between states and words -----------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def _set_bits(plane, x, bit):
    """Set ``bit`` in each byte where ``x`` is above 0. In this form LLVM vectorises it, as it does the three below."""
    for site in range(len(x)):
        if x[site] > 0:
            plane[site] |= bit


@njit(cache=True, nogil=True, error_model="numpy")
def _read_bits(x, plane, bit, low, high):
    for site in range(len(x)):
        x[site] = high if plane[site] & bit else low


@njit(cache=True, nogil=True, error_model="numpy")
def _add_octet(joined, plane, shift):
    for site in range(len(plane)):
        joined[site] |= np.uint64(plane[site]) << shift


@njit(cache=True, nogil=True, error_model="numpy")
def _take_octet(plane, joined, shift):
    for site in range(len(plane)):
        plane[site] = np.uint8((joined[site] >> shift) & np.uint64(255))


@njit(cache=True, nogil=True, error_model="numpy")
def pack(x, height, width, words):
    """States (C ≤ 64, H·W) int8 or bool, above 0 = up, into zeroed ``words`` (2, H, P)."""
    n_sites = height * width
    joined, plane = np.zeros(n_sites, np.uint64), np.empty(n_sites, np.uint8)
    for octet in range((len(x) + 7) // 8):
        plane[:] = np.uint8(0)
        for chain in range(8 * octet, min(8 * octet + 8, len(x))):
            _set_bits(plane, x[chain], np.uint8(1 << (chain % 8)))
        _add_octet(joined, plane, np.uint64(8 * octet))
    for i in range(height):
        for odd in range(2):
            target, first = words[(i + odd) & 1, i], i * width + odd
            for j in range((width - odd + 1) // 2):
                target[j] = joined[first + 2 * j]


@njit(cache=True, nogil=True, error_model="numpy")
def unpack(words, height, width, low, high, x):
    """The opposite of :func:`pack`: ``x`` (C ≤ 64, H·W) int8 becomes ``low`` or ``high`` (int8)."""
    n_sites = height * width
    joined, plane = np.empty(n_sites, np.uint64), np.empty(n_sites, np.uint8)
    for i in range(height):
        for odd in range(2):
            source, first = words[(i + odd) & 1, i], i * width + odd
            for j in range((width - odd + 1) // 2):
                joined[first + 2 * j] = source[j]
    for octet in range((len(x) + 7) // 8):
        _take_octet(plane, joined, np.uint64(8 * octet))
        for chain in range(8 * octet, min(8 * octet + 8, len(x))):
            _read_bits(x[chain], plane, np.uint8(1 << (chain % 8)), low, high)


# -- counting in every lane -------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def _full_adder(a, b, c):
    """(sum, carry) of three bits in every lane."""
    return a ^ b ^ c, (a & b) | (c & (a | b))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_pair(planes, waiting, number, a, b):
    """Add two vectors of bits to the lanes' counters; ``number`` pairs were added before.

    A carry waits for the next one of its weight, so that two full adders a call are enough on average.
    """
    total, carry = _full_adder(load(planes, 0), a, b)
    store(planes, 0, total)
    at = LANES
    while number & 1:
        total, carry = _full_adder(load(planes, at), load(waiting, at), carry)
        store(planes, at, total)
        number >>= 1
        at += LANES
    store(waiting, at, carry)


@njit(cache=True, nogil=True, error_model="numpy")
def _totals(planes, waiting, number, out):
    """(64,) counts of all lanes, added to ``out``."""
    level = 1
    while number >> (level - 1):
        if (number >> (level - 1)) & 1:
            carry, at = load(waiting, level * LANES), level * LANES
            while any_bit(carry):
                here = load(planes, at)
                store(planes, at, here ^ carry)
                carry = here & carry
                at += LANES
        level += 1
    for plane in range(level + 1):
        for place in range(LANES):
            word = planes[plane * LANES + place]
            if word:
                for lane in range(64):
                    out[lane] += np.int64((word >> np.uint64(lane)) & ONE) << plane


@njit(cache=True, nogil=True, error_model="numpy")
def counts(words, before, height, width, ring_rows, ring_columns, unequal, up, changed):
    """Add to (64,) int64 each: bonds between unequal spins, spins up, and sites that differ from ``before``."""
    padded = words.shape[2]
    planes, waiting = np.zeros((3, PLANES * LANES), np.uint64), np.zeros((3, PLANES * LANES), np.uint64)
    right, left = np.zeros(padded, np.uint64), np.zeros(padded, np.uint64)
    number = 0
    for i in range(height):
        even, odd = words[i & 1, i], words[1 - (i & 1), i]  # by column
        n_even, n_odd = (width + 1) // 2, width // 2
        for j in range(n_odd):
            right[j] = even[j] ^ odd[j]
        for j in range(1, n_even):
            left[j] = even[j] ^ odd[j - 1]
        if ring_columns:
            left[0] = even[0] ^ odd[n_odd - 1]
        last = i == height - 1
        joined = not last or ring_rows
        after = 0 if last else i + 1
        even_below = words[i & 1 ^ 1, after] if joined else even
        odd_below = words[i & 1, after] if joined else odd
        for at in range(0, padded, LANES):
            _add_pair(planes[0], waiting[0], 2 * number, load(right, at), load(left, at))
            _add_pair(planes[0], waiting[0], 2 * number + 1, load(even, at) ^ load(even_below, at),
                      load(odd, at) ^ load(odd_below, at))
            _add_pair(planes[1], waiting[1], number, load(even, at), load(odd, at))
            _add_pair(planes[2], waiting[2], number, load(even, at) ^ load(before[i & 1, i], at),
                      load(odd, at) ^ load(before[1 - (i & 1), i], at))
            number += 1
    _totals(planes[0], waiting[0], 2 * number, unequal)
    _totals(planes[1], waiting[1], number, up)
    _totals(planes[2], waiting[2], number, changed)
