"""The command ``discrete-ebm train``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from discrete_ebm import cli_devices, cli_jem, cli_results, cli_support
from discrete_ebm.distributed import is_first

__all__ = ["train"]

_GIVEN = {  # option -> where it stands in the config
    "model": "model.name", "hidden": "model.hidden", "data": "data.source", "data_dir": "data.folder",
    "key": "data.key", "shape": "data.shape", "threshold": "data.threshold", "rows": "data.rows",
    "objective": "objective.name", "sampler_steps": "objective.n_steps", "penalty": "objective.penalty",
    "sampler": "sampler.name", "iterations": "training.iterations", "batch_size": "training.batch_size",
    "lr": "training.lr", "decay": "training.decay", "seed": "training.seed", "device": "training.device",
    "pictures": "log.pictures", "tensorboard": "log.tensorboard", "validation": "validation.method",
}  # fmt: skip
_SWEEPS = ("gibbs", "block-gibbs", "chromatic")  # one step of these is every site once
_LINES = 200  # of log.csv, unless asked otherwise


class _Sizes(click.ParamType):
    """``64`` as a number, ``64,32`` or ``28x28`` as a list."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | list[int]:
        parts = str(value).replace("x", ",").split(",")
        if not all(part.strip().isdigit() for part in parts):
            self.fail(f"{value!r} is not a whole number or several of them; write them like 64 or 64,32.", param, ctx)
        numbers = [int(part) for part in parts]
        return numbers[0] if len(numbers) == 1 else numbers


@click.command()
@click.argument("model", required=False)
@click.option("--config", default=None, help="A TOML file, a run's folder, or a packaged name; options go over it.")
@click.option("--data", default=None, help="digits, static-mnist, mnist, omniglot, torchvision:NAME, or a file: "
              ".npz, .npy, .csv, .mat, IDX, FASTA [default: digits].")  # fmt: skip
@click.option("--data-dir", default=None, type=click.Path(path_type=Path), help="Where the files of a named set are.")
@click.option("--key", default=None, help="Array in the .npz [default: x, or the only one].")
@click.option("--shape", default=None, type=_Sizes(), help="Of one row of a table, e.g. 28x28.")
@click.option("--threshold", default=None, type=float, help="Values from here on are 1, below 0.")
@click.option("--rows", default=None, type=click.IntRange(min=1), help="Use only so many training rows.")
@click.option("--hidden", default=None, type=_Sizes(), help="Hidden units: 64, or layers: 64,32.")
@click.option("--objective", default=None, help="A name from docs/objectives.md [default: pcd].")
@click.option("--sampler", default=None, help="[default: what suits the model]")
@click.option("--sampler-steps", type=click.IntRange(min=1), default=None, help="Kernel steps per update.")
@click.option("--iterations", type=click.IntRange(min=1), default=None, help="Updates [default: 2000].")
@click.option("--batch-size", type=click.IntRange(min=1), default=None, help="Rows an update [default: 100].")
@click.option("--lr", type=float, default=None, help="Step size [default: 0.01].")
@click.option("--decay", default=None, help="Of the step size: constant, linear, cosine, step [default: linear].")
@click.option("--penalty", type=float, default=None, help="Energy-magnitude penalty.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any other setting; repeatable.")
@click.option("--pictures", type=click.IntRange(min=0), default=None, help="Updates between pictures of chains.")
@click.option("--tensorboard", is_flag=True, default=None, help="Write TensorBoard's files too.")
@click.option("--validation", default=None, help="At the end: auto, exact, ais or none [default: auto].")
@click.option("--print-config", is_flag=True, help="Print the whole config as TOML and stop.")
@cli_support.training_options
@cli_support.common_options()
@cli_devices.devices_option("discrete_ebm.cli")
@click.pass_context
def train(
    ctx: click.Context,
    config: str | None,
    settings: tuple[str, ...],
    print_config: bool,
    resume: Path | None,
    checkpoint_every: int | None,
    output: Path | None,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train MODEL (rbm, ising, potts, mlp, resnet, ...: docs/training.md) on data; on digits if none are given.

    Writes energy.safetensors, ema.safetensors, chains.safetensors, history.csv, log.csv, config.toml, run.json and
    checkpoints/, and ends with a validation figure. Ctrl-C keeps what is done; --resume RUN_DIR goes on from there
    (with --iterations N: up to N).
    """
    from discrete_ebm import run_config
    from discrete_ebm.errors import CheckpointError

    if resume is not None:
        again = cli_support.resumed_options(ctx, resume, "discrete-ebm train", ["iterations", "device"])
        if "config" not in again:
            raise CheckpointError(f"--resume must name a run that has a config; got {resume}, which an earlier version "
                                  "began. Go on with that version, or begin anew from its data.")  # fmt: skip
        whole = again["config"]
        for name in ("iterations", "device"):
            whole["training"][name] = again.get(name, whole["training"][name])
        _train(ctx, whole, resume=True, checkpoint_every=checkpoint_every, output=resume, quiet=quiet, as_json=as_json)
        return
    layers = [run_config.read(config)] if config is not None else []
    if config is None and given["model"] == "jem":
        layers = [run_config.read(cli_jem.CONFIG)]
    whole = run_config.resolve(*layers, _options(ctx, given, settings), where=config or "the options")
    if whole["model"]["name"] is None:
        raise click.UsageError(f"a new training needs a model ({', '.join(_models())}): train rbm; or --config FILE; "
                               "or --resume RUN_DIR.")  # fmt: skip
    if print_config:
        click.echo(run_config.dumps(whole), nl=False)
        return
    _train(ctx, whole, resume=False, checkpoint_every=checkpoint_every,
           output=output or cli_results.dated(f"train-{whole['model']['name']}"), quiet=quiet,
           as_json=as_json)  # fmt: skip


def _options(ctx: click.Context, given: dict[str, Any], settings: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What stands on the command line, as sections of a config."""
    from discrete_ebm import run_config

    layer: dict[str, dict[str, Any]] = {}
    for name, place in _GIVEN.items():
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and given[name] is not None:
            section, key = place.split(".")
            value = given[name]
            layer.setdefault(section, {})[key] = str(value) if isinstance(value, Path) else value
    shape = layer.get("data", {}).get("shape")
    if isinstance(shape, int):
        layer["data"]["shape"] = [shape]
    for text in settings:
        section, key, value = run_config.setting(text)
        layer.setdefault(section, {})[key] = value
    return layer


def _models() -> list[str]:
    from discrete_ebm import models

    return models.names()


def _train(ctx: click.Context, config: dict[str, dict[str, Any]], *, resume: bool, checkpoint_every: int | None,
           output: Path, quiet: bool, as_json: bool) -> None:  # fmt: skip
    """Begin or go on with the training that ``config`` describes."""
    import torch

    import discrete_ebm as de
    from discrete_ebm import checkpoint, judge, models, run_config
    from discrete_ebm.run_log import RunLog

    training, log = config["training"], config["log"]
    cli_support.check_device(training["device"])
    data = load_data(config["data"], quiet)
    model = dict(config["model"])
    name = model.pop("name")
    if models.spec(name).labelled:
        data = data.with_labels()
    if name == "jem":
        data = cli_jem.with_reals(data)
    energy = models.create(name, data, training["seed"], **model)
    x = cli_jem.labelled_rows(energy, data) if name == "jem" else data.weighted_train()
    if completed := models.needs_completion(name, model):
        x = de.draw_hidden(energy, x, generator=torch.Generator().manual_seed(training["seed"]), n_steps=5)
    objective = _objective(config, energy, completed)
    judge.check_method(energy, config["validation"]["method"], data.train)
    text = run_config.dumps(config)
    watch = RunLog(output, log["every"] or max(1, training["iterations"] // _LINES), n_pictures=log["pictures"],
                   tensorboard=log["tensorboard"] and is_first(), train=None if completed else data.train,
                   valid=None if completed else data.valid,
                   at_start=lambda: checkpoint.write_text(output / "config.toml", text))  # fmt: skip
    extra = {} if training["optimizer"] == "adam" else {"optimizer": training["optimizer"]}
    try:
        fitted = de.fit(
            energy,
            x,
            objective,
            n_iterations=training["iterations"],
            batch_size=training["batch_size"],
            lr=training["lr"],
            warmup=training["warmup"],
            decay=_schedule(training),
            clip=training["clip"],
            ema=training["ema"],
            weight_decay=training["weight_decay"],
            max_seconds=training["max_seconds"],
            seed=training["seed"],
            output=output,
            device=training["device"],
            progress=not quiet,
            callbacks=[watch] if is_first() else [],
            checkpoint_every=checkpoint_every,
            resume=resume,
            notes={"command": "discrete-ebm train", "options": {"config": config}},
            **extra,
        )
    finally:
        watch.close()
    if not is_first():  # what follows is told and written once
        ctx.exit(cli_support.EXIT_INTERRUPTED if fitted.interrupted else 0)
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    last = {column: values[-1] for column, values in fitted.history.items() if column != "iteration"}
    record |= {"model": name, "data": config["data"]["source"], "data_note": data.note, "parts": _parts(data),
               "rejected": dict(data.rejected), "device": training["device"], "last": last,
               "config": config}  # fmt: skip
    if not fitted.interrupted:
        if name == "jem":
            best = fitted.ema if fitted.ema is not None else fitted.energy
            record["validation"] = cli_jem.judged(best, data, config["validation"]["rows"], training["seed"] + 1)
        else:
            record["validation"] = _validate(config, fitted, data, quiet)
        if not quiet and not as_json:
            told = (cli_jem if name == "jem" else judge).sentence(record["validation"])
            click.echo(f"{'validation':26s}{told}")
    cli_results.finish(output, record, quiet, as_json)
    if fitted.interrupted:
        click.echo(
            f"discrete-ebm: interrupted after update {record['iterations']}; what was finished is in {output}.",
            err=True,
        )
        ctx.exit(cli_support.EXIT_INTERRUPTED)


def load_data(section: dict[str, Any], quiet: bool) -> Any:
    """The data set of a config's [data]; what was left out is said on stderr."""
    import discrete_ebm as de

    options = {key: value for key, value in section.items() if key not in ("source", "rows", "folder")}
    for name in ("source", "folder"):  # a run's config must find them again from anywhere
        known = name == "source" and section[name] in de.datasets.names()
        if section.get(name) is not None and not known and Path(section[name]).exists():
            section[name] = str(Path(section[name]).resolve())
    data = de.datasets.get(section["source"], folder=section.get("folder"), **options).first(section.get("rows"))
    if data.rejected and not quiet:
        counts = ", ".join(f"{reason} {count}" for reason, count in data.rejected.items())
        click.echo(f"{data.name}: {len(data)} rows kept, {sum(data.rejected.values())} left out ({counts})", err=True)
    return data


def _parts(data: Any) -> dict[str, int]:
    return {part: len(getattr(data, part)) for part in ("train", "valid", "test")}


def _objective(config: dict[str, dict[str, Any]], energy: Any, completed: bool) -> Any:
    """The objective with its sampler; what was left open is written into ``config``."""
    import discrete_ebm as de
    from discrete_ebm import models, run_config
    from discrete_ebm.errors import SettingError

    suits = models.spec(config["model"]["name"]).suits.get("objective")
    if not energy.space.is_discrete and config["objective"] == suits:
        config["objective"] = dict(run_config.DEFAULTS["objective"])  # what suits the model on discrete data only
    section = config["objective"]
    row = de.objectives.spec(section["name"])
    settings = {key: _frozen(value) for key, value in section.items() if key != "name"}
    if not row.needs_sampler:
        if config["sampler"]["name"] != "auto":
            raise SettingError(f"`sampler` must be left out for objective {row.name!r}, which draws no chains; got "
                               f"{config['sampler']['name']!r}.")  # fmt: skip
        return de.objectives.create(row.name, **settings)
    if config["sampler"]["name"] == "auto":
        config["sampler"] = _suited(energy)
    chosen = config["sampler"]
    if "n_steps" not in settings and row.name in ("pcd", "cd"):  # few steps and many updates won at equal time
        settings["n_steps"] = section["n_steps"] = 1 if chosen["name"] in _SWEEPS else 2
    kernel = {key: _frozen(value) for key, value in chosen.items() if key != "name"}
    settings["sampler"] = de.samplers.create(chosen["name"], **kernel) if kernel else chosen["name"]
    objective = de.objectives.create(row.name, **settings)
    return de.objectives.Completed(objective) if completed else objective


def _suited(energy: Any) -> dict[str, Any]:
    """What ``de.samplers.choose`` says; but no kernel whose scale must be adapted, which a training does not do."""
    import discrete_ebm as de
    from discrete_ebm.samplers.auto import INFORMED

    choice = de.samplers.choose(energy)
    if choice.name in INFORMED:
        return {"name": "gwg"}
    if choice.name == "hmc":
        return {"name": "langevin"}
    plain = all(isinstance(value, (bool, int, float, str)) for value in choice.settings.values())
    return {"name": choice.name, **(choice.settings if plain else {})}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


def _schedule(training: dict[str, Any]) -> Any:
    from discrete_ebm.schedules import Schedule

    if training["decay"] in ("constant", "linear") and training["decay_end"] == 0:
        return training["decay"]
    return Schedule(training["decay"], training["decay_end"], tuple(training["decay_at"]), training["decay_factor"])


def _validate(config: dict[str, dict[str, Any]], fitted: Any, data: Any, quiet: bool) -> dict[str, Any]:
    """The figure a training ends with, on validation rows where there are some."""
    from discrete_ebm import judge

    section = config["validation"]
    part = "valid" if len(data.valid) else "train"
    rows = getattr(data, part)[: section["rows"] or None]
    energy = fitted.ema if fitted.ema is not None else fitted.energy
    found = judge.judge_likelihood(energy, rows, data.train, method=section["method"], n_chains=section["chains"],
                                   n_steps=section["steps"], seed=config["training"]["seed"] + 1, max_seconds=30.0,
                                   progress=not quiet)  # fmt: skip
    energies = {name: value for name, value in found.items() if not isinstance(value, float) or math.isfinite(value)}
    return {"part": part, **energies}
