"""Models from elsewhere as energies of this library: dimod's binary quadratic models and networkx graphs.

Signs: dimod has E = Σ h_i x_i + Σ J_ij x_i x_j + offset; here E(s) = −Σ J_ij s_i s_j − Σ h_i s_i, each edge once. Both
are energies, low = likely; only the coefficients change sign. An :class:`Adapted` model keeps the constant and the
names of the variables, so that its numbers are those of the other library.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.energies.ising import Ising
from discrete_ebm.energies.pairwise import PairwiseEnergy
from discrete_ebm.energies.potts import Potts
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError, SpaceError
from discrete_ebm.spaces import Binary, Spin

__all__ = ["Adapted", "from_dimod", "from_networkx", "to_dimod"]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model of another library.

    Attributes:
        energy: for any sampler here; equal to the other library's energy up to ``offset``.
        labels: name of each site, in the order of the sites.
        offset: constant, nats; it changes no law, only the numbers (and log Z).
    """

    energy: PairwiseEnergy
    labels: tuple[Hashable, ...]
    offset: float = 0.0

    def energies(self, x: Tensor) -> Tensor:
        """(C,) energies of states (C, *shape) with the offset: the other library's numbers, in float64."""
        with torch.no_grad():
            return evaluate_energy(self.energy, x).double() + self.offset

    def states(self, samples: Mapping[Hashable, int] | Sequence[Mapping[Hashable, int]]) -> Tensor:
        """(C, N) states from one or several dicts of name to value, e.g. for ``x0``.

        Raises:
            SpaceError: a name is missing or unknown, or a value is not allowed.
        """
        rows = [samples] if isinstance(samples, Mapping) else list(samples)
        for row in rows:
            odd = set(self.labels) ^ set(row)
            if odd:
                raise SpaceError(f"`samples` must give a value to each of the {len(self.labels)} variables; got "
                                 f"{len(odd)} missing or unknown, e.g. {next(iter(odd))!r}. Check the names.")
        values = torch.tensor([[int(row[name]) for name in self.labels] for row in rows])
        return self.energy.space.validate(values.reshape(len(rows), *self.energy.space.shape))

    def dicts(self, x: Tensor) -> list[dict[Hashable, int]]:
        """States (C, *shape) as dicts of name to value."""
        return [dict(zip(self.labels, row, strict=True)) for row in x.flatten(1).tolist()]

    def sampleset(self, chains: Any, **info: Any) -> Any:
        """A ``dimod.SampleSet`` of ``de.sample``'s draws (S·C rows) or of states (C, N), with dimod's own energies.

        Args:
            chains: :class:`discrete_ebm.chains.Chains`, or a tensor of states.
            info: kept in the sample set's ``info``.
        Raises:
            CapabilityError: dimod is not installed, or the sites are not spins or bits.
        """
        dimod = _dimod("sampleset")
        space = self.energy.space
        if not isinstance(space, (Spin, Binary)):
            raise CapabilityError(f"`energy` must be on Spin or Binary for a dimod SampleSet; got {space!r}. "
                                  "Use dicts(x) for categories.")
        x = chains.x.flatten(0, 1) if not isinstance(chains, Tensor) else space.validate(chains)
        return dimod.SampleSet.from_samples(
            (x.flatten(1).cpu().numpy(), list(self.labels)),
            vartype="SPIN" if isinstance(space, Spin) else "BINARY",
            energy=self.energies(x).cpu().numpy(), info=info,
        )


def from_dimod(bqm: Any, *, dtype: torch.dtype | None = None) -> Adapted:
    """A dimod binary quadratic model as an Ising energy, on Spin for SPIN variables and on Binary for BINARY ones.

    E_here(x) + offset = E_dimod(x) for every x. With s = 2b − 1, a bit's a·b is a/2·s + a/2 and w·b_i·b_j is
    w/4·(s_i s_j + s_i + s_j + 1).

    Args:
        bqm: anything with ``linear`` {v: h}, ``quadratic`` {(u, v): J}, ``offset`` and ``vartype``; dimod itself is not
            needed.
        dtype: of the coefficients; the library's default float when None.
    Raises:
        CapabilityError: not such a model. SettingError: it has no variable. NonFiniteEnergyError: NaN or infinite.
    """
    vartype = getattr(getattr(bqm, "vartype", None), "name", getattr(bqm, "vartype", None))
    if vartype not in ("SPIN", "BINARY") or not all(hasattr(bqm, name) for name in ("linear", "quadratic", "offset")):
        raise CapabilityError(
            f"`bqm` must have linear, quadratic, offset and a vartype of SPIN or BINARY; got {type(bqm).__name__}. "
            "Write other models as de.from_callable(fn, space)."
        )
    linear = {name: float(bias) for name, bias in dict(bqm.linear).items()}
    labels = tuple(linear)
    if not labels:
        raise SettingError("`bqm` must have at least one variable; got none. Add one with add_variable.")
    number = {name: site for site, name in enumerate(labels)}
    pairs = [(number[u], number[v], float(weight)) for (u, v), weight in dict(bqm.quadratic).items()]
    offset = float(bqm.offset)
    h = torch.tensor(list(linear.values()), dtype=torch.float64)
    edges = torch.tensor([pair[:2] for pair in pairs], dtype=torch.int64).reshape(-1, 2).t()
    weight = torch.tensor([pair[2] for pair in pairs], dtype=torch.float64)
    space: Spin | Binary = Spin(len(labels))
    if vartype == "BINARY":
        space = Binary(len(labels))
        offset += float(h.sum() / 2 + weight.sum() / 4)
        share = weight / 4
        h = (h / 2).index_add(0, edges[0], share).index_add(0, edges[1], share)
        weight = share
    dtype = torch.get_default_dtype() if dtype is None else dtype
    energy = Ising.sparse(edges.contiguous(), (-weight).to(dtype), (-h).to(dtype), space=space)
    return Adapted(energy, labels, offset)


def to_dimod(model: Adapted | Ising) -> Any:
    """The dimod model of an Ising energy: SPIN on a Spin space, BINARY on a Binary one; the inverse of `from_dimod`.

    Raises:
        CapabilityError: dimod is not installed, or the energy is not an Ising model.
    """
    dimod = _dimod("to_dimod")
    adapted = model if isinstance(model, Adapted) else Adapted(model, tuple(range(model.space.n_sites)))
    energy, labels = adapted.energy, adapted.labels
    if not isinstance(energy, Ising):
        raise CapabilityError(f"`model` must be an Ising energy for dimod; got {type(energy).__name__}. "
                              "dimod has no Potts couplings.")
    edges = energy.edges().cpu()
    weights = energy.coupling_matrix()[edges[0], edges[1]] if energy.edge_index is None else energy.coupling
    bqm = dimod.BinaryQuadraticModel("SPIN")
    for name, h in zip(labels, energy.field.tolist(), strict=True):
        bqm.add_linear(name, -h)
    for (i, j), weight in zip(edges.t().tolist(), weights.tolist(), strict=True):
        bqm.add_quadratic(labels[i], labels[j], -weight)
    bqm.offset += adapted.offset
    return bqm if isinstance(energy.space, Spin) else bqm.change_vartype("BINARY")


def from_networkx(
    graph: nx.Graph,
    kind: str = "ising",
    *,
    k: int | None = None,
    coupling: str = "weight",
    field: str = "field",
    default_coupling: float = 1.0,
    binary: bool = False,
) -> Adapted:
    r"""An Ising or Potts energy on a graph; a node is a site, an edge a coupling J.

    E(s) = −Σ_edges J_uv s_u s_v − Σ_v h_v s_v, or for Potts −Σ_edges J_uv [x_u = x_v] − Σ_v h_v(x_v): positive J makes
    neighbours alike. For colourings and cuts give a negative ``default_coupling``.

    Args:
        graph: undirected, without multiple edges or loops.
        kind: "ising" or "potts".
        k: number of categories, for Potts.
        coupling: name of the edge attribute with J; edges without it get ``default_coupling``.
        field: name of the node attribute with h, a number (ising) or k numbers (potts); nodes without it get 0.
        binary: an Ising model on 0/1 states instead of spins.
    Raises:
        CapabilityError: the graph is directed or a multigraph. SettingError: no nodes, a loop, a wrong kind or k.
        ShapeError: a field is not of the right length.
    """
    if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph():
        raise CapabilityError(f"`graph` must be an undirected networkx.Graph; got {type(graph).__name__}. "
                              "Convert it with networkx.Graph(graph), which merges parallel edges.")
    if kind not in ("ising", "potts"):
        raise SettingError(f"`kind` must be 'ising' or 'potts'; got {kind!r}.")
    if (kind == "potts") != (k is not None) or (kind == "potts" and binary):
        raise SettingError(f"`k` must be given for kind='potts' and only there, without binary; got kind={kind!r}, "
                           f"k={k}, binary={binary}. Try kind='potts', k=3.")
    labels = tuple(graph.nodes)
    if not labels:
        raise SettingError("`graph` must have at least one node; got none. Use graph.add_nodes_from.")
    loop = next(iter(nx.selfloop_edges(graph)), None)
    if loop is not None:
        raise SettingError(f"`graph` must not have loops; got one at node {loop[0]!r}. A site's own term belongs to "
                           f"its {field!r} attribute.")
    number = {name: site for site, name in enumerate(labels)}
    edges = torch.tensor([(number[u], number[v]) for u, v in graph.edges], dtype=torch.int64).reshape(-1, 2).t()
    weights = torch.tensor([float(data.get(coupling, default_coupling)) for *_, data in graph.edges(data=True)],
                           dtype=torch.get_default_dtype())
    fields = [_field(graph.nodes[name].get(field, 0.0), name, k) for name in labels]
    h = torch.stack(fields)
    energy: PairwiseEnergy
    if k is None:
        space = Binary(len(labels)) if binary else Spin(len(labels))
        energy = Ising.sparse(edges.contiguous(), weights, h, space=space)
    else:
        energy = Potts.sparse(edges.contiguous(), weights, k, h, n_sites=len(labels))
    return Adapted(energy, labels)


def _field(value: Any, name: Hashable, k: int | None) -> Tensor:
    """() for Ising, (k,) for Potts."""
    h = torch.as_tensor(value, dtype=torch.get_default_dtype())
    wanted: tuple[int, ...] = () if k is None else (k,)
    if h.dim() == 0:
        return h.expand(wanted)
    if tuple(h.shape) != wanted:
        raise ShapeError(f"the field of node {name!r} must be a number{f' or {k} numbers' if k else ''}; got shape "
                         f"{tuple(h.shape)}. Check that attribute.")
    return h


def _dimod(what: str) -> Any:
    try:
        import dimod
    except ImportError as cause:
        raise CapabilityError(f"`{what}` needs dimod. Install it with: pip install 'discrete-ebm[dimod]'.") from cause
    return dimod
