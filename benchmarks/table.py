"""Tables of the results: ``python -m benchmarks.table [--suite NAME] [--size full] [--update FILE ...]``.

``--update`` replaces what stands between ``<!-- benchmark: NAME -->`` and ``<!-- end benchmark -->`` in the files; the
name ``headlines`` stands for the short table of all molecule suites (:mod:`benchmarks.headlines`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from discrete_ebm.errors import EBMError, SettingError

from .common import RESULTS, identity, read_json
from .headlines import NEEDS, headlines
from .suites import SUITES, suite

SHORT = "headlines"


def records(folder: Path, name: str, size: str) -> list[dict[str, Any]]:
    """Records of a suite by seed, unfinished ones too: their tables say so."""
    found = [read_json(path) for path in folder.glob(f"{name}-{size}-seed*.json")]
    return sorted(found, key=lambda record: record["seed"])


def table(folder: Path, name: str, size: str) -> str | None:
    """Markdown of a suite's results, None where there are none.

    Raises:
        SettingError: the seeds were run with different settings, so that a mean over them says nothing.
    """
    if name == SHORT:
        every = {of: records(folder, of, size) for of in NEEDS}
        return headlines(every) if any(every.values()) else None
    found = records(folder, name, size)
    if not found:
        return None
    chosen = suite(name)
    first = identity(found[0], chosen.extendable)
    different = [record["seed"] for record in found if identity(record, chosen.extendable) != first]
    if different:
        raise SettingError(f"results of {name} must be of one setting; seeds {different} differ from seed "
                           f"{found[0]['seed']}. Run them again with the same options.")  # fmt: skip
    return chosen.tables(found)


def update(text: str, tables: dict[str, str]) -> str:
    """The text with each marked region replaced by the table of its name; regions without a result stay.

    Raises:
        SettingError: a region has no end or an unknown name.
    """

    def replace(match: re.Match[str]) -> str:
        name, body = match.group(1), match.group(2)
        if name not in (*SUITES, SHORT):
            raise SettingError(f"a marked region must name a suite ({', '.join(SUITES)}) or {SHORT}; got {name!r}.")
        return f"<!-- benchmark: {name} -->\n{tables[name] if name in tables else body.lstrip()}<!-- end benchmark -->"

    if text.count("<!-- benchmark: ") != text.count("<!-- end benchmark -->"):
        raise SettingError("every '<!-- benchmark: NAME -->' must have its '<!-- end benchmark -->'; one has not.")
    return re.sub(r"<!-- benchmark: (\S+) -->(.*?)<!-- end benchmark -->", replace, text, flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", nargs="+", choices=sorted([*SUITES, SHORT]), default=[*SUITES, SHORT])
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--update", type=Path, nargs="+", help="files with marked regions")
    options = parser.parse_args(arguments)
    try:
        found = {name: text for name in options.suite if (text := table(options.results, name, options.size))}
        if options.update is None:
            print("\n".join(found.values()), end="")
        else:
            for file in options.update:
                file.write_text(update(file.read_text(encoding="utf-8"), found), encoding="utf-8")
    except (EBMError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
