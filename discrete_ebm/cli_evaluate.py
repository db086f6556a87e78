"""The command ``discrete-ebm evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from discrete_ebm import cli_models, cli_results, cli_support
from discrete_ebm.errors import DataError, SpaceError

__all__ = ["evaluate"]

_FRAMES, _FILMED, _TRACED = 12, 6, 5
_MOST_ROWS = 2000  # rows of data that the likelihood is of, unless asked otherwise


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), default=None, help="States to judge by [default: those of the training]."
)
@click.option("--key", default=None, help="Array in the .npz.")
@click.option("--part", type=click.Choice(["valid", "test", "train"]), default=None, help="Of the training's data "
              "[default: valid, or train where there is none; keep test for the end].")  # fmt: skip
@click.option("--rows", type=click.IntRange(min=1), default=_MOST_ROWS, show_default=True, help="Rows at most.")
@click.option("--weights", type=click.Choice(["ema", "last"]), default="ema", show_default=True)
@click.option("--sampler", default=None, help="[default: what suits the model]")
@click.option("--n-chains", type=click.IntRange(min=1), default=200, show_default=True, help="Samples, a chain each.")
@click.option("--n-steps", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--likelihood", default="auto", show_default=True, help="auto, exact, ais or none.")
@click.option("--ais-chains", type=click.IntRange(min=2), default=100, show_default=True)
@click.option("--ais-steps", type=click.IntRange(min=1), default=None, help="[default: what --seconds allow]")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="For the annealing.")
@click.option("--no-html", is_flag=True, help="Numbers only, no report.")
@cli_support.common_options("evaluation.json and evaluation.html in RUN")
@click.pass_context
def evaluate(
    ctx: click.Context,
    run: Path,
    data: Path | None,
    key: str | None,
    part: str | None,
    rows: int,
    weights: str,
    sampler: str | None,
    n_chains: int,
    n_steps: int,
    likelihood: str,
    ais_chains: int,
    ais_steps: int | None,
    seconds: float,
    no_html: bool,
    seed: int,
    device: str,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Judge a model: RUN is the folder of `train` or `sample`, or a saved model.

    Writes evaluation.json and evaluation.html: log-likelihood (exact where it can be had, else bracketed by annealed
    importance sampling), samples beside data with every figure of docs/evaluation.md, chains, weights, curves.
    """
    import discrete_ebm as de
    from discrete_ebm import checkpoint, evaluation_page, judge, measures

    place = run / "energy.safetensors" if run.is_dir() and weights == "last" else run
    energy = cli_models.load_model(str(place)).to(cli_support.check_device(device))
    past = _past_record(run)
    beta = float(past.get("beta", 1.0))
    space, visible = measures.visible_part(energy)
    x, train, used = _rows(space, past, data, key, part)
    name = sampler or _sampler(energy)
    chains = de.sample(energy, name, n_chains=n_chains, n_steps=n_steps, beta=beta, seed=seed, progress=not quiet)
    record: dict[str, Any] = {
        "kind": "evaluate",
        "run": str(run),
        "sampler": repr(chains.sampler),
        "beta": beta,
        "n_chains": n_chains,
        "n_steps": n_steps,
        "seed": seed,
        **cli_results.chain_figures(chains),
    }
    log_z, how = _exact_log_z(energy, beta)
    record |= {"log_z": log_z, "exact": how}
    found = None
    if x is not None:
        x = x[:rows]
        own = energy.space == space
        record |= {"data": used["data"], "part": used["part"], "rows": len(x)}
        if own:
            energies = evaluation_page.energies_of(energy, x)
            mean = float(energies.mean())
            record |= {"data_energy": mean, "energy_gap": record["mean_energy"] - mean,
                       "log_likelihood": None if log_z is None else -beta * mean - log_z}  # fmt: skip
        if beta == 1:
            record["likelihood"] = judge.judge_likelihood(
                energy, x, train, method=likelihood, n_chains=ais_chains, n_steps=ais_steps, seed=seed + 1,
                max_seconds=seconds, progress=not quiet)  # fmt: skip
            if space.is_discrete:
                found = measures.measure(energy, space, visible(chains.last).cpu(), x, train, seed=seed,
                                         held_out=used["part"] != "train")  # fmt: skip
                record["measures"] = found.record
    record["caveats"] = _caveats(record)
    record |= checkpoint.versions()
    target = checkpoint.make_folder(output if output is not None else (run if run.is_dir() else run.parent))
    checkpoint.write_text(target / "evaluation.json", json.dumps(cli_support.plain(record), indent=2) + "\n")
    if not no_html:
        command = "discrete-ebm " + " ".join(ctx.obj["argv"])
        page = evaluation_page.build(record, past, run, energy, (space, visible), chains, x, train, found, command)
        if page is None:
            if not quiet:
                click.echo("discrete-ebm: no HTML report without jinja2 and matplotlib; run pip install "
                           "'discrete-ebm[report]'.", err=True)  # fmt: skip
        else:
            checkpoint.write_text(target / "evaluation.html", page)
            record["report"] = str(target / "evaluation.html")
    _say(record, quiet, as_json)


def _say(record: dict[str, Any], quiet: bool, as_json: bool) -> None:
    """The table on stdout, the likelihood first in words; everything with --json."""
    from discrete_ebm import judge

    if quiet or as_json:
        cli_results.report(record, quiet, as_json)
        return
    if "likelihood" in record:
        click.echo(f"{'likelihood':26s}{judge.sentence(record['likelihood'])}")
    cli_results.report({key: value for key, value in record.items() if key != "caveats"}, quiet, as_json)
    for caveat in record["caveats"]:
        click.echo(f"{'caveat':26s}{caveat}")


def _rows(
    space: Any, past: dict[str, Any], data: Path | None, key: str | None, part: str | None
) -> tuple[Any, Any, dict[str, str]]:
    """(rows to judge by, training rows or None, what they are); (None, None, {}) where there are no data."""
    import discrete_ebm as de
    from discrete_ebm.cli_train import load_data
    from discrete_ebm.spaces import Product

    config = past.get("config")
    known = load_data(config["data"], quiet=True) if config is not None else None
    if known is not None and isinstance(space, Product):
        known = known.with_labels()
    train = None if known is None else space.validate(known.train)
    if data is not None:
        if part is not None:
            raise click.UsageError("--part is of the training's own data; got --data as well. Leave one of them out.")
        letters = (config or {}).get("data", {}).get("letters") or "protein"
        aligned = data.name.removesuffix(".gz").endswith(de.datasets.catalogue.ALIGNMENTS)
        rows = de.datasets.read_alignment(data, letters).x if aligned else de.datasets.load(data, key)
        return space.validate(rows), train, {"data": str(data), "part": "given"}
    if known is not None and config is not None:
        chosen = part or ("valid" if len(known.valid) else "train")
        return space.validate(known.part(chosen)), train, {"data": str(config["data"]["source"]), "part": chosen}
    if past.get("data"):  # a run of an earlier version
        rows = space.validate(de.datasets.load(Path(past["data"]), past.get("key")))
        return rows, rows, {"data": str(past["data"]), "part": "train"}
    if part is not None:
        raise DataError(f"--part {part} needs a run of `train`; got one without data. Give --data FILE.")
    return None, None, {}


def _sampler(energy: Any) -> Any:
    """What suits the model; reals begin with a burn-in that finds their step."""
    from discrete_ebm.samplers import choose

    return choose(energy).create()


def _exact_log_z(energy: Any, beta: float) -> tuple[float | None, str]:
    """(log Z, how), or (None, why not)."""
    import discrete_ebm as de

    try:
        law = de.evaluate.exact(energy, beta)
    except SpaceError as cause:
        return None, f"no exact log-likelihood: {cause}"
    return law.log_z, law.method


def _caveats(record: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    if record.get("part") == "train":
        found.append("Judged on training rows, because the data have no others: every figure flatters.")
    if record.get("part") == "test":
        found.append("Judged on test rows: whatever is chosen after looking at them needs other ones.")
    rhat = record["rhat_energy"]
    if isinstance(rhat, float) and rhat > 1.05:
        found.append(f"The chains of the samples have not mixed (R-hat of the energy {rhat:.2f}): figures that use "
                     "samples judge the chains too. Use more --n-steps or another --sampler.")  # fmt: skip
    likelihood = record.get("likelihood", {})
    if likelihood.get("method") == "ais":
        least = min(likelihood["ess_forward"], likelihood["ess_reverse"])
        if abs(likelihood["width"]) > 1:
            found.append(f"The AIS bracket is {abs(likelihood['width']):.1f} nats wide: use more --ais-steps.")
        if least < 10:
            found.append(f"The log-weights of AIS have an effective sample size of {least:.0f}: its errors are too "
                         "small. Use more --ais-steps.")  # fmt: skip
    if "rows" in record and record["rows"] < 100:
        found.append(f"Only {record['rows']} rows.")
    return found


def _past_record(run: Path) -> dict[str, Any]:
    from discrete_ebm import run_config

    path = (run if run.is_dir() else run.parent) / "run.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise DataError(
            f"`{path}` must be JSON; got {cause}. Restore it, or point to the .safetensors file alone."
        ) from cause
    record = record if isinstance(record, dict) else {}
    if record.get("kind") == "train" and "config" not in record and path.with_name("config.toml").is_file():
        record["config"] = run_config.resolve(run_config.read(path.with_name("config.toml")))  # it ended too early
        record["model"] = record["config"]["model"]["name"]
    return record
