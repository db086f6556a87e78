"""A page for every sampler, written from the registry: ``python -m discrete_ebm.docs_pages [DIRECTORY] [--check]``.

What a page says is read from the code: the spec, the docstring of the kernel's class, the signature of its builder, and
a trial step on a small energy for the example. A test compares the pages of docs/samplers with what this writes.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from discrete_ebm.energies import BernoulliRBM, Ising, MLPEnergy, Potts, from_callable
from discrete_ebm.errors import EBMError
from discrete_ebm.samplers import choose, registry
from discrete_ebm.samplers.adapt import ScaleAdapter, SearchAdapter, make_adapter
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.samplers.members import MembersAdapter
from discrete_ebm.samplers.registry import SamplerSpec
from discrete_ebm.spaces import Binary, Categorical, Product, Real

__all__ = ["choices", "index", "page", "pages", "settings", "write"]

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "samplers"
OURS = ("discrete_ebm.", "graph_ebm.")  # plug-ins of other packages have pages of their own
_SECTIONS = ("Args", "Invariant law", "Law", "Cost", "Source", "Cache", "Attributes", "Raises", "Returns")


class _Trial(NamedTuple):
    """An energy that a sampler may be shown on: its code, and what that makes."""

    code: str
    make: Callable[[], Any]


def _mixed() -> Any:
    return from_callable(
        lambda e: (1 + e["a"].sum(1)) * e["b"].square().sum(1), Product({"a": Binary(4), "b": Real(2)})
    )


_TRIALS = (
    _Trial("de.energies.Ising.lattice((16, 16), coupling=0.4)", lambda: Ising.lattice((16, 16), 0.4)),
    _Trial("de.energies.Potts.lattice((16, 16), coupling=0.9, k=3)", lambda: Potts.lattice((16, 16), 0.9, 3)),
    _Trial("de.energies.BernoulliRBM(50, 20, scale=0.3)", lambda: BernoulliRBM(50, 20, scale=0.3)),
    _Trial(
        "de.from_callable(lambda v: v.square().sum(1), de.Real(3))",
        lambda: from_callable(lambda v: v.square().sum(1), Real(3)),
    ),
    _Trial(
        "de.from_callable(lambda e: (1 + e['a'].sum(1)) * e['b'].square().sum(1),\n"
        "                          de.Product({'a': de.Binary(4), 'b': de.Real(2)}))",
        _mixed,
    ),
)


def page(name: str) -> str:
    """The Markdown page of one registered sampler."""
    row = registry.spec(name)
    kernel_class = _class_of(row)
    text, sections = _docstring(kernel_class)
    facts = [
        ("spaces", ", ".join(sorted(row.spaces)) or "any"),
        ("invariant law", row.law or sections.get("Invariant law") or sections.get("Law") or (
            "exp(−βE)" if row.exact else "near exp(−βE), with a bias")),
        ("exact", "yes: p(x) ∝ exp(−βE(x)) is kept exactly" if row.exact else "**no**: its law is biased"),
        ("reversible", "yes: one step satisfies detailed balance" if row.reversible else "no"),
        ("gradient", "needed, unless the energy has exact deltas" if row.needs_gradient else "not needed"),
        ("cost of a step", row.cost or sections.get("Cost", "")),
        ("source", sections.get("Source", "") or row.source),
    ]
    lines = [f"# `{name}`", "", f"{row.summary[:1].upper()}{row.summary[1:]}.", "", "| | |", "|---|---|"]
    lines += [f"| {what} | {_cell(value) or 'see below'} |" for what, value in facts]
    if row.use_when:
        lines += ["", f"**When to use it.** {row.use_when}"]
    lines += ["", text]
    table = settings(row)
    if table:
        lines += ["", "## Settings", "", "| setting | default | |", "|---|---|---|"]
        lines += [f"| `{key}` | `{default}` | {_cell(meaning)} |" for key, default, meaning in table]
    trial = _first_trial(row)
    tuned = _tuning(row, trial)
    if tuned:
        lines += ["", "## Tuning", "", tuned]
    lines += ["", "## In code", ""]
    if row.example:
        lines += ["```python", *row.example.strip().splitlines(), "```"]
    elif trial is None:
        lines += [f"`{name}` needs a model of its own: see [molecules](../molecules.md)."
                  if "Molecular" in row.spaces else f"Make it with `de.samplers.create({name!r}, ...)`."]  # fmt: skip
    else:
        call = repr(name)
        extra = []
        if name == "alternate" and "Real" in trial.code:
            call, extra = "kernel", ["kernel = de.samplers.create('alternate', kernels={'b': 'langevin'})"]
        lines += ["```python", "import discrete_ebm as de", "", f"energy = {trial.code}", *extra,
                  f"chains = de.sample(energy, sampler={call}, n_chains=64, n_steps=1000, seed=0)",
                  "print(chains.acceptance_rate, chains.ess('energy'))", "```"]  # fmt: skip
    return "\n".join(lines) + "\n"


def settings(row: SamplerSpec) -> list[tuple[str, str, str]]:
    """(name, default, meaning) of each setting."""
    kernel_class = _class_of(row)
    _, sections = _docstring(kernel_class)
    meanings: dict[str, str] = {}
    other = re.match(r"\s*as in `(\w+)`", sections.get("Args", ""))
    if other:  # "Args: as in :class:`Other`, and:"
        meanings = _arguments(_docstring(vars(sys.modules[kernel_class.__module__])[other[1]])[1].get("Args", ""))
    meanings |= _arguments(sections.get("Args", ""))
    found = []
    for key, parameter in inspect.signature(row.build).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = "required" if parameter.default is parameter.empty else repr(parameter.default)
        found.append((key, default, meanings.get(key, "")))
    return found


def choices() -> list[tuple[str, str, str]]:
    """(kind of energy, what ``choose`` picks for an example of it, why), as the code decides today."""
    def dense(n: int) -> Any:
        matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(0)) / n**0.5
        return Ising((matrix + matrix.t()).fill_diagonal_(0))

    def no_gradient(n: int) -> Any:
        return from_callable(lambda v: v.detach().sum(1), Binary(n))

    examples = [
        ("RBM (binary, hidden units)", BernoulliRBM(100, 20)),
        ("spins or bits, sparse couplings", Ising.lattice((16, 16), 0.4)),
        ("categories, sparse couplings", Potts.lattice((8, 8), 0.9, 5)),
        ("spins or bits, dense couplings", dense(100)),
        ("bits, a network", MLPEnergy(Binary(100), (8,))),
        ("categories, a network", MLPEnergy(Categorical(50, 5), (8,))),
        ("a few bits, anything", MLPEnergy(Binary(10), (8,))),
        ("bits, no gradient", no_gradient(100)),
        ("many bits, no gradient", no_gradient(5000)),
        ("discrete and real members", _mixed()),
        ("reals", from_callable(lambda v: v.square().sum(1), Real(3))),
    ]
    rows = []
    for kind, energy in examples:
        choice = choose(energy)
        made = f"{choice}".split(", because ")[0].removesuffix("()")
        rows.append((kind, made, choice.reason))
    return rows


def index() -> str:
    """The page that lists the others and says what ``sampler="auto"`` picks."""
    lines = ["# Samplers, one page each", "",
             "Written by `python -m discrete_ebm.docs_pages` from the registry; how they fit together is in "
             "[samplers.md](../samplers.md).", "",
             "| sampler | one step is | when to use it |", "|---|---|---|"]  # fmt: skip
    for name in _own_names():
        row = registry.spec(name)
        lines.append(f"| [`{name}`]({name}.md) | {_cell(row.summary)} | {_cell(row.use_when)} |")
    lines += ["", "## What `sampler=\"auto\"` picks", "",
              "`de.samplers.choose(energy)` looks at the space and at what the energy can compute, never at how rugged "
              "its law is. For a law with separate modes look at tempering or clusters.", "",
              "| energy | pick | why |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {kind} | `{name}` | {_cell(reason)} |" for kind, name, reason in choices()]
    lines += ["", *_GROUNDS]
    return "\n".join(lines) + "\n"


_GROUNDS = [
    "What these defaults rest on: colours and closed forms on this package's own record (50² Ising lattice, "
    "`benchmarks/results/samplers/ising-50.json`: `chromatic` 28 to 2,000 times the draws per evaluation of any "
    "informed kernel at J = 0.2, more per second; see docs/results.md); the order among informed kernels "
    "(path-auxiliary first, then discrete Langevin) on the published comparison DISCS (Goshvadi et al. 2023), "
    "which that record neither confirms nor contradicts (the two are within its noise); the targets 0.574 and "
    "0.234 on Sun, Dai & Schuurmans 2022, arXiv:2209.08183. Measure your own energy: `chains.ess('energy') / "
    "chains.seconds`.",
]


def pages() -> dict[str, str]:
    """File name to text of every page, those of plug-ins from elsewhere left out."""
    return {"README.md": index(), **{f"{name}.md": page(name) for name in _own_names()}}


def write(directory: Path) -> list[Path]:
    """Write all pages; pages of samplers that are gone are removed. Returns the files that changed."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted, changed = pages(), []
    for file in sorted(directory.glob("*.md")):
        if file.name not in wanted:
            file.unlink()
            changed.append(file)
    for name, text in wanted.items():
        file = directory / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def _own_names() -> list[str]:
    return [name for name in registry.names() if _class_of(registry.spec(name)).__module__.startswith(OURS)]


def _class_of(row: SamplerSpec) -> type:
    """The class of the kernels that a row builds."""
    build: Any = row.build
    while isinstance(build, functools.partial):
        build = build.func
    if inspect.isclass(build):
        return build
    returned = inspect.signature(build, eval_str=True).return_annotation
    return returned if inspect.isclass(returned) and returned is not Kernel else type(row.build())


def _docstring(kernel_class: type) -> tuple[str, dict[str, str]]:
    """(what stands before the first section, the sections by name) of a class's docstring."""
    pattern = rf"(?:^|(?<=[.;\s]))({'|'.join(_SECTIONS)}):(?=\s)"
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(kernel_class.__doc__ or ""))
    parts = re.split(pattern, text.replace("``", "`"), flags=re.MULTILINE)
    found: dict[str, str] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(name, text.strip("\n") if name == "Args" else " ".join(text.split()))
    return parts[0].strip(), found


def _arguments(text: str) -> dict[str, str]:
    """Meanings by name from the lines of an ``Args:`` section."""
    found: dict[str, str] = {}
    lines = list(itertools.takewhile(lambda line: line.startswith(" "), filter(str.strip, text.splitlines())))
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    keys: list[str] = []
    for line in lines:
        head = re.match(r"([\w, ]+):\s+(.*)", line[indent:]) if len(line) - len(line.lstrip()) == indent else None
        if head:
            keys = [key.strip() for key in head[1].split(",")]
            found |= dict.fromkeys(keys, head[2])
        else:
            found |= {key: f"{found[key]} {line.strip()}" for key in keys}
    return found


def _cell(text: str) -> str:
    """One cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def _first_trial(row: SamplerSpec) -> _Trial | None:
    """The first energy on which this sampler, with its default settings, takes a step."""
    for trial in _TRIALS:
        energy = trial.make()
        if row.spaces and energy.space.name not in row.spaces:
            continue
        if _start(row, energy) is not None:
            return trial
    return None


def _start(row: SamplerSpec, energy: Any) -> tuple[Kernel, Any] | None:
    """(kernel, its first state) on an energy; None where it refuses."""
    generator = torch.Generator().manual_seed(0)
    wanted = {"kernels": {"b": "langevin"}} if row.name == "alternate" and not energy.space.is_discrete else {}
    try:
        kernel = row.build(**wanted)
        state = kernel.init(energy, energy.space.random(2, generator), generator=generator)
        kernel.step(energy, state, generator=generator)
    except EBMError:
        return None
    return kernel, state


def _tuning(row: SamplerSpec, trial: _Trial | None) -> str:
    if trial is None:
        return ""
    started = _start(row, trial.make())
    if started is None:
        return ""
    kernel, state = started
    if getattr(kernel, "target_acceptance", None) is not None and not kernel.exact:
        return "Its scale is not adapted: it accepts everything, so no acceptance tells when its bias is too large."
    adapter = make_adapter(kernel, state, True, burn_in=10_000, resumed=False)
    freezes = "in the burn-in and then freezes it; `adapt=False` leaves it as set."
    if isinstance(adapter, MembersAdapter):
        return f"`de.sample` moves the scale of each member that has one, by that member's own acceptance, {freezes}"
    if isinstance(adapter, SearchAdapter):
        return ("`de.sample` moves its scale (`chains.scale`) towards an acceptance of "
                f"{kernel.target_acceptance:g} in the burn-in and, where that is long enough, searches for its other "  # type: ignore[attr-defined]
                "settings; then all are frozen. `adapt=False` leaves them as set.")  # fmt: skip
    if isinstance(adapter, ScaleAdapter):
        low, high = getattr(kernel, "scale_bounds", (0, float("inf")))
        return (f"`de.sample` moves its scale (`chains.scale`, from {low:g} to {high:g}) towards an acceptance of "
                f"{kernel.target_acceptance:g} in the burn-in, each chain its own (`adapt='shared'`: one for all), and "  # type: ignore[attr-defined]
                "then freezes it. `adapt=False` leaves it at the setting.")  # fmt: skip
    return "" if adapter is None else f"`de.sample` adapts it {freezes}"


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` only say which are out of date (exit status 1 if any)."""
    check = "--check" in arguments
    rest = [argument for argument in arguments if argument != "--check"]
    directory = Path(rest[0]) if rest else DIRECTORY
    if not check:
        for file in write(directory):
            print(file)
        return 0
    stale = [name for name, text in pages().items()
             if not (directory / name).exists() or (directory / name).read_text(encoding="utf-8") != text]
    for name in stale:
        print(f"out of date: {directory / name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
