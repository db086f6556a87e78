"""The square-lattice Ising model, temperatures across the critical one, sizes to 100²."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.sampling import Case, law_parts, long_run, rows_of, run_cases, sampling_page
from discrete_ebm.benchmark.tables import markdown
from discrete_ebm.energies import Ising
from discrete_ebm.evaluate import CRITICAL_COUPLING, kaufman_energy, onsager_energy

TITLE = "Ising: square lattice across the critical point (0.4407)."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"sizes": [8], "couplings": [0.3, 0.4407], "n_chains": 16, "n_steps": 150, "burn_in": 60,
              "start_steps": 50, "law_chains": 64, "law_steps": 150, "limit": None, "least_steps": 0, "samplers": [],
              "left_out": ["tempered-transitions"]},
    "full": {"sizes": [20, 50, 100], "couplings": [round(0.1607 + 0.04 * i, 4) for i in range(16)], "n_chains": 32,
             "n_steps": 4000, "burn_in": 500, "start_steps": 300, "law_chains": 256, "law_steps": 3000, "limit": 600.0,
             "least_steps": 200, "samplers": [], "left_out": []},
}  # fmt: skip


def _case(size: int, coupling: float, ctx: Record) -> Case:
    def energy() -> Ising:
        return Ising.lattice((size, size), coupling)

    def start(seed: int) -> Any:
        # every kernel begins near the law, so that its speed is not that of its burn-in
        return long_run(energy(), "swendsen-wang", ctx.n_chains, ctx.start_steps, seed)[2].to(ctx.device)

    exact = kaufman_energy((size, size), coupling) * size**2
    return Case(f"{size}x{size}, J {coupling:g}", energy, start, lambda seed: (exact, 0.0, "Kaufman's exact value"))


def cases(ctx: Record) -> Iterator[Case]:
    for size in ctx.sizes:
        for coupling in ctx.couplings:
            yield _case(size, coupling, ctx)


def run(ctx: Record) -> None:
    ctx.part("exact", lambda: [
        {"size": size, "coupling": coupling, "kaufman": kaufman_energy((size, size), coupling),
         "onsager": onsager_energy(coupling)} for size in ctx.sizes for coupling in ctx.couplings])
    law_parts(ctx, "3x3, J 0.4407", Ising.lattice((3, 3), CRITICAL_COUPLING, 0.1))
    run_cases(ctx, cases(ctx))


def tables(records: Sequence[dict[str, Any]]) -> str:
    return sampling_page(records, TITLE, _energies(records))


def _energies(records: Sequence[dict[str, Any]]) -> str:
    """Exact energies per spin in units of J, beside the best estimate of any exact kernel."""
    rows = []
    for line in records[0]["parts"].get("exact", []):
        size, coupling = line["size"], line["coupling"]
        found = [part for record in records for part in
                 rows_of(record, f"case/{size}x{size}, J {coupling:g}").values() if part.get("exact") and "ess" in part]
        best = min(found, key=lambda part: part["mean_energy_error"] or float("inf"), default=None)
        scale = coupling * size**2
        rows.append([f"{size}x{size}", f"{coupling:g}", f"{line['onsager'] / coupling:.6f}",
                     f"{line['kaufman'] / coupling:.6f}", "-" if best is None else
                     f"{best['mean_energy'] / scale:.6f} ± {(best['mean_energy_error'] or 0) / scale:.6f}"])
    head = ("lattice", "J", "u / J infinite (Onsager)", "u / J of this size (Kaufman)", "most precise exact kernel")
    return "**Energies per spin.**\n\n" + markdown(head, rows) if rows else ""


def figure(record: dict[str, Any]) -> Any:
    return figures.sweep(record, "coupling J (critical at 0.4407)", CRITICAL_COUPLING)
