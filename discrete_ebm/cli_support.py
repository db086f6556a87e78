"""What both command lines share: common options, one way to end with an error, one way to print a result.

Exit codes: 0 done; 2 bad input or an error that the user can act on, told in one sentence on stderr; 130 interrupted
with Ctrl-C, with what was done kept; 3 training diverged (the last good state is kept). A traceback is a bug of ours.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from discrete_ebm.errors import CheckpointError, DivergenceError, EBMError, RecoveryWarning

EXIT_OK, EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_INTERRUPTED = 0, 2, 3, 130


def run(group: click.Command, args: Sequence[str] | None = None, *, prog_name: str) -> int:
    """Run a command and turn every expected failure into one sentence on stderr and an exit code.

    Args:
        group: the click command. args: arguments without the program's name; ``sys.argv[1:]`` when None.
        prog_name: shown in usage lines and before each sentence.

    Returns:
        The exit code; see the module's first lines.
    """
    given = list(sys.argv[1:] if args is None else args)
    if any("\0" in part for part in given):  # no file has such a name, and the system's calls raise on it
        return _fail(prog_name, "an argument must not hold the character NUL; got one that does. Leave it out.")
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *place: (  # one line in our name, without a place in our source
        f"{prog_name}: {message}\n" if issubclass(category, RecoveryWarning) else usual(message, category, *place)
    )
    try:
        return _run(group, given, prog_name)
    finally:
        warnings.formatwarning = usual


def _run(group: click.Command, given: list[str], prog_name: str) -> int:
    """What :func:`run` says, for a list of arguments."""
    if f"_{prog_name.replace('-', '_').upper()}_COMPLETE" in os.environ:  # a shell asks for completions
        group.main(args=given, prog_name=prog_name)
    try:
        # Not `group.main`: click ends a closed pipe by itself, without a word. `obj` records how we were called.
        with group.make_context(prog_name, list(given), obj={"argv": given}) as context:
            code = group.invoke(context)
        sys.stdout.flush()  # a full disk or a closed pipe behind stdout shows itself here, not at interpreter exit
        return code if isinstance(code, int) else EXIT_OK
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        if error.ctx is not None and isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            click.echo(error.ctx.get_help())
            return EXIT_OK
        hint = f" Try `{error.ctx.command_path} --help`." if error.ctx is not None else ""
        return _fail(prog_name, error.format_message() + hint)
    except click.ClickException as error:
        return _fail(prog_name, error.format_message())
    except (KeyboardInterrupt, click.Abort):
        return _fail(prog_name, "interrupted; what was finished is kept.", EXIT_INTERRUPTED)
    except DivergenceError as error:
        return _fail(prog_name, str(error), EXIT_DIVERGED)
    except EBMError as error:
        return _fail(prog_name, str(error))
    except BrokenPipeError:
        return _closed_pipe(prog_name)
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _closed_pipe(prog_name)
        place = f" ({error.filename})" if error.filename else ""
        advice = {
            errno.ENOSPC: "Free some space or choose another place with --output.",
            errno.EACCES: "Choose a place that may be read and written.",
            errno.ENOENT: "Check the path.",
        }.get(error.errno or 0, "Check the path and the disk.")
        return _fail(prog_name, f"{error.strerror or error}{place}. {advice}")


def _fail(prog_name: str, message: str, code: int = EXIT_BAD_INPUT) -> int:
    """One sentence on stderr; a stderr that is closed too must not bring a traceback back."""
    try:
        click.echo(f"{prog_name}: {' '.join(message.split())}", err=True)
    except OSError:
        return code
    return code


def _closed_pipe(prog_name: str) -> int:
    """The reader of our output went away: keep the interpreter from failing on its own last flush."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a real file (a test's buffer): nothing to redirect
        return _fail(prog_name, "the output was closed before everything was written.")
    finally:
        os.close(devnull)
    return _fail(prog_name, "the output was closed before everything was written.")


def common_options(output: str = "a dated folder under runs/") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator adding --seed, --device, --output, --quiet and --json, with the same words in every command.

    Args:
        output: what the command writes to when --output is not given, for the help text.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
            click.option("--quiet", is_flag=True, help="No progress bars and no table."),
            click.option(
                "--output", type=click.Path(path_type=Path), default=None, help=f"Where to write [default: {output}]."
            ),
            click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ..."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed."),
        ):
            function = option(function)
        return function

    return decorate


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator adding --resume and --checkpoint-every, with the same words in every command that trains."""
    for option in (
        click.option(
            "--checkpoint-every", type=click.IntRange(min=0), default=None,
            help="Updates between checkpoints; 0 = none [default: about a minute].",
        ),
        click.option(
            "--resume", type=click.Path(path_type=Path), default=None, metavar="RUN_DIR",
            help="Go on with a run, by its own settings, from its newest good checkpoint.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def resumed_options(
    ctx: click.Context,
    folder: Path,
    command: str,
    may_change: Sequence[str] = (),
    notes_of: Callable[[Path], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The options that the run in ``folder`` was started with, from its newest good checkpoint.

    Args:
        ctx: of the command that resumes. command: its name, which the run must have been started with.
        may_change: options that may be given anew; they replace those of the run.
        notes_of: reads how the run was started, where it is not in a checkpoint of the folder itself.
    Raises:
        click.UsageError: another option was given, which would be ignored.
        CheckpointError: the folder has no good checkpoint, or of another command.
    """
    from discrete_ebm.fitting import checkpoint_notes

    given = {
        name: ctx.params[name]
        for name in ctx.params
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    ignored = sorted(set(given) - {"resume", "quiet", "as_json", "checkpoint_every", *may_change})
    if ignored:
        names = ", ".join("--" + name.replace("_", "-") for name in ignored)
        raise click.UsageError(f"--resume goes on with the run's own settings; got {names} as well. Leave them out.")
    notes = (notes_of or checkpoint_notes)(folder)
    if notes.get("command") != command:
        raise CheckpointError(
            f"--resume must name a run of `{command}`; got {folder}, of {notes.get('command') or 'a script'}. Resume "
            "it by what started it."
        )
    return {**notes["options"], **{name: given[name] for name in may_change if name in given}}


def check_device(device: str) -> str:
    """The device if torch can use it.

    Raises:
        click.UsageError: unknown name or no such accelerator.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise click.UsageError(f"--device must name a usable device; got {device!r} ({first}).") from error
    return device


def echo_json(value: Any) -> None:
    """Print strict JSON: NaN and infinity become null, anything unknown its text."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """Any nesting of settings, numbers and tensors as what strict JSON can hold: NaN and infinity become None."""
    if hasattr(value, "tolist"):  # tensors, arrays, NumPy numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
