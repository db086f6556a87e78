"""The ``discrete-ebm`` command: samplers, sample, train, evaluate, benchmark. All work is done by the library."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from discrete_ebm import cli_support
from discrete_ebm.benchmark.command import benchmark

_LARGEST_ENUMERATION = 20  # log2 of the number of states summed over by `evaluate`: seconds, not minutes


class _Shape(click.ParamType):
    """``32x32`` or ``8`` as a tuple of positive ints."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d+([x,]\d+)*", value) or 0 in (sides := tuple(map(int, re.split("[x,]", value)))):
            self.fail(f"{value!r} is not a shape; write it like 32x32.", param, ctx)
        return sides


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="discrete-ebm", message="%(version)s")
def cli() -> None:
    """Energy-based models of discrete data: sample, train, evaluate."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def samplers(as_json: bool) -> None:
    """List the registered samplers."""
    from discrete_ebm.samplers import registry

    rows = [registry.spec(name) for name in registry.names()]
    if as_json:
        cli_support.echo_json(
            [
                {
                    "name": row.name,
                    "summary": row.summary,
                    "source": row.source,
                    "spaces": sorted(row.spaces),
                    "needs_gradient": row.needs_gradient,
                    "exact": row.exact,
                    "reversible": row.reversible,
                }
                for row in rows
            ]
        )
        return
    table = [("name", "exact", "reversible", "gradient", "summary", "spaces")]
    table += [
        (
            row.name,
            _yes(row.exact),
            _yes(row.reversible),
            _yes(row.needs_gradient),
            row.summary,
            ", ".join(sorted(row.spaces)),
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@cli.command()
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
        energy = _load_model(model)
    energy = energy.to(cli_support.check_device(device))
    if plots:
        de.plots.check()  # before the work
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
    folder = checkpoint.make_folder(output or _dated(f"sample-{Path(model).stem}"))
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
        **_chain_figures(chains),
        **checkpoint.versions(),
    }
    _write_npz(folder / "chains.npz", x=chains.x.cpu().numpy(), energy=chains.energy.cpu().numpy())
    checkpoint.save(energy, folder / "energy.safetensors")
    if plots:
        record["plots"] = [path.name for path in de.plots.save_all(chains, folder, energy)]
    _finish(folder, record, quiet, as_json)


@cli.command()
@click.argument("model", type=click.Choice(["rbm", "ising", "mlp"]))
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help=".npz or .npy of 0/1 (or, ising, -1/+1) states."
)
@click.option("--key", default=None, help="Array in the .npz [default: x, or the only one].")
@click.option("--hidden", type=click.IntRange(min=0), default=64, show_default=True, help="Hidden units (rbm, mlp).")
@click.option("--objective", default="pcd", show_default=True, help="pcd or cd.")
@click.option("--sampler", default=None, help="[default: block-gibbs for rbm, gibbs for ising, gwg for mlp]")
@click.option(
    "--sampler-steps", type=click.IntRange(min=1), default=1, show_default=True, help="Kernel steps per update."
)
@click.option("--iterations", type=click.IntRange(min=1), default=2000, show_default=True, help="Updates.")
@click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--lr", type=float, default=0.01, show_default=True, help="Adam's step size; decays linearly to 0.")
@click.option("--penalty", type=float, default=0.0, show_default=True, help="Energy-magnitude penalty.")
@cli_support.common_options()
@click.pass_context
def train(
    ctx: click.Context,
    model: str,
    data: Path,
    key: str | None,
    hidden: int,
    objective: str,
    sampler: str | None,
    sampler_steps: int,
    iterations: int,
    batch_size: int,
    lr: float,
    penalty: float,
    seed: int,
    device: str,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train an rbm, a dense ising model or an mlp energy on states in a file.

    Writes energy.safetensors, ema.safetensors, chains.safetensors, history.csv and run.json. Ctrl-C keeps what is done.
    """
    import discrete_ebm as de

    cli_support.check_device(device)
    x = de.datasets.load(data, key)
    energy = _fresh_energy(model, x, hidden, seed)
    x = energy.space.validate(x)
    chosen = sampler or {"rbm": "block-gibbs", "ising": "gibbs", "mlp": "gwg"}[model]
    loss = de.objectives.create(objective, sampler=chosen, n_steps=sampler_steps, penalty=penalty)
    folder = output or _dated(f"train-{model}")
    fitted = de.fit(
        energy,
        x,
        loss,
        n_iterations=iterations,
        batch_size=batch_size,
        lr=lr,
        decay="linear",
        seed=seed,
        output=folder,
        device=device,
        progress=not quiet,
    )
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    last = {name: column[-1] for name, column in fitted.history.items() if name != "iteration"}
    record |= {"model": model, "data": str(data.resolve()), "key": key, "device": device, "last": last}
    _finish(folder, record, quiet, as_json)
    if fitted.interrupted:
        click.echo(
            f"discrete-ebm: interrupted after update {record['iterations']}; what was finished is in {folder}.",
            err=True,
        )
        ctx.exit(cli_support.EXIT_INTERRUPTED)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="States to judge by [default: the training's]."
)
@click.option("--key", default=None, help="Array in the .npz.")
@click.option("--sampler", default=None, help="[default: block-gibbs for rbm and ising, else gwg]")
@click.option("--n-chains", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--n-steps", type=click.IntRange(min=1), default=500, show_default=True)
@cli_support.common_options("evaluation.json in RUN")
def evaluate(
    run: Path,
    data: Path | None,
    key: str | None,
    sampler: str | None,
    n_chains: int,
    n_steps: int,
    seed: int,
    device: str,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Judge a model: RUN is the folder of `train` or `sample`, or a saved model.

    Exact log-likelihood where the states (or an RBM's hidden states) can be enumerated, and always: fresh chains, their
    effective sample size, and the energy gap between them and the data.
    """
    import discrete_ebm as de
    from discrete_ebm import checkpoint

    energy = _load_model(str(run)).to(cli_support.check_device(device))
    past = _past_record(run)
    if data is None and past.get("data"):
        data, key = Path(past["data"]), past.get("key")
    name = sampler or ("gwg" if isinstance(energy, de.energies.MLPEnergy) else "block-gibbs")
    beta = float(past.get("beta", 1.0))
    chains = de.sample(energy, name, n_chains=n_chains, n_steps=n_steps, beta=beta, seed=seed, progress=not quiet)
    record: dict[str, Any] = {
        "kind": "evaluate",
        "run": str(run),
        "sampler": repr(chains.sampler),
        "beta": beta,
        "n_chains": n_chains,
        "n_steps": n_steps,
        "seed": seed,
        **_chain_figures(chains),
    }
    log_z, how = _exact_log_z(energy, beta)
    record |= {"log_z": log_z, "exact": how}
    if data is not None:
        x = energy.space.validate(de.datasets.load(data, key))
        energies = _mean_energy(energy, x)
        record |= {
            "data": str(data),
            "rows": len(x),
            "data_energy": energies,
            "energy_gap": record["mean_energy"] - energies,
            "log_likelihood": None if log_z is None else -beta * energies - log_z,
        }
    record |= checkpoint.versions()
    target = output if output is not None else (run if run.is_dir() else run.parent)
    checkpoint.write_text(
        checkpoint.make_folder(target) / "evaluation.json", json.dumps(cli_support.plain(record), indent=2) + "\n"
    )
    _report(record, quiet, as_json)


cli.add_command(benchmark)


# -- helpers --------------------------------------------------------------------------------------------------------


def _load_model(model: str) -> Any:
    """A saved energy, or an RBM from an .npz of its arrays."""
    import torch

    import discrete_ebm as de
    from discrete_ebm import checkpoint

    path = Path(model)
    if not path.exists():
        raise click.UsageError(f"MODEL must be ising, potts or an existing path; got {model!r}.")
    if path.suffix != ".npz":
        return checkpoint.load(path)
    arrays: dict[str, Any] = {}
    for name in ("weight", "visible_bias", "hidden_bias"):
        try:
            arrays[name] = torch.from_numpy(_array(path, name)).float()
        except KeyError as cause:
            raise click.UsageError(
                f"{path} must hold weight (visible x hidden), visible_bias and hidden_bias; {name} is missing."
            ) from cause
    if arrays["weight"].dim() != 2:
        raise click.UsageError(f"weight in {path} must be (visible, hidden); got {tuple(arrays['weight'].shape)}.")
    n_visible, n_hidden = arrays["weight"].shape
    return de.energies.BernoulliRBM(n_visible, n_hidden, **arrays)


def _array(path: Path, name: str) -> Any:
    import zipfile

    import numpy as np

    from discrete_ebm.errors import DataError

    try:
        with path.open("rb") as stream:  # numpy leaves a damaged file open
            return np.load(stream, allow_pickle=False)[name]
    except (ValueError, EOFError, zipfile.BadZipFile) as cause:
        raise DataError(f"`{path}` must be a whole .npz of numbers; got {cause}. Write it with numpy.savez.") from cause


def _fresh_energy(model: str, x: Any, hidden: int, seed: int) -> Any:
    """An untrained energy on the space that the data show."""
    import torch

    import discrete_ebm as de

    shape = tuple(x.shape[1:])
    is_spin = bool((x < 0).any())
    if model == "ising":
        n = math.prod(shape)
        return de.energies.Ising(torch.zeros(n, n), space=de.Spin(shape) if is_spin else de.Binary(shape))
    if model == "mlp":
        return de.energies.MLPEnergy(de.Spin(shape) if is_spin else de.Binary(shape), (max(1, hidden),) * 2, seed=seed)
    data = de.Binary(shape).validate(x)
    mean = data.double().mean(0).flatten().clamp(0.01, 0.99)  # Hinton 2012, section 8.1: start at the base rates
    return de.energies.BernoulliRBM(shape, hidden, visible_bias=mean.logit().float(), seed=seed)


def _exact_log_z(energy: Any, beta: float) -> tuple[float | None, str]:
    """(log Z, how), or (None, why not)."""
    import discrete_ebm as de

    n_states = energy.space.n_states
    if n_states <= 2**_LARGEST_ENUMERATION:
        return de.evaluate.exact(energy, beta).log_z, f"enumeration of {n_states} states"
    if isinstance(energy, de.energies.BernoulliRBM) and beta == 1 and energy.n_hidden <= _LARGEST_ENUMERATION:
        # the joint law is symmetric in its two layers, so summing out the visible units gives the same Z
        turned = de.energies.BernoulliRBM(
            energy.n_hidden,
            energy.space.n_sites,
            weight=energy.weight.detach().T,
            visible_bias=energy.hidden_bias,
            hidden_bias=energy.visible_bias,
        )
        return de.evaluate.exact(turned).log_z, f"enumeration of 2^{energy.n_hidden} hidden states"
    size = f"about 10^{math.log10(n_states):.0f}" if n_states != math.inf and n_states < 10**300 else "more than 10^300"
    return None, f"not enumerable: {size} states, so no exact log-likelihood"


def _mean_energy(energy: Any, x: Any) -> float:
    import torch

    from discrete_ebm.chain_inputs import energy_device
    from discrete_ebm.energies.base import evaluate_energy

    with torch.no_grad():
        parts = [evaluate_energy(energy, part.to(energy_device(energy) or "cpu")).double() for part in x.split(4096)]
    return float(torch.cat(parts).mean())


def _chain_figures(chains: Any) -> dict[str, Any]:
    """What a run says about its chains; warnings of the diagnostics become null figures."""
    import warnings

    from discrete_ebm.diagnostics import DiagnosticWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)
        sites = chains.ess().flatten()
        moved = sites[sites > 0]
        return {
            "mean_energy": float(chains.energy.double().mean()),
            "acceptance_rate": chains.acceptance_rate,
            "ess_energy": float(chains.ess("energy")),
            "rhat_energy": float(chains.rhat("energy")),
            "ess_worst_site": float(moved.min()) if len(moved) else math.nan,
            "sites_that_never_changed": int((sites == 0).sum()),
        }


def _past_record(run: Path) -> dict[str, Any]:
    from discrete_ebm.errors import DataError

    path = (run if run.is_dir() else run.parent) / "run.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise DataError(
            f"`{path}` must be JSON; got {cause}. Restore it, or point to the .safetensors file alone."
        ) from cause
    return record if isinstance(record, dict) else {}


def _dated(name: str) -> Path:
    """A dated path under runs/ that does not exist yet."""
    base = Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{name}"
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def _write_npz(path: Path, **arrays: Any) -> None:
    import numpy as np

    from discrete_ebm import checkpoint

    with checkpoint.atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _finish(folder: Path, record: dict[str, Any], quiet: bool, as_json: bool) -> None:
    from discrete_ebm import checkpoint

    checkpoint.write_text(folder / "run.json", json.dumps(cli_support.plain(record), indent=2) + "\n")
    _report({**record, "output": str(folder)}, quiet, as_json)


def _report(record: dict[str, Any], quiet: bool, as_json: bool) -> None:
    if as_json:
        cli_support.echo_json(record)
    elif not quiet:
        for name, value in record.items():
            if not isinstance(value, dict):
                click.echo(f"{name:26s}{value:.6g}" if isinstance(value, float) else f"{name:26s}{value}")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the ``discrete-ebm`` command; returns the exit code."""
    return cli_support.run(cli, args, prog_name="discrete-ebm")


if __name__ == "__main__":
    raise SystemExit(main())
