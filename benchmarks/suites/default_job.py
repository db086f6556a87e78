"""The default job, `graph-ebm optimize qed`, as a stranger runs it: fresh folder, packaged data, clock and memory.

Shares of valid, unique and novel molecules are over all samples, as the run's own evaluation counts them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import Any

from benchmarks import markdown
from benchmarks.common import ROOT, Context, read_json
from discrete_ebm.errors import DataError

TITLE = "The default job: `graph-ebm optimize qed`."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 2, "arguments": []},
    "small": {
        "threads": 1,
        "arguments": ["--data", "qm9-sample", "--limit", "600", "--max-atoms", "9", "--minutes", "0.1", "-n", "20"],
    },
}
NAMES = ("validity", "uniqueness", "novelty", "valid_unique_novel", "internal_diversity", "scaffold_diversity")


def run(ctx: Context) -> None:
    """Fill the record."""
    ctx.part("job", lambda: job(ctx))


def job(ctx: Context) -> dict[str, Any]:
    """One run of the command in a new process.

    Raises:
        DataError: the command failed; its last lines are in the message.
    """
    folder = ctx.folder()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output = folder.resolve() / "run"
    command = [
        sys.executable,
        "-m",
        "graph_ebm.cli",
        "optimize",
        "qed",
        "--seed",
        str(ctx.seed),
        "--output",
        str(output),
        "--quiet",
        *ctx.arguments,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(ctx.threads)}
    began = time.perf_counter()
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # the memory and time of this process alone
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        tail = (folder / "stderr.txt").read_text(encoding="utf-8")[-600:]
        raise DataError(f"`{' '.join(command[2:])}` must end well; got exit code {process.returncode}: {tail}")
    found = read_json(output / "run.json")
    evaluation = found["evaluation"]["figures"]
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory_gib": usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20),
        **{name: evaluation[name]["value"] for name in NAMES if name in evaluation},
        "figures": found["figures"],
        "rejected": found["evaluation"]["rejected"],
        "report_bytes": (output / "report.html").stat().st_size,
    }


def tables(records: list[dict[str, Any]]) -> str:
    """One row."""
    columns: list[markdown.Column] = [
        ("wall clock s", "seconds", ".0f"),
        ("CPU s", "cpu_seconds", ".0f"),
        ("peak memory GiB", "peak_memory_gib", ".2f"),
        ("valid and connected", "validity", ".2%"),
        ("unique", "uniqueness", ".2%"),
        ("novel (of distinct)", "novelty", ".2%"),
        ("steps", "figures.n_steps", ".0f"),
        ("hit rate", "figures.hit_rate", ".1%"),
        ("base rate", "figures.base_rate", ".1%"),
        ("lift", "figures.lift", ".1f"),
        ("lift from", "figures.lift_low", ".1f"),
        ("to", "figures.lift_high", ".1f"),
        ("QED shift, sd", "figures.shift of qed in standard deviations", "+.2f"),
    ]
    return markdown.page(records, TITLE, markdown.by_part(records, columns, "run"))
