"""Independent pieces of a step on several threads; compiled code holds no lock, results do not depend on the number."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["run_jobs"]

WORTH = 2e5  # nanoseconds of work below which a thread costs more than it brings


def run_jobs(job: Callable[[int], None], n_jobs: int, cost: float) -> None:
    """``job(i)`` for i below ``n_jobs``, on at most ``torch.get_num_threads()`` threads. ``cost``: ns a job, about."""
    n_threads = min(torch.get_num_threads(), n_jobs)
    if n_threads <= 1 or cost * n_jobs < n_threads * WORTH:
        for number in range(n_jobs):
            job(number)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(job, range(n_jobs)))  # list: so that an error is raised here
