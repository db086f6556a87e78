"""The default network energy: relational message passing with ring features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discrete_ebm.errors import SettingError
from graph_ebm.space import GraphEncoding, MolecularSpace

from .base import GraphEnergy, bond_orders, check_states, presence, relaxed_adjacency
from .cycles import relaxed_cycles
from .features import DEGREES, SUMS, soft_one_hot
from .packed import PackedMolecules, neighbour_sum, pack, segment_sum

__all__ = ["RelationalEnergy", "atom_feature_size", "atom_features", "check_positive", "packed_atom_features"]

RING_NUMBERS = 4  # rings of one size through one atom: 0, 1, 2, 3 or more
CHUNK_SLOTS = 8192  # without gradients, slots evaluated at a time: the activations then stay in a core's cache


def atom_feature_size(n_types: int) -> int:
    """Width of the atom features of :func:`atom_features`."""
    return n_types + SUMS + DEGREES + 6 * RING_NUMBERS


def atom_features(encoding: GraphEncoding, space: MolecularSpace, rings: bool) -> tuple[Tensor, Tensor]:
    """Relaxed one-hots (C, V, T) of type, bond-order sum, degree and, per ring size, the rings through the atom.

    Second: those ring numbers themselves, (C, V, 6), zero without ``rings``.
    """
    adjacency = relaxed_adjacency(encoding)
    parts = [
        encoding.nodes[..., 1:],
        soft_one_hot(bond_orders(encoding).sum(-1), SUMS),
        soft_one_hot(adjacency.sum(-1), DEGREES),
    ]
    if rings:
        with torch.no_grad():
            x = space.decode(encoding)
        counts, _ = relaxed_cycles(adjacency, x)
    else:
        counts = adjacency.new_zeros(*adjacency.shape[:2], 6)
    parts.append(soft_one_hot(counts, RING_NUMBERS).flatten(-2))
    return torch.cat(parts, -1), counts


def packed_atom_features(packed: PackedMolecules, n_types: int, dtype: torch.dtype) -> Tensor:
    """(M, T): the same for packed integer molecules."""
    start = [-1, n_types, n_types + SUMS]
    start += [n_types + SUMS + DEGREES + RING_NUMBERS * s for s in range(6)]
    last = [n_types, SUMS - 1, DEGREES - 1] + [RING_NUMBERS - 1] * 6
    device = packed.codes.device
    columns = torch.minimum(packed.codes, torch.tensor(last, device=device)) + torch.tensor(start, device=device)
    features = torch.zeros(len(columns), atom_feature_size(n_types), dtype=dtype, device=device)
    return features.scatter_(1, columns, 1.0)


def check_positive(**settings: int) -> None:
    """SettingError unless every setting is an int >= 1."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"`{name}` must be an int >= 1; got {value!r}. A good start: hidden=64, layers=4.")


class RelationalEnergy(GraphEnergy):
    r"""Relational graph network, one linear message per bond order, summed to one number.

    h⁰ = T f (f: one-hots of type, order sum, degree, rings); then, per layer,
    z_i = W₀ h_i + b + Σ_r W_r Σ_{j: order(i,j)=r} h_j and h_i ← h_i + SiLU(LayerNorm(z_i)); at last, with the pooled
    p = Σ_i h_i / √V, E = a·p + MLP(p). No dropout, no batch norm; molecules of a batch do not interact.

    ``state_energy`` works on packed atoms (no padding, multiple bonds only where there are any); ``forward`` is dense,
    differentiable in nodes and bonds, absent bonds included. Same weights, same value on one-hot input.

    Args:
        space: the molecules.
        hidden: H, width.
        layers: number of message-passing layers.
        rings: give each atom its exact number of rings of 3..8 atoms.
        zero_output: start with E = 0 (the last linear maps at zero); otherwise torch's default initialisation.
        seed: of the initial weights.
    Source: Schlichtkrull et al. 2018, arXiv:1703.06103, eq. 2 (messages; summed, not averaged).
    """

    def __init__(
        self,
        space: MolecularSpace,
        hidden: int = 64,
        layers: int = 4,
        rings: bool = True,
        zero_output: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(space)
        check_positive(hidden=hidden, layers=layers)
        self.hidden, self.layers, self.rings, self.zero_output, self.seed = hidden, layers, rings, zero_output, seed
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, fan_in: int) -> nn.Parameter:
            bound = fan_in**-0.5
            return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * bound)

        # the features hold nine ones an atom
        self.embedding = uniform(atom_feature_size(space.vocabulary.size), hidden, fan_in=3)
        self.messages = uniform(layers, 4, hidden, hidden, fan_in=hidden)
        self.bias = nn.Parameter(torch.zeros(layers, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.readout = uniform(hidden, hidden, fan_in=hidden)
        self.readout_bias = nn.Parameter(torch.zeros(hidden))
        self.output = uniform(2 * hidden, fan_in=hidden)
        if zero_output:
            nn.init.zeros_(self.output)

    def config(self) -> dict[str, Any]:
        names = ("hidden", "layers", "rings", "zero_output", "seed")
        return super().config() | {name: getattr(self, name) for name in names}

    def state_energy(self, x: Tensor) -> Tensor:
        """Energies (C,) of states (C, V, V) int8; differentiable in the parameters."""
        check_states(x, self.space)
        chunk = max(64, CHUNK_SLOTS // x.shape[1])
        if len(x) > chunk and not torch.is_grad_enabled():
            return torch.cat([self._packed_energy(part) for part in x.split(chunk)])
        return self._packed_energy(x)

    def _packed_energy(self, x: Tensor) -> Tensor:
        packed = pack(x, RING_NUMBERS, self.rings)
        single, *multiple = packed.orders
        h = packed_atom_features(packed, self.space.vocabulary.size, self.embedding.dtype) @ self.embedding
        for weight, bias, norm in zip(self.messages, self.bias, self.norms, strict=True):
            z = torch.addmm(bias, h, weight[0]).addmm_(neighbour_sum(h, single), weight[1])
            for order, neighbours in enumerate(multiple, start=2):
                near = neighbour_sum(h.index_select(0, neighbours.rows), neighbours)
                z = z.index_add_(0, neighbours.rows, near @ weight[order])
            h = h + F.silu(norm(z))
        return self._read(segment_sum(h, packed.pointer))

    def forward(self, encoding: GraphEncoding) -> Tensor:
        present = presence(encoding).unsqueeze(-1)
        bonds = encoding.bonds[..., 1:].movedim(-1, 1)  # (C, 3, V, V)
        features, _ = atom_features(encoding, self.space, self.rings)
        h = features @ self.embedding * present
        for weight, bias, norm in zip(self.messages, self.bias, self.norms, strict=True):
            messages = (bonds @ (h.unsqueeze(1) @ weight[1:])).sum(1)
            h = h + F.silu(norm(h @ weight[0] + bias + messages))
        return self._read((h * present).sum(1))

    def _read(self, pooled: Tensor) -> Tensor:
        pooled = pooled * self.space.max_atoms**-0.5
        inner = F.silu(torch.addmm(self.readout_bias, pooled, self.readout))
        return torch.cat([pooled, inner], -1) @ self.output
