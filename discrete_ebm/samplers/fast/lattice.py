"""Sweeps of any number of chains by multi-spin coding: groups of 64, each a job of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from discrete_ebm.samplers.fast import _lattice as compiled
from discrete_ebm.samplers.fast._vector import LANES
from discrete_ebm.samplers.fast.plan import Lattice
from discrete_ebm.samplers.fast.threads import run_jobs

__all__ = ["lattice_sweeps"]

GROUP = 64


def lattice_sweeps(lattice: Lattice, old: Any, new: Any, betas: Any, fixed: Any, n_sweeps: int, seeds: Any,
                   low: int) -> tuple[Any, Any]:
    """Fill ``new`` (C, N) int8 with states after checkerboard sweeps from ``old``.

    Args:
        betas: (1,) or (C,) float64. fixed: (C, N) bool sites that stay, or None. seeds: (2,) uint64 of this step.
        low: value of a spin that is down, 0 or −1; up is 1.
    Returns:
        energies (C,) float64 and numbers of changed sites (C,) int64.
    """
    n_chains = len(old)
    height, width, (ring_rows, ring_columns) = lattice.height, lattice.width, lattice.rings
    padded = -(-((width + 1) // 2) // LANES) * LANES
    unequal, up, changed = (np.zeros((-(-n_chains // GROUP), GROUP), np.int64) for _ in range(3))
    shared = digits(lattice, betas) if len(betas) == 1 else None

    def job(group: int) -> None:
        rows = slice(GROUP * group, min(n_chains, GROUP * (group + 1)))
        bits, favoured = shared if shared is not None else digits(lattice, betas[rows])
        words = np.zeros((2, height, padded), np.uint64)
        compiled.pack(old[rows], height, width, words)
        before, keep = words.copy(), words
        if fixed is not None:
            keep = np.zeros_like(words)
            compiled.pack(fixed[rows].view(np.int8), height, width, keep)
        used = rows.stop - rows.start
        lanes = np.uint64(2**used - 1)
        compiled.sweep(words, keep, fixed is not None, lanes, height, width, ring_rows, ring_columns, bits, favoured,
                       seeds[0], seeds[1], group, n_sweeps)
        compiled.unpack(words, height, width, np.int8(low), np.int8(1), new[rows])
        compiled.counts(words, before, height, width, ring_rows, ring_columns, unequal[group], up[group],
                        changed[group])

    run_jobs(job, len(unequal), cost=height * width * min(n_chains, GROUP) * (n_sweeps + 2) / 8)
    bonds = lattice.n_bonds - 2 * unequal.reshape(-1)[:n_chains]
    spins = 2 * up.reshape(-1)[:n_chains] - height * width
    return -lattice.coupling * bonds - lattice.field * spins, changed.reshape(-1)[:n_chains].copy()


def digits(lattice: Lattice, betas: Any) -> tuple[Any, Any]:
    """The binary digits of all flip probabilities, one beta for all lanes or one for each."""
    favoured = np.zeros((compiled.DEGREES, compiled.DEGREES), np.uint64)
    room = 64
    while True:
        bits = np.zeros((compiled.DEGREES, room, compiled.DEGREES), np.uint64)
        needed = compiled.tables(betas, lattice.coupling, lattice.field, room, bits, favoured)
        if needed <= room:
            return np.ascontiguousarray(bits[:, :needed]), favoured
        room = needed
