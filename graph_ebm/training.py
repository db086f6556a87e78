"""Train an energy of molecules: the local terms by persistent chains, the network against them, then both together.

Stage ``local``: the linear count energy alone, by persistent chains (seconds to a minute; its law is already close).
Stage ``contrast``: the network by logistic contrast with draws of the local law; no chain runs on the network.
Stage ``chains``: everything together by persistent chains that are never restarted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from discrete_ebm import checkpoint, training_state
from discrete_ebm.distributed import Processes, current, tells_all
from discrete_ebm.errors import (
    DataError,
    DivergenceError,
    NonFiniteEnergyError,
    SettingError,
    SpaceError,
)
from discrete_ebm.fitting import data_digest, generators, open_checkpoints
from discrete_ebm.guards import Guard
from discrete_ebm.packing import generator_state, set_generator
from discrete_ebm.step_folders import Checkpoints
from discrete_ebm.trainer import Batches, Trainer, clock_named
from graph_ebm.advance import advance_chains
from graph_ebm.energies import GraphEnergy, LocalEnergy, MolecularEnergy, RelationalEnergy, TransformerEnergy
from graph_ebm.graphs import MoleculeSet
from graph_ebm.model import MolecularModel, single_atoms
from graph_ebm.moves import mine_moves
from graph_ebm.objectives import MolecularPCD, MoleculeBank, ResidualContrast, starting_chains

__all__ = ["TrainSettings", "distance_to_data", "train"]

AUDIT_CHAINS, AUDIT_STEPS = 128, 60  # chains that never saw the data, and their steps at each audit
NETWORKS = {"relational": RelationalEnergy, "transformer": TransformerEnergy}


@dataclass(frozen=True)
class TrainSettings:
    """How a molecular energy is trained; the defaults are those of the recorded benchmarks.

    Args:
        network: "relational", "transformer" or None (local terms alone). hidden, layers: its size.
        shares: parts of the time for the stages local, contrast and chains.
        n_chains: persistent chains. batch: data rows and moved chains of an update. n_steps: kernel steps of an update.
        lr_local, lr_contrast: Adam's step sizes of the first two stages; lr_chains: of (local, network) in the third.
        ema: decay of the averaged copy that is kept. clip: largest gradient norm in stage contrast (None: any).
        penalty: weight of the energies' variance, 1/nats. fresh: share of the chains that start from single atoms.
        clock: what the minutes count: "wall", or "processor" time of this process: with one thread, minutes of one core
            whatever else the machine does.
    """

    network: str | None = "relational"
    hidden: int = 64
    layers: int = 4
    shares: tuple[float, float, float] = (0.25, 0.30, 0.45)
    n_chains: int = 1024
    batch: int = 512
    n_steps: int = 20
    lr_local: float = 0.03
    lr_contrast: float = 1e-3
    lr_chains: tuple[float, float] = (3e-3, 3e-4)
    ema: float = 0.99
    clip: float | None = 5.0
    penalty: float = 0.0
    fresh: float = 0.25
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.network is not None and self.network not in NETWORKS:
            raise SettingError(f"`network` must be one of {', '.join(NETWORKS)} or None; got {self.network!r}.")
        clock_named(self.clock)
        for name, count in (("shares", 3), ("lr_chains", 2)):
            values = getattr(self, name)
            fine = isinstance(values, tuple | list) and len(values) == count and all(_in(v, 0) for v in values)
            if not fine or sum(values) <= 0:
                raise SettingError(
                    f"`{name}` must be {count} non-negative numbers with a positive sum; got {values!r}. "
                    f"Default: {type(self).__dataclass_fields__[name].default}."
                )
        for name in ("hidden", "layers", "n_chains", "batch", "n_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
        for name in ("lr_local", "lr_contrast", "clip"):
            if name == "clip" and self.clip is None:
                continue
            if not _in(getattr(self, name), 0) or getattr(self, name) == 0:
                raise SettingError(f"`{name}` must be a positive finite number; got {getattr(self, name)!r}.")
        if not _in(self.ema, 0, 1) or self.ema == 1:
            raise SettingError(f"`ema` must be at least 0 and below 1; got {self.ema!r}. Try 0.99.")
        if not _in(self.fresh, 0, 1):
            raise SettingError(f"`fresh` must be between 0 and 1; got {self.fresh!r}. Default: 0.25.")
        if not _in(self.penalty, 0):
            raise SettingError(f"`penalty` must be a finite number of at least 0; got {self.penalty!r}. Default: 0.")


def _in(value: Any, low: float, high: float = math.inf) -> bool:
    """A finite number from low to high."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and low <= value <= high


def distance_to_data(local: LocalEnergy, x: Tensor, data: dict[str, Tensor]) -> float:
    """Mean total variation between the atom, bond, size and ring histograms of states x and of data.

    ``data`` comes from :func:`data_histograms`. In [0, 1]; 0 = equal histograms.
    """
    own = data_histograms(local, x)
    return sum(float(0.5 * (own[name] - data[name]).abs().sum()) for name in data) / len(data)


def data_histograms(local: LocalEnergy, x: Tensor) -> dict[str, Tensor]:
    """Normalised histograms of the local features of states x, by table."""
    counts = torch.stack([local.feature_counts(part).sum(0) for part in x.split(1024)]).sum(0)
    names = ["atom", "bond", "size"] + (["ring_count"] if local.layout.rings else [])
    tables = {name: local.layout.view(counts, name).flatten() for name in names}
    return {name: table / table.sum().clamp_min(1) for name, table in tables.items()}


class _Recorder:
    """Rows of the history, a bounded number of them, and an audit by chains that never saw the training data.

    ``length``: seconds of the training, or its updates when ``by_updates``; rows then depend on nothing but the seed.
    ``generator``: the audit's own, so that when it happens does not change what is learned. ``chain_steps``: those of
    an update. Audits take about a tenth of the training at most.
    """

    def __init__(
        self,
        model: MolecularModel,
        data: Tensor,
        length: float,
        generator: torch.Generator,
        bar: Any,
        *,
        by_updates: bool,
        chain_steps: int,
        clock: Callable[[], float],
    ) -> None:
        self.model, self.generator, self.bar, self.by_updates = model, generator, bar, by_updates
        self.clock = clock
        self.began = clock()
        self.updates = 0
        self.every = length / 120
        self.audit_every = length / 15
        if by_updates:
            self.audit_every = max(self.audit_every, 10 * AUDIT_CHAINS * AUDIT_STEPS / chain_steps)
        self.last = self.last_audit = -1e9
        self.stage = ""
        energy = model.energy
        self.local = next((m for m in energy.modules() if isinstance(m, LocalEnergy)), None)
        self.data = None if self.local is None else data_histograms(self.local, data[:8192])
        self.fresh: Tensor | None = None
        self.steps_before = 0  # updates of the stages before this one

    def __call__(self, trainer: Trainer, terms: dict[str, float]) -> bool:
        self.updates += 1
        seconds = self.clock() - self.began
        now = self.updates if self.by_updates else seconds
        self.bar.n = round(now, 1)
        self.bar.set_postfix_str(
            f"{self.stage}: "
            + ", ".join(f"{key} {terms[key]:.3g}" for key in ("gap", "accuracy", "acceptance") if key in terms),
            refresh=False,
        )
        self.bar.update(0)
        if now - self.last < self.every:
            return False
        self.last = now
        distance = float("nan")
        if self.stage != "contrast" and now - self.last_audit >= self.audit_every:
            self.last_audit = now
            distance = self._audit(trainer.ema if trainer.ema is not None else trainer.energy)
            if not self.by_updates:
                self.audit_every = max(self.audit_every, 10 * (self.clock() - self.began - now))
        state = trainer.state
        row = {
            "seconds": seconds,
            "stage": self.stage,
            "gap": terms.get("gap", float("nan")),
            "distance": distance,
            "acceptance": state.acceptance() if isinstance(state, MoleculeBank) else {},
            "mean_atoms": terms.get("mean_atoms", float("nan")),
            "energy_sd": terms.get("energy_sd", float("nan")),
            "accuracy": terms.get("accuracy", float("nan")),
        }
        for key, value in row.items():
            self.model.history.setdefault(key, []).append(value)
        return False

    def _audit(self, energy: Any) -> float:
        """Distance to the data of chains that started from single atoms and have run since, under today's energy."""
        if self.local is None or self.data is None:
            return float("nan")
        kernel, space = self.model.kernel, self.model.space
        x = single_atoms(space, AUDIT_CHAINS, self.generator.device) if self.fresh is None else self.fresh
        state = kernel.init(energy, x, generator=self.generator)
        state = advance_chains(kernel, energy, state, AUDIT_STEPS, generator=self.generator).state
        self.fresh = state.x
        return distance_to_data(self.local, state.x, self.data)

    def state_dict(self) -> dict[str, Any]:
        """What the trainer of one stage does not know: the stage, the whole energy, the history and the audit."""
        return {
            "stage": self.stage,
            "steps_before": self.steps_before,
            "energy": self.model.energy.state_dict(),
            "history": {name: list(column) for name, column in self.model.history.items()},
            "seconds": self.clock() - self.began,
            "counters": [self.updates, self.last, self.last_audit, self.audit_every],
            "generator": generator_state(self.generator),
            "fresh": self.fresh,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.stage, self.steps_before = state["stage"], state["steps_before"]
        self.model.energy.load_state_dict(state["energy"])
        self.model.history.clear()
        self.model.history.update(state["history"])
        self.began = self.clock() - state["seconds"]
        self.updates, self.last, self.last_audit, self.audit_every = state["counters"]
        set_generator(self.generator, state["generator"])
        self.fresh = None if state["fresh"] is None else state["fresh"].to(self.generator.device)


@contextlib.contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Torch's thread count for the duration."""
    before = torch.get_num_threads()
    try:
        if n is not None:
            torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)


@tells_all
def train(
    molecules: MoleculeSet,
    *,
    minutes: float | None = None,
    n_iterations: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    output: str | Path | None = None,
    base: MolecularModel | None = None,
    settings: TrainSettings | None = None,
    label: str = "training",
    checkpoint_every: int | None = None,
    resume: bool | str = False,
    notes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> MolecularModel:
    """Train an energy on molecules; started by torchrun, in several processes together (docs/distributed.md).

    Args:
        molecules: the data; their space becomes the model's.
        minutes: wall-clock time of all stages (default 5 when ``n_iterations`` is not given).
        n_iterations: updates of all stages, in place of ``minutes``; repeats bit by bit for one seed and thread count.
            With both, each stage ends at whichever comes first.
        seed: of every random number. threads: torch threads while training (default: as they are).
        output: folder to save the model to, also when the guard stops the training.
        base: a model of the same space to start from; then only the last stage runs.
        settings: a :class:`TrainSettings`; ``changes`` replace single fields of it.
        label: of the progress bar.
        checkpoint_every, resume, notes: as in :func:`discrete_ebm.fit`: checkpoints in ``output``, and going on from
            the newest good one. The time that was spent counts; with ``n_iterations``, the run goes on to the bit.
    Returns:
        MolecularModel with averaged parameters; ``interrupted`` if Ctrl-C ended it (what was learned is kept).
    Raises:
        DataError: fewer than two molecules. SpaceError: ``base`` has another space. NonFiniteEnergyError,
        DivergenceError: from the guard.
    """
    try:
        plan = replace(settings or TrainSettings(), **changes)
    except TypeError as cause:
        known = ", ".join(TrainSettings.__dataclass_fields__)
        raise SettingError(f"training settings must be among {known}; got {', '.join(changes)} ({cause}).") from cause
    if not isinstance(molecules, MoleculeSet):
        raise DataError(
            f"`molecules` must be a MoleculeSet; got {type(molecules).__name__}. Read them with "
            "graph_ebm.from_smiles(list) or graph_ebm.datasets.load(name)."
        )
    if len(molecules) < 2:
        raise DataError(f"`molecules` must hold at least 2 molecules; got {len(molecules)}. Loosen the filter.")
    if n_iterations is None and minutes is None:
        minutes = 5.0
    if minutes is not None and (not _in(minutes, 0) or minutes == 0):
        raise SettingError(f"`minutes` must be a positive finite number; got {minutes!r}.")
    if n_iterations is not None and (not _in(n_iterations, 1) or not isinstance(n_iterations, int)):
        raise SettingError(f"`n_iterations` must be a whole number of at least 1; got {n_iterations!r}.")
    if base is not None and base.space != molecules.space:
        raise SpaceError(
            f"`base` must have the molecules' space {molecules.space!r}; got {base.space!r}. "
            "Read the molecules with the base's vocabulary and max_atoms."
        )
    processes = current(device)
    device = processes.place(torch.device(device))
    checkpoints = open_checkpoints(output, checkpoint_every, resume, processes)
    if output is not None:
        checkpoint.make_folder(output)  # a folder that cannot be made is said now, not after the training
    generator, order = generators(seed, torch.device(device), processes)
    x = molecules.x.to(device)
    space = molecules.space
    with torch_threads(threads):
        if base is None:
            network = (
                None
                if plan.network is None
                else NETWORKS[plan.network](space, hidden=plan.hidden, layers=plan.layers, seed=seed)
            )
            energy: Any = MolecularEnergy(space, network=network).to(device)
            moves = mine_moves(molecules.x.cpu(), space.vocabulary.valence_table())
        else:
            energy = GraphEnergy.from_dict(base.energy.to_dict()).to(device)
            energy.load_state_dict(base.energy.state_dict())
            moves = base.moves
        model = MolecularModel(
            energy,
            space,
            moves,
            settings={
                "seed": seed,
                "minutes": minutes,
                "n_iterations": n_iterations,
                "molecules": len(molecules),
                "from_base": base is not None,
                **asdict(plan),
            },
        )
        saving: dict[str, Any] = {"checkpoints": checkpoints, "notes": notes}
        if checkpoints is not None:
            saving["config"] = {**model.settings, "threads": threads, "data": data_digest(molecules.x)}
        try:
            data = Batches(x, plan.batch, order, rank=processes.rank, n_ranks=processes.n)
            with processes.listening(patient=True):
                _run_stages(model, x, data, plan, minutes, n_iterations, generator, progress and processes.rank == 0,
                            label, from_base=base is not None, saving=saving, resume=bool(resume),
                            processes=processes)  # fmt: skip
        except KeyboardInterrupt:  # between two updates; during one, the stage itself ends in good order
            model.interrupted = True
        except (DivergenceError, NonFiniteEnergyError) as cause:
            if output is None:
                raise
            if processes.rank == 0:
                model.save(output)  # the last good parameters: nothing is lost
            processes.leave()
            raise type(cause)(f"{cause} They are saved in {output}.") from cause
    if output is not None and processes.rank == 0:
        model.save(output)
    processes.leave()
    return model


def _run_stages(
    model: MolecularModel,
    x: Tensor,
    data: Batches,
    plan: TrainSettings,
    minutes: float | None,
    n_iterations: int | None,
    generator: torch.Generator,
    progress: bool,
    label: str,
    *,
    from_base: bool,
    saving: dict[str, Any],
    resume: bool,
    processes: Processes,
) -> None:
    """Run the stages in turn; leaves averaged parameters in ``model.energy`` and the chains in ``model.chains``."""
    reached = _stage_reached(saving["checkpoints"], processes) if resume else None
    energy: Any = model.energy
    kernel = model.kernel
    network = energy.network if isinstance(energy, MolecularEnergy) else None
    has_local = isinstance(energy, MolecularEnergy) and energy.local is not None
    local_only = MolecularEnergy(model.space, local=energy.local) if has_local else energy
    shares = (0.0, 0.0, 1.0) if from_base else plan.shares if network is not None else (1.0, 0.0, 0.0)
    total = sum(shares)
    seconds = 60 * minutes if minutes is not None else None
    length = float(n_iterations or 1) if seconds is None else seconds
    # some chains start from single atoms, so that the way from there to real molecules is learned as well
    fresh = single_atoms(model.space, 0 if from_base else round(plan.fresh * plan.n_chains), x.device)
    bank = MoleculeBank(starting_chains(x, plan.n_chains, kernel, energy, generator=generator, fresh=fresh), kernel)
    pcd: dict[str, Any] = {
        "n_steps": plan.n_steps,
        "n_chains": plan.n_chains,
        "batch": plan.batch,
        "penalty": plan.penalty,
        "bank": bank,
    }
    parts = [] if network is None or not has_local else list(network.parameters())
    stages: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
        (
            "local",
            local_only,
            MolecularPCD(kernel, ramp=2, **pcd),
            list(local_only.parameters()),
            {"lr": plan.lr_local, "clip": None},
        ),
        (
            "contrast",
            energy,
            ResidualContrast(kernel, n_steps=plan.n_steps // 2, bank=bank, penalty=plan.penalty),
            parts,
            {"lr": plan.lr_contrast, "clip": plan.clip},
        ),
        (
            "chains",
            energy,
            MolecularPCD(kernel, **pcd),
            [{"params": list(local_only.parameters()), "lr": plan.lr_chains[0]}]
            + ([{"params": parts, "lr": plan.lr_chains[1]}] if parts else []),
            {"clip": None},
        ),
    ]
    unit = "updates" if minutes is None else "s"
    with tqdm(
        total=round(length, 1),
        disable=not progress,
        desc=label,
        unit=unit,
        bar_format=f"{{l_bar}}{{bar}}| {{n:.0f}}/{length:.0f} {unit} [{{remaining}} left] {{postfix}}",
    ) as bar:
        own = torch.Generator(device=generator.device).manual_seed(generator.initial_seed() + 7_919)
        recorder = _Recorder(
            model,
            x,
            length,
            own,
            bar,
            by_updates=minutes is None,
            chain_steps=plan.n_steps * plan.batch,
            clock=clock_named(plan.clock),
        )
        for (name, target, objective, parameters, options), share in zip(stages, shares, strict=True):
            if share == 0 or not parameters or reached not in (None, name):
                continue
            recorder.stage = name
            updates = 10**9 if n_iterations is None else max(1, round(n_iterations * share / total))
            trainer = Trainer(
                target,
                objective,
                x,
                generator=generator,
                parameters=parameters,
                n_iterations=updates,
                clock=plan.clock,
                max_seconds=None if seconds is None else max(1e-3, seconds * share / total),
                betas=(0.9, 0.99),
                warmup=min(20, max(1, updates // 5)),
                decay="linear",
                ema=plan.ema,
                guard=Guard(),
                state=bank,
                steps_before=recorder.steps_before,
                extra=recorder,
                processes=processes,
                **saving,
                **options,
            )
            if reached is not None:
                trainer.resume(data)
                trainer.steps_before, reached = recorder.steps_before, None
            done = trainer.run(data, [recorder])
            recorder.steps_before += trainer.iteration
            if trainer.ema is not None and trainer.iteration:
                target.load_state_dict(trainer.ema.state_dict())
            if not done:
                model.interrupted = True
                break
    model.chains = bank.chains


def _stage_reached(checkpoints: Checkpoints, processes: Processes) -> str | None:
    """The stage of the newest good checkpoint; None where there is none."""
    found = training_state.newest(checkpoints, processes)
    if found is None:
        return None
    state, _ = training_state.read(found, rank=processes.rank, n_ranks=processes.n)
    return str((state["own"]["extra"] or {}).get("stage"))
