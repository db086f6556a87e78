"""The Ising model, dense, sparse or on a lattice of any dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.pairwise import PairwiseEnergy, as_parameter, common_dtype, lattice_edges
from discrete_ebm.errors import ShapeError, SpaceError
from discrete_ebm.spaces import Binary, Space, Spin, binary_to_spin

__all__ = ["Ising"]


class Ising(PairwiseEnergy):
    r"""E(s) = −Σ_{i<j} J_ij s_i s_j − Σ_i h_i s_i with s = ±1, each edge counted once.

    On a :class:`Binary` space the same law is written in 0/1 states (s = 2b − 1). The square lattice with J > 0 is
    critical at βJ = ½ log(1 + √2) ≈ 0.4407. ``coupling`` and ``field`` (N,) are learnable.

    Args:
        coupling: J (N, N), symmetric with zero diagonal.
        field: h, a number or (N,).
        space: ``Spin`` (default, of shape N) or ``Binary`` with N sites.
    Raises:
        ShapeError, SettingError, NonFiniteEnergyError: wrong shape, asymmetric or self-coupled, NaN or infinite.
    Source: Onsager 1944 for the critical point.
    """

    def __init__(self, coupling: Any, field: Any = 0.0, *, space: Space | None = None) -> None:
        size = len(coupling) if hasattr(coupling, "__len__") else 0
        if space is None and not size:
            raise ShapeError(f"`coupling` must be a matrix (N, N); got {coupling!r}. "
                             "For a grid use Ising.lattice(shape, coupling).")
        self._setup(space if space is not None else Spin(size), coupling, field)

    def _setup(self, space: Space, coupling: Any, field: Any, edges: Any = None,
               lattice: tuple[tuple[int, ...], bool] | None = None) -> None:
        if not isinstance(space, (Spin, Binary)):
            raise SpaceError(f"`space` must be Spin or Binary for an Ising model; got {space!r}. "
                             "Use energies.Potts for categories.")
        dtype = common_dtype(coupling, field)
        PairwiseEnergy.__init__(self, space, coupling, dtype, edges, lattice)
        self.field = as_parameter("field", field, (space.n_sites,), dtype, self.coupling.device)

    @classmethod
    def sparse(cls, edges: Any, weights: Any, field: Any = 0.0, *, n_sites: int | None = None,
               space: Space | None = None) -> Ising:
        """From an edge list: ``edges`` (2, E) of distinct pairs, ``weights`` a number or (E,).

        The number of sites is that of ``space``, else ``n_sites``, else of ``field``, else the largest site + 1.
        """
        model = cls.__new__(cls)
        model._setup(space if space is not None else Spin(count_sites(edges, field, n_sites, 1)), weights, field, edges)
        return model

    @classmethod
    def lattice(cls, shape: int | Sequence[int], coupling: Any, field: Any = 0.0, periodic: bool = True, *,
                space: Space | None = None) -> Ising:
        """Nearest neighbours on a grid of any dimension; ``coupling`` is a number or (E,) in ``lattice_edges`` order.

        A periodic side of 2 has one edge between its sites, not two.
        """
        space = space if space is not None else Spin(shape)
        sides = Spin(shape).shape
        if space.n_sites != Spin(sides).n_sites:
            raise ShapeError(f"`space` must have the {Spin(sides).n_sites} sites of the lattice {sides}; "
                             f"got {space!r}. Leave it out for Spin({sides}).")
        model = cls.__new__(cls)
        model._setup(space, coupling, field, lattice_edges(sides, periodic), (sides, bool(periodic)))
        return model

    def _spins(self, encoding: Tensor) -> Tensor:
        """±1 floats (C, N) from an encoding of the space."""
        flat = encoding.reshape(encoding.shape[0], self.space.n_sites)
        return binary_to_spin(flat) if isinstance(self.space, Binary) else flat

    def _encoded(self, flat: Tensor) -> Tensor:
        v = self.space.encode_as(flat, self.field.dtype)  # site by site, so any columns will do
        return binary_to_spin(v) if isinstance(self.space, Binary) else v

    def _spins_of_state(self, x: Tensor) -> Tensor:
        return self._encoded(x.reshape(x.shape[0], self.space.n_sites))

    def forward(self, encoding: Tensor) -> Tensor:
        s = self._spins(encoding)
        return -(s * (0.5 * self._pair_sum(s) + self.field)).sum(-1)

    def local_field(self, x: Tensor) -> Tensor:
        """(C, N) Σ_j J_ij s_j + h_i of states; log p(s_i = ±1 | rest) = ± this, unnormalised."""
        return self._pair_sum(self._spins_of_state(x)) + self.field

    def flip_deltas(self, x: Tensor) -> Tensor:
        s = self._spins_of_state(x)
        local = self._pair_sum(s) + self.field
        return torch.stack(((s + 1) * local, (s - 1) * local), dim=-1)

    def conditional_logits(self, x: Tensor, sites: Tensor) -> Tensor:
        local = self._pair_rows(x, sites) + self.field[sites]
        return torch.stack((-local, local), dim=-1)


def count_sites(edges: Any, field: Any, n_sites: int | None, field_dims: int) -> int:
    """Number of sites of an edge-list model: given, else the field's rows, else the largest site + 1."""
    if n_sites is not None:
        return n_sites
    field = torch.as_tensor(field)
    if field.dim() == field_dims:
        return field.shape[0]
    edges = torch.as_tensor(edges)
    if edges.numel() == 0:
        raise ShapeError("`n_sites` must be given when there are no edges; got none. Pass n_sites=....")
    return int(edges.max()) + 1
