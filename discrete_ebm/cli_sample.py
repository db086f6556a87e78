"""The command ``discrete-ebm sample``."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import click

from discrete_ebm import cli_models, cli_results, cli_support

__all__ = ["sample"]


class _Shape(click.ParamType):
    """``32x32`` or ``8`` as a tuple of positive ints."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d+([x,]\d+)*", value) or 0 in (sides := tuple(map(int, re.split("[x,]", value)))):
            self.fail(f"{value!r} is not a shape; write it like 32x32.", param, ctx)
        return sides


@click.command()
@click.argument("model")
@click.option("--shape", type=_Shape(), default="32x32", show_default=True, help="Lattice of ising and potts.")
@click.option(
    "--coupling", type=float, default=0.44, show_default=True, help="J of every edge; ising is critical at 0.4407."
)
@click.option("--field", type=float, default=0.0, show_default=True, help="h of every spin (ising).")
@click.option("--states", type=click.IntRange(min=2), default=3, show_default=True, help="Categories per site (potts).")
@click.option("--open", "is_open", is_flag=True, help="Open instead of periodic boundaries.")
@click.option("--sampler", default="gibbs", show_default=True, help="A name from `discrete-ebm samplers`.")
@click.option("--n-chains", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--n-steps", type=click.IntRange(min=1), default=1000, show_default=True, help="All steps, burn-in included."
)
@click.option("--burn-in", type=click.IntRange(min=0), default=None, help="Steps not kept [default: a fifth].")
@click.option("--thin", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--beta", type=float, default=1.0, show_default=True, help="Inverse temperature.")
@click.option("--plots", is_flag=True, help="Draw the chains too: trace, ranks, autocorrelation, energies, states.")
@cli_support.common_options()
def sample(
    model: str,
    shape: tuple[int, ...],
    coupling: float,
    field: float,
    states: int,
    is_open: bool,
    sampler: str,
    n_chains: int,
    n_steps: int,
    burn_in: int | None,
    thin: int,
    beta: float,
    plots: bool,
    seed: int,
    device: str,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw states. MODEL is `ising`, `potts`, a saved model, a training's folder, or an .npz with an RBM's weight,
    visible_bias and hidden_bias.

    Writes chains.npz (x, energy), energy.safetensors and run.json; with --plots also trace.png, rank.png,
    autocorrelation.png, energy.png (with the exact law where it can be enumerated) and, of two-dimensional states,
    lattice.png.
    """
    import discrete_ebm as de
    from discrete_ebm import checkpoint

    if model == "ising":
        energy: Any = de.energies.Ising.lattice(shape, coupling, field, periodic=not is_open)
    elif model == "potts":
        energy = de.energies.Potts.lattice(shape, coupling, states, periodic=not is_open)
    else:
        energy = cli_models.load_model(model)
    energy = energy.to(cli_support.check_device(device))
    if plots:
        de.plots.check()  # before the work
    folder = checkpoint.make_folder(output or cli_results.dated(f"sample-{Path(model).stem}"))  # before the work
    try:
        chains = de.sample(
            energy,
            sampler,
            n_chains=n_chains,
            n_steps=n_steps,
            burn_in=burn_in,
            thin=thin,
            beta=beta,
            seed=seed,
            progress=not quiet,
        )
    except BaseException as error:
        with contextlib.suppress(OSError):  # something else lies in it
            folder.rmdir()
            if output is None:
                folder.parent.rmdir()
        if isinstance(error, KeyboardInterrupt):
            click.echo("discrete-ebm: interrupted; draws are written at the end, so there are none.", err=True)
            raise click.exceptions.Exit(cli_support.EXIT_INTERRUPTED) from None
        raise
    record = {
        "kind": "sample",
        "model": model,
        "sampler": repr(chains.sampler),
        "n_chains": n_chains,
        "n_steps": n_steps,
        "kept": len(chains.x),
        "beta": beta,
        "seed": seed,
        "device": device,
        "seconds": chains.seconds,
        **cli_results.chain_figures(chains),
        **checkpoint.versions(),
    }
    cli_results.write_npz(folder / "chains.npz", x=chains.x.cpu().numpy(), energy=chains.energy.cpu().numpy())
    checkpoint.save(energy, folder / "energy.safetensors")
    if plots:
        record["plots"] = [path.name for path in de.plots.save_all(chains, folder, energy)]
    cli_results.finish(folder, record, quiet, as_json)
