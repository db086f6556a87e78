"""The whole state of a training: taken, put back, written to and read from the files of one checkpoint.

A state is a nesting of tensors and plain numbers: ``model``, ``buffers`` (those that a state dict leaves out), ``ema``,
``optimizer``, ``loop`` (counters, the guard's memory), and ``own``, what each process has for itself: chains, position
in the data, generators.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from discrete_ebm.checkpoint import energy_bytes, plain, versions
from discrete_ebm.distributed import ALONE, Processes
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, EBMError, RecoveryWarning
from discrete_ebm.packing import generator_state, map_tensors, pack, set_generator, unpack
from discrete_ebm.step_folders import Checkpoints, StepFiles

if TYPE_CHECKING:
    from discrete_ebm.trainer import Trainer

__all__ = ["SCHEMA", "copy_of", "newest", "note_differences", "read", "read_record", "restore", "take", "to_files"]

KIND, SCHEMA = "discrete_ebm.training", 1


def take(trainer: Trainer) -> dict[str, Any]:
    """The present state; its tensors are the trainer's own, so copy it before the next update."""
    batches, extra = trainer.batches, trainer.extra
    own = {
        "chains": trainer.state.state_dict(),
        "negatives": trainer.negatives,
        "data": batches.state_dict() if hasattr(batches, "state_dict") else None,
        "generators": {"training": generator_state(trainer.generator)},
        "extra": extra.state_dict() if extra is not None and trainer.checkpoints is not None else None,
    }
    return {
        "model": trainer.energy.state_dict(),
        "buffers": _other_buffers(trainer.energy),
        "ema": None if trainer.ema is None else trainer.ema.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "loop": {
            "iteration": trainer.iteration,
            "seconds": trainer.seconds,
            "lr_scale": trainer.lr_scale,
            "tries": trainer.tries,
            "events": [dict(event) for event in trainer.events],
            "warmup": trainer.warmup,
            "watch": None if trainer.watch is None else trainer.watch.state_dict(),
        },
        "own": own,
    }


def copy_of(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that later updates do not change."""
    return map_tensors(state, lambda tensor: tensor.detach().clone())


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a state back, in place: the energy, the chains and the generator stay the objects that they are.

    Raises:
        CheckpointError: it does not fit this training.
    """
    loop, own = state["loop"], state["own"]
    try:
        trainer.energy.load_state_dict(state["model"])
        others = _other_buffers(trainer.energy)
        for name, value in state["buffers"].items():
            others[name].copy_(value)
        if trainer.ema is not None:
            trainer.ema.load_state_dict(state["ema"])
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.state.load_state_dict(_like(trainer.generator.device, own["chains"]))
        if trainer.watch is not None and loop["watch"] is not None:
            trainer.watch.load_state_dict(loop["watch"])
        if own["data"] is not None and hasattr(trainer.batches, "load_state_dict"):
            trainer.batches.load_state_dict(own["data"])
        set_generator(trainer.generator, own["generators"]["training"])
    except EBMError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as cause:
        raise CheckpointError(
            f"a checkpoint must fit the training that goes on from it; got {type(cause).__name__}: "
            f"{' '.join(str(cause).split())[:300]} Use the energy, objective and settings it was made with."
        ) from cause
    negatives = own["negatives"]
    trainer.negatives = None if negatives is None else negatives.to(trainer.generator.device)
    trainer.iteration = loop["iteration"]
    trainer.lr_scale, trainer.tries, trainer.warmup = loop["lr_scale"], loop["tries"], loop["warmup"]
    trainer.events[:] = [dict(event) for event in loop["events"]]


def note_differences(record: Mapping[str, Any], path: Path) -> None:
    """Say what keeps a run from going on to the bit: other versions, another number of threads."""
    here = {"threads": torch.get_num_threads(), **versions()}
    then = {"threads": record["threads"], **record["versions"]}
    other = [f"{name} {then.get(name)} then, {value} now" for name, value in here.items() if then.get(name) != value]
    if other:
        warnings.warn(f"{path} goes on, though not to the bit: {'; '.join(other)}.", RecoveryWarning, stacklevel=3)


def _like(device: torch.device, state: Any) -> Any:
    return map_tensors(state, lambda tensor: tensor if tensor.device == device else tensor.to(device))


def _other_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that the state dict does not hold."""
    kept = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in kept}


# -- files ----------------------------------------------------------------------------------------------------------


def to_files(
    trainer: Trainer, state: dict[str, Any], *, rank: int, n_ranks: int
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """``(shared, own)`` files of one checkpoint, by name; see :class:`discrete_ebm.step_folders.Checkpoints`."""
    rows = state["loop"]["iteration"]
    history = {name: torch.tensor(column[:rows], dtype=torch.float64) for name, column in trainer.history.items()}
    sections = {
        "model": state["model"],
        "ema": state["ema"],
        "optimizer": state["optimizer"],
        "history": {"history": history, "buffers": state["buffers"]},
    }
    skeletons: dict[str, Any] = {}
    shared: dict[str, bytes] = {}
    for name, value in sections.items():
        skeletons[name], tensors = pack(value)
        if name == "model" or (name == "ema" and value is not None):
            shared[f"{name}.safetensors"] = energy_bytes(trainer.energy, tensors)
        elif tensors:
            shared[f"{name}.safetensors"] = _bytes(tensors)
    record = {
        "kind": KIND,
        "schema": SCHEMA,
        "step": trainer.steps_before + rows,
        "n_ranks": n_ranks,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "config": trainer.config,
        "notes": trainer.notes,
        "loop": pack(state["loop"])[0],
        "sections": skeletons,
    }
    shared["state.json"] = _json(record)
    skeleton, tensors = pack(state["own"])
    return shared, {
        f"chains-rank{rank}.safetensors": _bytes(tensors),
        f"state-rank{rank}.json": _json({"kind": KIND, "schema": SCHEMA, "rank": rank, "own": skeleton}),
    }


def newest(checkpoints: Checkpoints, processes: Processes = ALONE) -> StepFiles | None:
    """The newest good checkpoint, the same for all processes; damaged ones are put aside by the first of them.

    Raises:
        CorruptCheckpointError: all of them are damaged.
        RankError: the processes see different ones: their disk is not the same.
    """
    found = checkpoints.newest(set_aside=True) if processes.rank == 0 else None
    processes.agree("looking for a checkpoint")  # the others look when nothing is moved any more
    if processes.rank > 0:
        found = checkpoints.newest()
    processes.agree(f"going on from {found and found.path.name}")
    return found


def read(found: StepFiles, *, rank: int = 0, n_ranks: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """``(state, record)`` of a checkpoint, where the record is what ``state.json`` says of it.

    The state has ``history`` as well, columns by name.

    Raises:
        CheckpointError: written by another version, or by another number of processes.
        CorruptCheckpointError: the files agree with their manifest and yet make no state.
    """
    record = read_record(found)
    try:
        if record["n_ranks"] != n_ranks:
            raise CheckpointError(
                f"a run must go on with as many processes as it was saved by; got {n_ranks}, and {found.path} is of "
                f"{record['n_ranks']}. Start {record['n_ranks']}."
            )
        own = json.loads(found.files[f"state-rank{rank}.json"])["own"]
        parts = {
            name: unpack(skeleton, _tensors(found, f"{name}.safetensors"))
            for name, skeleton in record["sections"].items()
        }
        log = parts.pop("history")
        state = {
            **parts,
            "buffers": log["buffers"],
            "history": {name: column.tolist() for name, column in log["history"].items()},
            "loop": unpack(record["loop"], {}),
            "own": unpack(own, _tensors(found, f"chains-rank{rank}.safetensors")),
        }
    except _NONSENSE as cause:
        raise _no_state(found, cause) from cause
    return state, record


def read_record(found: StepFiles) -> dict[str, Any]:
    """What ``state.json`` says of a checkpoint: ``step``, ``config``, ``notes``, ``versions`` and more.

    Raises:
        CheckpointError: written by another version.
        CorruptCheckpointError: it is no such record.
    """
    try:
        record = json.loads(found.files["state.json"])
        _check_schema(record, found)
        return record | {name: dict(record[name]) for name in ("config", "notes", "versions", "loop", "sections")}
    except _NONSENSE as cause:
        raise _no_state(found, cause) from cause


_NONSENSE = (KeyError, TypeError, ValueError, AttributeError, SafetensorError, RecursionError)


def _no_state(found: StepFiles, cause: Exception) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"`{found.path}` must hold a training's state; got files that make none ({type(cause).__name__}: {cause}). "
        "Use an older one."
    )


def _check_schema(record: Any, found: StepFiles) -> None:
    kind, schema = record["kind"], record["schema"]
    if kind != KIND or schema != SCHEMA:
        raise CheckpointError(
            f"`{found.path}` must be of kind {KIND!r}, schema {SCHEMA}; got {kind!r}, schema {schema!r}, written by "
            f"version {record.get('versions', {}).get('discrete_ebm', 'unknown')}. Resume it with that version, or "
            "start a new training from its parameters: energy = checkpoint.load("
            f"'{found.path / 'model.safetensors'}')."
        )


def _tensors(found: StepFiles, name: str) -> Mapping[str, Tensor]:
    return from_bytes(found.files[name]) if name in found.files else {}


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return to_bytes({name: plain(tensor) for name, tensor in tensors.items()})


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
