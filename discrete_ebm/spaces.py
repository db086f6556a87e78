"""The spaces of the library: Binary, Spin, Categorical, Ordinal, Real and Product. What they share is in space_base.

Encodings change here and nowhere else: a factor of 2 in ±1 against 0/1 is the classic bug of this field.
Shape letters: C chains, N sites, K categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.errors import ShapeError, SpaceError
from discrete_ebm.space_base import (
    Encoding,
    SiteSpace,
    Space,
    as_shape,
    code_dtype,
    enumerate_index,
    map_encoding,
    some,
)

__all__ = [
    "Binary",
    "Categorical",
    "Encoding",
    "Ordinal",
    "Product",
    "Real",
    "Space",
    "Spin",
    "binary_to_spin",
    "map_encoding",
    "spin_to_binary",
]


def spin_to_binary(x: Tensor) -> Tensor:
    """±1 to 0/1, same shape and dtype; works on states and on encodings."""
    return x.gt(0).to(x.dtype)


def binary_to_spin(x: Tensor) -> Tensor:
    """0/1 to ±1, same shape and dtype (bool becomes int8); works on states and on encodings."""
    x = x.to(torch.int8) if x.dtype == torch.bool else x
    return 2 * x - 1


class Binary(SiteSpace):
    """Sites in {0, 1}: states int8, encoding 0.0/1.0."""

    dtype = torch.int8

    def __init__(self, shape: int | Sequence[int]) -> None:
        sizes = as_shape(shape)
        super().__init__(sizes, torch.full((math.prod(sizes),), 2))

    def validate(self, x: Any) -> Tensor:
        x = self._whole_numbers(self._batch(x), "0 and 1")
        bad = (x != 0) & (x != 1)
        if bool(bad.any()):
            raise self._refuse(x, bad, "0 and 1", "Convert ±1 states with `de.spaces.spin_to_binary(x)`.")
        return x.to(self.dtype)

    def _encode(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    def decode(self, encoding: Tensor) -> Tensor:
        return (encoding > 0.5).to(self.dtype)

    def taylor_deltas(self, x: Tensor, gradient: Tensor) -> Tensor:
        index, slope = self.to_index(x), gradient.reshape(x.shape[0], self.n_sites)
        return torch.stack((-slope * index, slope * (1 - index)), dim=-1)


class Spin(SiteSpace):
    """Sites in {−1, +1}: states int8, encoding −1.0/+1.0; index 0 is −1."""

    dtype = torch.int8

    def __init__(self, shape: int | Sequence[int]) -> None:
        sizes = as_shape(shape)
        super().__init__(sizes, torch.full((math.prod(sizes),), 2))

    def validate(self, x: Any) -> Tensor:
        x = self._whole_numbers(self._batch(x), "−1 and +1")
        bad = (x != -1) & (x != 1)
        if bool(bad.any()):
            raise self._refuse(x, bad, "−1 and +1", "Convert 0/1 states with `de.spaces.binary_to_spin(x)`.")
        return x.to(self.dtype)

    def _encode(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    def decode(self, encoding: Tensor) -> Tensor:
        return binary_to_spin((encoding > 0).to(self.dtype))

    def to_index(self, x: Tensor) -> Tensor:
        return (x.reshape(x.shape[0], self.n_sites) > 0).long()

    def from_index(self, index: Tensor) -> Tensor:
        return binary_to_spin(index.to(self.dtype)).reshape(index.shape[0], *self.shape)

    def taylor_deltas(self, x: Tensor, gradient: Tensor) -> Tensor:
        index, slope = self.to_index(x), gradient.reshape(x.shape[0], self.n_sites)
        return torch.stack((-2 * slope * index, 2 * slope * (1 - index)), dim=-1)


class Categorical(SiteSpace):
    """Sites in {0..k−1} without order: encoding one-hot (C, *shape, K), padded columns 0.

    ``k`` is one number, or one for each site (of ``shape``); K is the largest.
    """

    def __init__(self, shape: int | Sequence[int], k: int | Sequence[int] | Tensor) -> None:
        sizes = as_shape(shape)
        try:
            counts = torch.as_tensor(k)
        except (TypeError, ValueError, RuntimeError) as cause:
            raise SpaceError(f"`k` must be an integer or one per site; got {k!r}. Try Categorical(10, 4).") from cause
        if counts.dim() and tuple(counts.shape) != sizes and counts.numel() != math.prod(sizes):
            raise SpaceError(f"`k` must be one integer or have the shape {sizes}; got shape {tuple(counts.shape)}. "
                             "Give one k for each site.")
        if counts.is_floating_point() or counts.dtype == torch.bool or bool((counts < 2).any()):
            raise SpaceError(f"`k` must be integers of at least 2; got {k!r}. A site with one value is a clamp, "
                             "not a variable: leave it out or clamp it.")
        counts = counts.detach().to("cpu", torch.int64).expand(sizes) if not counts.dim() else counts.cpu().long()
        super().__init__(sizes, counts.reshape(-1).clone())
        self.dtype = code_dtype(self.k_max)

    def validate(self, x: Any) -> Tensor:
        what = f"0 to {self.k_max - 1}" if self._uniform else "0 to k−1 at each site"
        x = self._whole_numbers(self._batch(x), what)
        limit = self._constant("n_values", self._n_values, x.device).reshape(self.shape)
        bad = (x < 0) | (x >= limit)
        if bool(bad.any()):
            raise self._refuse(x, bad, what, "Number the categories from 0.")
        return x.to(self.dtype)

    def _encode(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return (x[..., None] == torch.arange(self.k_max, device=x.device)).to(dtype)

    def decode(self, encoding: Tensor) -> Tensor:
        return encoding.argmax(-1).to(self.dtype)

    def taylor_deltas(self, x: Tensor, gradient: Tensor) -> Tensor:
        slope = gradient.reshape(x.shape[0], self.n_sites, self.k_max)
        deltas = slope - slope.gather(-1, self.to_index(x)[..., None])
        if self._uniform:
            return deltas
        return torch.where(self._constant("mask", self._value_mask, x.device), deltas, torch.zeros_like(deltas))

    def _key(self) -> tuple[Any, ...]:
        return (self.shape, tuple(self._n_values.tolist()))

    def __repr__(self) -> str:
        return f"Categorical({self.shape}, {self.k_max if self._uniform else f'k per site up to {self.k_max}'})"


class Ordinal(SiteSpace):
    """Sites that take one of K ordered real ``values``: the state holds the value's index, the encoding its value."""

    def __init__(self, shape: int | Sequence[int], values: Sequence[float] | Tensor) -> None:
        sizes = as_shape(shape)
        try:
            levels = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as cause:
            raise SpaceError(f"`values` must be real numbers; got {values!r}. Try [0.0, 0.5, 1.0].") from cause
        if levels.dim() != 1 or len(levels) < 2 or not bool((levels[1:] > levels[:-1]).all() & levels.isfinite().all()):
            raise SpaceError(f"`values` must be at least 2 finite numbers in increasing order; got {values!r}. "
                             "Sort them and drop repeats.")
        self.values = levels
        super().__init__(sizes, torch.full((math.prod(sizes),), len(levels)))
        self.dtype = code_dtype(self.k_max)

    def validate(self, x: Any) -> Tensor:
        x = self._batch(x)
        what = f"whole indices 0 to {self.k_max - 1} of `values`"
        if x.is_floating_point() or x.is_complex():
            raise SpaceError(f"`x` must hold integers for {self!r}; got {x.dtype} (shape {tuple(x.shape)}). "
                             "Real values become indices with `space.decode(values)`.")
        bad = (x < 0) | (x >= self.k_max)
        if bool(bad.any()):
            raise self._refuse(x, bad, what, "Real values become indices with `space.decode(values)`.")
        return x.to(self.dtype)

    def _levels(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        return self._constant("values", self.values, device).to(dtype)

    def _encode(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._levels(x.device, dtype)[x.long()]

    def decode(self, encoding: Tensor) -> Tensor:
        levels = self._constant("values", self.values, encoding.device)
        middles = (levels[1:] + levels[:-1]) / 2
        return torch.bucketize(encoding.to(torch.float64), middles).to(self.dtype)

    def taylor_deltas(self, x: Tensor, gradient: Tensor) -> Tensor:
        slope = gradient.reshape(x.shape[0], self.n_sites, 1)
        levels = self._levels(x.device, slope.dtype)
        return slope * (levels - levels[self.to_index(x)][..., None])

    def _key(self) -> tuple[Any, ...]:
        return (self.shape, tuple(self.values.tolist()))

    def __repr__(self) -> str:
        return f"Ordinal({self.shape}, {self.k_max} values)"


class Real(Space):
    """Real numbers, optionally between ``low`` and ``high`` (numbers, or tensors that broadcast to ``shape``).

    States are float32 (or float64 where the caller gives float64); the encoding is the state itself.
    """

    dtype = torch.float32
    is_discrete = False

    def __init__(self, shape: int | Sequence[int], low: float | Tensor | None = None,
                 high: float | Tensor | None = None) -> None:
        self.shape = as_shape(shape)
        self.low, self.high = self._bound("low", low), self._bound("high", high)
        if self.low is not None and self.high is not None and not bool((self.low < self.high).all()):
            raise SpaceError(f"`low` must be below `high` at every site; got low {low!r}, high {high!r}. Swap them.")

    def _bound(self, name: str, bound: float | Tensor | None) -> Tensor | None:
        if bound is None:
            return None
        value = torch.as_tensor(bound, dtype=torch.float64).detach().cpu()
        try:
            value = value.expand(self.shape).contiguous()
        except RuntimeError as cause:
            raise ShapeError(f"`{name}` must be a number or broadcast to {self.shape}; got {tuple(value.shape)}. "
                             "Give one number for all sites.") from cause
        if not bool(value.isfinite().all()):
            raise SpaceError(f"`{name}` must be finite; got {bound!r}. Leave it None for no bound.")
        return value

    def encode(self, x: Tensor) -> Tensor:
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())

    def decode(self, encoding: Tensor) -> Tensor:
        return encoding

    def random(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform between the bounds; without bounds standard normal; with one bound half-normal beyond it."""
        size, device = (n, *self.shape), generator.device
        if self.low is not None and self.high is not None:
            low, high = self.low.to(device, self.dtype), self.high.to(device, self.dtype)
            draw = torch.rand(size, generator=generator, device=device, dtype=self.dtype)
            return torch.minimum(low + draw * (high - low), high)
        normal = torch.randn(size, generator=generator, device=device, dtype=self.dtype)
        if self.low is not None:
            return self.low.to(device, self.dtype) + normal.abs()
        return normal if self.high is None else self.high.to(device, self.dtype) - normal.abs()

    def validate(self, x: Any) -> Tensor:
        x = self._batch(x)
        x = x if x.dtype in (torch.float32, torch.float64) else x.to(self.dtype)
        if not bool(x.isfinite().all()):
            raise SpaceError(f"`x` must hold only finite numbers for {self!r}; got {int((~x.isfinite()).sum())} NaN or "
                             f"infinite values (shape {tuple(x.shape)}, {x.dtype}). Drop those rows.")
        low = x if self.low is None else self.low.to(x.device, x.dtype)
        high = x if self.high is None else self.high.to(x.device, x.dtype)
        bad = (x < low) | (x > high)
        if bool(bad.any()):
            raise SpaceError(f"`x` must stay between `low` and `high` of {self!r}; got {some(x[bad])} (shape "
                             f"{tuple(x.shape)}, {x.dtype}). Clip it with x.clamp(low, high).")
        return x

    def _key(self) -> tuple[Any, ...]:
        low = None if self.low is None else tuple(self.low.flatten().tolist())
        return (self.shape, low, None if self.high is None else tuple(self.high.flatten().tolist()))

    def __repr__(self) -> str:
        bounds = [f"{name}=..." for name, bound in (("low", self.low), ("high", self.high)) if bound is not None]
        return f"Real({', '.join([str(self.shape), *bounds])})"


class Product(Space):
    """Several spaces side by side. The state is one packed tensor (C, N_total), the encoding a dict by name.

    Packed values are the members' own state values, int64, or float64 when a :class:`Real` member is present; use
    :meth:`split` and :meth:`pack`. The index form exists when every member is discrete.
    """

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        if not isinstance(spaces, Mapping) or not spaces:
            raise SpaceError(f"`spaces` must be a non-empty dict of name to space; got {spaces!r}. "
                             "Try Product({'visible': Binary(10), 'label': Categorical(1, 3)}).")
        for name, space in spaces.items():
            if not isinstance(space, (SiteSpace, Real, Product)):
                raise SpaceError(f"`spaces[{name!r}]` must be a space of this file; got {space!r}. "
                                 "Sample structured spaces on their own.")
        self.spaces = dict(spaces)
        self.sizes = [space.n_sites for space in self.spaces.values()]
        self.shape = (sum(self.sizes),)
        self.is_discrete = all(space.is_discrete for space in self.spaces.values())
        real = any(space.dtype.is_floating_point for space in self.spaces.values())
        self.dtype = torch.float64 if real else torch.int64
        self._k_max = max(space.k_max for space in self.spaces.values()) if self.is_discrete else 0

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """States (C, *shape) of each member, in the member's dtype."""
        parts = x.split(self.sizes, dim=1)
        return {name: part.reshape(x.shape[0], *space.shape).to(space.dtype)
                for (name, space), part in zip(self.spaces.items(), parts, strict=True)}

    def pack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """One packed tensor (C, N_total) from each member's states; the inverse of :meth:`split`."""
        if set(parts) != set(self.spaces):
            raise SpaceError(f"`parts` must have exactly the names {', '.join(self.spaces)}; got {', '.join(parts)}. "
                             "Give one tensor for each.")
        flat = [parts[name].reshape(parts[name].shape[0], space.n_sites) for name, space in self.spaces.items()]
        return torch.cat([part.to(self.dtype) for part in flat], dim=1)

    @property
    def n_states(self) -> int | float:
        return math.prod(space.n_states for space in self.spaces.values()) if self.is_discrete else math.inf

    @property
    def n_values(self) -> Tensor:
        self._need_discrete("count the values of a site")
        return torch.cat([space.n_values for space in self.spaces.values()])

    @property
    def k_max(self) -> int:
        self._need_discrete("count the values of a site")
        return self._k_max

    @property
    def value_mask(self) -> Tensor:
        return torch.arange(self.k_max) < self.n_values[:, None]

    def encode(self, x: Tensor) -> dict[str, Encoding]:
        return {name: self.spaces[name].encode(part) for name, part in self.split(x).items()}

    def encode_as(self, x: Tensor, dtype: torch.dtype | None) -> dict[str, Encoding]:
        return {name: self.spaces[name].encode_as(part, dtype) for name, part in self.split(x).items()}

    def decode(self, encoding: Mapping[str, Encoding]) -> Tensor:
        return self.pack({name: space.decode(encoding[name]) for name, space in self.spaces.items()})

    def random(self, n: int, generator: torch.Generator) -> Tensor:
        return self.pack({name: space.random(n, generator) for name, space in self.spaces.items()})

    def validate(self, x: Any) -> Tensor:
        x = self._batch(x)
        return self.pack({
            name: space.validate(part.reshape(x.shape[0], *space.shape))
            for (name, space), part in zip(self.spaces.items(), x.split(self.sizes, dim=1), strict=True)
        })

    def to_index(self, x: Tensor) -> Tensor:
        self._need_discrete("give value indices")
        return torch.cat([self.spaces[name].to_index(part) for name, part in self.split(x).items()], dim=1)

    def from_index(self, index: Tensor) -> Tensor:
        self._need_discrete("be built from value indices")
        members = zip(self.spaces.items(), index.split(self.sizes, dim=1), strict=True)
        return self.pack({name: space.from_index(part) for (name, space), part in members})

    def allowed(self, x: Tensor) -> Tensor:
        self._need_discrete("list single-site changes")
        return self._stack([self.spaces[name].allowed(part) for name, part in self.split(x).items()])

    def taylor_deltas(self, x: Tensor, gradient: Mapping[str, Encoding]) -> Tensor:
        self._need_discrete("estimate single-site changes")
        return self._stack([self.spaces[name].taylor_deltas(part, gradient[name])
                            for name, part in self.split(x).items()])

    def enumerate(self) -> Tensor:
        self._need_discrete("be enumerated")
        return self.from_index(enumerate_index(self))

    def _stack(self, parts: list[Tensor]) -> Tensor:
        """(C, N_total, K) from (C, N_i, K_i), padded with False or 0."""
        return torch.cat([torch.nn.functional.pad(part, (0, self._k_max - part.shape[-1])) for part in parts], dim=1)

    def _need_discrete(self, what: str) -> None:
        if not self.is_discrete:
            raise self._cannot(what)

    def _key(self) -> tuple[Any, ...]:
        return tuple(self.spaces.items())

    def __repr__(self) -> str:
        return f"Product({self.spaces!r})"
