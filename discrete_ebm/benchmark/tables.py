"""Markdown from records: numbers over seeds as mean ± standard deviation, one row a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Column", "by_part", "get", "heading", "markdown", "notes", "page", "spread"]

Column = tuple[str, str, str]  # heading, dotted path in a part, format


def get(content: Any, path: str) -> Any:
    """The value at a dotted path; None where something on the way is missing."""
    for key in path.split("."):
        if not isinstance(content, dict) or key not in content:
            return None
        content = content[key]
    return content


def spread(values: Sequence[Any], form: str) -> str:
    """Mean ± sample standard deviation over seeds; one value alone; "-" for none. ``%`` formats are of shares."""
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if not numbers:
        texts = dict.fromkeys(str(v) for v in values if v is not None)
        return ", ".join(texts) or "-"
    mean = sum(numbers) / len(numbers)
    if len(numbers) == 1:
        return format(mean, form)
    sd = math.sqrt(sum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1))
    if form.endswith("%"):
        return f"{100 * mean:{form[:-1]}f} ± {100 * sd:{form[:-1]}f} %"
    return f"{mean:{form}} ± {sd:{form.lstrip('+')}}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def by_part(
    records: Sequence[dict[str, Any]], columns: Sequence[Column], first: str = "method",
    keep: Callable[[str], bool] = lambda name: True,
) -> str:  # fmt: skip
    """A table with one row for each part that ``keep`` takes and one column for each figure."""
    names = list(dict.fromkeys(name for record in records for name in record["parts"] if keep(name)))
    rows = []
    for name in names:
        parts = [record["parts"].get(name) for record in records]
        rows.append([name, *(spread([get(part, path) for part in parts], form) for _, path, form in columns)])
    return markdown([first, *(heading for heading, _, _ in columns)], rows)


def heading(records: Sequence[dict[str, Any]], title: str) -> str:
    """The title and one line that says how, where and on what the figures were made."""
    first = records[0]
    machine, versions = first.get("machine", {}), first.get("versions", {})
    seeds = ", ".join(str(record["seed"]) for record in records)
    commits = ", ".join(dict.fromkeys(str(record.get("commit")) for record in records))
    data = {None: "", "packaged": "packaged data, "}.get(first.get("data"), "full data sets, ")
    threads = first["settings"].get("threads", machine.get("threads"))
    return (
        f"**{title}** Size {first['size']}, {data}seeds {seeds}; {machine.get('cpu')}, {machine.get('cores')} cores, "
        f"{threads} thread(s), {machine.get('device')}; torch {versions.get('torch')}, commit {commits}."
    )


def notes(records: Sequence[dict[str, Any]]) -> str:
    """All notes once, and what is not finished."""
    lines = list(dict.fromkeys(note for record in records for note in record.get("notes", [])))
    unfinished = [str(record["seed"]) for record in records if not record.get("finished")]
    if unfinished:
        lines.append(f"Not finished: seed(s) {', '.join(unfinished)}.")
    return "\n".join(f"- {line}" for line in lines)


def page(records: Sequence[dict[str, Any]], title: str, *parts: str) -> str:
    """Heading, tables and notes with blank lines between."""
    return "\n\n".join(part for part in (heading(records, title), *parts, notes(records)) if part) + "\n"
