"""Figures and tables of docs/results.md from the records of ``discrete-ebm benchmark``.

``python -m benchmarks.sampler_results``. Records lie in benchmarks/results/samplers. Beside each goes its whole table
(``NAME.md``); docs/images gets one figure a record and the comparison over all of them; in docs/results.md what stands
between ``<!-- samplers: NAME -->`` and ``<!-- end samplers -->`` is replaced by the short table of that record.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.common import RESULTS, ROOT, read_json
from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.runner import table
from discrete_ebm.benchmark.sampling import rows_of, standing, wrong_laws
from discrete_ebm.benchmark.suites import suite
from discrete_ebm.benchmark.tables import markdown

FOLDER = RESULTS / "samplers"
PAGE, IMAGES = ROOT / "docs" / "results.md", ROOT / "docs" / "images"
NOT_SHOWN = ("not run", "frozen")


def cases(record: dict[str, Any]) -> list[str]:
    """The cases of a sampling suite in their order."""
    return list(dict.fromkeys(name.rpartition("/")[0] for name in rows_of(record, "case")))


def rounded(value: float) -> str:
    """Two digits, without powers of ten where that is readable."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def cell(part: dict[str, Any] | None, biased: bool) -> str:
    """Effective draws a second and an evaluation; in brackets: chains disagree; struck out: another law."""
    word = "not run" if part is None else standing(part)
    if part is None or word in NOT_SHOWN:
        return "–"
    text = f"{rounded(part['ess_per_second'])} · {rounded(part['ess_per_evaluation'])}"
    if biased or word in ("biased", "WRONG"):
        return f"~~{text}~~"
    return text if word == "ok" else f"({text})"


def short_table(record: dict[str, Any]) -> str:
    """One row a kernel, one column a case; the whole table of an annealed suite."""
    names = cases(record)
    if not names:
        return table(record)
    wrong, found = wrong_laws([record]), {name: rows_of(record, f"case/{name}") for name in names}
    labels = list(dict.fromkeys(label for rows in found.values() for label in rows))

    def worth(label: str) -> float:
        best = [max(part.get("ess_per_second") or 0 for part in found[name].values()) for name in names]
        return -sum((found[name].get(label, {}).get("ess_per_second") or 0) / (top or 1)
                    for name, top in zip(names, best, strict=True))

    rows = [[label, *(cell(found[name].get(label), label in wrong) for name in names)]
            for label in sorted(labels, key=worth)]
    shown = [row for row in rows if set(row[1:]) != {"–"}]
    hidden = ", ".join(row[0] for row in rows if row not in shown)
    text = markdown(["kernel", *names], shown)
    return text + (f"\n\nNot run within the limit: {hidden}." if hidden else "")


def update(text: str, tables: dict[str, str]) -> str:
    """The page with every marked region replaced; regions without a record stay."""
    def replace(match: re.Match[str]) -> str:
        name, body = match.group(1), match.group(2)
        inner = f"\n{tables[name].rstrip()}\n" if name in tables else body
        return f"<!-- samplers: {name} -->{inner}<!-- end samplers -->"

    return re.sub(r"<!-- samplers: (\S+) -->(.*?)<!-- end samplers -->", replace, text, flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write tables, figures and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler_results", description=__doc__.splitlines()[0])
    parser.add_argument("--no-figures", action="store_true")
    options = parser.parse_args(arguments)
    records = {path.stem: read_json(path) for path in sorted(FOLDER.glob("*.json"))}
    for name, record in records.items():
        (FOLDER / f"{name}.md").write_text(table(record), encoding="utf-8")
        if not options.no_figures:
            figures.save(suite(record["suite"]).figure(record), IMAGES / f"samplers-{name}.png")
    sampling = [record for record in records.values() if cases(record)]
    if sampling and not options.no_figures:
        figures.save(figures.overview(sampling), IMAGES / "samplers-overview.png")
    if PAGE.exists():
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(update(page, {name: short_table(record) for name, record in records.items()}), encoding="utf-8")
    print(f"{len(records)} records from {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
