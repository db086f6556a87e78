"""What every space offers. A space owns each change between states, indices and encodings; nothing else does.

Three forms of one configuration of C chains:

* **state** ``x`` (C, *shape): small integers, one byte a site where they fit (floats only for :class:`Real`);
* **index** (C, N) int64: values 0..k_i−1 of the flattened sites, the form in which discrete kernels work;
* **encoding**: the floats an energy is called with (0/1, ±1, one-hot, real values).

Shape letters: C chains, N sites, K categories.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.errors import ShapeError, SpaceError

__all__ = [
    "MAX_ENUMERATED",
    "Encoding",
    "SiteSpace",
    "Space",
    "as_shape",
    "code_dtype",
    "enumerate_index",
    "map_encoding",
    "some",
]

Encoding = Any  # a Tensor, or a dict / tuple of Tensors that share the first dimension C

MAX_ENUMERATED = 2**22


def map_encoding(function: Callable[[Tensor], Tensor], encoding: Encoding) -> Encoding:
    """Apply ``function`` to every tensor of an encoding and keep its structure (dict, tuple or named tuple)."""
    if isinstance(encoding, Tensor):
        return function(encoding)
    if isinstance(encoding, Mapping):
        return {name: map_encoding(function, part) for name, part in encoding.items()}
    parts = [map_encoding(function, part) for part in encoding]
    return type(encoding)(*parts) if hasattr(encoding, "_fields") else type(encoding)(parts)


def as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """A tuple of positive ints; raises :class:`SpaceError` otherwise."""
    try:
        sizes = (shape,) if isinstance(shape, int) else tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = (0,)
    if any(size < 1 for size in sizes) or isinstance(shape, bool):
        raise SpaceError(f"`shape` must be a positive integer or a tuple of them; got {shape!r}. Try Binary((28, 28)).")
    return sizes


class Space(ABC):
    """The set of states of a model. Subclasses are final.

    Discrete spaces made of sites (:class:`SiteSpace`, and products of them) also offer the index form; a space
    without it raises :class:`SpaceError` from those methods.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_discrete: bool = True

    @property
    def name(self) -> str:
        """The class name, as used in ``SamplerSpec.spaces``."""
        return type(self).__name__

    @property
    def n_sites(self) -> int:
        """N, the number of sites of the flattened state."""
        return math.prod(self.shape)

    @property
    def n_states(self) -> int | float:
        """How many states there are: an exact int, or ``inf``."""
        return math.inf

    # -- every space ---------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, x: Tensor) -> Encoding:
        """Floats for the energy from states (C, *shape); the library's default float dtype, on the device of x."""

    @abstractmethod
    def random(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` states (n, *shape) drawn independently, on the generator's device."""

    @abstractmethod
    def validate(self, x: Any) -> Tensor:
        """Check a batch (C, *shape) at the public edge and return it in ``self.dtype``.

        Raises:
            ShapeError: the shape is not (C, *shape).
            SpaceError: a value is not allowed; the message names some of them.
        """

    def encode_as(self, x: Tensor, dtype: torch.dtype | None) -> Encoding:
        """:meth:`encode` in a given float dtype (None: as :meth:`encode` gives it)."""
        encoding = self.encode(x)
        return encoding if dtype is None else map_encoding(lambda part: part.to(dtype), encoding)

    def decode(self, encoding: Encoding) -> Tensor:
        """States from an encoding, the inverse of :meth:`encode`."""
        raise self._cannot("decode an encoding")

    # -- discrete spaces made of sites ---------------------------------------------------------------------------

    @property
    def n_values(self) -> Tensor:
        """(N,) int64 on the CPU: how many values each site takes."""
        raise self._cannot("count the values of a site")

    @property
    def k_max(self) -> int:
        """K, the largest number of values of a site."""
        raise self._cannot("count the values of a site")

    @property
    def value_mask(self) -> Tensor:
        """(N, K) bool on the CPU: values each site may take (False = padding)."""
        raise self._cannot("list the values of a site")

    def to_index(self, x: Tensor) -> Tensor:
        """(C, N) int64 value indices of states (C, *shape); not checked."""
        raise self._cannot("give value indices")

    def from_index(self, index: Tensor) -> Tensor:
        """States (C, *shape) in ``self.dtype`` from value indices (C, N); not checked."""
        raise self._cannot("be built from value indices")

    def allowed(self, x: Tensor) -> Tensor:
        """(C, N, K) bool: legal single-site changes; the current value and padding are False."""
        raise self._cannot("list single-site changes")

    def taylor_deltas(self, x: Tensor, gradient: Encoding) -> Tensor:
        """(C, N, K) first-order ΔE of setting site i to value v; exactly 0 at the current value and at padding.

        ``gradient`` is that of the energy with respect to the encoding, in the encoding's shape.
        """
        raise self._cannot("estimate single-site changes")

    def enumerate(self) -> Tensor:
        """All states (n_states, *shape), the first site slowest; :class:`SpaceError` above 2²² of them."""
        raise self._cannot("be enumerated")

    def _cannot(self, what: str) -> SpaceError:
        return SpaceError(f"`space` must be discrete and made of sites to {what}; got {self!r}. "
                          "Use a sampler that lists this space in `de.samplers.spec(name).spaces`.")

    # -- helpers -------------------------------------------------------------------------------------------------

    def _batch(self, x: Any) -> Tensor:
        """x as a tensor whose shape is (C, *shape)."""
        try:
            x = x if isinstance(x, Tensor) else torch.as_tensor(x)
        except (TypeError, ValueError, RuntimeError) as cause:
            raise SpaceError(f"`x` must be a tensor of states; got {type(x).__name__}. "
                             "Convert it with torch.as_tensor(...).") from cause
        if x.dim() != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            wanted = ", ".join(["n_chains", *map(str, self.shape)])
            hint = ("Add the chain dimension with x[None]." if tuple(x.shape) == self.shape
                    else f"Reshape it with x.reshape(-1, {', '.join(map(str, self.shape))})." if self.shape else
                    "Flatten it with x.reshape(-1).")
            raise ShapeError(f"`x` must have shape ({wanted}) for {self!r}; got {tuple(x.shape)} ({x.dtype}). {hint}")
        return x

    def _key(self) -> tuple[Any, ...]:
        """What makes two spaces equal."""
        return (self.shape,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __repr__(self) -> str:
        return f"{self.name}({self.shape})"


class SiteSpace(Space):
    """A discrete space of N sites with k_i values each; the index form is written here once."""

    def __init__(self, shape: tuple[int, ...], n_values: Tensor) -> None:
        self.shape = shape
        self._n_values = n_values
        self._k_max = int(n_values.max())
        self._uniform = bool((n_values == self._k_max).all())
        self._value_mask = torch.arange(self._k_max) < n_values[:, None]
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    @property
    def n_values(self) -> Tensor:
        return self._n_values

    @property
    def k_max(self) -> int:
        return self._k_max

    @property
    def value_mask(self) -> Tensor:
        return self._value_mask

    @property
    def n_states(self) -> int | float:
        return math.prod(k**count for k, count in Counter(self._n_values.tolist()).items())

    def encode(self, x: Tensor, dtype: torch.dtype | None = None) -> Encoding:
        return self._encode(x, torch.get_default_dtype() if dtype is None else dtype)

    def encode_as(self, x: Tensor, dtype: torch.dtype | None) -> Encoding:
        return self.encode(x, dtype)

    @abstractmethod
    def _encode(self, x: Tensor, dtype: torch.dtype) -> Encoding:
        """The encoding in ``dtype``."""

    def random(self, n: int, generator: torch.Generator) -> Tensor:
        size, device = (n, self.n_sites), generator.device
        if self._uniform:
            return self.from_index(torch.randint(self._k_max, size, generator=generator, device=device))
        limit = self._constant("n_values", self._n_values, device)
        # float64: a float32 uniform times k would favour some values measurably, and could round up to k
        draw = torch.rand(size, generator=generator, device=device, dtype=torch.float64) * limit
        return self.from_index(draw.long().minimum(limit - 1))

    def to_index(self, x: Tensor) -> Tensor:
        """States are their own index in all spaces but :class:`Spin`."""
        return x.reshape(x.shape[0], self.n_sites).long()

    def from_index(self, index: Tensor) -> Tensor:
        return index.to(self.dtype).reshape(index.shape[0], *self.shape)

    def allowed(self, x: Tensor) -> Tensor:
        index = self.to_index(x)
        values = torch.arange(self._k_max, device=index.device)
        return (index[..., None] != values) & self._constant("mask", self._value_mask, index.device)

    def enumerate(self) -> Tensor:
        return self.from_index(enumerate_index(self))

    def _constant(self, name: str, value: Tensor, device: torch.device) -> Tensor:
        """``value`` on ``device``, copied there once so that a step never waits for the host."""
        if device.type == "cpu":
            return value
        key = (name, device)
        if key not in self._on_device:
            self._on_device[key] = value.to(device)
        return self._on_device[key]

    def _whole_numbers(self, x: Tensor, what: str) -> Tensor:
        """x, refused when it holds anything but whole numbers (bool counts as 0/1)."""
        x = x.to(torch.int16) if x.dtype == torch.uint8 else x  # torch calls uint8 255 equal to −1
        if x.is_complex() or (x.is_floating_point() and not bool((x == x.floor()).all())):
            bad = x[x != x] if x.is_complex() else x[x != x.floor()]
            raise SpaceError(f"`x` must hold only {what} for {self!r}; got {some(bad)} (shape {tuple(x.shape)}, "
                             f"{x.dtype}). Pass integer states; `space.decode(encoding)` turns encodings into states.")
        return x

    def _refuse(self, x: Tensor, bad: Tensor, what: str, way_out: str) -> SpaceError:
        return SpaceError(f"`x` must hold only {what} for {self!r}; got {some(x[bad])} (shape {tuple(x.shape)}, "
                          f"{x.dtype}). {way_out}")


def enumerate_index(space: Space) -> Tensor:
    """All index rows (n_states, N) of a discrete space, the first site slowest."""
    if space.n_states > MAX_ENUMERATED:
        shown = f"{float(space.n_states):.3g}" if space.n_states < 10**300 else "more than 1e300"
        raise SpaceError(f"`space` must have at most {MAX_ENUMERATED} states to be enumerated; got {space!r} "
                         f"with {shown}. Use fewer sites, or averages over de.sample(...).")
    code = torch.arange(int(space.n_states))
    small = code_dtype(space.k_max)  # 2²² rows of 22 sites: 92 MB instead of 738
    index = torch.empty(len(code), space.n_sites, dtype=small)
    for site, k in reversed(list(enumerate(space.n_values.tolist()))):
        index[:, site] = code % k
        code = code // k
    return index


def some(values: Tensor) -> str:
    """A few distinct values for a message."""
    distinct = values.flatten().unique()[:4].tolist() if not values.is_complex() else ["complex numbers"]
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in distinct)


def code_dtype(k_max: int) -> torch.dtype:
    """int8 where 0..k_max−1 fits, else int64."""
    return torch.int8 if k_max <= 128 else torch.int64
