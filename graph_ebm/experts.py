"""Experts by contrast: learn what the best molecules have beyond the base, without running chains on what is learned.

E_i = E₀ + D_i. D_i (count tables and a network, both zero at the start) is trained to tell the best molecules from a
background of all molecules and draws of the base; its optimum is −log of the ratio of their densities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from discrete_ebm.errors import DataError, SettingError, SpaceError
from discrete_ebm.guards import Guard
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.trainer import Batches, Trainer
from graph_ebm.advance import advance_chains
from graph_ebm.energies import ComposedEnergy, MolecularEnergy
from graph_ebm.graphs import MoleculeSet
from graph_ebm.moves import MolecularKernel
from graph_ebm.objectives import MoleculeBank, best_constant, starting_chains
from graph_ebm.training import NETWORKS, MolecularModel, TrainSettings, single_atoms, torch_threads

__all__ = ["ExpertContrast", "tilt_of", "train_expert"]


class _Background(MoleculeBank):
    """Persistent chains of the base, and states (F, V, V) that its fresh chains passed."""

    growing: Tensor


@dataclass(frozen=True)
class ExpertContrast(Objective):
    r"""Logistic contrast of the best molecules with a background: half of it data, a quarter persistent draws of the
    base, a quarter states that fresh chains of the base pass on their way from single atoms.

    Loss: mean softplus(D(best) + c) + mean softplus(−D(background) − c), c at its best value. Optimum:
    D = −log p_best/p_background + const. Then E₀ + D is close to the best molecules' law where the base agrees with the
    data, and corrects the base where it has mass that the data do not. Without the growing states D would be arbitrary
    on small molecules, and fresh chains would stay there.

    ``background`` (B, V, V) states; ``n_steps`` base steps an update; ``penalty`` on the variance of D, 1/nats.
    Source: Gutmann & Hyvärinen 2010.
    """

    kernel: MolecularKernel
    base: Any
    background: Tensor
    n_steps: int = 10
    n_chains: int = 512
    penalty: float = 0.0

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> MoleculeBank:
        chains = starting_chains(self.background, self.n_chains, self.kernel, self.base, generator=generator)
        bank = _Background(chains, self.kernel)
        bank.growing = self._grow(data.device, generator)
        return bank

    def _grow(self, device: torch.device, generator: torch.Generator, n_chains: int = 128, blocks: int = 40) -> Tensor:
        """States (F, V, V) of annealed chains of the base, from single atoms on; ten steps apart."""
        x = single_atoms(self.base.space, n_chains, device)
        state = self.kernel.init(self.base, x, generator=generator)
        passed = [x]
        for block in range(blocks):
            beta = min(1.0, 0.3 + 0.7 * block / (0.5 * blocks))
            state = advance_chains(self.kernel, self.base, state, 10, generator=generator, beta=beta).state
            passed.append(state.x)
        return torch.cat(passed)

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, _Background):
            raise SettingError(f"`state` must be what init gives; got {type(state).__name__}.")
        half, quarter = max(1, len(batch) // 2), max(1, len(batch) // 4)
        rows = torch.randperm(len(state.chains), generator=generator, device=batch.device)[:quarter]
        young = torch.randint(len(state.growing), (quarter,), generator=generator, device=batch.device)
        acceptance = state.advance(self.kernel, self.base, self.n_steps, generator=generator, rows=rows)
        others = torch.randint(len(self.background), (half,), generator=generator, device=batch.device)
        values = energy.state_energy(
            torch.cat([batch, state.chains[rows], state.growing[young], self.background[others]])
        )
        best, noise = values[: len(batch)], values[len(batch) :]
        c = best_constant(best.detach(), noise.detach())
        loss = softplus(best + c).mean() + softplus(-(noise + c)).mean()
        if self.penalty:
            loss = loss + self.penalty * (values - values.detach().mean()).square().mean()
        terms = {
            "contrast": loss.detach(),
            "acceptance": acceptance,
            "accuracy": ((best + c < 0).float().mean() + (noise + c > 0).float().mean()) / 2,
        }
        return ObjectiveOutput(loss, terms, state.chains[rows])


def tilt_of(expert: MolecularModel) -> Any:
    """D of an expert made by :func:`train_expert`: its energy beyond the base."""
    energy = expert.energy
    if not isinstance(energy, ComposedEnergy) or energy.names != ("prior", "tilt"):
        raise SettingError(f"`expert` must come from train_expert; got an energy of {type(energy).__name__}.")
    return energy.experts[1]


def train_expert(
    molecules: MoleculeSet,
    base: MolecularModel,
    background: MoleculeSet,
    *,
    minutes: float = 5.0,
    n_iterations: int | None = None,
    epochs: float = 40.0,
    seed: int = 0,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    output: str | Path | None = None,
    settings: TrainSettings | None = None,
    label: str = "expert",
    **changes: Any,
) -> MolecularModel:
    """Train an expert on the best molecules, over a base.

    Args:
        molecules: the best ones. base: a model of all of them. background: all of them (the best may be among them).
        minutes: at most; it also ends after ``epochs`` passes over ``molecules``, before they are learned by heart.
        n_iterations: updates, in place of ``minutes`` and ``epochs``; repeats bit by bit for one seed and thread count.
        settings, changes: :class:`graph_ebm.training.TrainSettings`; network, hidden, layers, batch, n_steps,
            lr_contrast (network; ten times of it for the count tables), ema, clip and penalty are used.
    Returns:
        MolecularModel whose energy is E₀ + D, saved and sampled like any other.
    Raises:
        DataError: fewer than two molecules. SpaceError: the spaces differ.
    """
    plan = replace(settings or TrainSettings(), **changes)
    if len(molecules) < 2 or len(background) < 2:
        raise DataError(
            f"`molecules` and `background` must hold at least 2 each; got {len(molecules)}, {len(background)}."
        )
    for name, other in (("molecules", molecules.space), ("background", background.space)):
        if other != base.space:
            raise SpaceError(f"`{name}` must have the base's space {base.space!r}; got {other!r}.")
    generator = torch.Generator(device=device).manual_seed(seed)
    home = base.to(device)
    network = (
        None
        if plan.network is None
        else NETWORKS[plan.network](base.space, hidden=plan.hidden, layers=plan.layers, seed=seed)
    )
    tilt = MolecularEnergy(base.space, network=network).to(device)
    x = molecules.x.to(device)
    contrast = ExpertContrast(
        home.kernel, home.energy, background.x.to(device), max(1, plan.n_steps // 2), penalty=plan.penalty or 1e-3
    )
    batch = min(plan.batch, 256)
    updates = n_iterations or max(20, round(epochs * len(molecules) / min(batch, len(molecules))))
    tables = [] if tilt.local is None else list(tilt.local.parameters())
    groups = [{"params": tables, "lr": 10 * plan.lr_contrast}]
    if network is not None:
        groups.append({"params": list(network.parameters()), "lr": plan.lr_contrast})
    history: dict[str, list[Any]] = {}

    def record(trainer: Trainer, terms: dict[str, float]) -> bool:
        every = max(1, updates // 60)
        if trainer.iteration % every == 0 or trainer.iteration == 1:
            seconds = trainer.history["seconds"][-1]
            row = {"seconds": seconds, "stage": label, "contrast": terms["contrast"], "accuracy": terms["accuracy"]}
            for key, value in row.items():
                history.setdefault(key, []).append(value)
        return False

    with torch_threads(threads):
        trainer = Trainer(
            tilt,
            contrast,
            x,
            generator=generator,
            parameters=groups,
            n_iterations=updates,
            betas=(0.9, 0.99),
            clock=plan.clock,
            max_seconds=60 * minutes if n_iterations is None else None,
            warmup=min(20, max(1, updates // 5)),
            decay="linear",
            clip=plan.clip,
            ema=plan.ema,
            guard=Guard(),
        )
        done = trainer.run(Batches(x, batch, generator), [record], progress)
    if trainer.ema is not None and trainer.iteration:
        tilt.load_state_dict(trainer.ema.state_dict())
    model = MolecularModel(
        ComposedEnergy({"prior": home.energy, "tilt": tilt}),
        base.space,
        base.moves,
        history,
        {"seed": seed, "minutes": minutes, "epochs": epochs, "molecules": len(molecules), "updates": trainer.iteration},
        interrupted=not done,
    )
    if output is not None:
        model.save(output)
    return model
