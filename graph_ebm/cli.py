"""The command ``graph-ebm``: train, generate, optimize, evaluate, and three lists (moves, properties, datasets).

Every command that computes writes one folder. Bad input ends with one sentence on stderr and exit code 2; Ctrl-C keeps
what is done and ends with 130.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from discrete_ebm.cli_devices import devices_option
from discrete_ebm.cli_support import (
    EXIT_INTERRUPTED,
    check_device,
    common_options,
    echo_json,
    resumed_options,
    run,
    training_options,
)
from discrete_ebm.distributed import is_first
from discrete_ebm.errors import DataError, SettingError
from graph_ebm import __version__
from graph_ebm.cli_data import (
    DEFAULT_DATA,
    check_smarts,
    check_smiles,
    load_molecules,
    read_samples,
    starting_molecules,
)
from graph_ebm.cli_lists import datasets, moves, properties

_FILE_ENDINGS = {".smi", ".csv", ".sdf"}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    if os.getcwd() not in sys.path:  # a property `module:function` of the user lies in the working folder; last, so
        sys.path.append(os.getcwd())  # that no file there can stand in for an installed module
    sys.exit(run(cli, args, prog_name="graph-ebm"))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="graph-ebm")
def cli() -> None:
    """Train energies of molecules on real ones, and sample new and better ones."""


def _data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--max-atoms", type=click.IntRange(1, 128), default=None, help="Largest molecule, heavy atoms."),
        click.option("--limit", type=click.IntRange(min=1), default=None, help="Use at most this many molecules."),
        click.option("--column", default="smiles", show_default=True, help="SMILES column of a table."),
        click.option("--data", default=DEFAULT_DATA, show_default=True, help="Packaged set or .smi/.csv/.sdf file."),
    ):
        function = option(function)
    return function


_minutes = click.option("--minutes", type=click.FloatRange(0.01), default=10, show_default=True, help="Training time.")
_SCORING = ("workers", "time_limit", "memory_limit", "score_cache", "score_key", "retry_failed")


def _scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How properties that are functions of the user (module:function) are run."""
    for option in (
        click.option("--retry-failed", is_flag=True, help="Score again what the cache has without a value."),
        click.option("--score-key", default=None, metavar="TEXT", help="Your function's version [default: its file]."),
        click.option("--score-cache", type=click.Path(path_type=Path, dir_okay=False), default=None, metavar="FILE",
                     help="SQLite file of scores to use and fill."),
        click.option("--memory-limit", type=click.FloatRange(min=0), default=None, metavar="GIB",
                     help="Memory for one molecule, 0 = any [default: 1]."),
        click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), default=None, metavar="SECONDS",
                     help="Time for one molecule [default: 60]."),
        click.option("--workers", type=click.IntRange(min=0), default=None, metavar="N",
                     help="Processes that run your functions, 0 = this one [default: one a core]."),
    ):  # fmt: skip
        function = option(function)
    return function


def _scoring(options: dict[str, Any], quiet: bool) -> Any:
    """Take the options of :func:`_scoring_options` out of ``options``, as a Scoring."""
    from graph_ebm.scoring import Scoring

    given = {name: options.pop(name, None) for name in _SCORING}
    names = {"score_cache": "cache", "score_key": "key", "retry_failed": "retry"}
    kept = {names.get(name, name): value for name, value in given.items() if value is not None}
    return Scoring(progress=not quiet, **kept)


_keep = click.option("--keep", metavar="SMARTS", default=None, help="Substructure that every molecule keeps.")


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given: what is None keeps the library's own default."""
    return {name: value for name, value in options.items() if value is not None}


class _Run:
    """A run in progress: its folder, its clock, and whether it was interrupted."""

    def __init__(self, name: str, output: Path | None) -> None:
        from graph_ebm.run_folder import RunFolder

        self.folder = RunFolder(output, name)
        self.start = time.monotonic()
        self.interrupted = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def finish(
        self, content: dict[str, Any], table: str, as_json: bool, quiet: bool, history: dict[str, Any] | None = None
    ) -> None:
        """Write run.json (with the history), print the result, and end with 130 if the run was cut short."""
        content = {**content, "seconds": round(self.seconds, 3), "interrupted": self.interrupted}
        self.folder.run({"command": _command(), **content, **({} if history is None else {"history": history})})
        if as_json:
            echo_json({"folder": str(self.folder.path), "files": sorted(self.folder.written), **content})
        elif not quiet:
            click.echo(table)
            click.echo(f"written to {self.folder.path}: {', '.join(sorted(self.folder.written))}")
        if self.interrupted:
            click.echo(f"graph-ebm: interrupted; what was finished is kept in {self.folder.path}.", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED)


@contextmanager
def _run(name: str, output: Path | None, settings: dict[str, Any]) -> Iterator[_Run]:
    """A run whose folder disappears if it failed before anything was made, and records an interruption."""
    run_ = _Run(name, output)
    try:
        yield run_
    except KeyboardInterrupt:
        run_.folder.run({"settings": settings, "seconds": round(run_.seconds, 3), "interrupted": True})
        click.echo(f"\ngraph-ebm: interrupted; what was finished is kept in {run_.folder.path}.", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    except Exception:
        run_.folder.discard_if_empty()
        raise


def _file_list(run_: _Run, report: bool = True) -> list[tuple[str, str]]:
    """Files of the run for the report page, with those that are written after it."""
    later = {"run.json": "versions, seeds, settings, figures"} | ({"report.html": "this page"} if report else {})
    return list({**run_.folder.written, **later}.items())


@cli.command()
@_data_options
@_minutes
@click.option("--iterations", type=click.IntRange(min=1), default=None, help="Updates, in place of --minutes.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
@training_options
@common_options()
@devices_option("graph_ebm.cli")
@click.pass_context
def train(
    ctx: click.Context, resume: Path | None, checkpoint_every: int | None, output: Path | None, quiet: bool,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train an energy on molecules; writes model.safetensors, config.json, run.json, report.html and checkpoints/.

    Ctrl-C keeps what is done; --resume RUN_DIR goes on from there, for the minutes or updates that are left.
    """
    if resume is not None:
        options, output = resumed_options(ctx, resume, "graph-ebm train", ["device"]), resume
    keep = {"checkpoint_every": checkpoint_every, "resume": resume is not None or None}
    _train(keep, output=output, quiet=quiet, as_json=as_json, **options)


def _train(
    keep: dict[str, Any], *, data: str, column: str, limit: int | None, max_atoms: int | None, minutes: float,
    iterations: int | None, threads: int | None, seed: int, device: str, output: Path | None, quiet: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Begin a training, or go on with it."""
    from graph_ebm.report import render
    from graph_ebm.report_builders import training_report
    from graph_ebm.run_folder import provenance
    from graph_ebm.training import train as train_model

    check_device(device)
    molecules = load_molecules(data, column, limit=limit, max_atoms=max_atoms, quiet=quiet)
    settings = {"data": data, "n_molecules": len(molecules), "seed": seed, "device": device, "minutes": minutes,
                "iterations": iterations, "threads": threads}  # fmt: skip
    options = {"data": str(Path(data).resolve()) if Path(data).exists() else data, "column": column, "limit": limit,
               "max_atoms": max_atoms, "minutes": minutes, "iterations": iterations, "threads": threads, "seed": seed,
               "device": device}  # fmt: skip
    with _run("train", output, settings) as run_:
        length = {"n_iterations": iterations} if iterations is not None else {"minutes": minutes}
        model = train_model(molecules, **length, seed=seed, device=device, progress=not quiet,
                            output=run_.folder.path, notes={"command": "graph-ebm train", "options": options},
                            **_given(threads=threads, **keep))  # fmt: skip
        run_.interrupted = bool(getattr(model, "interrupted", False))
        if not is_first():
            raise click.exceptions.Exit(EXIT_INTERRUPTED if run_.interrupted else 0)
        run_.folder.model(model)
        page = training_report(
            model, asked=[("Training data", f"{data}: {len(molecules):,} molecules"), ("Seed", str(seed))],
            command=_command(), seconds=run_.seconds, provenance={**provenance(), "settings": settings},
            files=_file_list(run_),
        )  # fmt: skip
        run_.folder.report(render(page))
        last = {key: _last(values) for key, values in dict(getattr(model, "history", None) or {}).items()}
        table = "\n".join(f"{key:<24} {value}" for key, value in last.items() if isinstance(value, (int, float, str)))
        content = {"settings": settings, "data": _counts(molecules), "last": last}
        run_.finish(content, table, as_json, quiet, getattr(model, "history", None))


@cli.command()
@click.argument("model", metavar="MODEL_FOLDER", type=click.Path(path_type=Path))
@click.option("-n", "n", type=click.IntRange(min=1), default=1000, show_default=True, help="Molecules to draw.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Sampling steps of each chain.")
@click.option("--beta", type=click.FloatRange(min=0.0), default=None, help="Inverse temperature [default: 1].")
@click.option("--start", multiple=True, metavar="SMILES|FILE", help="Molecules to start from; may be repeated.")
@_keep
@click.option("--reference", default=None, metavar="NAME|FILE", help="Known (training) molecules.")
@click.option("--column", default="smiles", show_default=True, help="SMILES column of tables.")
@common_options("a dated folder under runs/; or a file ending in .smi, .csv or .sdf")
def generate(
    model: Path, n: int, steps: int | None, beta: float | None, start: tuple[str, ...], keep: str | None,
    reference: str | None, column: str, seed: int, device: str, output: Path | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw molecules from a trained model (the folder that train or optimize wrote)."""
    from graph_ebm.generate import generate as draw
    from graph_ebm.metrics import check_samples, evaluate
    from graph_ebm.model import load_model
    from graph_ebm.report import render
    from graph_ebm.report_builders import generation_report
    from graph_ebm.run_folder import provenance, ready_file, write_molecules

    check_device(device)
    check_smarts(keep, "--keep")
    starts = starting_molecules(start, column)
    known = check_samples([] if reference is None else read_samples(reference, column, "train"))
    energy = load_model(_model_folder(model))
    settings = {"model": str(model), "n": n, "seed": seed, "steps": steps, "beta": beta, "start": starts, "keep": keep}
    options = {"seed": seed, "progress": not quiet, **_given(n_steps=steps, beta=beta, start=starts, keep=keep)}
    if output is not None and output.suffix.lower() in _FILE_ENDINGS:
        ready_file(output)  # not after the sampling, which would be lost
        begin = time.monotonic()
        found = draw(_on(energy, device), n, **options)
        write_molecules(output, found.table())
        if as_json:
            echo_json({"file": str(output), "n": len(found.smiles), "seconds": round(time.monotonic() - begin, 3)})
        elif not quiet:
            click.echo(f"{len(found.smiles):,} molecules written to {output}")
        if getattr(found, "interrupted", False):
            raise KeyboardInterrupt
        return
    with _run("generate", output, settings) as run_:
        found = draw(_on(energy, device), n, **options)
        run_.interrupted = bool(getattr(found, "interrupted", False))
        run_.folder.molecules(found.table())
        write_molecules(run_.folder / "molecules.smi", found.table())
        run_.folder.written["molecules.smi"] = "the SMILES alone"
        evaluation = evaluate(found.smiles, None if reference is None else known, device=device, progress=not quiet)
        page = generation_report(
            found, asked=[("Model", str(model)), ("Molecules", f"{n:,}, seed {seed}")],
            training=known, evaluation=evaluation,
            command=_command(), start=starts[0] if starts and len(starts) == 1 else None, keep=keep,
            seconds=run_.seconds, provenance={**provenance(), "settings": settings}, files=_file_list(run_),
        )  # fmt: skip
        run_.folder.report(render(page))
        run_.finish({"settings": settings, "evaluation": evaluation.to_dict()}, evaluation.table(), as_json, quiet)


@cli.command()
@click.argument("targets", nargs=-1, metavar="PROPERTY...")
@_data_options
@click.option("--minutes", type=click.FloatRange(0.01), default=8, show_default=True, help="Training and sampling.")
@click.option("--iterations", type=click.IntRange(min=1), default=None, help="Updates of each training, not minutes.")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), default=None, help="Best part of the data.")
@click.option("-n", "n", type=click.IntRange(min=1), default=None, help="Molecules to draw.")
@click.option("--like", metavar="SMILES", default=None, help="Start here (and stay near, with --similarity).")
@click.option("--similarity", type=click.FloatRange(0, 1), default=None, help="Least Tanimoto similarity to --like.")
@_keep
@click.option("--start", multiple=True, metavar="SMILES|FILE", help="Molecules to start from; may be repeated.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Sampling steps [default: what time allows].")
@click.option("--strength", type=click.FloatRange(min=0), default=None, help="Weight of the experts [default: 1.5].")
@click.option("--strategy", type=click.Choice(["joint", "compose"]), default=None, help="One expert, or one a target.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
@click.option("--base", default=None, metavar="FOLDER|train", help="Base model [default: packaged, else trained].")
@_scoring_options
@training_options
@common_options()
@click.pass_context
def optimize(
    ctx: click.Context, resume: Path | None, checkpoint_every: int | None, output: Path | None, quiet: bool,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Make molecules with more of a PROPERTY.

    PROPERTY is a name ("qed"), a direction ("sa:min"), a range ("logp:1..3") or your function ("module:function");
    `graph-ebm properties` lists the names. Several are met together. Your functions run in processes of their own,
    under the limits below. Ctrl-C keeps what is done; --resume RUN_DIR goes on from there.
    """
    if resume is not None:
        from graph_ebm.optimize_stages import stage_notes

        options, output = resumed_options(ctx, resume, "graph-ebm optimize", _SCORING, stage_notes), resume
    elif not options["targets"]:
        raise click.UsageError("Missing argument 'PROPERTY...'.", ctx)
    scoring = _scoring(options, quiet)
    keep_on = {"checkpoint_every": checkpoint_every, "resume": resume is not None or None}
    _optimize(keep_on, scoring, output=output, quiet=quiet, as_json=as_json, **options)


def _optimize(
    keep_on: dict[str, Any], scoring: Any, *, targets: Sequence[str], data: str, column: str, limit: int | None,
    max_atoms: int | None, minutes: float, iterations: int | None, fraction: float | None, n: int | None,
    like: str | None, similarity: float | None, keep: str | None, start: Sequence[str], steps: int | None,
    strength: float | None, strategy: str | None, threads: int | None, base: str | None, seed: int, device: str,
    output: Path | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Begin an optimisation, or go on with it."""
    from graph_ebm.metrics import CheckedSamples, evaluate
    from graph_ebm.optimize import Target
    from graph_ebm.optimize import optimize as improve
    from graph_ebm.report import render
    from graph_ebm.report_builders import optimization_report
    from graph_ebm.run_folder import provenance

    if similarity is not None and like is None:
        raise click.UsageError("--similarity needs --like SMILES, the molecule to stay similar to.")
    check_device(device)
    check_smarts(keep, "--keep")
    like = check_smiles(like, "--like")
    starts = starting_molecules(tuple(start), column)
    wanted = [Target.parse(text) for text in targets]
    prior = base if base is None or base == "train" else _load(Path(base))
    molecules = load_molecules(data, column, limit=limit, max_atoms=max_atoms, quiet=quiet)
    settings = {"targets": list(targets), "data": data, "n_molecules": len(molecules), "seed": seed, "minutes": minutes,
                "fraction": fraction, "n": n, "like": like, "similarity": similarity, "keep": keep,
                "start": starts, "steps": steps, "strength": strength, "strategy": strategy, "device": device,
                "base": base, "iterations": iterations}  # fmt: skip
    whole = {name: str(Path(text).resolve()) if text is not None and Path(text).exists() else text
             for name, text in (("data", data), ("base", base))}  # fmt: skip
    options = {"targets": list(targets), **whole, "column": column, "limit": limit, "max_atoms": max_atoms,
               "minutes": minutes, "iterations": iterations, "fraction": fraction, "n": n, "like": like,
               "similarity": similarity, "keep": keep, "start": starts or [], "steps": steps, "strength": strength,
               "strategy": strategy, "threads": threads, "seed": seed, "device": device}  # fmt: skip
    with _run("optimize", output, settings) as run_:
        result = improve(
            wanted, data=molecules, minutes=minutes, seed=seed, device=device, output=run_.folder.path,
            progress=not quiet, scoring=scoring, notes={"command": "graph-ebm optimize", "options": options},
            **_given(fraction=fraction, n=n, like=like, similarity=similarity, keep=keep, base=prior, start=starts,
                     n_steps=steps, n_iterations=iterations, strength=strength, strategy=strategy, threads=threads,
                     **keep_on),
        )  # fmt: skip
        run_.interrupted = bool(getattr(result, "interrupted", False))
        run_.folder.molecules(result.molecules)
        if getattr(result, "model", None) is not None:
            run_.folder.model(result.model)
        known = CheckedSamples.trusted(molecules.smiles)
        evaluation = evaluate(_samples_of(result), known, properties=(), progress=not quiet)
        asked = [("Training data", f"{data}: {len(molecules):,} molecules"), ("Time", f"{minutes:g} minutes"),
                 ("Seed", str(seed))]  # fmt: skip
        if like is not None:
            bound = "" if similarity is None else f", Tanimoto similarity at least {similarity:g}"
            asked.append(("Similar to", f"{like}{bound}"))
        if keep is not None:
            asked.append(("Kept", keep))
        page = optimization_report(
            result, wanted, asked=asked, training=known, evaluation=evaluation,
            command=_command(), start=like, keep=keep, seconds=run_.seconds,
            baselines=getattr(result, "baselines", None) or (), provenance={**provenance(), "settings": settings},
            files=_file_list(run_),
        )  # fmt: skip
        run_.folder.report(render(page))
        content = {"settings": settings, "data": _counts(molecules), "figures": result.figures,
                   "evaluation": evaluation.to_dict(), "caveats": list(result.caveats)}  # fmt: skip
        run_.finish(content, _best(result, [t.name for t in wanted]), as_json, quiet, result.history)


@cli.command()
@click.argument("file", metavar="FILE")
@click.option("--reference", default=None, metavar="NAME|FILE", help="Molecules to compare distributions with.")
@click.option("--training", default=None, metavar="NAME|FILE", help="Known molecules [default: the reference].")
@click.option("--column", default="smiles", show_default=True, help="SMILES column of tables.")
@click.option("--properties", default=None, help="Names with commas between [default: qed,logp,sa,tpsa,mw,rings].")
@click.option("--fcd", "with_fcd", is_flag=True, help="Add the Fréchet ChemNet Distance (needs fcd_torch).")
@click.option("--fcd-reference", type=click.Path(path_type=Path), default=None, help="Reference statistics (.npz).")
@_scoring_options
@common_options()
def evaluate(
    file: str, reference: str | None, training: str | None, column: str, properties: str | None, with_fcd: bool,
    fcd_reference: Path | None, seed: int, device: str, output: Path | None, quiet: bool, as_json: bool,
    **scoring: Any,
) -> None:  # fmt: skip
    """Measure the molecules in FILE (.smi, .csv, .sdf, or a run's folder); writes evaluation.json.

    Every row counts, also one that is no molecule. Nothing is drawn at random: the seed is only recorded.
    """
    from graph_ebm import fcd as fcd_module
    from graph_ebm import properties as registry
    from graph_ebm.metrics import DEFAULT_PROPERTIES
    from graph_ebm.metrics import evaluate as measure
    from graph_ebm.run_folder import write_json

    check_device(device)
    names = list(DEFAULT_PROPERTIES) if properties is None else [p.strip() for p in properties.split(",") if p.strip()]
    for name in names:
        registry.spec(name)
    if with_fcd and reference is None and fcd_reference is None:
        raise click.UsageError("--fcd needs --reference NAME|FILE or --fcd-reference FILE.npz.")
    against: Any = fcd_module.load_statistics(fcd_reference) if fcd_reference is not None else with_fcd
    samples = read_samples(file, column)
    known = None if reference is None else read_samples(reference, column)
    trained = None if training is None else read_samples(training, column, "train")
    settings = {"file": file, "reference": reference, "training": training, "properties": names, "seed": seed,
                "fcd": with_fcd or fcd_reference is not None}  # fmt: skip
    with _run("evaluate", output, settings) as run_:
        found = measure(
            samples, known, training=trained, properties=names, fcd=against, device=device, progress=not quiet,
            scoring=_scoring(scoring, quiet),
        )  # fmt: skip
        content = {"settings": settings, **found.to_dict()}
        write_json(run_.folder / "evaluation.json", content)
        run_.folder.written["evaluation.json"] = "all figures"
        run_.finish(content, found.table(), as_json, quiet)


def _model_folder(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"the model must be a folder that train or optimize wrote; got {str(path)!r}. Check the path.")
    return path


def _load(path: Path) -> Any:
    from graph_ebm.model import load_model

    return load_model(_model_folder(path))


def _on(model: Any, device: str) -> Any:
    """The model on a device; models that cannot move are only used where they are."""
    if device == "cpu":
        return model
    if not hasattr(model, "to"):
        raise SettingError(f"--device must be cpu for this model; got {device!r}, and it cannot be moved.")
    return model.to(device)


def _samples_of(result: Any) -> list[Any]:
    """All samples of an optimisation, unselected where they are kept; else the ranked ones."""
    from graph_ebm.run_folder import rows_of

    generated = getattr(result, "generated", None)
    return list(generated.smiles) if generated is not None else [row["smiles"] for row in rows_of(result.molecules)]


def _counts(molecules: Any) -> dict[str, Any]:
    """What was read, kept and rejected: N in = N kept + N rejected."""
    rejected = getattr(molecules, "rejections", None)
    if rejected is None:
        return {"n_in": len(molecules), "n_kept": len(molecules), "rejected": {}}
    return {"n_in": rejected.n_in, "n_kept": len(molecules), "rejected": rejected.counts()}


def _best(result: Any, names: list[str], n: int = 10) -> str:
    """The best molecules as a table."""
    from graph_ebm.report import show
    from graph_ebm.run_folder import rows_of

    rows = rows_of(result.molecules)
    lines = ["  ".join([*(name.rjust(10) for name in names), "smiles"])]
    for row in rows[:n]:
        lines.append("  ".join([*(show(row.get(name)).rjust(10) for name in names), str(row["smiles"])]))
    return "\n".join([*lines, f"{len(rows):,} molecules in all"])


def _last(values: Any) -> Any:
    """The last entry of a history column that is not NaN (some are measured only now and then)."""
    if isinstance(values, dict):
        return {key: _last(v) for key, v in values.items()}
    known = [v for v in values if v == v] if isinstance(values, (list, tuple)) else []
    return known[-1] if known else None


def _command() -> str:
    """This call as one would type it; ``run`` leaves the arguments in the context."""
    return shlex.join(["graph-ebm", *(click.get_current_context().find_object(dict) or {}).get("argv", ())])


for _command_of_lists in (moves, properties, datasets):
    cli.add_command(_command_of_lists)

if __name__ == "__main__":
    main()
