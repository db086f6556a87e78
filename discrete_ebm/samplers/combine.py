"""Kernels made of kernels: one after the other, one of several, the same n times, one for each part of a Product.

Each combination keeps a law that all its members keep. What a member knows about x (a cached gradient, say) is
worthless once another member has moved x, so nothing of that kind is kept between turns: before its turn a member is
started anew where the chain stands, which costs what its ``init`` costs (about two more energies, or one and a
gradient, a turn; nothing for those that say ``caches_x = False``, such as Gibbs and Metropolis). To spare that, let a
member take several steps a turn by :class:`Repeat`. What a chain's past decides (``Kernel.history``: a scale, a
momentum) is kept, under the member's number or name. Members' scales are not adapted by ``de.sample``: tune the member
alone first and give what it found as its setting.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError
from discrete_ebm.samplers import registry
from discrete_ebm.samplers.accept import select
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo
from discrete_ebm.samplers.informed import draw_move
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import start
from discrete_ebm.spaces import Encoding, Product, Space

__all__ = ["Alternate", "MemberGiven", "Mixture", "Repeat", "Sweep"]

Member = Any  # a Kernel, a registered name, or (name, {setting: value})


def _as_kernel(setting: str, member: Member) -> Kernel:
    if isinstance(member, Kernel):
        return member
    if isinstance(member, str):
        return registry.create(member)
    if (isinstance(member, Sequence) and len(member) == 2 and isinstance(member[0], str)
            and isinstance(member[1], Mapping)):
        return registry.create(member[0], **member[1])
    raise SettingError(f"`{setting}` must be made of kernels, registered names or (name, settings) pairs; got "
                       f"{member!r}. Try ('gwg', {{'balancing': 'barker'}}).")


def _as_kernels(kernels: Any) -> tuple[Kernel, ...]:
    if isinstance(kernels, (str, Mapping)) or not isinstance(kernels, Sequence) or not kernels:
        raise SettingError(f"`kernels` must be a non-empty list of kernels or names; got {kernels!r}. "
                           "Try ['gibbs', 'gwg'].")
    return tuple(_as_kernel("kernels", member) for member in kernels)


def _kept(member: Kernel, prefix: str, cache: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a member's own cache is kept between its turns, under ``prefix``."""
    return {f"{prefix}.{name}": value for name, value in cache.items() if name in member.history}


def _turn(member: Kernel, prefix: str, energy: Any, state: ChainState, generator: torch.Generator,
          beta: float | Tensor, clamp: Tensor | None) -> tuple[ChainState, StepInfo]:
    """One step of a member from where the chain stands. The state that comes back has the member's own cache."""
    named = ((name.removeprefix(f"{prefix}."), value) for name, value in state.cache.items()
             if name.startswith(f"{prefix}."))
    own = {name: value for name, value in named if name in member.history}
    if not member.caches_x:
        return member.step(energy, state._replace(cache=own), generator=generator, beta=beta, clamp=clamp)
    fresh = member.init(energy, state.x, generator=generator, clamp=clamp)
    began = ChainState(fresh.x, fresh.energy, {**fresh.cache, **own}, state.step)
    after, info = member.step(energy, began, generator=generator, beta=beta, clamp=clamp)
    # a start evaluates the energy, and once more with its gradient or deltas
    return after, info._replace(energy_calls=info.energy_calls + 2.0,
                                gradient_calls=info.gradient_calls + (info.gradient_calls > 0))


def _joined(infos: Sequence[StepInfo], before: Tensor, after: Tensor) -> StepInfo:
    """What several turns one after the other did: mean acceptance, whether any was accepted, sites changed in all."""
    return StepInfo(
        acceptance=torch.stack([info.acceptance for info in infos]).mean(0),
        accepted=torch.stack([info.accepted for info in infos]).any(0),
        hamming=(after != before).flatten(1).sum(1),
        energy_calls=sum(info.energy_calls for info in infos),
        gradient_calls=sum(info.gradient_calls for info in infos),
        non_finite=torch.stack([info.non_finite for info in infos]).sum(),
    )


class _Several(Kernel):
    """Exactness and history of a kernel with members; ``_members`` are they, by the names their entries have."""

    caches_x: ClassVar[bool] = False

    def _members(self) -> list[tuple[str, Kernel]]:
        raise NotImplementedError

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every member is."""
        return all(member.exact for _, member in self._members())

    @property
    def history(self) -> frozenset[str]:  # type: ignore[override]
        """The members' entries, each under its member's number or name."""
        return frozenset(f"{prefix}.{name}" for prefix, member in self._members() for name in member.history)

    def _begin(self, energy: Any, x0: Tensor, generator: torch.Generator, clamp: Tensor | None) -> ChainState:
        """Every member is started once, so that what one of them refuses is refused before any step."""
        kept: dict[str, Tensor] = {}
        for prefix, member in self._members():
            state = member.init(energy, x0, generator=generator, clamp=clamp)
            kept |= _kept(member, prefix, state.cache)
        return ChainState(state.x, state.energy, kept, torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True)
class Sweep(_Several):
    r"""All members in turn; one step is one step of each.

    Args:
        kernels: kernels, registered names or (name, settings) pairs, in order. The same may be named twice.
    Invariant law: what every member keeps, exp(−βE) if all are ``exact``; not reversible, even if all members are.
    Cost: the sum of the members', and for each that caches something about x one more energy or gradient (see the top
    of this file). ``info``: mean acceptance, accepted if any was, sites changed in all.
    Source: Tierney 1994, "Markov chains for exploring posterior distributions".
    """

    kernels: Sequence[Member] = ("gwg", "gibbs")

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", _as_kernels(self.kernels))

    def _members(self) -> list[tuple[str, Kernel]]:
        return [(str(number), member) for number, member in enumerate(self.kernels)]

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape); starts every member once."""
        return self._begin(energy, x0, generator, clamp)

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One step of each member for all C chains."""
        at, infos, cache = state, [], dict(state.cache)
        for prefix, member in self._members():
            after, info = _turn(member, prefix, energy, at, generator, beta, clamp)
            cache |= _kept(member, prefix, after.cache)
            at = after._replace(cache=cache, step=state.step)
            infos.append(info)
        return at._replace(step=state.step + 1), _joined(infos, state.x, at.x)


@dataclass(frozen=True)
class Mixture(_Several):
    r"""One member a step, drawn with fixed probabilities that do not look at the state.

    Args:
        kernels: kernels, registered names or (name, settings) pairs.
        weights: positive, one for each member, in proportion to their probabilities; None = all alike.
        choice: "chain": every chain draws its own member. All members then step from the same state and each chain
            keeps the step of its own, which costs the sum of all members. "shared": one draw for all chains, at the
            cost of one member. Each chain by itself has the same law, but chains are then no longer independent of each
            other: averages over chains of one step are noisier than they look. The draw is read off the generator's
            state on the host, so it waits for no device; a captured CUDA graph would repeat one choice for ever, so do
            not capture it.
    Invariant law: what every member keeps, exp(−βE) if all are ``exact``; reversible if all members are. Members that
    follow a schedule count steps of the mixture.
    Cost: as said under ``choice``, and for each member that caches something about x one more energy or gradient.
    Source: Tierney 1994, "Markov chains for exploring posterior distributions".
    """

    kernels: Sequence[Member] = ("gwg", "metropolis")
    weights: Sequence[float] | None = None
    choice: str = "chain"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", _as_kernels(self.kernels))
        n = len(self.kernels)
        if self.weights is not None:
            try:
                weights = tuple(float(weight) for weight in self.weights)
            except (TypeError, ValueError):
                weights = ()
            if len(weights) != n or not all(0 < weight < math.inf for weight in weights):
                raise SettingError(f"`weights` must be {n} positive finite numbers, one for each kernel; got "
                                   f"{self.weights!r}. Leave out a kernel that is never to be used.")
            object.__setattr__(self, "weights", weights)
        if self.choice not in ("chain", "shared"):
            raise SettingError(f"`choice` must be 'chain' or 'shared'; got {self.choice!r}.")

    def _members(self) -> list[tuple[str, Kernel]]:
        return [(str(number), member) for number, member in enumerate(self.kernels)]

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape); starts every member once."""
        return self._begin(energy, x0, generator, clamp)

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One step of the drawn member, for all C chains."""
        weights = self.weights or (1.0,) * len(self.kernels)
        if self.choice == "shared":
            prefix, member = self._members()[_draw_on_host(weights, generator, state.x.device)]
            after, info = _turn(member, prefix, energy, state, generator, beta, clamp)
            cache = {**state.cache, **_kept(member, prefix, after.cache)}
            return after._replace(cache=cache, step=state.step + 1), info
        logits = torch.stack([torch.full_like(state.energy, math.log(weight)) for weight in weights], dim=1)
        mine, _ = draw_move(logits, generator=generator)  # before the members move, so that it cannot depend on them
        at, infos, cache = state, [], dict(state.cache)
        for number, (prefix, member) in enumerate(self._members()):
            after, info = _turn(member, prefix, energy, state, generator, beta, clamp)
            chosen = mine == number
            at = at._replace(x=select(chosen, after.x, at.x), energy=select(chosen, after.energy, at.energy))
            cache |= {name: select(chosen, value, cache[name])
                      for name, value in _kept(member, prefix, after.cache).items()}
            infos.append((chosen, info))
        info = StepInfo(
            acceptance=torch.stack([torch.where(chosen, info.acceptance, torch.zeros_like(info.acceptance))
                                    for chosen, info in infos]).sum(0),
            accepted=torch.stack([chosen & info.accepted for chosen, info in infos]).any(0),
            hamming=(at.x != state.x).flatten(1).sum(1),
            energy_calls=sum(info.energy_calls for _, info in infos),
            gradient_calls=sum(info.gradient_calls for _, info in infos),
            non_finite=torch.stack([info.non_finite for _, info in infos]).sum(),
        )
        return at._replace(cache=cache, step=state.step + 1), info


def _draw_on_host(weights: Sequence[float], generator: torch.Generator, device: torch.device) -> int:
    """A number drawn with these weights, the same for all chains, known to the host without waiting for a device.

    A generator's state lies on the host even where its numbers are made on a device; its digest is a uniform number,
    and one number drawn from the generator moves the state on.
    """
    digest = hashlib.blake2b(generator.get_state().numpy().tobytes(), digest_size=8).digest()
    torch.empty(1, device=device).exponential_(generator=generator)
    point = int.from_bytes(digest, "big") / 2**64 * sum(weights)
    for number, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return number
    return len(weights) - 1


@dataclass(frozen=True)
class Repeat(Kernel):
    r"""The same kernel n times; one step is n of its steps. Its caches stay valid, so it costs n steps and no more.

    Args:
        kernel: a kernel, a registered name, or a (name, settings) pair.
        n: number of steps, at least 1.
    Invariant law: the kernel's, and reversible if the kernel is. A scale that may be tuned is tuned as the kernel's
    own, to the mean acceptance of the n steps.
    Cost: n steps of the kernel. Source: Tierney 1994, "Markov chains for exploring posterior distributions".
    """

    kernel: Member = "gwg"
    n: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise SettingError(f"`n` must be a whole number of at least 1; got {self.n!r}.")
        object.__setattr__(self, "kernel", _as_kernel("kernel", self.kernel))

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether the kernel is."""
        return self.kernel.exact

    @property
    def history(self) -> frozenset[str]:  # type: ignore[override]
        """The kernel's own."""
        return self.kernel.history

    @property
    def target_acceptance(self) -> float | None:
        """The kernel's own; None where it has nothing to tune."""
        return getattr(self.kernel, "target_acceptance", None)

    @property
    def caches_x(self) -> bool:  # type: ignore[override]
        """Whether the kernel does."""
        return self.kernel.caches_x

    @property
    def scale_bounds(self) -> tuple[float, float]:
        """The kernel's own."""
        return getattr(self.kernel, "scale_bounds", (0.0, math.inf))

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """The kernel's own state at ``x0`` (C, *shape)."""
        return self.kernel.init(energy, x0, generator=generator, clamp=clamp)

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """n steps of the kernel for all C chains."""
        at, infos = state._replace(step=state.step * self.n), []
        for _ in range(self.n):
            at, info = self.kernel.step(energy, at, generator=generator, beta=beta, clamp=clamp)
            infos.append(info)
        return at._replace(step=state.step + 1), _joined(infos, state.x, at.x)


class MemberGiven(Energy):
    """The energy of one member of a Product while the others are held: E(member, rest), on the member's own space.

    ``rest`` are the encodings of the other members for C chains. Called with C·t states, those of a chain must come one
    after the other, as kernels batch their candidates: row r belongs to chain r // t. Gradients go through the
    Product's encoding. The number is the whole energy, so a difference is the difference of the whole.
    """

    def __init__(self, energy: Any, name: str, x: Tensor) -> None:
        product: Product = energy.space
        super().__init__(product.spaces[name])
        self.energy, self.name, self._packed = energy, name, x

    def forward(self, encoding: Encoding) -> Tensor:
        first = encoding
        while not isinstance(first, Tensor):  # of a member that is itself a Product
            first = next(iter(first.values()))
        rest = self._rows(first.shape[0])
        full = dict(self.energy.space.encode_as(rest, first.dtype))
        full[self.name] = encoding
        return self.energy(full)

    def _rows(self, n_rows: int) -> Tensor:
        n_chains = self._packed.shape[0]
        if n_rows == n_chains:
            return self._packed
        times, left = divmod(n_rows, max(1, n_chains))
        if left:
            raise ShapeError(
                f"`x` must hold the same number of candidates for each of the {n_chains} chains; got {n_rows} rows for "
                f"{self.name!r} given the rest. Use a kernel that evaluates every chain equally often."
            )
        return self._packed.repeat_interleave(times, dim=0)


@dataclass(frozen=True)
class Alternate(_Several):
    r"""Members of a Product in turn, each by a kernel of its own on its law given the others; one step moves each once.

    This is how discrete and real variables are sampled together: discrete members by any discrete kernel, Real ones by
    `langevin` (biased) or any kernel for reals. A member sees p(member | the rest at their present values), with
    gradients through the Product's encoding.

    Args:
        kernels: {member's name: kernel, registered name or (name, settings) pair}, in the order of their turns.
        default: for the discrete members that ``kernels`` does not name; they come after those, in the space's order.
    Invariant law: exp(−βE) if all kernels are ``exact``; not reversible. Cost: the sum of the members', plus one energy
    (and gradient) for each, because every member's law has changed since its last turn; caches about x are never kept.
    The other members of a product stay where they are during a turn, so kernels that look for structure in the energy
    (`block-gibbs`, cluster flips) find none here and refuse.
    Source: Geman & Geman 1984 for the blocks; any kernel within a block: Tierney 1994.
    """

    kernels: Mapping[str, Member] | Sequence[tuple[str, Member]] = ()
    default: Member = "gibbs"

    def __post_init__(self) -> None:
        try:
            pairs = dict(self.kernels)
        except (TypeError, ValueError):
            pairs = {None: None}  # type: ignore[dict-item]
        if not all(isinstance(name, str) for name in pairs):
            raise SettingError(f"`kernels` must be a dict of member's name to kernel; got {self.kernels!r}. "
                               "Try {'pixels': 'gwg', 'position': 'langevin'}.")
        object.__setattr__(self, "kernels", tuple((name, _as_kernel("kernels", member))
                                                  for name, member in pairs.items()))
        object.__setattr__(self, "default", _as_kernel("default", self.default))

    def _members(self) -> list[tuple[str, Kernel]]:
        return [*_pairs(self.kernels), ("default", self.default)]

    def _plan(self, space: Space) -> list[tuple[str, Kernel]]:
        """The members of this space in the order of their turns, each with its kernel."""
        if not isinstance(space, Product):
            raise CapabilityError(f"`alternate` must be used on a Product; got {space!r}. Use a kernel of its own.")
        named = dict(_pairs(self.kernels))
        unknown = [name for name in named if name not in space.spaces]
        if unknown:
            raise SettingError(f"`kernels` must name members of {', '.join(space.spaces)}; got {', '.join(unknown)}. "
                               "Check the spelling.")
        for name, member in space.spaces.items():
            if name not in named and not member.is_discrete:
                raise CapabilityError(
                    f"`kernels` must name a kernel for the real member {name!r}; got none. "
                    f"Try kernels={{{name!r}: 'langevin'}}, which is biased by its step size."
                )
        return [*named.items(), *((name, self.default) for name in space.spaces if name not in named)]

    @property
    def history(self) -> frozenset[str]:  # type: ignore[override]
        """The kernels' entries under their members' names, and those of the default under any name."""
        named = frozenset(f"{name}.{entry}" for name, kernel in _pairs(self.kernels) for entry in kernel.history)
        return _UnderAnyName(named, self.default.history)

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, N_total); starts every member once.

        Raises:
            CapabilityError: not a Product, or a real member without a kernel. SettingError: an unknown member.
        """
        plan = self._plan(energy.space)
        x, energies = start(energy, x0 if energy.space.is_discrete else x0.to(energy.space.dtype))
        kept: dict[str, Tensor] = {}
        for name, kernel in plan:
            part, mask = _part(energy.space, name, x, clamp)
            state = kernel.init(MemberGiven(energy, name, x), part, generator=generator, clamp=mask)
            kept |= _kept(kernel, name, state.cache)
        return ChainState(x, energies, kept, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One step of every member for all C chains."""
        space: Product = energy.space
        x, energies, cache, infos = state.x, state.energy, dict(state.cache), []
        for name, kernel in self._plan(space):
            part, mask = _part(space, name, x, clamp)
            given = ChainState(part, energies, cache, state.step)
            after, info = _turn(kernel, name, MemberGiven(energy, name, x), given, generator, beta, mask)
            x = space.pack({**space.split(x), name: after.x})
            energies = after.energy
            cache |= _kept(kernel, name, after.cache)
            infos.append(info)
        return ChainState(x, energies, cache, state.step + 1), _joined(infos, state.x, x)


def _pairs(kernels: Any) -> tuple[tuple[str, Kernel], ...]:
    """``Alternate.kernels`` as it is after the checks."""
    return kernels


class _UnderAnyName(frozenset[str]):
    """Some entries, and beside them ``entries`` under whatever name."""

    entries: frozenset[str]

    def __new__(cls, named: frozenset[str], entries: frozenset[str]) -> _UnderAnyName:
        new = super().__new__(cls, named)
        new.entries = entries
        return new

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or any(str(key).endswith(f".{entry}") for entry in self.entries)


def _part(space: Product, name: str, x: Tensor, clamp: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A member's states (C, *shape) and its part of the clamp."""
    member, first = space.spaces[name], 0
    for other, size in zip(space.spaces, space.sizes, strict=True):
        if other == name:
            break
        first += size
    part = space.split(x)[name]
    if clamp is None:
        return part, None
    mask = clamp[..., first:first + member.n_sites]
    return part, mask.reshape(*clamp.shape[:-1], *member.shape)


def _sweep(kernels: Sequence[Member] = ("gwg", "gibbs")) -> Sweep:
    return Sweep(kernels)


def _mixture(kernels: Sequence[Member] = ("gwg", "metropolis"), weights: Sequence[float] | None = None,
             choice: str = "chain") -> Mixture:
    return Mixture(kernels, weights, choice)


def _repeat(kernel: Member = "gwg", n: int = 3) -> Repeat:
    return Repeat(kernel, n)


def _alternate(kernels: Mapping[str, Member] | Sequence[tuple[str, Member]] = (),
               default: Member = "gibbs") -> Alternate:
    return Alternate(kernels, default)


# Built by functions and not by their classes: which spaces a combination fits is for its members to say, and what is
# registered here describes the default members only.
_DISCRETE = frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"})

register(SamplerSpec(
    name="sweep",
    build=_sweep,
    summary="one step of each of several kernels in turn",
    source="Tierney 1994",
    spaces=_DISCRETE,
    needs_gradient=True,
    exact=True,
    reversible=False,
    law="exp(−βE) if every member keeps it.",
    cost="The sum of the members'; one energy or gradient more for each that caches something about x.",
    use_when="Different moves help each other, e.g. single sites and clusters.",
))

register(SamplerSpec(
    name="mixture",
    build=_mixture,
    summary="one of several kernels, drawn with fixed probabilities",
    source="Tierney 1994",
    spaces=_DISCRETE,
    needs_gradient=True,
    exact=True,
    reversible=True,
    law="exp(−βE) if every member keeps it; reversible if every member is.",
    cost="The sum of the members' with choice='chain', one member's with choice='shared'.",
    use_when="An expensive move is wanted now and then, or a reversible combination is.",
))

register(SamplerSpec(
    name="repeat",
    build=_repeat,
    summary="several steps of one kernel as one",
    source="Tierney 1994",
    spaces=_DISCRETE,
    needs_gradient=True,
    exact=True,
    reversible=True,
    law="The kernel's own.",
    cost="n steps of the kernel.",
    use_when="Inside a sweep or mixture, so that a cache is used more than once.",
))

register(SamplerSpec(
    name="alternate",
    build=_alternate,
    summary="each member of a product by its own kernel, given the others",
    source="Geman & Geman 1984; Tierney 1994",
    spaces=frozenset({"Product"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    law="exp(−βE) if every kernel keeps its member's conditional law.",
    cost="The sum of the kernels', and one energy (and gradient) for each that caches something about x.",
    use_when="Discrete and real variables together, or members that want different kernels.",
))
