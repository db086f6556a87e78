"""The one training loop: objectives plug into it, guards watch it, hooks see every update, checkpoints keep it.

:func:`discrete_ebm.fit` is for users; :class:`Trainer` for those who bring their own batches, groups or stages.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from discrete_ebm import objectives, training_state
from discrete_ebm.batches import Batches
from discrete_ebm.distributed import ALONE, Processes, Status, stream_seed
from discrete_ebm.errors import (
    CapabilityError,
    DivergenceError,
    NonFiniteEnergyError,
    RecoveryWarning,
    SettingError,
)
from discrete_ebm.guards import Guard, Watch, check_finite_tensors, check_finite_terms, natural_gap
from discrete_ebm.objectives.base import Objective, ObjectiveState
from discrete_ebm.packing import pack
from discrete_ebm.schedules import Schedule, as_schedule
from discrete_ebm.step_folders import Checkpoints

__all__ = ["Batches", "Stateful", "Trainer"]

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
OPTIMIZERS = ("adam", "sgd")
_SHOWN = ("gap", "acceptance", "hamming")  # beside the progress bar
_REMEMBER_EVERY = 50  # updates between copies of a calm state, to which a divergence returns

Callback = Callable[["Trainer", dict[str, float]], Any]


class Stateful(Protocol):
    """Something whose state a checkpoint can hold: tensors, numbers and text in dicts and lists."""

    def state_dict(self) -> dict[str, Any]:
        """The state; its tensors are not changed in place afterwards."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""


class Trainer:
    """Guarded updates of an energy's parameters.

    An update that raises, for whatever reason, leaves parameters and buffers bit-identical to before it.

    Attributes:
        energy, ema (or None), optimizer, generator, history, iteration (updates done).
        state: what the objective keeps, e.g. its chain bank. negatives: of the last update.
        lr_scale: 1, halved at each return to a good state; events: what was returned from, one dict each.
        batches: where :meth:`run` takes its batches from.
    """

    def __init__(
        self,
        energy: Any,
        objective: Objective | str,
        data: Any,
        *,
        generator: torch.Generator,
        n_iterations: int = 1000,
        lr: float = 1e-3,
        parameters: Iterable[Any] | None = None,
        optimizer: str = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup: int | None = None,
        decay: Schedule | str = "constant",
        clip: float | None = 10.0,
        ema: float | None = 0.999,
        guard: Guard | None = Guard(),
        max_seconds: float | None = None,
        clock: str = "wall",
        state: ObjectiveState | None = None,
        checkpoints: Checkpoints | None = None,
        config: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
        extra: Stateful | None = None,
        steps_before: int = 0,
        processes: Processes = ALONE,
    ) -> None:
        """Check the settings and set up the optimizer; arguments as in :func:`fit`, and

        Args:
            data: what the objective's ``init`` looks at (batches are given to :meth:`update`).
            parameters: parameters or groups ``{"params": ..., "lr": ...}`` to train; None = all that require gradients.
            clock: what ``max_seconds`` and the logged seconds count: "wall", or "processor" time of this process, which
                other work on the machine does not shorten.
            state: an objective's state from an earlier training, to go on with its chains.
            checkpoints: where :meth:`run` saves and :meth:`resume` looks; None = nowhere.
            config: what a resumed training must agree on, JSON-able. notes: kept in each checkpoint, JSON-able.
            extra: something of the caller's that is saved and resumed too.
            steps_before: updates of earlier stages, counted into the number of a checkpoint.
            processes: that train this energy together, each with its own ``generator`` and share of the batches; see
                :mod:`discrete_ebm.distributed`. Gradients and logged numbers are means over them.
        """
        self.energy = energy
        self.objective = objectives.create(objective) if isinstance(objective, str) else objective
        if not isinstance(self.objective, Objective):
            raise SettingError(
                f"`objective` must be an Objective or a registered name; got {type(objective).__name__}. "
                f"Available: {', '.join(objectives.names())}."
            )
        if not isinstance(energy, nn.Module):
            raise CapabilityError(
                f"`energy` must be a torch module to be trained; got {type(energy).__name__}. "
                "Wrap it with de.from_callable(module, space)."
            )
        _check_schedule(n_iterations, lr, warmup, decay, clip, ema, max_seconds)
        self._now = clock_named(clock)
        self.generator, self.processes = generator, processes
        self.n_iterations = n_iterations
        self.warmup = n_iterations // 20 if warmup is None else warmup
        self.decay = as_schedule(decay)
        self.clip, self.ema_decay, self.guard, self.max_seconds = clip, ema, guard, max_seconds
        groups = list(parameters) if parameters is not None else [p for p in energy.parameters() if p.requires_grad]
        if not groups:
            raise SettingError(
                "`energy` must have parameters that require gradients; got none. "
                "Learn something, or call energy.requires_grad_(True)."
            )
        self.optimizer = make_optimizer(optimizer, groups, lr, betas, weight_decay)
        self._base_lr = [group["lr"] for group in self.optimizer.param_groups]
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        # all must do as many updates of the same: they meet at each
        self.processes.agree(f"a training of {n_iterations} updates, {max_seconds} s: {config}")
        self.processes.share([*energy.parameters(), *energy.buffers()])
        self.state = self.objective.init(energy, data, generator=generator) if state is None else state
        if processes.n > 1:
            self.state.average = processes.mean  # type: ignore[method-assign]
        self.watch = None if guard is None else Watch(guard, natural_gap(energy.space))
        self.ema = None if ema is None else copy.deepcopy(energy).requires_grad_(False)
        # found once: updates change these tensors in place, and a search through the modules costs as much as a layer
        self._named = list(energy.named_parameters())
        self._averaged: list[tuple[Tensor, Tensor]] = []
        if self.ema is not None:
            self._averaged = list(zip(self.ema.parameters(), energy.parameters(), strict=True))
        self.history: dict[str, list[float]] = {}
        self.negatives: Tensor | None = None
        self.iteration = 0
        self.lr_scale, self.tries = 1.0, 0
        self.events: list[dict[str, Any]] = []
        self.batches: Any = None
        self.checkpoints, self.extra, self.steps_before = checkpoints, extra, steps_before
        self.config, self.notes = pack(dict(config or {}))[0], pack(dict(notes or {}))[0]
        self.began = self._now()
        self._spent = 0.0
        self._agreed = Status()  # with the other processes, at the last update
        self._whole = True  # False within an update, whose state is not one to keep
        self._failed_at = 0
        self._before = _Snapshot(energy)
        self._calm = training_state.copy_of(training_state.take(self))

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1, by updates or by time, whichever is further."""
        share = self.iteration / self.n_iterations
        if self.max_seconds is not None:
            share = max(share, self.seconds / self.max_seconds)
        return min(1.0, share)

    @property
    def seconds(self) -> float:
        """Seconds since the run began, by the trainer's clock; with several processes, as of their last update."""
        return self._now() - self.began if self.processes.n == 1 else self._agreed.seconds

    def update(self, batch: Any) -> dict[str, float]:
        """One update from one batch; returns the logged numbers.

        Raises:
            NonFiniteEnergyError: an energy, gradient or parameter is not finite; parameters are those before.
            DivergenceError: the guard's alarm lasted; everything is as in the last calm state.
        """
        self._before.take()
        self._whole = False
        self._failed_at = self.iteration + 1
        try:
            terms = self._update(batch)
        except BaseException:  # also Ctrl-C: never leave a half-made update
            self._before.put_back()
            self.optimizer.zero_grad(set_to_none=True)
            raise
        self.iteration += 1
        self._log(terms)
        try:
            if self.watch is not None:
                self.watch.see(terms)
        except DivergenceError:
            training_state.restore(self, self._calm)
            raise
        if self.calm:
            self._average()
        self._whole = True
        if self.calm and self.iteration - self._calm["loop"]["iteration"] >= _REMEMBER_EVERY:
            self._remember()
        return terms

    @property
    def calm(self) -> bool:
        """No alarm of the guard is building up."""
        return self.watch is None or self.watch.calm

    def run(
        self,
        batches: Iterable[Any],
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
        label: str = "training",
    ) -> bool:
        """Update until ``n_iterations`` or ``max_seconds``; returns False when Ctrl-C ended it.

        Each callback is called as ``callback(trainer, terms)`` after an update; a true result ends the training. With
        ``checkpoints``, the state is saved when they are due (at the next calm update), at the end, and at Ctrl-C.
        ``label`` is what stands before the progress bar.

        Raises:
            NonFiniteEnergyError, DivergenceError: the training went wrong, ``guard.retries`` times after returning to
                its last good state with half the step size and new random numbers. Checkpoints are left as they are.
            CheckpointError: a checkpoint cannot be written.
        """
        if self.checkpoints is not None and not hasattr(batches, "state_dict"):
            raise CapabilityError(
                f"`batches` must have state_dict and load_state_dict for their place to be saved; got "
                f"{type(batches).__name__}. Use discrete_ebm.trainer.Batches, or checkpoints=None."
            )
        self.batches = batches
        self.began, self._agreed, self._spent = self._now() - self._spent, Status(seconds=self._spent), 0.0
        self._remember()
        stream = iter(batches)
        bar = tqdm(
            total=self.n_iterations,
            initial=self.iteration,
            disable=not progress or self.processes.rank > 0,
            desc=label,
            unit="it",
            leave=False,
        )
        try:
            with bar, self.processes.listening(), self.processes.together():
                while self.iteration < self.n_iterations and self.progress < 1:
                    try:
                        terms = self.update(next(stream))
                    except (NonFiniteEnergyError, DivergenceError) as cause:
                        self._go_back(cause)
                        bar.n = self.iteration
                        continue
                    bar.update(1)
                    bar.set_postfix({k: f"{terms[k]:.3g}" for k in _SHOWN if k in terms}, refresh=False)
                    stop = [callback(self, terms) for callback in callbacks]  # every callback is called
                    ends = any(stop)
                    if self.processes.n > 1:  # what one of them sees ends the training of all
                        ends = self.processes.agree("callbacks", flag=ends).flag
                    if self.calm and self._due():
                        self.save()
                    if ends or self._agreed.interrupted:
                        break
                self.save()
        except KeyboardInterrupt:
            if self.processes.n > 1:  # not by agreement: the others are somewhere else
                raise
            self.save()
            return False
        return not self._agreed.interrupted

    def _due(self) -> bool:
        """Whether a checkpoint is due: by this clock, or with several processes by any, as of the last update."""
        if self.checkpoints is None:
            return False
        return self.checkpoints.due(self.step) if self.processes.n == 1 else self._agreed.flag

    @property
    def step(self) -> int:
        """Updates done, those of earlier stages included."""
        return self.steps_before + self.iteration

    def save(self) -> None:
        """Write a checkpoint of the present state; of the last calm one while an alarm builds up or an update is under
        way. Nothing happens without ``checkpoints``, or where that step is saved already.

        Raises:
            CheckpointError: it cannot be written; earlier ones are intact.
        """
        if self.checkpoints is None:
            return
        if self._whole and self.calm:
            self._remember()
        step = self.steps_before + self._calm["loop"]["iteration"]
        if self.checkpoints.saved is not None and step <= self.checkpoints.saved:
            return
        if self.processes.n > 1:
            sums = [p.detach().sum(dtype=torch.float64) for p in self.energy.parameters()]
            self.processes.check_same("the energy's parameters", torch.stack(sums))
        ranks = {"rank": self.checkpoints.rank, "n_ranks": self.checkpoints.n_ranks}
        self.checkpoints.write(step, *training_state.to_files(self, self._calm, **ranks))

    def resume(self, batches: Any) -> bool:
        """Go on from the newest good checkpoint, with ``batches`` put to where they were; False where there is none.

        Raises:
            CheckpointError: every checkpoint is damaged, or the newest is of another version.
            SettingError: this training differs from the one that was saved; the message names each difference.
        """
        if self.checkpoints is None:
            raise SettingError("`checkpoints` must be given to resume; got None. Pass Checkpoints(folder).")
        found = training_state.newest(self.checkpoints, self.processes)
        if found is None:
            return False
        ranks = {"rank": self.checkpoints.rank, "n_ranks": self.checkpoints.n_ranks}
        state, record = training_state.read(found, **ranks)
        saved = record["config"]
        different = [
            f"{name} ({saved.get(name)!r} then, {self.config.get(name)!r} now)"
            for name in sorted({*saved, *self.config})
            if saved.get(name) != self.config.get(name)
        ]
        if different:
            raise SettingError(
                f"a resumed training must be the one that {found.path} is of; got other {'; '.join(different)}. Use "
                "the same settings, or another output."
            )
        training_state.note_differences(record, found.path)
        self.batches = batches
        training_state.restore(self, state)
        if self.extra is not None:
            self.extra.load_state_dict(state["own"]["extra"])
        self.history = state["history"]
        self._spent = state["loop"]["seconds"]
        self.began = self._now() - self._spent
        self._remember()
        return True

    def _remember(self) -> None:
        """Keep the present state as the one to come back to."""
        self._calm = training_state.copy_of(training_state.take(self))

    def _go_back(self, cause: NonFiniteEnergyError | DivergenceError) -> None:
        """Return to the last good state with half the step size and new random numbers, or give up."""
        tries, allowed = self.tries, 0 if self.watch is None else self.watch.guard.retries
        if tries >= allowed:
            said = f" It went back to a good state {tries} times, with half the step size each time." if tries else ""
            kind = DivergenceError if tries else type(cause)
            raise kind(
                f"{cause} Training stopped at update {self._failed_at}; the energy holds the parameters "
                f"after update {self.iteration}.{said}"
            ) from cause
        scale, events = self.lr_scale / 2, list(self.events)
        training_state.restore(self, self._calm)
        for column in self.history.values():
            del column[self.iteration :]
        self.tries, self.lr_scale = tries + 1, scale
        # a new stream: seeded by the number of this try from the one that led here
        seeds = torch.randint(2**62, (self.tries,), generator=self.generator, device=self.generator.device)
        seed = seeds[-1].cpu()
        self.processes.share([seed])
        self.generator.manual_seed(int(seed) if self.processes.n == 1 else stream_seed(int(seed), self.processes.rank))
        self._whole = True
        self.events[:] = [
            *events,
            {"failed_at": self._failed_at, "back_to": self.iteration, "lr_scale": scale, "cause": str(cause)},
        ]
        self._remember()
        warnings.warn(
            f"{cause} Training went back from update {self._failed_at} to {self.iteration} and goes on with {scale:g} "
            f"of its step size and new random numbers (try {self.tries} of {allowed}).",
            RecoveryWarning,
            stacklevel=3,
        )

    def _update(self, batch: Any) -> dict[str, float]:
        self._set_lr()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            output = self.objective.loss(self.energy, batch, self.state, generator=self.generator)
            if not output.loss.requires_grad:
                raise CapabilityError(
                    "`loss` must depend on the energy's parameters through autograd; got one that does not. "
                    "Compute the energy with torch operations and without no_grad or detach."
                )
            output.loss.backward()
        except (NonFiniteEnergyError, DivergenceError) as cause:  # all processes go back to a good state together
            if not self.processes.told:
                self.processes.agree("loss", cause)
            raise
        if self.processes.n > 1:
            self._agreed = self.processes.agree(
                f"loss {sorted(output.terms)}",
                flag=self.checkpoints is not None and self.checkpoints.due(self.step + 1),
                seconds=self._now() - self.began,
            )
            self.processes.average_gradients(self._trained)
        gradients = [p.grad for p in self._trained if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        numbers = {"loss": output.loss.detach(), **output.terms, "gradient_norm": norm.detach()}
        columns = stacked([value.detach() for value in numbers.values()])
        values = self.processes.mean(columns, agreed=True).tolist()  # one read
        terms = dict(zip(numbers, values, strict=True))
        check_finite_terms({name: value for name, value in terms.items() if name != "gradient_norm"})
        if not math.isfinite(terms["gradient_norm"]):
            check_finite_tensors("gradient", ((name, p.grad) for name, p in self.energy.named_parameters()))
            raise NonFiniteEnergyError("`gradient` norm must be finite; got infinity from finite entries. Lower lr.")
        if self.clip is not None and terms["gradient_norm"] > self.clip:  # else there is nothing to multiply by
            nn.utils.clip_grads_with_norm_(self._trained, self.clip, norm)
        self.optimizer.step()
        if self.processes.n > 1:
            self._share_buffers()
        check_finite_tensors("parameters", self._named)
        self.negatives = output.negatives
        return terms

    def _share_buffers(self) -> None:
        """Buffers that an update changed anywhere (running means, power iterations) become those of process 0."""
        pairs = self._before.buffers()
        if not pairs:
            return
        changed = torch.stack([(now != before).any() for now, before in pairs]).to(torch.float64)
        flags = self.processes.mean(changed, agreed=True).tolist()
        different = [now for (now, _), flag in zip(pairs, flags, strict=True) if flag > 0]
        if different:
            self.processes.share(different)

    def _set_lr(self) -> None:
        """Linear warm-up times the schedule."""
        factor = min(1.0, (self.iteration + 1) / self.warmup) if self.warmup else 1.0
        factor *= self.decay(self.progress)
        for group, base in zip(self.optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * factor * self.lr_scale

    def _average(self) -> None:
        """Parameters are averaged, buffers copied: averaged buffers (spectral norm, counters) would be wrong."""
        if self.ema is None or self.ema_decay is None:
            return
        weight = 1 - min(self.ema_decay, self.iteration / (self.iteration + 9))  # forget the start sooner
        with torch.no_grad():
            for mean, value in self._averaged:
                mean.lerp_(value if value.dtype == mean.dtype else value.to(mean.dtype), weight)
            if self._before.n_buffers:
                for own, value in zip(self.ema.buffers(), self.energy.buffers(), strict=True):
                    own.copy_(value)

    def _log(self, terms: dict[str, float]) -> None:
        terms = {
            "iteration": float(self.iteration),
            **terms,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": self.seconds,
        }
        rows = len(self.history.get("iteration", []))
        for name in terms:
            self.history.setdefault(name, [math.nan] * rows)
        for name, column in self.history.items():
            column.append(terms.get(name, math.nan))


class _Snapshot:
    """A copy of a module's parameters and buffers that can be put back to the bit."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors = [*module.parameters(), *module.buffers()]
        self.n_buffers = len(list(module.buffers()))
        self.copies = [tensor.detach().clone() for tensor in self.tensors]

    def take(self) -> None:
        with torch.no_grad():
            for copied, tensor in zip(self.copies, self.tensors, strict=True):
                copied.copy_(tensor)

    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        """The buffers of one element or more, each with its copy."""
        pairs = list(zip(self.tensors, self.copies, strict=True))[len(self.tensors) - self.n_buffers :]
        return [pair for pair in pairs if pair[0].numel()]

    def put_back(self) -> None:
        with torch.no_grad():
            for copied, tensor in zip(self.copies, self.tensors, strict=True):
                tensor.copy_(copied)


def stacked(values: list[Tensor]) -> Tensor:
    """(n,) float64 of numbers ()."""
    same = all(value.dtype == values[0].dtype and value.device == values[0].device for value in values)
    return torch.stack(values if same else [value.to(torch.float64) for value in values]).to(torch.float64)


def make_optimizer(
    name: str, groups: list[Any], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """Adam or plain gradient descent, each in one pass over the parameters where torch has that.

    Raises:
        SettingError: another name.
    """
    if name not in OPTIMIZERS:
        raise SettingError(f"`optimizer` must be one of {', '.join(OPTIMIZERS)}; got {name!r}. Use 'adam'.")
    tensors = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    fused = bool(tensors) and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in tensors)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay, fused=fused or None)
    return torch.optim.Adam(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused or None)


def clock_named(name: str) -> Callable[[], float]:
    """The clock of this name, in seconds; SettingError for another name."""
    if name not in CLOCKS:
        raise SettingError(f"`clock` must be one of {', '.join(CLOCKS)}; got {name!r}. Use 'wall'.")
    return CLOCKS[name]


def _check_schedule(n_iterations: Any, lr: Any, warmup: Any, decay: Any, clip: Any, ema: Any, max_seconds: Any) -> None:
    if isinstance(n_iterations, bool) or not isinstance(n_iterations, int) or n_iterations < 1:
        raise SettingError(f"`n_iterations` must be a whole number of at least 1; got {n_iterations!r}.")
    for name, value, optional in (("lr", lr, False), ("clip", clip, True), ("max_seconds", max_seconds, True)):
        if not (value is None and optional) and not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise SettingError(f"`{name}` must be positive and finite; got {value!r}.")
    if warmup is not None and (not isinstance(warmup, int) or warmup < 0):
        raise SettingError(f"`warmup` must be a whole number of updates, not negative; got {warmup!r}.")
    as_schedule(decay)
    if ema is not None and not 0 <= ema < 1:
        raise SettingError(f"`ema` must be at least 0 and below 1, or None; got {ema!r}. Try 0.999.")
