"""The larger network energy: a graph transformer that updates atoms, pairs and a global vector."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discrete_ebm.errors import SettingError
from graph_ebm.space import GraphEncoding, MolecularSpace

from .base import GraphEnergy, check_states, presence, relaxed_adjacency
from .cycles import RING_SIZES
from .relational import atom_feature_size, atom_features, check_positive

__all__ = ["TransformerEnergy"]

CHUNK_PAIRS = 16384  # pairs evaluated at a time by state_energy on a CPU: the activations stay near the core


class _Layer(nn.Module):
    """One round of attention: pairs bias and gate it, and are rewritten from the two atoms and the global vector."""

    def __init__(self, hidden: int, edge_hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.node_norm, self.edge_norm = nn.LayerNorm(hidden), nn.LayerNorm(edge_hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden, bias=False)
        self.edge_bias = nn.Linear(edge_hidden, heads)
        self.edge_gate = nn.Linear(edge_hidden, heads)
        self.out = nn.Linear(hidden, hidden)
        self.edge_ends = nn.Linear(hidden, edge_hidden, bias=False)
        self.edge_self = nn.Linear(edge_hidden, edge_hidden)
        self.edge_out = nn.Linear(edge_hidden, edge_hidden)
        self.global_to_node = nn.Linear(hidden, hidden)
        self.node_to_global = nn.Linear(hidden, hidden)
        self.edge_to_global = nn.Linear(edge_hidden, hidden, bias=False)
        self.mlp_norm = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden))

    def forward(
        self, h: Tensor, e: Tensor, g: Tensor, present: Tensor, pairs: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        c, v, width = h.shape
        n, p = self.node_norm(h), self.edge_norm(e)
        q, k, value = self.query_key_value(n).view(c, v, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias, gate = self.edge_bias(p).movedim(-1, 1), self.edge_gate(p).movedim(-1, 1)  # (C, heads, V, V)
        logits = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        # weights are multiplied by the presence of the partner: an absent atom has no part, a relaxed one has some
        there = present[:, None, None, :]
        top = logits.detach().masked_fill(there <= 0, float("-inf")).amax(-1, keepdim=True)
        attention = (logits - top).clamp(max=30).exp() * there
        attention = attention / (attention.sum(-1, keepdim=True) + 1e-9)
        # sums, not averages, count neighbours: the gate lets a pair pass its message at full strength
        attention = attention + torch.sigmoid(gate) * pairs.unsqueeze(1)
        mixed = (attention @ value).transpose(1, 2).reshape(c, v, width)
        h = h + self.out(mixed) + F.silu(self.global_to_node(g)).unsqueeze(1)
        ends = self.edge_ends(n)
        e = e + self.edge_out(F.silu(self.edge_self(p) + ends.unsqueeze(1) + ends.unsqueeze(2)))
        h = h + self.mlp(self.mlp_norm(h))
        nodes = (h * present.unsqueeze(-1)).sum(1) * scale
        bonds = (e * pairs.unsqueeze(-1)).sum((1, 2)) * scale
        g = g + F.silu(self.node_to_global(nodes) + self.edge_to_global(bonds))
        return h, e, g


class TransformerEnergy(GraphEnergy):
    r"""Edge-updating graph transformer, dense over all pairs: h (atoms), e (pairs), g (molecule).

    Per layer: attention over all atoms with a bias per pair, plus a gated sum over bonded pairs; pairs are updated from
    their two ends; g collects both and is given back to the atoms. E = readout(Σ h, Σ e over bonds, g); all SiLU.

    Dense only: ``state_energy`` encodes the states. Several times the cost of ``RelationalEnergy`` at N = 38.

    Args:
        space: the molecules.
        hidden: width of atoms and of the global vector, divisible by ``heads``.
        edge_hidden: width of pairs.
        layers: number of layers.
        heads: attention heads.
        rings: give each atom its exact number of rings of 3..8 atoms.
        zero_output: start with E = 0.
        seed: of the initial weights.
    Source: Vignac et al. 2023, arXiv:2209.14734, appendix B (edge-updating layer; here SiLU and gated sums).
    """

    def __init__(
        self,
        space: MolecularSpace,
        hidden: int = 64,
        edge_hidden: int = 32,
        layers: int = 4,
        heads: int = 4,
        rings: bool = True,
        zero_output: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(space)
        check_positive(hidden=hidden, edge_hidden=edge_hidden, layers=layers, heads=heads)
        if hidden % heads:
            raise SettingError(f"`hidden` must be a multiple of heads={heads}; got {hidden}. Use hidden={heads * 16}.")
        self.settings: dict[str, Any] = {
            "hidden": hidden,
            "edge_hidden": edge_hidden,
            "layers": layers,
            "heads": heads,
            "rings": rings,
            "zero_output": zero_output,
            "seed": seed,
        }
        self.rings = rings
        self.node_in = nn.Linear(atom_feature_size(space.vocabulary.size), hidden)
        self.edge_in = nn.Linear(4, edge_hidden)
        self.global_in = nn.Linear(7, hidden)
        self.blocks = nn.ModuleList(_Layer(hidden, edge_hidden, heads) for _ in range(layers))
        self.node_out = nn.Linear(hidden, hidden)
        self.edge_out = nn.Linear(edge_hidden, hidden)
        self.readout = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, 1, bias=False)
        _initialise(self, seed)
        if zero_output:
            nn.init.zeros_(self.output.weight)

    def config(self) -> dict[str, Any]:
        return super().config() | self.settings

    def state_energy(self, x: Tensor) -> Tensor:
        """Energies (C,) of states (C, V, V) int8, through the encoding.

        On a CPU molecules of like size are evaluated together, without the slots that none of them uses.
        """
        check_states(x, self.space)
        if x.device.type != "cpu" or len(x) == 0:
            return self._encoded_energy(x)
        sizes, order = (x.diagonal(dim1=1, dim2=2) > 0).sum(1).clamp(min=1).sort(descending=True)
        energies, start = [], 0
        while start < len(x):
            used = int(sizes[start])
            chunk = order[start : start + max(8, CHUNK_PAIRS // used**2)]
            start += len(chunk)
            energies.append(self._encoded_energy(x[chunk, :used, :used]))
        return torch.cat(energies)[order.argsort()]

    def _encoded_energy(self, x: Tensor) -> Tensor:
        return self.forward(self.space.encode_as(x, self.output.weight.dtype))

    def forward(self, encoding: GraphEncoding) -> Tensor:
        present, pairs = presence(encoding), relaxed_adjacency(encoding)
        scale = self.space.max_atoms**-0.5
        features, rings = atom_features(encoding, self.space, self.rings)
        h = self.node_in(features) * present.unsqueeze(-1)
        e = self.edge_in(encoding.bonds)
        totals = rings.sum(1) / rings.new_tensor(RING_SIZES)
        g = F.silu(self.global_in(torch.cat([present.sum(-1, keepdim=True) * scale, totals], -1)))
        for block in self.blocks:
            h, e, g = block(h, e, g, present, pairs, scale)
        nodes = (F.silu(self.node_out(h)) * present.unsqueeze(-1)).sum(1) * scale
        bonds = (F.silu(self.edge_out(e)) * pairs.unsqueeze(-1)).sum((1, 2)) * (scale / 2)
        return self.output(F.silu(self.readout(nodes + bonds + g))).squeeze(-1)


def _initialise(module: nn.Module, seed: int) -> None:
    """Uniform(±1/√fan-in) weights and zero biases of all linear maps, from an explicit generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                bound = part.in_features**-0.5
                part.weight.copy_((2 * torch.rand(part.weight.shape, generator=generator) - 1) * bound)
                if part.bias is not None:
                    part.bias.zero_()
