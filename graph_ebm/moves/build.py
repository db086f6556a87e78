"""From data to a kernel: what is mined once (type weights, ring patterns, fragments) and how moves are mixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.factored import FactoredNeighbourhood
from discrete_ebm.samplers.registry import SamplerSpec, register
from graph_ebm.moves.atoms import InsertAtom, RetypeAtom, RetypePair, SwapTypes, TerminalAtom
from graph_ebm.moves.bonds import BondOrder, Reattach, RingBond, ShiftBond
from graph_ebm.moves.fragments import MAX_TYPES, AttachFragment, FragmentLibrary, SwapFragment, mine_fragments
from graph_ebm.moves.kernel import MolecularKernel
from graph_ebm.moves.rings import RepaintRing, RingPatterns, mine_ring_patterns

__all__ = ["DEFAULT_WEIGHTS", "MoveSettings", "build_kernel", "mine_moves"]

# Relative frequencies of the moves; chosen by accepted edits per second on QM9 and ZINC (benchmarks/suites/moves.py).
DEFAULT_WEIGHTS: dict[str, float] = {
    "retype": 0.10,
    "retype-pair": 0.04,
    "swap-types": 0.08,
    "terminal-atom": 0.12,
    "insert-atom": 0.12,
    "bond-order": 0.08,
    "ring-bond": 0.13,
    "shift-bond": 0.04,
    "reattach": 0.15,
    "attach-fragment": 0.05,
    "swap-fragment": 0.10,
    "repaint-5": 0.05,
    "repaint-6": 0.05,
    "repaint-types-5": 0.03,
    "repaint-types-6": 0.03,
}


@dataclass(frozen=True)
class MoveSettings:
    """What the moves need beside the state: all tensors, so that it is saved with a model.

    ``valence`` (K+1,) int64; ``type_weight`` (K+1,) float; ``library`` of pendant fragments; ``patterns`` of rings by
    the name of their move.
    """

    valence: Tensor
    type_weight: Tensor
    library: FragmentLibrary | None = None
    patterns: dict[str, RingPatterns] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Flat tensors for a safetensors file."""
        flat = {"valence": self.valence, "type_weight": self.type_weight}
        if self.library is not None:
            flat |= {f"library.{name}": getattr(self.library, name) for name in self.library.__dataclass_fields__}
        for name, pattern in self.patterns.items():
            flat |= {f"patterns.{name}.{part}": getattr(pattern, part) for part in pattern._fields}
        return flat

    def to(self, device: torch.device | str) -> MoveSettings:
        """The settings on a device, so that a step copies nothing to it."""
        return MoveSettings.from_tensors({name: tensor.to(device) for name, tensor in self.tensors().items()})

    @classmethod
    def from_tensors(cls, flat: dict[str, Tensor]) -> MoveSettings:
        """Inverse of :meth:`tensors`."""
        fields = FragmentLibrary.__dataclass_fields__
        library = FragmentLibrary(*(flat[f"library.{name}"] for name in fields)) if "library.sizes" in flat else None
        names = sorted({key.split(".")[1] for key in flat if key.startswith("patterns.")})
        patterns = {n: RingPatterns(*(flat[f"patterns.{n}.{part}"] for part in RingPatterns._fields)) for n in names}
        return cls(flat["valence"], flat["type_weight"], library, patterns)


def mine_moves(
    x: Tensor, valence: Tensor, *, fragments: int = 150, ring_sizes: tuple[int, ...] = (5, 6)
) -> MoveSettings:
    """Mine type weights (square roots of frequencies), pendant fragments and ring patterns from data x (B, V, V).

    No fragments are mined for more than 31 atom types: their exact codes would not fit.
    """
    valence = valence.long().cpu()
    types = x.diagonal(dim1=1, dim2=2).long().flatten()
    counts = torch.bincount(types, minlength=len(valence)).float()
    counts[0] = 0
    weight = (counts / counts.sum()).sqrt()
    patterns: dict[str, RingPatterns] = {}
    for size in ring_sizes:
        if x.shape[-1] < size:
            continue
        for prefix, with_types in (("repaint", False), ("repaint-types", True)):
            mined = mine_ring_patterns(x, valence, size, with_types=with_types)
            if mined is not None:
                patterns[f"{prefix}-{size}"] = mined
    library = mine_fragments(x, valence, most=fragments) if fragments and len(valence) <= MAX_TYPES + 1 else None
    return MoveSettings(valence, weight / weight.sum(), library, patterns)


def build_kernel(settings: MoveSettings, *, weights: dict[str, float] | None = None, **options: Any) -> MolecularKernel:
    """The kernel over all moves that the settings allow; ``weights`` replaces or adds to the default mixture."""
    valence, type_weight = settings.valence, settings.type_weight
    moves: list[FactoredNeighbourhood] = [
        RetypeAtom(valence, type_weight),
        RetypePair(valence, type_weight),
        SwapTypes(valence, type_weight),
        TerminalAtom(valence, type_weight),
        InsertAtom(valence, type_weight),
        BondOrder(valence),
        RingBond(valence),
        ShiftBond(valence),
        Reattach(valence),
    ]
    if settings.library is not None:
        moves += [AttachFragment(valence, settings.library), SwapFragment(valence, settings.library)]
    for name, patterns in settings.patterns.items():
        moves.append(RepaintRing(name, valence, int(name.rsplit("-", 1)[1]), patterns))
    mixture = DEFAULT_WEIGHTS | (weights or {})
    return MolecularKernel(tuple(moves), tuple(mixture.get(move.name, 0.03) for move in moves), **options)


def _build_molecular(settings: MoveSettings | None = None, **options: Any) -> MolecularKernel:
    """:func:`build_kernel`, with a sentence for those who ask for the sampler by its name alone."""
    if not isinstance(settings, MoveSettings):
        got = "nothing" if settings is None else type(settings).__name__
        raise SettingError(
            f"`settings` of the sampler 'molecular' must be a MoveSettings; got {got}. Take a trained model's kernel, "
            "sampler=model.kernel, or build one: create('molecular', settings=mine_moves(x, valence))."
        )
    return build_kernel(settings, **options)


# The entry point of the group `discrete_ebm.samplers` names this object, so it is registered once either way.
molecular_sampler = SamplerSpec(
    name="molecular",
    build=_build_molecular,
    summary="one valence-keeping edit of a molecule, by moves mined from data, with delayed acceptance",
    source="Hastings 1970; Christen & Fox 2005 for the two stages",
    spaces=frozenset({"Molecular"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    use_when="Molecules; a trained model brings it with its moves as `model.kernel`.",
)
register(molecular_sampler)
