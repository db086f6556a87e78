"""`suites/graph_energy.py` as a suite: speed of every molecular energy, PyG's RGCNConv beside ours. Needs --data."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from benchmarks import markdown
from benchmarks.common import ROOT, Context, read_json
from discrete_ebm.errors import DataError, SettingError

TITLE = "Speed of molecular energies."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "atoms": [9, 27, 38], "batch": 1000, "repeats": 5},
    "small": {"threads": 1, "atoms": [9], "batch": 32, "repeats": 1},
}


def run(ctx: Context) -> None:
    """Fill the record."""
    if ctx.data is None:
        raise SettingError(
            "the suite graph-energy needs --data, the folder of the full sets; got none. Give it, or run "
            "the suite cost, which uses packaged molecules."
        )
    rows = ctx.part("speed", lambda: measured(ctx))["rows"]
    for row in rows:
        ctx.part(f"{row['slots']} slots, {row['energy']}", lambda row=row: row)


def measured(ctx: Context) -> dict[str, Any]:
    """The script's own JSON, from a new process."""
    ctx.folder().mkdir(parents=True, exist_ok=True)
    file = ctx.folder() / "speed.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "suites" / "graph_energy.py"),
        "--data",
        str(ctx.data),
        "--json",
        str(file),
        "--batch",
        str(ctx.batch),
        "--repeats",
        str(ctx.repeats),
        "--atoms",
        *map(str, ctx.atoms),
    ]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"graph_energy.py must end well; got exit code {done.returncode}: {done.stderr[-600:]}")
    return read_json(file)


def tables(records: list[dict[str, Any]]) -> str:
    """Microseconds of processor time per molecule."""
    columns: list[markdown.Column] = [
        ("mean atoms", "mean atoms", ".1f"),
        ("weights", "parameters", ",.0f"),
        *((f"{c}, µs", c, ".1f") for c in ("E", "E+dw", "dense E", "dense E+dx")),
    ]
    return markdown.page(records, TITLE, markdown.by_part(records, columns, "energy", lambda n: n != "speed"))
