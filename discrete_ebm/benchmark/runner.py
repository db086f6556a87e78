"""Run a suite into a folder: ``record.json`` after every part, then ``table.md`` and ``figure.png``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from discrete_ebm import checkpoint
from discrete_ebm.benchmark.record import Record, identity, read_json
from discrete_ebm.benchmark.suites import suite
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers import registry

__all__ = ["changed_settings", "default_folder", "run_suite", "table"]


class _Spoken(Record):
    """Says on stderr which part begins."""

    def part(self, name: str, compute: Any) -> Any:
        if self.progress and name not in self.record["parts"]:
            print(name, file=sys.stderr, flush=True)
        return super().part(name, compute)


def default_folder(name: str, size: str, seed: int) -> Path:
    """Where a run goes when nothing is said: the same place again, so that it is resumed."""
    return Path("runs") / f"benchmark-{name}-{size}-seed{seed}"


def run_suite(name: str, size: str = "small", *, seed: int = 0, output: str | Path | None = None,
              samplers: Sequence[str] = (), changes: Mapping[str, Any] | None = None, device: str = "cpu",
              again: bool = False, progress: bool = False, plot: bool = True) -> dict[str, Any]:
    """Run a suite, or go on with one that was interrupted; the record.

    Args:
        name: one of ``discrete_ebm.benchmark.suites.SUITES``. size: "small" (seconds: it tries the code, its figures
            mean nothing) or "full".
        seed: of data, starts and chains. A finished run of the same seed and settings is left alone.
        output: folder; see :func:`default_folder`.
        samplers: registered names; empty = every one that takes the suite's energies.
        changes: other values of the suite's settings.
        again: measure again what is there.
        plot: draw figure.png where matplotlib is installed; a note says where it is not.
    Raises:
        SettingError, RegistryError: unknown suite, size, setting or sampler, before anything is written.
        DataError: record.json is not JSON, or it is of another suite or seed.
    """
    module = suite(name)
    settings = changed_settings(module, size, samplers, changes or {})
    folder = Path(output) if output is not None else default_folder(name, size, seed)
    ctx = _Spoken(name, seed, size, settings, folder / "record.json", device, again, progress)
    _refuse_other(ctx)
    if ctx.begin():
        if size == "small":
            ctx.note("Size small tries the code in seconds; its figures mean nothing. What is quoted is of size full.")
        module.run(ctx)
        if plot:
            _draw(ctx, module, folder)
        ctx.finish()
    else:
        ctx.record = read_json(ctx.path)
    checkpoint.write_text(folder / "table.md", module.tables([ctx.record]))
    return ctx.record


def table(record: dict[str, Any]) -> str:
    """The markdown of a record."""
    return suite(record["suite"]).tables([record])


def _draw(ctx: Record, module: Any, folder: Path) -> None:
    from discrete_ebm.benchmark import figures

    try:
        with checkpoint.atomic_file(folder / "figure.png") as temporary:
            figures.save(module.figure(ctx.record), temporary)
    except CapabilityError as reason:
        ctx.note(str(reason))


def _refuse_other(ctx: Record) -> None:
    """A record that somebody made of something else is never overwritten in silence."""
    if not ctx.path.exists() or ctx.again:
        return
    old = read_json(ctx.path)
    mine = {"suite": ctx.suite, "seed": ctx.seed, **identity(ctx.asked())}
    theirs = {"suite": old.get("suite"), "seed": old.get("seed"), **identity(old)}
    different = [key for key in mine if mine[key] != theirs[key]]
    if "settings" in different:
        different.remove("settings")
        both = {**theirs["settings"], **mine["settings"]}
        different += [key for key in both if theirs["settings"].get(key) != mine["settings"].get(key)]
    if different:
        raise SettingError(f"`output` {ctx.path.parent} holds a run with another {', '.join(different)}. Choose "
                           "another --output, or --again to replace it.")


def changed_settings(module: Any, size: str, samplers: Sequence[str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A suite's settings with these changes.

    Raises:
        SettingError: unknown size or setting, or a value of another kind. RegistryError: unknown sampler.
    """
    if size not in module.SETTINGS:
        raise SettingError(f"`size` must be one of {', '.join(module.SETTINGS)}; got {size!r}.")
    settings = json.loads(json.dumps(module.SETTINGS[size]))  # a copy, of what JSON can hold
    for key, value in changes.items():
        if key not in settings:
            raise SettingError(f"settings of this suite must be among {', '.join(settings)}; got {key!r}.")
        old = settings[key]
        if old is not None and value is not None and not _alike(old, value):
            raise SettingError(f"setting {key!r} must be like {json.dumps(old)}; got {json.dumps(value)}.")
        settings[key] = value
    for key in ("n_chains", "n_steps", "law_chains", "mmd_chains", "reference_chains"):
        if settings.get(key) is not None and settings[key] < 4:
            raise SettingError(f"setting {key!r} must be at least 4, or there are no error bars; got {settings[key]}.")
    settings["samplers"] = sorted(dict.fromkeys([*settings["samplers"], *samplers]))
    for name in settings["samplers"]:
        registry.spec(name)
    return settings


def _alike(old: Any, value: Any) -> bool:
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, type(old)) or isinstance(old, bool)
