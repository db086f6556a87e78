"""Models from dimod and networkx: a max-cut of a graph, with the energies and names of the other library.

Run: python examples/13_dimod_and_networkx.py
"""

import os

import networkx as nx

import discrete_ebm as de

SMOKE = os.environ.get("EBM_SMOKE") == "1"
NODES, STEPS = (20, 100) if SMOKE else (100, 600)


def main() -> None:
    graph = nx.relabel_nodes(nx.random_regular_graph(4, NODES, seed=1), lambda node: f"v{node}")

    # A cut wants neighbours to differ: coupling −1. cut = (edges − Σ s s) / 2 = (edges − E) / 2.
    model = de.adapters.from_networkx(graph, default_coupling=-1.0)
    print(f"{NODES} nodes, {graph.number_of_edges()} edges; {de.samplers.choose(model.energy)}")
    x = None
    for beta in (0.3, 0.6, 1.0, 1.5, 2.5):
        chains = de.sample(model.energy, "auto", n_chains=32, n_steps=STEPS // 5, beta=beta, x0=x, seed=0)
        x = chains.last
    best = model.dicts(chains.x.flatten(0, 1)[[int(chains.energy.argmin())]])[0]
    cut = sum(best[u] != best[v] for u, v in graph.edges)  # counted on the graph itself
    print(f"best cut {cut} of {graph.number_of_edges()} edges; by the energy "
          f"{(graph.number_of_edges() - float(chains.energy.min())) / 2:.0f}")  # fmt: skip

    try:
        import dimod
    except ImportError:
        print("dimod is not installed, so its half is left out. Install it with: pip install 'discrete-ebm[dimod]'")
        return
    bqm = dimod.BinaryQuadraticModel("BINARY")
    for u, v in graph.edges:  # −1 for every edge that is cut, in 0/1 variables
        bqm.add_linear(u, -1)
        bqm.add_linear(v, -1)
        bqm.add_quadratic(u, v, 2)
    there = de.adapters.from_dimod(bqm)
    draws = there.sampleset(de.sample(there.energy, "auto", n_chains=32, n_steps=STEPS, beta=2.0, seed=0))
    print(f"as a dimod SampleSet: {len(draws)} rows, lowest energy {draws.first.energy:.0f}")
    print(f"dimod agrees: {bqm.energy(draws.first.sample):.0f}")


if __name__ == "__main__":
    main()
