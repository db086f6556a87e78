"""Experts by contrast: learn what the best molecules have beyond the base, without running chains on what is learned.

E_i = E₀ + D_i. D_i (count tables and a network, both zero at the start) is trained to tell the best molecules from a
background of all molecules and draws of the base; its optimum is −log of the ratio of their densities. Then it is
corrected where its own fresh samples still differ from the best molecules.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from discrete_ebm import checkpoint, training_state
from discrete_ebm.errors import DataError, SettingError, SpaceError
from discrete_ebm.fitting import data_digest, open_checkpoints
from discrete_ebm.guards import Guard
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.trainer import Batches, Trainer, clock_named
from graph_ebm.advance import advance_chains
from graph_ebm.energies import ComposedEnergy, MolecularEnergy
from graph_ebm.graphs import MoleculeSet
from graph_ebm.model import MolecularModel, single_atoms
from graph_ebm.moves import MolecularKernel
from graph_ebm.objectives import MoleculeBank, best_constant, starting_chains
from graph_ebm.training import NETWORKS, TrainSettings, torch_threads

__all__ = ["ExpertContrast", "OwnContrast", "tilt_of", "train_expert"]

OWN_CHAINS, OWN_STEPS, OWN_UPDATES = 1024, 800, 120  # fresh samples and updates of the correction


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
        bank.growing = _fresh(self.kernel, self.base, 128, 400, generator=generator)
        return bank

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


@dataclass(frozen=True)
class OwnContrast(Objective):
    r"""Logistic contrast of the best molecules with fresh samples of the expert as it was, E₀ + D_old.

    Log-odds: D − D_old + c, whose optimum is D = D_old − log p_best/p_expert: what the expert gets wrong about its own
    samples is put right, with the chains at rest while it is learned.

    ``samples`` (F, V, V); ``old``: D_old; ``penalty`` on the variance of D − D_old, 1/nats.
    Source: Gutmann & Hyvärinen 2010, with the model itself as the noise.
    """

    samples: Tensor
    old: Any
    penalty: float = 1e-3

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        rows = torch.randint(len(self.samples), (len(batch),), generator=generator, device=batch.device)
        x = torch.cat([batch, self.samples[rows]])
        with torch.no_grad():
            before = self.old.state_energy(x)
        change = energy.state_energy(x) - before
        best, own = change.chunk(2)
        c = best_constant(best.detach(), own.detach())
        loss = softplus(best + c).mean() + softplus(-(own + c)).mean()
        loss = loss + self.penalty * (change - change.detach().mean()).square().mean()
        terms = {
            "contrast": loss.detach(),
            "accuracy": ((best + c < 0).float().mean() + (own + c > 0).float().mean()) / 2,
        }
        return ObjectiveOutput(loss, terms, x[len(batch) :])


def _fresh(
    kernel: MolecularKernel,
    energy: Any,
    n_chains: int,
    n_steps: int,
    *,
    generator: torch.Generator,
    settled: bool = False,
    every: int = 10,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """States (F, V, V) of annealed chains from single atoms, ``every`` steps apart.

    beta rises from 0.3 to 1 within half of the steps. ``settled``: only states at beta = 1, the law itself, maybe
    none; else all that they pass. ``stop`` ends them early.
    """
    x = single_atoms(energy.space, n_chains, generator.device)
    state = kernel.init(energy, x, generator=generator)
    passed = [x[:0] if settled else x]
    for done in range(every, n_steps + 1, every):
        beta = min(1.0, 0.3 + 0.7 * (done - every) / (0.5 * n_steps))
        state = advance_chains(kernel, energy, state, every, generator=generator, beta=beta).state
        if beta == 1 or not settled:
            passed.append(state.x)
        if stop():
            break
    return torch.cat(passed)


def tilt_of(expert: MolecularModel) -> Any:
    """D of an expert made by :func:`train_expert`: its energy beyond the base."""
    energy = expert.energy
    if not isinstance(energy, ComposedEnergy) or energy.names != ("prior", "tilt"):
        raise SettingError(f"`expert` must come from train_expert; got an energy of {type(energy).__name__}.")
    return energy.experts[1]


@dataclass
class _Progress:
    """What the trainer of one part of an expert's training does not know; saved with its checkpoints.

    ``part``: 0 contrast, 1 correction. ``steps_before``: updates of the part before. ``earlier``, ``seconds``: spent
    when the part began, and by now. ``samples``, ``old``: what the correction compares with.
    """

    now: Callable[[], float]
    part: int = 0
    steps_before: int = 0
    earlier: float = 0.0
    history: dict[str, list[Any]] = field(default_factory=dict)
    samples: Tensor | None = None
    old: dict[str, Tensor] | None = None
    began: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "steps_before": self.steps_before,
            "earlier": self.earlier,
            "seconds": self.now() - self.began,
            "history": {name: list(column) for name, column in self.history.items()},
            "samples": self.samples,
            "old": self.old,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.part, self.steps_before, self.earlier = state["part"], state["steps_before"], state["earlier"]
        self.began = self.now() - state["seconds"]
        self.history.clear()
        self.history.update(state["history"])
        self.samples, self.old = state["samples"], state["old"]


def train_expert(
    molecules: MoleculeSet,
    base: MolecularModel,
    background: MoleculeSet,
    *,
    minutes: float = 5.0,
    n_iterations: int | None = None,
    epochs: float = 40.0,
    correct: bool = True,
    seed: int = 0,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    output: str | Path | None = None,
    settings: TrainSettings | None = None,
    label: str = "expert",
    checkpoint_every: int | None = None,
    resume: bool | str = False,
    notes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> MolecularModel:
    """Train an expert on the best molecules, over a base.

    Args:
        molecules: the best ones. base: a model of all of them. background: all of them (the best may be among them).
        minutes: at most; it also ends after ``epochs`` passes over ``molecules``, before they are learned by heart.
        correct: end with a correction by the expert's own samples (about a quarter of the time); see
            :class:`OwnContrast`.
        n_iterations: updates, in place of ``minutes`` and ``epochs``; repeats bit by bit for one seed and thread count.
        settings, changes: :class:`graph_ebm.training.TrainSettings`; network, hidden, layers, batch, n_steps,
            lr_contrast (network; ten times of it for the count tables), ema, clip and penalty are used.
        checkpoint_every, resume, notes: as in :func:`discrete_ebm.fit`: checkpoints in ``output``, and going on from
            the newest good one. The time that was spent counts; with ``n_iterations``, the run goes on to the bit.
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
    checkpoints = open_checkpoints(output, checkpoint_every, resume)
    if output is not None:
        checkpoint.make_folder(output)
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
    net = [] if network is None else list(network.parameters())
    clock = clock_named(plan.clock)
    seconds = None if n_iterations is not None else 60 * minutes
    state = _Progress(clock)
    reached: dict[str, Any] | None = None
    saving: dict[str, Any] = {"checkpoints": checkpoints, "notes": notes}
    if checkpoints is not None:
        saving["config"] = {
            "seed": seed,
            "minutes": minutes,
            "n_iterations": n_iterations,
            "epochs": epochs,
            "correct": correct,
            "threads": threads,
            **{f"settings.{name}": value for name, value in asdict(plan).items()},
            "molecules": data_digest(molecules.x),
            "background": data_digest(background.x),
            "base": data_digest(torch.cat([p.detach().flatten() for p in base.energy.parameters()])),
        }
        if resume and (found := checkpoints.newest(set_aside=True)) is not None:
            reached = training_state.read(found)[0]["own"]["extra"]

    def learn(objective: Objective, n_updates: int, until: float, scale: float, stage: str) -> bool:
        """Update the tilt, learning rates times ``scale``, until that share of the time is spent.

        Whether it ended in order.
        """
        nonlocal reached

        def record(trainer: Trainer, terms: dict[str, float]) -> bool:
            if trainer.iteration % max(1, n_updates // 60) == 0 or trainer.iteration == 1:
                row = {
                    "seconds": state.earlier + trainer.seconds,
                    "stage": stage,
                    "contrast": terms["contrast"],
                    "accuracy": terms["accuracy"],
                }
                for key, value in row.items():
                    state.history.setdefault(key, []).append(value)
            return False

        trainer = Trainer(
            tilt,
            objective,
            x,
            generator=generator,
            parameters=[{"params": tables, "lr": 10 * scale * plan.lr_contrast}]
            + ([{"params": net, "lr": scale * plan.lr_contrast}] if net else []),
            n_iterations=n_updates,
            betas=(0.9, 0.99),
            max_seconds=None if seconds is None else max(1e-3, until * seconds - state.earlier),
            clock=plan.clock,
            warmup=min(20, max(1, n_updates // 5)),
            decay="linear",
            clip=plan.clip,
            ema=min(plan.ema, 1 - 5 / (5 + n_updates)),
            guard=Guard(),
            extra=state,
            steps_before=state.steps_before,
            **saving,
        )
        batches = Batches(x, batch, generator)
        if reached is not None:
            trainer.resume(batches)
            reached = None
        done = trainer.run(batches, [record], progress, label=stage)
        if trainer.ema is not None and trainer.iteration:
            tilt.load_state_dict(trainer.ema.state_dict())
        state.steps_before += trainer.iteration
        return done

    def own_samples() -> Tensor:
        limit = None if seconds is None else 0.92 * seconds
        steps = OWN_STEPS if n_iterations is None else min(OWN_STEPS, 10 * n_iterations)
        return _fresh(
            home.kernel,
            expert,
            min(OWN_CHAINS, 4 * batch),
            steps,
            generator=generator,
            settled=True,
            every=OWN_STEPS // 8 if n_iterations is None else 10,
            stop=lambda: limit is not None and clock() - state.began > limit,
        )

    expert = ComposedEnergy({"prior": home.energy, "tilt": tilt})
    done = False
    with torch_threads(threads), contextlib.suppress(KeyboardInterrupt):  # what is learned by then is kept
        state.began = clock() - (0.0 if reached is None else reached["seconds"])
        if reached is not None:
            state.load_state_dict(reached)
        else:
            state.earlier = clock() - state.began
        if state.part == 0:
            done = learn(contrast, updates, 0.75 if correct else 1.0, 1.0, label)
        if correct and (done or state.part == 1):
            if state.part == 0:
                done = False
                state.samples = own_samples()
                state.old = {name: value.detach().clone() for name, value in tilt.state_dict().items()}
                state.part, state.earlier = 1, clock() - state.began
            done = True
            samples, before = state.samples, copy.deepcopy(tilt).requires_grad_(False)
            assert samples is not None
            assert state.old is not None
            before.load_state_dict(state.old)
            if len(samples):  # none: the time was over before the chains had come to the expert's law
                own = OwnContrast(samples.to(device), before, plan.penalty or 1e-3)
                more = OWN_UPDATES if n_iterations is None else max(1, n_iterations // 5)
                done = learn(own, more, 1.0, 0.3, f"{label}, corrected")
    model = MolecularModel(
        expert,
        base.space,
        base.moves,
        state.history,
        {
            "seed": seed,
            "minutes": minutes,
            "epochs": epochs,
            "molecules": len(molecules),
            "updates": state.steps_before,
        },
        interrupted=not done,
    )
    if output is not None:
        model.save(output)
    return model
