"""Run benchmark suites: ``python -m benchmarks.run --suite NAME [--seeds 0 1 2] [--size small|full] [--data DIR]``.

One result file a suite, size and seed. A finished one is left alone; one that was interrupted goes on where it was.
Every seed runs in a process of its own, ``--jobs`` of them side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from discrete_ebm.errors import EBMError, SettingError

from .suites import SUITES


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where a seed could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", required=True, choices=sorted(SUITES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", choices=("small", "full"), default="full", help="small: seconds, to try the code")
    parser.add_argument("--data", type=Path, help="folder of the full sets [default: packaged samples]")
    parser.add_argument("--json", type=Path, help="result file, or a folder for several seeds")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="models, samples [default: runs/bench]")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time")
    parser.add_argument("--again", action="store_true", help="measure again what is finished; keeps the models")
    parser.add_argument("--retrain", action="store_true", help="train again too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="of training the suite's main model")
    parser.add_argument("--n", type=int, help="samples of each method")
    parser.add_argument("--steps", type=int, nargs="+", help="sampling steps at which samples are measured")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--model", help="trained model folder (suite moves: of ZINC)")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=JSON", help="any other setting of the suite")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        changes = _changes(options)
        if options.in_process:
            for seed in options.seeds:
                run_one(options, seed, changes)
            return 0
    except EBMError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return _processes(list(sys.argv[1:] if arguments is None else arguments), options)


def run_one(options: argparse.Namespace, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One seed of a suite in this process; its record."""
    import torch

    from .common import RESULTS, Context, read_json
    from .suites import suite

    chosen = suite(options.suite)
    settings = dict(chosen.settings[options.size])
    unknown = [name for name in changes if name not in settings]
    if unknown:
        raise SettingError(f"settings of {options.suite} must be among {', '.join(settings)}; got {unknown}.")
    settings |= changes
    file = f"{options.suite}-{options.size}-seed{seed}.json"
    path = RESULTS / file
    if options.json is not None:
        path = options.json if options.json.suffix == ".json" and len(options.seeds) == 1 else options.json / file
    ctx = Context(options.suite, seed, options.size, settings, path, options.device, options.again,
                  sys.stderr.isatty(), work=options.work, data=options.data, retrain=options.retrain)  # fmt: skip
    torch.set_num_threads(int(settings["threads"]))
    if not ctx.begin(chosen.extendable):
        print(f"{path}: finished already (--again measures it again)", flush=True)
        return read_json(path)
    began = time.perf_counter()
    print(f"{options.suite}, size {options.size}, seed {seed} -> {path}", flush=True)
    chosen.run(ctx)
    ctx.finish()
    print(f"{path}: finished in {time.perf_counter() - began:.0f} s", flush=True)
    return ctx.record


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """Settings that the command line replaces."""
    names = {"model": "zinc_model", "minutes": "base_minutes" if options.suite in ("experts", "composed", "nulls")
             else "minutes"}  # fmt: skip
    found = {names.get(name, name): getattr(options, name) for name in ("minutes", "n", "steps", "threads", "model")
             if getattr(options, name) is not None}  # fmt: skip
    if options.suite in ("cost", "moves") and "steps" in found:
        found["steps"] = found["steps"][0]
    if options.suite == "default-job" and "minutes" in found:
        found["arguments"] = ["--minutes", str(found.pop("minutes"))]
    for item in options.set:
        name, separator, text = item.partition("=")
        if not separator:
            raise SettingError(f"--set must be NAME=VALUE; got {item!r}. Write e.g. --set chunk=1000.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _processes(arguments: list[str], options: argparse.Namespace) -> int:
    """Each seed in a new process, at most ``jobs`` at once; 0 if all ended well."""
    at = arguments.index("--seeds") if "--seeds" in arguments else len(arguments)
    rest = arguments[:at] + arguments[at + 1 + len(options.seeds) :] if at < len(arguments) else arguments
    if options.json is not None and len(options.seeds) > 1:
        options.json.mkdir(parents=True, exist_ok=True)
    waiting, codes = list(options.seeds), []
    running: dict[int, subprocess.Popen[bytes]] = {}
    environment = os.environ | {"PYTHONHASHSEED": "0"}  # sets of strings in the same order each time
    try:
        while waiting or running:
            while waiting and len(running) < max(1, options.jobs):
                seed = waiting.pop(0)
                command = [sys.executable, "-m", "benchmarks.run", *rest, "--seeds", str(seed), "--in-process"]
                running[seed] = subprocess.Popen(command, env=environment)
            time.sleep(0.2)
            for seed, process in list(running.items()):
                if process.poll() is not None:
                    codes.append(process.returncode)
                    del running[seed]
    finally:
        for process in running.values():
            process.terminate()
    return 0 if not any(codes) else 2


if __name__ == "__main__":
    sys.exit(main())
