"""The option --devices of commands that train, and how a command behaves in one of several processes."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from discrete_ebm import distributed, launch
from discrete_ebm.cli_support import EXIT_BAD_INPUT, EXIT_DIVERGED
from discrete_ebm.errors import DivergenceError, EBMError, RecoveryWarning

__all__ = ["devices_option"]

_DEVICES = "discrete_ebm.devices"


def devices_option(module: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator adding --devices to a command with --output, --resume, --device, --quiet, --json, --checkpoint-every.

    The command ``python -m module`` starts itself in as many processes, unless torchrun did. In all of them but the
    first it prints nothing, and a failure that all share is told once.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            ctx = click.get_current_context()
            output, resume = options["output"], options["resume"]
            devices = ctx.meta.get(_DEVICES)
            if devices is None and resume is not None and distributed.n_processes() == 1:
                devices = _processes_of(resume)
            starts = launch.must_launch(devices, options.get("device") or "cpu")
            if devices is not None and starts and not options.get("print_config"):
                arguments = list((ctx.find_object(dict) or {}).get("argv", ()))
                if output is None and resume is None:
                    arguments += ["--output", str(_dated())]
                ctx.exit(launch.launch(module, arguments, devices))
            if distributed.n_processes() == 1:
                return function(*args, **options)
            if output is None and resume is None:
                raise click.UsageError("--output (or --resume) must be given under torchrun, so that all processes and "
                                       "restarts share a folder. Name one.")  # fmt: skip
            if launch.restarted() and resume is None and _has_checkpoints(output):
                return _go_on(ctx, options)
            return _in_one_process(ctx, function, args, options)

        return click.option(
            "--devices", type=click.IntRange(min=1), default=None, expose_value=False, callback=_keep,
            help="Processes of this machine that train together, one a device (docs/distributed.md).",
        )(call)  # fmt: skip

    return decorate


def _keep(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    ctx.meta[_DEVICES] = value


def _in_one_process(
    ctx: click.Context, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """The command among others: the first process speaks, and none ends before the first has said why."""
    first = distributed.is_first()
    if not first:
        options = {**options, "quiet": True}
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
        warnings.simplefilter("ignore", RecoveryWarning)
        logging.getLogger("discrete_ebm").setLevel(logging.ERROR)
    try:
        return function(*args, **options)
    except click.exceptions.Exit as stop:
        if stop.exit_code:
            distributed.joined().leave()
        raise
    except EBMError as failure:
        if not distributed.joined().told:
            raise
        code = EXIT_DIVERGED if isinstance(failure, DivergenceError) else EXIT_BAD_INPUT
        if first:
            click.echo(f"{ctx.find_root().info_name}: {' '.join(str(failure).split())}", err=True)
        distributed.joined().leave()
        raise click.exceptions.Exit(code) from failure


def _go_on(ctx: click.Context, options: dict[str, Any]) -> Any:
    """After a restart by torchrun, the command that resumes the run that this one began."""
    again = ["--resume", str(options["output"])]
    if options.get("checkpoint_every") is not None:
        again += ["--checkpoint-every", str(options["checkpoint_every"])]
    again += [flag for flag, name in (("--quiet", "quiet"), ("--json", "as_json")) if options.get(name)]
    with ctx.command.make_context(ctx.info_name, again, parent=ctx.parent) as context:
        return ctx.command.invoke(context)


def _has_checkpoints(output: Path) -> bool:
    from discrete_ebm.step_folders import Checkpoints

    return bool(Checkpoints(output / "checkpoints").steps())


def _processes_of(run: Path) -> int | None:
    """How many processes saved the newest good checkpoint of a run; None where there is none, or one."""
    from discrete_ebm import training_state
    from discrete_ebm.step_folders import Checkpoints

    checkpoints = Checkpoints(run / "checkpoints")
    found = checkpoints.newest(set_aside=True) if checkpoints.steps() else None
    number = 1 if found is None else training_state.read_record(found).get("n_ranks")
    return number if isinstance(number, int) and number > 1 else None


def _dated() -> Path:
    """A dated folder under runs/ that no other run has."""
    path = Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-train"
    return path if not path.exists() else path.with_name(f"{path.name}-{secrets.token_hex(2)}")
