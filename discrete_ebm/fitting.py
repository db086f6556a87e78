"""``de.fit``: train an energy on data, with its files, checkpoints and resume."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm import checkpoint, objectives, training_state
from discrete_ebm.chain_inputs import check_device, make_generator
from discrete_ebm.distributed import ALONE, Processes, current, is_first, stream_seed, tells_all
from discrete_ebm.energies.base import as_one_law, energy_device
from discrete_ebm.errors import CapabilityError, CheckpointError, DataError, SettingError
from discrete_ebm.guards import Guard
from discrete_ebm.objectives.base import Objective
from discrete_ebm.objectives.needs import check_training_data
from discrete_ebm.schedules import Schedule
from discrete_ebm.step_folders import Checkpoints
from discrete_ebm.trainer import Batches, Callback, Trainer

__all__ = ["Fitted", "checkpoint_notes", "data_digest", "fit", "generators", "open_checkpoints", "write_run"]


@dataclass
class Fitted:
    """What a training gives.

    ``energy``: the trained energy (the object that was given); ``ema``: an evaluated copy with averaged parameters;
    ``history``: one list per logged quantity, all of equal length (nan where an update did not log it); ``chains``:
    states (n, *shape) of the persistent chains, else the last negatives, or None; ``interrupted``: Ctrl-C ended it;
    ``seconds``: of all sessions of a resumed run; ``events``: returns to a good state after a divergence, a dict each.
    """

    energy: Any
    ema: Any
    history: dict[str, list[float]] = field(default_factory=dict)
    chains: Tensor | None = None
    interrupted: bool = False
    seconds: float = 0.0
    output: Path | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


@tells_all
def fit(
    energy: Any,
    data: Any,
    objective: Objective | str = "pcd",
    n_iterations: int = 1000,
    batch_size: int = 100,
    lr: float = 1e-3,
    seed: int | torch.Generator = 0,
    output: str | Path | None = None,
    progress: bool = True,
    *,
    optimizer: str = "adam",
    warmup: int | None = None,
    decay: Schedule | str = "constant",
    clip: float | None = 10.0,
    ema: float | None = 0.999,
    penalty: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    parameters: Iterable[Any] | None = None,
    guard: Guard | None = Guard(),
    callbacks: Sequence[Callback] = (),
    max_seconds: float | None = None,
    device: str | torch.device | None = None,
    checkpoint_every: int | None = None,
    resume: bool | str = False,
    notes: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train ``energy`` on ``data``, in place.

    Started by torchrun in several processes, all of them train one energy together, each with its own chains and
    ``batch_size`` rows an update; see docs/distributed.md.

    Args:
        energy: a torch module with a ``space``; its train/eval mode is left alone.
        data: states (n, *shape), or an object with ``len`` and ``[rows]`` whose batches the objective understands.
        objective: an Objective, e.g. ``de.objectives.PCD(sampler="gwg", n_steps=10)``, or a registered name.
        n_iterations: updates. batch_size: rows per update, at most all of them. lr: the optimizer's step size.
        seed: an int, or, in one process, a ``torch.Generator`` on the energy's device.
        output: folder for energy.safetensors, ema.safetensors, history.csv, run.json and checkpoints/; None = nothing
            is written.
        progress: show a progress bar.
        optimizer: "adam", or "sgd", plain gradient descent: for RBMs, at the larger lr of their recipes.
        warmup: updates of linear warm-up; a twentieth of ``n_iterations`` when None.
        decay: "constant"; "linear" or "cosine" to 0; "step"; or a ``discrete_ebm.schedules.Schedule``.
        clip: largest gradient norm; None = no clipping. ema: decay of the averaged copy; None = none is kept.
        penalty: energy-magnitude weight, set on the objective; None = leave the objective as it is.
        parameters: parameters or groups ``{"params": ..., "lr": ...}``; None = all that require gradients.
        guard: what counts as divergence and how often to go back and try again; None = stop at the first non-finite
            number, and look for nothing else.
        callbacks: called as ``callback(trainer, terms)`` after each update; a true result ends the training.
        max_seconds: wall-clock limit; decay then follows the clock and runs are not repeatable.
        device: where to train, the energy is moved there; None = where it is.
        checkpoint_every: updates between checkpoints in ``output``; None = about every minute, at most 1 % of the time;
            0 = none. They are written at the end and at Ctrl-C as well; the last three are kept.
        resume: go on from the newest good checkpoint in ``output``, to the bit on the same machine, versions and thread
            count, given the same energy, data and settings (``n_iterations`` and ``max_seconds`` may grow, and count
            from the start of the run). "auto" = begin anew where there is none.
        notes: kept in each checkpoint, JSON-able: for whoever resumes, e.g. how the run was started.
    Returns:
        Fitted: ``.energy``, ``.ema``, ``.history``, ``.chains``. Ctrl-C ends early and keeps what is done.
    Raises:
        SettingError, ShapeError, SpaceError, DataError, CapabilityError: a wrong argument, before any update.
        NonFiniteEnergyError, DivergenceError: training went wrong; the energy holds the last good parameters, which
            are also in ``output``.
        CheckpointError: a checkpoint cannot be written or read; older ones are intact.
        RankError: another process failed or is gone.
    """
    processes = current(device if device is not None else energy_device(energy))
    energy = as_one_law(energy)
    if not isinstance(energy, nn.Module):
        raise CapabilityError(
            f"`energy` must be a torch module to be trained; got {type(energy).__name__}. "
            "Wrap it with de.from_callable(module, space)."
        )
    objective = objectives.create(objective) if isinstance(objective, str) else objective
    if penalty is not None:
        if not (is_dataclass(objective) and hasattr(objective, "penalty")):
            raise SettingError(f"`penalty` must be None for {type(objective).__name__}, which has none; got {penalty}.")
        objective = replace(objective, penalty=penalty)
    if device is not None:
        energy.to(processes.place(check_device(device)))
    place = next((t.device for t in [*energy.parameters(), *energy.buffers()]), torch.device("cpu"))
    generator, order = generators(seed, place, processes)
    data = _prepared(energy.space, data, place)
    batches = Batches(data, batch_size, order, rank=processes.rank, n_ranks=processes.n)
    check_training_data(energy.space, data, batch_size * processes.n)
    checkpoints = open_checkpoints(output, checkpoint_every, resume, processes)
    trainer = Trainer(
        energy,
        objective,
        data,
        generator=generator,
        n_iterations=n_iterations,
        lr=lr,
        parameters=parameters,
        optimizer=optimizer,
        betas=betas,
        weight_decay=weight_decay,
        warmup=warmup,
        decay=decay,
        clip=clip,
        ema=ema,
        guard=guard,
        max_seconds=max_seconds,
        checkpoints=checkpoints,
        notes=notes,
        processes=processes,
        config=None
        if checkpoints is None
        else {
            "energy": type(energy).__name__,
            "objective": _described(objective),
            "batch_size": batches.batch_size,
            "lr": lr,
            "seed": seed if isinstance(seed, int) else None,
            "warmup": warmup,
            "decay": decay if isinstance(decay, str) else asdict(decay),
            "clip": clip,
            "ema": ema,
            "betas": list(betas),
            "weight_decay": weight_decay,
            "guard": None if guard is None else asdict(guard),
            "data": data_digest(data),
            **({} if optimizer == "adam" else {"optimizer": optimizer}),
        },
    )
    if resume:
        trainer.resume(batches)
    folder = None if output is None else checkpoint.make_folder(output)  # last of the checks: no empty folder is left
    settings = {
        "objective": repr(objective),
        "n_iterations": n_iterations,
        "batch_size": batches.batch_size,
        "lr": lr,
        "seed": seed if isinstance(seed, int) else None,
        "rows": len(data),
        **({"processes": processes.n} if processes.n > 1 else {}),
    }
    finished = False
    try:
        finished = trainer.run(batches, callbacks, progress)
    finally:
        fitted = Fitted(
            energy,
            trainer.ema,
            trainer.history,
            trainer.state.chains if trainer.state.chains is not None else trainer.negatives,
            interrupted=not finished,
            seconds=trainer.seconds,
            output=folder,
            events=trainer.events,
        )
        if folder is not None and processes.rank == 0:
            write_run(fitted, folder, {**settings, "iterations": trainer.iteration, "finished": finished})
        processes.leave()  # none ends, and has the others ended with it, before the files are written
    return fitted


def generators(
    seed: int | torch.Generator, device: torch.device, processes: Processes = ALONE
) -> tuple[torch.Generator, torch.Generator]:
    """``(of this process, of the order of the data)``: one and the same for one process, else all different.

    Raises:
        SettingError: a generator for several processes.
    """
    if processes.n == 1:
        one = make_generator(seed, device)
        return one, one
    if isinstance(seed, torch.Generator):
        raise SettingError(
            "`seed` must be an int for several processes, whose random streams are made from it; got a generator. "
            "Use seed=0."
        )
    make_generator(seed, device)  # refuses what is no seed
    own, order = (torch.Generator(device).manual_seed(stream_seed(seed, k)) for k in (processes.rank + 1, 0))
    return own, order


def write_run(fitted: Fitted, folder: Path, settings: dict[str, Any]) -> None:
    """The files of a training run; each appears whole or not at all."""
    checkpoint.save(fitted.energy, folder / "energy.safetensors")
    if fitted.ema is not None:
        checkpoint.save(fitted.ema, folder / "ema.safetensors")
    if fitted.chains is not None:
        checkpoint.save_tensors({"chains": fitted.chains}, folder / "chains.safetensors", {})
    with checkpoint.atomic_file(folder / "history.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(fitted.history)
        writer.writerows(zip(*fitted.history.values(), strict=True))
    record = {
        "kind": "train",
        **settings,
        "seconds": fitted.seconds,
        "events": fitted.events,
        **checkpoint.versions(),
    }
    checkpoint.write_text(folder / "run.json", json.dumps(record, indent=2) + "\n")


def open_checkpoints(
    output: str | Path | None, every: int | None, resume: bool | str, processes: Processes = ALONE
) -> Checkpoints | None:
    """Where this training saves, if anywhere; one that starts anew never mixes with the checkpoints of another."""
    if resume not in (False, True, "auto"):
        raise SettingError(f"`resume` must be True, False or 'auto'; got {resume!r}.")
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 0):
        raise SettingError(f"`checkpoint_every` must be a whole number of updates, or None; got {every!r}. 0 = never.")
    if output is None or every == 0:
        if resume or every:
            raise SettingError(
                f"`output` must be given and `checkpoint_every` not be 0 to save or resume; got output={output!r}, "
                f"checkpoint_every={every!r}. Name the run's folder."
            )
        return None
    checkpoints = Checkpoints(
        Path(output) / "checkpoints", every, rank=processes.rank, n_ranks=processes.n, barrier=processes.wait
    )
    if not resume and checkpoints.steps():
        raise SettingError(
            f"`output` must not hold the checkpoints of another training; got {output}, with "
            f"{checkpoints.path(checkpoints.steps()[-1]).name}. Go on from there with resume=True, or choose another."
        )
    if resume is True and not checkpoints.steps():
        raise CheckpointError(
            f"`output` must hold a checkpoint to resume from; got {output}, which has none. Check the folder, or use "
            "resume='auto' to begin where there is none."
        )
    return checkpoints


def checkpoint_notes(output: str | Path) -> dict[str, Any]:
    """The notes of a run's newest good checkpoint.

    Raises:
        CheckpointError: the folder has no good checkpoint.
    """
    found = Checkpoints(Path(output) / "checkpoints").newest(set_aside=is_first())
    if found is None:
        raise CheckpointError(f"`{output}` must hold a checkpoint to resume from; got none. Check the folder.")
    return dict(training_state.read_record(found)["notes"])


def _described(objective: Objective) -> str:
    """The objective's settings as text that is the same in another process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(objective)) if is_dataclass(objective) else type(objective).__name__


def data_digest(data: Any) -> str:
    """What tells one data set from another: its size, and a digest of its values where it is a tensor."""
    if not isinstance(data, Tensor):
        return f"{type(data).__name__}, {len(data)} rows"
    values = checkpoint.plain(data).reshape(-1).view(torch.uint8).numpy()
    return f"{data.dtype}, {tuple(data.shape)}, sha256 {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


def _prepared(space: Any, data: Any, device: torch.device) -> Any:
    """States checked against the space and moved; other collections are left to the objective."""
    if isinstance(data, Tensor) or not (hasattr(data, "__len__") and hasattr(data, "space")):
        data = space.validate(data)
        if data.shape[0] == 0:
            raise DataError("`data` must hold at least one row; got none. Look at the filters before this.")
        return data.to(device)
    return data
