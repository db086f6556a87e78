"""The command ``discrete-ebm benchmark``. Importing it is cheap: torch comes with the first suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from discrete_ebm import cli_support
from discrete_ebm.benchmark.suites import SUITES

__all__ = ["benchmark"]

_LIST = "\n".join(f"  {name:10s}{text}" for name, text in SUITES.items())


@click.command(epilog="\b\nSuites:\n" + _LIST)
@click.argument("suite", required=False)
@click.option("--size", type=click.Choice(["small", "full"]), default="small", show_default=True,
              help="small: seconds, to try it; full: hours, what is quoted.")
@click.option("--sampler", "samplers", multiple=True, metavar="NAME",
              help="Only these, e.g. --sampler gibbs --sampler pas [default: all that take the energy].")
@click.option("--set", "changes", multiple=True, metavar="NAME=JSON", help="Another setting of the suite.")
@click.option("--again", is_flag=True, help="Measure again what is finished.")
@click.option("--no-figure", is_flag=True, help="Leave figure.png out.")
@cli_support.common_options("runs/benchmark-SUITE-SIZE-seedN, the same place each time")
def benchmark(suite: str | None, size: str, samplers: tuple[str, ...], changes: tuple[str, ...], again: bool,
              no_figure: bool, seed: int, device: str, output: Path | None, quiet: bool, as_json: bool) -> None:
    """Compare samplers: effective draws per evaluation and per second, beside how wrong their law is.

    Which suite? To choose a sampler for spins or bits with pair couplings: ising; for many categories: potts; for
    hidden variables of a series: fhmm; for bits with hidden units: rbm; to see what a kernel costs where nothing is
    hard: bernoulli. To choose one for optimisation: mis (constraints) or maxcut (none).

    Writes record.json after every part, then table.md and figure.png. Run the same command again to go on with an
    interrupted run.
    """
    if suite is None:
        raise click.UsageError(f"SUITE must be given: one of {', '.join(SUITES)}.")
    from discrete_ebm.benchmark import runner

    cli_support.check_device(device)
    folder = output if output is not None else runner.default_folder(suite, size, seed)
    record = runner.run_suite(suite, size, seed=seed, output=folder, samplers=samplers,
                              changes=dict(_change(item) for item in changes), device=device, again=again,
                              progress=not quiet, plot=not no_figure)
    if as_json:
        cli_support.echo_json({**record, "output": str(folder)})
    elif not quiet:
        click.echo(runner.table(record))
        click.echo(f"{folder}/record.json, table.md" + ("" if no_figure else ", figure.png"))


def _change(item: str) -> tuple[str, Any]:
    name, separator, text = item.partition("=")
    if not separator:
        raise click.UsageError(f"--set must be NAME=JSON; got {item!r}. Write e.g. --set n_steps=500.")
    try:
        return name, json.loads(text)
    except ValueError as cause:
        raise click.UsageError(f"--set {name} must be JSON; got {text!r} ({cause}). Quote texts: '\"x\"'.") from cause
