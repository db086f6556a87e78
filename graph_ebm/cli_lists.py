"""The three lists of ``graph-ebm``: moves, properties, packaged data sets."""

from __future__ import annotations

from typing import Any

import click

from discrete_ebm.cli_support import echo_json
from discrete_ebm.errors import DataError
from graph_ebm.cli_data import check_smiles


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def moves(as_json: bool) -> None:
    """List the moves between molecules and how often each is tried."""
    from graph_ebm import moves as module
    from graph_ebm.moves.build import DEFAULT_WEIGHTS

    classes = {getattr(kind, "name", None): kind for kind in vars(module).values() if isinstance(kind, type)}
    total = sum(DEFAULT_WEIGHTS.values())
    rows = []
    for name, weight in DEFAULT_WEIGHTS.items():
        kind = classes.get(name, module.RepaintRing if name.startswith("repaint") else None)
        first = (kind.__doc__ or "").strip().splitlines()[0] if kind is not None else ""
        what = first.split(". ")[0].rstrip(".").replace("``size``", name.rsplit("-", 1)[-1]).replace("``", "")
        rows.append({"name": name, "share": round(weight / total, 4), "what": what})
    _list(rows, as_json)


@click.command()
@click.argument("smiles", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def properties(smiles: tuple[str, ...], as_json: bool) -> None:
    """List the properties; with SMILES, print their values instead."""
    from graph_ebm import properties as registry

    if not smiles:
        specs = [registry.spec(name) for name in registry.names()]
        _list([{"name": s.name, "better": "higher" if s.higher_is_better else "lower", "unit": s.unit,
                "what": s.summary} for s in specs], as_json)  # fmt: skip
        return
    checked = [check_smiles(text, "SMILES") for text in smiles]
    values, failures = registry.compute(registry.names(), checked)
    if len(failures):
        first = failures.items[0]
        raise DataError(f"every property must have a value; got {first.detail} for {first.property} of {first.smiles}.")
    rows = [{k: round(float(v[i]), 4) for k, v in values.items()} for i in range(len(checked))]
    _list([{"smiles": s, **row} for s, row in zip(checked, rows, strict=True)], as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def datasets(as_json: bool) -> None:
    """List the packaged data sets."""
    from graph_ebm import datasets as module

    items = [module.describe(name) for name in module.names()]
    _list([{"name": i.name, "what": i.summary, "licence": i.licence} for i in items], as_json)


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        echo_json(rows)
        return
    widths = {key: max(len(str(row[key])) for row in [*rows, {key: key}]) for key in rows[0]}
    for row in [{key: key for key in rows[0]}, *rows]:
        click.echo("  ".join(str(row[key]).ljust(widths[key]) for key in widths).rstrip())
