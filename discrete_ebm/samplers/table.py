"""The registry as a Markdown table: ``python -m discrete_ebm.samplers.table`` prints the one of docs/samplers.md."""

from __future__ import annotations

from discrete_ebm.samplers import registry

__all__ = ["markdown"]


def markdown() -> str:
    """One row a registered sampler, plug-ins included."""
    head = ["name", "one step is", "spaces", "exact", "reversible", "gradient", "source"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in registry.names():
        row = registry.spec(name)
        spaces = ", ".join(sorted(row.spaces))
        marks = " | ".join("yes" if flag else "no" for flag in (row.exact, row.reversible, row.needs_gradient))
        lines.append(f"| `{name}` | {row.summary} | {spaces} | {marks} | {row.source} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
