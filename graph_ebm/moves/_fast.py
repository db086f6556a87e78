"""Compiled CPU twins of the graph searches in ``tables``: distances, bridges with side sizes, one side of a cut.

Optional (they need numba); the tensor versions in ``tables`` serve every device and are tested to agree exactly.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

# the tensor versions serve where numba is missing
numba: Any = importlib.import_module("numba") if importlib.util.find_spec("numba") else None

__all__ = ["AVAILABLE", "bonds", "bridges", "distances", "sides"]

AVAILABLE = numba is not None


def _jit(fn: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(cache=True, nogil=True)(fn) if numba is not None else fn


@_jit
def _lists(x, nbr, degree):  # pragma: no cover - compiled
    """Neighbour lists of one molecule (V, V); returns its number of atoms."""
    v = x.shape[0]
    n = 0
    while n < v and x[n, n] > 0:
        n += 1
    for i in range(n):
        degree[i] = 0
    for i in range(n):
        for j in range(i + 1, n):
            if x[i, j] > 0:
                nbr[i, degree[i]] = j
                degree[i] += 1
                nbr[j, degree[j]] = i
                degree[j] += 1
    return n


@_jit
def bonds(x, adjacency, degree, order_sum):  # pragma: no cover - compiled
    """Adjacency (C, V, V) bool, degree (C, V) and bond-order sum (C, V) int64 of states (C, V, V)."""
    c, v, _ = x.shape
    for m in range(c):
        for i in range(v):
            near, total = 0, 0
            for j in range(v):
                order = x[m, i, j]
                bonded = order > 0 and i != j
                adjacency[m, i, j] = bonded
                if bonded:
                    near += 1
                    total += order
            degree[m, i] = near
            order_sum[m, i] = total


@_jit
def distances(x, far, out):  # pragma: no cover - compiled
    """Breadth-first distances up to far − 1 into out (C, V, V) int64; ``far`` = farther, not connected or absent."""
    c, v, _ = x.shape
    nbr = np.empty((v, v), np.int64)
    degree = np.empty(v, np.int64)
    queue = np.empty(v, np.int64)
    for m in range(c):
        for i in range(v):
            for j in range(v):
                out[m, i, j] = far
            out[m, i, i] = 0
        n = _lists(x[m], nbr, degree)
        for s in range(n):
            head, tail = 0, 1
            queue[0] = s
            while head < tail:
                a = queue[head]
                head += 1
                d = out[m, s, a] + 1
                if d >= far:
                    break
                for e in range(degree[a]):
                    b = nbr[a, e]
                    if out[m, s, b] == far:
                        out[m, s, b] = d
                        queue[tail] = b
                        tail += 1


@_jit
def bridges(x, bridge, size):  # pragma: no cover - compiled
    """Bridges (C, V, V) bool and, for a bridge u–v, atoms on v's side in size[u, v] (0 elsewhere): low-link search."""
    c, v, _ = x.shape
    nbr = np.empty((v, v), np.int64)
    degree = np.empty(v, np.int64)
    order = np.empty(v, np.int64)
    low = np.empty(v, np.int64)
    parent = np.empty(v, np.int64)
    cursor = np.empty(v, np.int64)
    count = np.empty(v, np.int64)
    stack = np.empty(v, np.int64)
    for m in range(c):
        for i in range(v):
            for j in range(v):
                bridge[m, i, j] = False
                size[m, i, j] = 0
        n = _lists(x[m], nbr, degree)
        if n == 0:
            continue
        for i in range(n):
            order[i] = -1
            cursor[i] = 0
            count[i] = 1
        time, top = 1, 1
        stack[0], order[0], low[0], parent[0] = 0, 0, 0, -1
        while top > 0:
            a = stack[top - 1]
            if cursor[a] < degree[a]:
                b = nbr[a, cursor[a]]
                cursor[a] += 1
                if order[b] < 0:
                    order[b] = low[b] = time
                    time += 1
                    parent[b] = a
                    stack[top] = b
                    top += 1
                elif b != parent[a] and order[b] < low[a]:
                    low[a] = order[b]
            else:
                top -= 1
                p = parent[a]
                if p >= 0:
                    count[p] += count[a]
                    if low[a] < low[p]:
                        low[p] = low[a]
                    if low[a] > order[p]:
                        bridge[m, p, a] = bridge[m, a, p] = True
                        size[m, p, a] = count[a]
                        size[m, a, p] = n - count[a]


@_jit
def sides(x, keep, moved, out):  # pragma: no cover - compiled
    """Atoms reachable from moved[m] when the bond keep[m]–moved[m] is cut, into out (C, V) bool."""
    c, v, _ = x.shape
    stack = np.empty(v, np.int64)
    for m in range(c):
        for i in range(v):
            out[m, i] = False
        k, s = keep[m], moved[m]
        out[m, s] = True
        stack[0] = s
        top = 1
        while top > 0:
            top -= 1
            a = stack[top]
            for b in range(v):
                if b != a and x[m, a, b] > 0 and not out[m, b]:
                    if (a == s and b == k) or (a == k and b == s):
                        continue
                    out[m, b] = True
                    stack[top] = b
                    top += 1
