"""Draw molecules from a trained energy: fresh chains, chains from given molecules, or with a part kept fixed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from discrete_ebm.errors import MoleculeError, NonFiniteEnergyError, SettingError, SpaceError
from discrete_ebm.samplers.base import ChainState
from graph_ebm.advance import advance_chains
from graph_ebm.energies import ComposedEnergy
from graph_ebm.graphs import MoleculeSet, from_smiles
from graph_ebm.model import MolecularModel, single_atoms
from graph_ebm.moves import MolecularKernel
from graph_ebm.moves.tables import permute
from graph_ebm.space import MolecularSpace

__all__ = ["Generated", "clamp_substructure", "generate", "prepare_start", "run_chains", "starting_states"]


@dataclass
class Generated:
    """Molecules drawn: one per chain, all of them, in no order; nothing was filtered.

    ``x`` (n, V, V) int8, ``energy`` (n,), ``smiles``, ``acceptance`` by move, ``trace`` (lists by name over ``step``),
    ``expert_energies`` where the energy is a composition, ``interrupted`` (then fewer, and the last ones ran shorter).
    """

    x: Tensor
    space: MolecularSpace
    energy: Tensor
    acceptance: dict[str, float]
    trace: dict[str, list[float]]
    settings: dict[str, Any] = field(default_factory=dict)
    expert_energies: dict[str, Tensor] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def molecules(self) -> MoleculeSet:
        """The draws as a MoleculeSet (built once)."""
        if not hasattr(self, "_molecules"):
            self._molecules = MoleculeSet(self.x.cpu(), self.space)
        return self._molecules

    @property
    def smiles(self) -> list[str]:
        """Canonical SMILES, one per draw."""
        return self.molecules.smiles

    def __len__(self) -> int:
        return len(self.x)

    def table(self) -> dict[str, Any]:
        """Columns smiles, heavy_atoms, energy (nats) and one per expert."""
        experts = {f"energy_{name}": values.tolist() for name, values in self.expert_energies.items()}
        return {**self.molecules.table(), "energy": self.energy.tolist(), **experts}

    def grid(self, n: int = 20, columns: int = 5) -> str:
        """Drawings of the first n molecules as SVG text."""
        return self.molecules.grid(n, columns)


def prepare_start(
    space: MolecularSpace, n: int, start: list[str] | str | None, keep: str | None, device: torch.device | str
) -> tuple[Tensor, Tensor | None]:
    """(n starting states, clamp or None) as :func:`generate` uses them; what it raises can be asked for beforehand."""
    if keep is None:
        return starting_states(space, n, start, device), None
    _pattern(keep)
    if not start:
        _, rejected = from_smiles([keep], vocabulary=space.vocabulary, max_atoms=space.max_atoms)
        if len(rejected):
            first = next(iter(rejected))
            raise MoleculeError(
                f"`keep` must be a molecule of the model's types ({', '.join(space.vocabulary.names)}) to be its own "
                f"start; got {keep!r}: {first.reason}. Give molecules that contain it (start=[...], --start)."
            )
    return clamp_substructure(space, starting_states(space, n, start or [keep], device), keep)


def starting_states(space: MolecularSpace, n: int, start: list[str] | str | None, device: torch.device | str) -> Tensor:
    """n starting states: single atoms, or the given SMILES in turn (one string is one molecule).

    Raises:
        MoleculeError: a starting molecule cannot be read or does not fit the space.
    """
    if not start:
        return single_atoms(space, n, device)
    start = [start] if isinstance(start, str) else start
    molecules, rejected = from_smiles(start, vocabulary=space.vocabulary, max_atoms=space.max_atoms)
    if len(rejected):
        first = next(iter(rejected))
        raise MoleculeError(
            f"every starting molecule must fit the model (types {', '.join(space.vocabulary.names)}, at most "
            f"{space.max_atoms} atoms); got {first.text!r}: {first.reason}. Leave it out or train on such molecules."
        )
    return molecules.x.to(device)[torch.arange(n, device=device) % len(molecules)]


def _pattern(smarts: str) -> Any:
    """The RDKit query of a SMARTS.

    Raises:
        MoleculeError: it is none.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(smarts) if isinstance(smarts, str) and len(smarts) <= 1_000 else None
    if pattern is None or pattern.GetNumAtoms() == 0:
        raise MoleculeError(
            f"`keep` must be a SMARTS of at most 1,000 characters; got {str(smarts)[:80]!r}. Try e.g. 'c1ccccc1'."
        )
    return pattern


def clamp_substructure(space: MolecularSpace, x: Tensor, smarts: str) -> tuple[Tensor, Tensor]:
    """Put the atoms that match a SMARTS into the first slots and clamp them and the bonds among them.

    Atoms of which the SMARTS tells hydrogens, degree or valence ("[nH]", "[OX2H]") take no new bonds either: all their
    bonds are clamped.

    Returns:
        (states (C, V, V), clamp (C, V, V) bool). Kept atoms never leave their slots: removals move later atoms only.
    Raises:
        MoleculeError: a state does not contain the substructure.
    """
    from rdkit import Chem

    pattern = _pattern(smarts)
    closed = [
        atom.GetIdx()
        for atom in pattern.GetAtoms()
        if any(word in atom.DescribeQuery() for word in ("HCount", "Degree", "Valence"))
    ]
    orders = []
    v = space.max_atoms
    for mol in MoleculeSet(x.cpu(), space).mols():
        match = mol.GetSubstructMatch(pattern)
        if not match:
            raise MoleculeError(
                f"every starting molecule must contain {smarts!r}; got {Chem.MolToSmiles(mol)}. "
                "Give starting molecules that do (start=[...])."
            )
        # neighbours of closed atoms come next: they are told apart by those bonds, and so stay in their slots too
        near = [a.GetIdx() for i in closed for a in mol.GetAtomWithIdx(match[i]).GetNeighbors()]
        orders.append(list(dict.fromkeys([*match, *near, *range(v)])))
    arranged = permute(x, torch.tensor(orders, device=x.device))
    clamp = torch.zeros_like(arranged, dtype=torch.bool)
    size = pattern.GetNumAtoms()
    clamp[:, :size, :size] = True
    clamp[:, closed, :] = True
    clamp[:, :, closed] = True
    return arranged, clamp


def run_chains(
    energy: Any,
    kernel: MolecularKernel,
    x: Tensor,
    n_steps: int,
    *,
    generator: torch.Generator,
    beta: float | Tensor = 1.0,
    clamp: Tensor | None = None,
    progress: bool = True,
    label: str = "sampling",
    trace_points: int = 40,
    max_seconds: float | None = None,
    anneal: tuple[float, float] | None = None,
) -> tuple[ChainState, dict[str, float], dict[str, list[float]], bool]:
    """Run the kernel from x: ``(state, acceptance by move, trace, interrupted)``; Ctrl-C keeps the state reached.

    ``max_seconds`` ends the run by the clock, for all chains after the same number of steps (``trace["step"][-1]``).
    ``anneal`` = (share, low): during that first share of the run beta rises from low·beta to beta; the rest is at beta.

    Raises:
        NonFiniteEnergyError: the energy is NaN at the start or at the end.
    """
    state = kernel.init(energy, x, generator=generator)
    if state.energy.isnan().any():
        raise NonFiniteEnergyError("the energy of a starting molecule must be a number; got NaN. Train again.")
    tried = dict.fromkeys(kernel.names, 0)
    accepted = dict.fromkeys(kernel.names, 0.0)
    trace: dict[str, list[float]] = {"step": [], "mean energy": [], "mean heavy atoms": [], "acceptance": []}
    every = max(1, n_steps // trace_points)
    if max_seconds is not None:
        every = min(every, 25)  # the clock is looked at often enough; a fixed number, so that a seed still repeats
    interrupted = False
    done = 0
    began = time.perf_counter()
    try:
        with tqdm(total=n_steps, disable=not progress, desc=label, unit="step", leave=False) as bar:
            while done < n_steps and (max_seconds is None or time.perf_counter() - began < max_seconds):
                block = min(every, n_steps - done)
                now = beta
                if anneal is not None:
                    way = done / n_steps
                    if max_seconds is not None:
                        way = max(way, (time.perf_counter() - began) / max_seconds)
                    now = beta * min(1.0, anneal[1] + (1 - anneal[1]) * way / anneal[0])
                piece = advance_chains(kernel, energy, state, block, generator=generator, beta=now, clamp=clamp)
                state = piece.state
                bar.update(block)
                done += block
                for name in kernel.names:
                    tried[name] += piece.tried[name]
                    accepted[name] += piece.accepted[name]
                finite = state.energy[state.energy.isfinite()]
                trace["step"].append(done)
                trace["mean energy"].append(float(finite.mean()) if len(finite) else math.nan)
                trace["mean heavy atoms"].append(float((state.x.diagonal(dim1=1, dim2=2) > 0).sum(1).float().mean()))
                trace["acceptance"].append(sum(piece.accepted.values()) / max(1, sum(piece.tried.values())))
    except KeyboardInterrupt:
        interrupted = True
    if state.energy.isnan().any():
        raise NonFiniteEnergyError(f"the energy must stay a number; got NaN after {done} steps. Train the model again.")
    shares = {name: accepted[name] / tried[name] for name in kernel.names if tried[name]}
    return state, shares, trace, interrupted


def generate(
    model: MolecularModel,
    n: int = 1000,
    *,
    seed: int = 0,
    n_steps: int = 2000,
    start: list[str] | None = None,
    keep: str | None = None,
    beta: float | Tensor = 1.0,
    progress: bool = True,
    energy: Any = None,
    chunk: int = 1024,
    max_seconds: float | None = None,
    anneal: tuple[float, float] | None = (0.3, 0.3),
) -> Generated:
    """Draw n molecules, one per chain, each ``n_steps`` steps from its start.

    Args:
        model: trained by :func:`graph_ebm.train`. energy: another energy of its space (e.g. a composition).
        start: SMILES to start from, in turn; None = a single atom each, so nothing is copied from the training data.
        keep: SMARTS of a substructure that every molecule keeps: its atoms and the bonds among them are clamped; new
            bonds to them are allowed, except where the SMARTS tells an atom's hydrogens, degree or valence. Give whole
            rings: what it says of atoms outside it is not kept. A ring keeps its Kekulé bonds; inside a cage RDKit may
            no longer call it aromatic. Without ``start`` the substructure itself, read as SMILES, is the start.
        beta: inverse temperature, one number or (n,). chunk: chains that run together; with another chunk the
            molecules of a seed are others.
        max_seconds: end by the clock if it comes first; ``settings["n_steps"]`` then says how far the chains came.
        anneal: (share, low) for chains without ``start``: during the first share of the steps beta rises from low·beta
            to beta, so that growing chains are not held up by small molecules; the law of the rest is that of beta.
            None = beta throughout.
    Returns:
        Generated; every molecule is valid and connected by construction.
    Raises:
        MoleculeError: a start cannot be used or lacks the substructure. SettingError: n, n_steps or chunk below 1, or
        beta is negative or of another shape. SpaceError: ``energy`` has another space.
    """
    for name, value in (("n", n), ("n_steps", n_steps), ("chunk", chunk)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
    numbers = torch.as_tensor(beta)
    if numbers.dim() and numbers.shape != (n,):
        raise SettingError(f"`beta` must be one number or have shape ({n},); got shape {tuple(numbers.shape)}.")
    if not bool((numbers.isfinite() & (numbers >= 0)).all()):
        raise SettingError(f"`beta` must be finite and at least 0; got {beta!r}. 1 is the model's own law.")
    target = model.energy if energy is None else energy
    if getattr(target, "space", model.space) != model.space:
        raise SpaceError(
            f"`energy` must have the model's space {model.space!r}; got {target.space!r}. "
            "Train both on molecules of one vocabulary and max_atoms."
        )
    device = next((p.device for p in target.parameters()), torch.device("cpu"))
    generator = torch.Generator(device=device).manual_seed(seed)
    kernel = model.kernel
    x, clamp = prepare_start(model.space, n, start, keep, device)
    states: list[ChainState] = []
    weights, acceptance, traces = [], [], []
    interrupted = False
    for at in range(0, n, chunk):
        rows = slice(at, at + chunk)
        try:
            state, shares, trace, interrupted = run_chains(
                target,
                kernel,
                x[rows],
                n_steps,
                generator=generator,
                progress=progress,
                beta=numbers[rows] if numbers.dim() else float(beta),
                clamp=None if clamp is None else clamp[rows],
                label=f"sampling {min(at + chunk, n)}/{n}",
                max_seconds=None if max_seconds is None else max_seconds * len(x[rows]) / n,
                anneal=None if start else anneal,
            )
        except KeyboardInterrupt:  # before its first step
            if not states:
                raise
            interrupted = True
            break
        states.append(state)
        weights.append(len(state.x))
        acceptance.append(shares)
        traces.append(trace)
        if interrupted:
            break
    drawn = torch.cat([state.x for state in states])
    merged = {}
    for name in kernel.names:
        known = [(w, shares[name]) for w, shares in zip(weights, acceptance, strict=True) if name in shares]
        if known:
            merged[name] = sum(w * share for w, share in known) / sum(w for w, _ in known)
    experts = {}
    if isinstance(target, ComposedEnergy):
        with torch.no_grad():
            experts = target.expert_energies(drawn)
    done = min(int(trace["step"][-1]) if trace["step"] else 0 for trace in traces)
    return Generated(
        drawn,
        model.space,
        torch.cat([state.energy for state in states]),
        merged,
        traces[0],  # of the first chunk
        {
            "n": n,
            "seed": seed,
            "n_steps": done,
            "keep": keep,
            "start": start,
            "beta": numbers.tolist() if numbers.dim() else float(beta),
        },
        experts,
        interrupted,
    )
