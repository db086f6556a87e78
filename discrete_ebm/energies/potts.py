"""The Potts model, dense, sparse or on a lattice of any dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from discrete_ebm.energies.ising import count_sites
from discrete_ebm.energies.pairwise import PairwiseEnergy, as_parameter, common_dtype, lattice_edges
from discrete_ebm.errors import SettingError, ShapeError, SpaceError
from discrete_ebm.spaces import Categorical, Space, Spin

__all__ = ["Potts"]


class Potts(PairwiseEnergy):
    r"""E(x) = −Σ_{i<j} J_ij [x_i = x_j] − Σ_i h_i(x_i) with x_i in 0..k−1, each edge counted once.

    With k = 2 and h = 0 it is the Ising model of coupling J/2 (up to a constant). The square lattice is critical at
    βJ = log(1 + √k). ``coupling`` and ``field`` (N, k) are learnable. The number of categories is the same at all
    sites.

    Args:
        coupling: J (N, N), symmetric with zero diagonal.
        k: number of categories, at least 2.
        field: h, a number, (k,) for all sites, or (N, k).
        space: ``Categorical`` with N sites and k categories (default of shape N).
    Raises:
        ShapeError, SettingError, NonFiniteEnergyError: as for :class:`~discrete_ebm.energies.Ising`.
    Source: Wu 1982, "The Potts model", Rev. Mod. Phys. 54, eqs. 1.2 and 1.7.
    """

    def __init__(self, coupling: Any, k: int, field: Any = 0.0, *, space: Space | None = None) -> None:
        size = len(coupling) if hasattr(coupling, "__len__") else 0
        if space is None and not size:
            raise ShapeError(f"`coupling` must be a matrix (N, N); got {coupling!r}. "
                             "For a grid use Potts.lattice(shape, coupling, k).")
        self._setup(space if space is not None else _space(size, k), coupling, k, field)

    def _setup(self, space: Space, coupling: Any, k: int, field: Any, edges: Any = None,
               lattice: tuple[tuple[int, ...], bool] | None = None) -> None:
        if not isinstance(space, Categorical) or bool((space.n_values != k).any()):
            raise SpaceError(f"`space` must be Categorical with {k} categories at every site; got {space!r}. "
                             "Leave it out to have it made.")
        dtype = common_dtype(coupling, field)
        PairwiseEnergy.__init__(self, space, coupling, dtype, edges, lattice)
        self.field = as_parameter("field", field, (space.n_sites, k), dtype, self.coupling.device)

    @classmethod
    def sparse(cls, edges: Any, weights: Any, k: int, field: Any = 0.0, *, n_sites: int | None = None,
               space: Space | None = None) -> Potts:
        """From an edge list: ``edges`` (2, E) of distinct pairs, ``weights`` a number or (E,)."""
        model = cls.__new__(cls)
        model._setup(space if space is not None else _space(count_sites(edges, field, n_sites, 2), k),
                     weights, k, field, edges)
        return model

    @classmethod
    def lattice(cls, shape: int | Sequence[int], coupling: Any, k: int, field: Any = 0.0,
                periodic: bool = True) -> Potts:
        """Nearest neighbours on a grid of any dimension; a periodic side of 2 has one edge between its sites."""
        sides = Spin(shape).shape
        model = cls.__new__(cls)
        model._setup(_space(sides, k), coupling, k, field, lattice_edges(sides, periodic), (sides, bool(periodic)))
        return model

    def _one_hot(self, encoding: Tensor) -> Tensor:
        return encoding.reshape(encoding.shape[0], self.space.n_sites, self.space.k_max)

    def _encoded(self, flat: Tensor) -> Tensor:
        return self.space.encode_as(flat, self.field.dtype)  # site by site, so any columns will do

    def forward(self, encoding: Tensor) -> Tensor:
        v = self._one_hot(encoding)
        return -(v * (0.5 * self._pair_sum(v) + self.field)).sum((-2, -1))

    def local_field(self, x: Tensor) -> Tensor:
        """(C, N, k) log p(x_i = v | rest) at beta = 1, unnormalised, of states."""
        return self._pair_sum(self._encoded(x.reshape(x.shape[0], self.space.n_sites))) + self.field

    def flip_deltas(self, x: Tensor) -> Tensor:
        local = self.local_field(x)
        return local.gather(-1, self.space.to_index(x)[..., None]) - local

    def conditional_logits(self, x: Tensor, sites: Tensor) -> Tensor:
        return self._pair_rows(x, sites) + self.field[sites]


def _space(shape: int | Sequence[int], k: Any) -> Categorical:
    if not isinstance(k, int) or isinstance(k, bool) or k < 2:
        raise SettingError(f"`k` must be an integer of at least 2; got {k!r}. With one category nothing can change.")
    return Categorical(shape, k)
