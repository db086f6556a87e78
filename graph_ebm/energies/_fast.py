"""Compiled CPU kernels over integer molecules: cycles, count features and packing.

Optional: they need numba and serve CPU tensors only. Each has a tensor-only twin (``cycles.enumerate_cycles``,
``features.count_indices_torch``, ``relational.pack_torch``) that serves every device and is tested to agree exactly.
All of them read ``x`` (C, V, V) int8 states whose atoms are compact (slots 0..n-1).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

numba: Any
try:
    numba = import_module("numba")
except ImportError:  # the tensor-only twins serve
    numba = None

__all__ = ["AVAILABLE", "bag_sum", "bag_sum_backward", "emit", "node_cycles", "pack"]

AVAILABLE = numba is not None


def _jit(fn: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(cache=True, nogil=True)(fn) if numba is not None else fn


@_jit
def _neighbours(x, n, nbr, order, degree, order_sum):  # pragma: no cover - compiled
    """Fill neighbour lists of one molecule from the upper triangle of ``x`` (V, V)."""
    for i in range(n):
        degree[i] = 0
        order_sum[i] = 0
    bonds = 0
    for i in range(n):
        for j in range(i + 1, n):
            o = x[i, j]
            if o > 0:
                nbr[i, degree[i]] = j
                order[i, degree[i]] = o
                degree[i] += 1
                order_sum[i] += o
                nbr[j, degree[j]] = i
                order[j, degree[j]] = o
                degree[j] += 1
                order_sum[j] += o
                bonds += 1
    return bonds


@_jit
def _cycles(x, n, nbr, degree, rings, length, core, used, path, cursor, stack):  # pragma: no cover - compiled
    """Every simple cycle of 3..8 atoms once, into ``rings``/``length``; returns how many there are in all.

    Leaves are pruned first, then a depth-first search starts at each atom v and visits only atoms above v; the two
    directions of a cycle are told apart by path[1] < path[last].
    """
    top = 0
    for i in range(n):
        core[i] = degree[i]
        used[i] = False
        if degree[i] == 1:
            stack[top] = i
            top += 1
    while top > 0:
        top -= 1
        i = stack[top]
        core[i] = 0
        for a in range(degree[i]):
            j = nbr[i, a]
            if core[j] > 0:
                core[j] -= 1
                if core[j] == 1:
                    stack[top] = j
                    top += 1
    found = 0
    for v in range(n):
        if core[v] < 2:
            continue
        depth = 1
        path[0] = v
        cursor[0] = 0
        used[v] = True
        while depth > 0:
            i = path[depth - 1]
            if cursor[depth - 1] >= degree[i]:
                used[i] = False
                depth -= 1
                continue
            w = nbr[i, cursor[depth - 1]]
            cursor[depth - 1] += 1
            if w <= v or used[w] or core[w] < 2:
                continue
            path[depth] = w
            size = depth + 1
            if size >= 3 and path[1] < w and x[w, v] > 0:
                if found < rings.shape[0]:
                    for a in range(size):
                        rings[found, a] = path[a]
                    length[found] = size
                found += 1
            if size < 8:
                used[w] = True
                cursor[depth] = 0
                depth += 1
    return found


@_jit
def emit(x, n_types, charges, donors, offset, bucket, angles, ring_cap, out, ptr):  # pragma: no cover - compiled
    """Indices of every count feature of every molecule into ``out`` (CSR pointers into ``ptr``).

    ``offset`` and ``bucket`` are the fields of ``features.CountLayout``; ``ring_cap`` 0 leaves rings out. Returns the
    number of indices written, -1 when ``out`` is too short, -2 when a molecule has more than ``ring_cap`` rings.
    """
    n_mol, n_max = x.shape[0], x.shape[1]
    nbr = np.empty((n_max, n_max), np.int64)
    order = np.empty((n_max, n_max), np.int64)
    degree = np.empty(n_max, np.int64)
    order_sum = np.empty(n_max, np.int64)
    types = np.empty(n_max, np.int64)
    unsaturated = np.empty(n_max, np.bool_)
    histogram = np.empty(n_types + 1, np.int64)
    rings = np.empty((ring_cap, 8), np.int64)
    length = np.empty(ring_cap, np.int64)
    core = np.empty(n_max, np.int64)
    used = np.empty(n_max, np.bool_)
    path = np.empty(9, np.int64)
    cursor = np.empty(9, np.int64)
    stack = np.empty(n_max + 1, np.int64)
    ring_count = np.empty(9, np.int64)
    pairs = 3 * n_types * (3 * n_types + 1) // 2
    o_size, o_comp, o_atom, o_bond, o_angle, o_cyc, o_charge, o_double, o_triple = offset[:9]
    o_ring, o_kind, o_ratom, o_arom = offset[9:]
    b_size, b_comp, b_sum, b_deg, b_cyc, b_net, b_charged, b_double, b_triple = bucket[:9]
    b_ring, b_kd, b_ku, b_arom = bucket[9:]
    half = b_net // 2
    pos = 0
    ptr[0] = 0
    for c in range(n_mol):
        g = x[c]
        n = 0
        while n < n_max and g[n, n] > 0:
            types[n] = g[n, n]
            n += 1
        bonds = _neighbours(g, n, nbr, order, degree, order_sum)
        found = 0
        if ring_cap > 0 and n > 2:
            found = _cycles(g, n, nbr, degree, rings, length, core, used, path, cursor, stack)
            if found > ring_cap:
                return -2
        need = 12 + n + bonds + n_types + 9 * found
        if angles:
            for i in range(n):
                need += degree[i] * (degree[i] - 1) // 2
        if pos + need > out.shape[0]:
            return -1

        doubles = 0
        triples = 0
        net = 0
        charged = 0
        histogram[:] = 0
        out[pos] = o_size + min(n, b_size - 1)
        pos += 1
        for i in range(n):
            t = types[i]
            histogram[t] += 1
            net += charges[t]
            if charges[t] != 0:
                charged += 1
            out[pos] = o_atom + ((t - 1) * b_sum + min(order_sum[i], b_sum - 1)) * b_deg + min(degree[i], b_deg - 1)
            pos += 1
            unsaturated[i] = False
            for a in range(degree[i]):
                o = order[i, a]
                tj = types[nbr[i, a]]
                if o > 1:
                    unsaturated[i] = True
                if nbr[i, a] > i:
                    if o == 2:
                        doubles += 1
                    elif o == 3:
                        triples += 1
                    low = min(t, tj) - 1
                    high = max(t, tj) - 1
                    out[pos] = o_bond + (high * (high + 1) // 2 + low) * 3 + o - 1
                    pos += 1
                if angles:
                    m1 = (o - 1) * n_types + tj - 1
                    for b in range(a):
                        m2 = (order[i, b] - 1) * n_types + types[nbr[i, b]] - 1
                        low = min(m1, m2)
                        high = max(m1, m2)
                        out[pos] = o_angle + (t - 1) * pairs + high * (high + 1) // 2 + low
                        pos += 1
        for t in range(1, n_types + 1):
            if histogram[t] > 0:
                out[pos] = o_comp + (t - 1) * b_comp + min(histogram[t], b_comp) - 1
                pos += 1
        out[pos] = o_cyc + min(max(bonds - n + 1, 0), b_cyc - 1)
        out[pos + 1] = o_charge + (min(max(net, -half), half) + half) * b_charged + min(charged, b_charged - 1)
        out[pos + 2] = o_double + min(doubles, b_double - 1)
        out[pos + 3] = o_triple + min(triples, b_triple - 1)
        pos += 4

        if ring_cap > 0:
            ring_count[:] = 0
            aromatic = 0
            for r in range(found):
                size = length[r]
                ring_count[size] += 1
                n_double = 0
                n_unsat = 0
                saturated = 0
                for a in range(size):
                    i = rings[r, a]
                    if g[i, rings[r, (a + 1) % size]] == 2:
                        n_double += 1
                    flag = 0
                    if unsaturated[i]:
                        n_unsat += 1
                        flag = 1
                    else:
                        saturated = i
                    out[pos] = o_ratom + ((size - 3) * 2 + flag) * n_types + types[i] - 1
                    pos += 1
                out[pos] = o_kind + ((size - 3) * b_kd + min(n_double, b_kd - 1)) * b_ku + min(n_unsat, b_ku - 1)
                pos += 1
                if size == 6 and n_unsat == 6 and n_double >= 2:
                    aromatic += 1
                elif size == 5 and n_unsat == 4 and n_double >= 1 and order_sum[saturated] <= 3:
                    aromatic += donors[types[saturated]]
            for size in range(3, 9):
                out[pos] = o_ring + (size - 3) * b_ring + min(ring_count[size], b_ring - 1)
                pos += 1
            out[pos] = o_arom + min(aromatic, b_arom - 1)
            pos += 1
        ptr[c + 1] = pos
    return pos


@_jit
def bag_sum(weight, index, ptr, out):  # pragma: no cover - compiled
    """out[c] = sum of weight over the indices of molecule c, added in double precision."""
    for c in range(out.shape[0]):
        total = 0.0
        for a in range(ptr[c], ptr[c + 1]):
            total += weight[index[a]]
        out[c] = total


@_jit
def bag_sum_backward(grad, index, ptr, out):  # pragma: no cover - compiled
    """out[f] += grad[c] for every feature f of molecule c."""
    for c in range(grad.shape[0]):
        for a in range(ptr[c], ptr[c + 1]):
            out[index[a]] += grad[c]


@_jit
def node_cycles(x, ring_cap, out):  # pragma: no cover - compiled
    """out[c, i, s] = number of cycles of s + 3 atoms through atom i; -2 when ``ring_cap`` is too small, else 0."""
    n_mol, n_max = x.shape[0], x.shape[1]
    nbr = np.empty((n_max, n_max), np.int64)
    order = np.empty((n_max, n_max), np.int64)
    degree = np.empty(n_max, np.int64)
    order_sum = np.empty(n_max, np.int64)
    rings = np.empty((ring_cap, 8), np.int64)
    length = np.empty(ring_cap, np.int64)
    core = np.empty(n_max, np.int64)
    used = np.empty(n_max, np.bool_)
    path = np.empty(9, np.int64)
    cursor = np.empty(9, np.int64)
    stack = np.empty(n_max + 1, np.int64)
    for c in range(n_mol):
        g = x[c]
        n = 0
        while n < n_max and g[n, n] > 0:
            n += 1
        _neighbours(g, n, nbr, order, degree, order_sum)
        found = _cycles(g, n, nbr, degree, rings, length, core, used, path, cursor, stack)
        if found > ring_cap:
            return -2
        for r in range(found):
            for a in range(length[r]):
                out[c, rings[r, a], length[r] - 3] += 1
    return 0


@_jit
def pack(x, ring_cap, ring_bucket, atom_ptr, atoms, rows, row_ptr, cols, sizes):  # pragma: no cover - compiled
    """Atom codes and neighbour lists per bond order; see ``packed.PackedMolecules`` for the meaning of the outputs.

    ``rows``, ``row_ptr``, ``cols`` have one line per order; ``sizes`` (3, 2) receives their used lengths. Rows of order
    1 are all atoms. Returns 0, or -2 when ``ring_cap`` is too small (0 leaves rings out).
    """
    n_mol, n_max = x.shape[0], x.shape[1]
    nbr = np.empty((n_max, n_max), np.int64)
    order = np.empty((n_max, n_max), np.int64)
    degree = np.empty(n_max, np.int64)
    order_sum = np.empty(n_max, np.int64)
    rings = np.empty((ring_cap, 8), np.int64)
    length = np.empty(ring_cap, np.int64)
    core = np.empty(n_max, np.int64)
    used = np.empty(n_max, np.bool_)
    path = np.empty(9, np.int64)
    cursor = np.empty(9, np.int64)
    stack = np.empty(n_max + 1, np.int64)
    place = np.empty(n_max, np.int64)
    top_order = np.empty(n_max, np.int64)
    sizes[:] = 0
    start = 0
    atom_ptr[0] = 0
    row_ptr[:, 0] = 0
    for c in range(n_mol):
        g = x[c]
        n = 0
        while n < n_max and g[n, n] > 0:
            n += 1
        _neighbours(g, n, nbr, order, degree, order_sum)
        for i in range(n):
            atoms[start + i, 0] = g[i, i]
            atoms[start + i, 1] = order_sum[i]
            atoms[start + i, 2] = degree[i]
            top = 0
            for a in range(degree[i]):
                top |= 1 << order[i, a]
            top_order[i] = top
            for s in range(6):
                atoms[start + i, 3 + s] = 0
        if ring_cap > 0 and n > 2:
            found = _cycles(g, n, nbr, degree, rings, length, core, used, path, cursor, stack)
            if found > ring_cap:
                return -2
            for r in range(found):
                s = length[r]
                for a in range(s):
                    i = start + rings[r, a]
                    atoms[i, s] = min(atoms[i, s] + 1, ring_bucket - 1)
        for r in range(3):
            seen = sizes[r, 0]
            for i in range(n):  # positions first: a neighbour in a higher slot is needed before its own row
                if r == 0 or top_order[i] & (2 << r):
                    place[i] = seen
                    rows[r, seen] = start + i
                    seen += 1
                else:
                    place[i] = -1
            fill = sizes[r, 1]
            for i in range(n):
                if place[i] >= 0:
                    for a in range(degree[i]):
                        if order[i, a] == r + 1:
                            cols[r, fill] = place[nbr[i, a]]
                            fill += 1
                    row_ptr[r, place[i] + 1] = fill
            sizes[r, 0] = seen
            sizes[r, 1] = fill
        start += n
        atom_ptr[c + 1] = start
    return 0
