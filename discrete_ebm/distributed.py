"""Several processes that train one energy, one a device: who they are, and what they agree on.

Each process keeps its own chains, its own random stream and its own share of the data; gradients are averaged, so that
parameters stay the same everywhere. The energy is never wrapped: objectives and samplers call it as it is, and the
averaging is one collective after the backward pass. Lightning Fabric finds the device and connects the processes that
``torchrun`` (or :mod:`discrete_ebm.launch`) started; see docs/distributed.md.

Every exchange begins with a status of fixed form, so that a process that fails can say so wherever the others are.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import math
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from discrete_ebm.errors import CapabilityError, DivergenceError, NonFiniteEnergyError, RankError, SettingError

__all__ = ["ALONE", "Processes", "Status", "current", "is_first", "joined", "n_processes", "stream_seed", "tells_all"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
TIMEOUT = "DISCRETE_EBM_TIMEOUT"  # seconds that an update waits for another process
_TIMEOUT_SECONDS, _PATIENT_SECONDS = 45.0, 1800.0  # the latter: while setting up and while saving
_TEXT = 1024  # bytes of a failure's message that the others are told
_CODES: dict[int, type[Exception]] = {1: NonFiniteEnergyError, 2: DivergenceError, 3: RankError}


class Status(NamedTuple):
    """What all processes agree on: ``interrupted``, any ``flag``, the largest ``seconds``."""

    interrupted: bool = False
    flag: bool = False
    seconds: float = 0.0


class Processes:
    """What a training asks of the processes that it shares its parameters with; this one is alone.

    Attributes:
        rank: 0 to n − 1; process 0 writes what is common. n: their number. local_n: those of this machine.
        told: the last failure was told to all of them, who fail with it.
    """

    rank, n, local_n = 0, 1, 1
    told = False

    def agree(self, place: str, failure: BaseException | None = None, *, flag: bool = False, seconds: float = 0.0,
              patient: bool = False) -> Status:  # fmt: skip
        """Wait for all, who must be at the same ``place``; where one has failed, all fail.

        Raises:
            NonFiniteEnergyError, DivergenceError: in all processes, when one of them failed with it.
            RankError: another failed otherwise, is gone, or is elsewhere. The one that failed goes on to raise its own.
        """
        return Status(False, flag, seconds)

    def tell(self, failure: BaseException) -> None:
        """Let the others fail too, if they do not know yet."""

    def wait(self, failure: BaseException | None = None) -> None:
        """Wait as long as writing to a disk may take; where one has failed, all fail."""

    def leave(self) -> None:
        """Wait until all are at their end, if they know of each other's."""

    def place(self, device: torch.device) -> torch.device:
        """This process's own device of that kind."""
        return device

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the others of what fails within."""
        yield

    @contextmanager
    def listening(self, *, patient: bool = False) -> Iterator[None]:
        """Within, Ctrl-C is agreed upon after an update, and unless ``patient``, one that does not answer is missed."""
        yield

    def mean(self, values: Tensor, *, agreed: bool = False) -> Tensor:
        """The mean over processes of a tensor of one shape, with the same bits in each.

        ``agreed``: :meth:`agree` came just before, and nothing that can fail since.
        """
        return values

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over processes; one that no process has stays None."""

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by those of process 0."""

    def check_same(self, what: str, values: Tensor) -> None:
        """:class:`RankError` unless ``values`` (float64, finite or not) have the same bits in all processes."""


ALONE = Processes()


class _Group(Processes):
    """The processes of ``torch.distributed``, through Fabric."""

    def __init__(self, fabric: Any, seconds: float) -> None:
        import torch.distributed as dist

        self.fabric, self.seconds = fabric, seconds
        self.rank, self.n, self.local_n = fabric.global_rank, fabric.world_size, _number("LOCAL_WORLD_SIZE", 1)
        self.device: torch.device = fabric.device
        # the default group is the patient one
        self._strict = dist.new_group(timeout=timedelta(seconds=seconds))
        self._patient, self._lost = True, False
        self._stop, self._parent = False, os.getppid()

    def begin(self) -> None:
        """A new training: what ended an earlier one is over."""
        self.told, self._stop = False, False

    # -- what is agreed on --

    def agree(self, place: str, failure: BaseException | None = None, *, flag: bool = False, seconds: float = 0.0,
              patient: bool = False) -> Status:  # fmt: skip
        status, code, text = self._exchange(place, failure, flag, seconds, patient or self._patient)
        if not code:
            return status
        if code == 3 and failure is not None:
            return status  # the caller raises what it has
        raise _CODES[code](text) from failure

    def tell(self, failure: BaseException) -> None:
        if not (self.told or self._lost or isinstance(failure, KeyboardInterrupt)):
            self._exchange("failure", failure, False, 0.0, self._patient)

    def wait(self, failure: BaseException | None = None) -> None:
        self.agree("wait", failure, patient=True)

    def leave(self) -> None:
        told = self.told
        if (told or sys.exc_info()[0] is None) and not self._lost:
            with suppress(RankError):  # one that is gone has nothing left to write
                self._exchange("leave", None, False, 0.0, True)
            self.told = told

    def place(self, device: torch.device) -> torch.device:
        return self.device

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except BaseException as failure:
            self.tell(failure)
            raise

    @contextmanager
    def listening(self, *, patient: bool = False) -> Iterator[None]:
        before, was = None, self._patient
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, self._interrupt)
        self._patient = patient
        try:
            yield
        finally:
            self._patient = was
            if before is not None:
                signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: Any) -> None:
        self._stop = True

    def _exchange(
        self, place: str, failure: BaseException | None, flag: bool, seconds: float, patient: bool
    ) -> tuple[Status, int, str]:
        """``(status, code, text)`` after hearing all; code 0: nobody failed."""
        code = 0 if failure is None else next((c for c in (1, 2) if isinstance(failure, _CODES[c])), 3)
        here = float(zlib.crc32(place.encode()))
        # a process whose launcher is gone would train on unseen: it ends as if by Ctrl-C
        stop = self._stop or os.getppid() != self._parent
        mine = torch.tensor([code, here, -here, stop, flag, seconds], dtype=torch.float64, device=self.device)
        worst, there, other, stopped, flagged, latest = self._reduce(mine, "max", patient).tolist()
        status = Status(bool(stopped), bool(flagged), latest)
        if worst:
            self.told = True
            return status, int(worst), self._reasons(code, failure, patient)
        if there != -other:
            self.told = True
            raise RankError(
                f"all processes of a training must do the same; got one that is elsewhere than at {place!r}. Give all "
                "the same data, settings and callbacks."
            )
        self.told = False
        return status, 0, ""

    def _reasons(self, code: int, failure: BaseException | None, patient: bool) -> str:
        """What each process that failed says, the same text in all of them."""
        words = "" if failure is None else str(failure) or type(failure).__name__
        if code == 3 and not isinstance(failure, RankError) and failure is not None:
            words = f"{type(failure).__name__}: {words}"
        content = words.encode()[:_TEXT]
        mine = torch.zeros(self.n, _TEXT, dtype=torch.int32, device=self.device)
        mine[self.rank, : len(content)] = torch.tensor(list(content), dtype=torch.int32)
        rows = self._reduce(mine, "sum", patient).cpu().to(torch.uint8)
        texts = [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in rows]
        return " ".join(f"Process {rank}: {text}" for rank, text in enumerate(texts) if text)

    # -- tensors --

    def mean(self, values: Tensor, *, agreed: bool = False) -> Tensor:
        if not agreed:
            self.agree(f"mean {tuple(values.shape)}")
        return self._mean(values)

    def _mean(self, values: Tensor) -> Tensor:
        return self._reduce(values.detach().clone(), "sum", self._patient).div_(self.n)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            kinds.setdefault(parameter.dtype, []).append(parameter)
        for group in kinds.values():
            there = [p.grad is not None for p in group]
            parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in group]
            flags = torch.tensor(there, dtype=parts[0].dtype).to(parts[0].device)
            means = self._mean(torch.cat([*parts, flags]))
            somewhere = there if all(there) else (means[-len(group) :] > 0).tolist()
            for p, mean, exists in zip(group, means.split([p.numel() for p in group] + [len(group)]), somewhere,
                                       strict=False):  # fmt: skip
                p.grad = mean.view_as(p).clone() if exists else None

    def share(self, tensors: Sequence[Tensor]) -> None:
        self.agree("share " + " ".join(f"{tensor.dtype}{tuple(tensor.shape)}" for tensor in tensors))
        with torch.no_grad():
            for tensor in tensors:
                if tensor.numel():
                    self._broadcast(tensor)

    def _broadcast(self, tensor: Tensor) -> None:
        import torch.distributed as dist

        sent = tensor.detach().to(self.device).contiguous()
        with self._answered():
            dist.broadcast(sent, 0, group=None if self._patient else self._strict)
        if sent.data_ptr() != tensor.data_ptr():
            tensor.copy_(sent)

    def check_same(self, what: str, values: Tensor) -> None:
        self.agree(f"check {what} {values.numel()}")
        bits = values.detach().to(self.device).contiguous().view(torch.int64)
        halves = torch.cat([bits >> 32, bits & 0xFFFFFFFF])  # so that a minus never overflows
        both = self._reduce(torch.cat([halves, -halves]), "max", self._patient)
        largest, smallest = both.chunk(2)
        if not torch.equal(largest, -smallest):
            raise RankError(
                f"{what} must be the same in all processes; got different ones. Change them in all processes or in "
                "none, and train on equal machines."
            )

    def _reduce(self, tensor: Tensor, how: str, patient: bool) -> Tensor:
        with self._answered():
            return self.fabric.all_reduce(tensor, group=None if patient else self._strict, reduce_op=how)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Turn the many words of a lost connection into one sentence."""
        try:
            yield
        except RuntimeError as cause:  # torch's DistError is one too
            self._lost = True
            first = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:160]
            raise RankError(
                f"all processes of a training must answer within {self.seconds:g} s of an update; got one that is gone "
                f"or stuck ({first}). Go on from the last checkpoint with --resume, or resume=True."
            ) from cause


# -- who we are -----------------------------------------------------------------------------------------------------

_joined: list[_Group] = []


def n_processes() -> int:
    """How many processes torchrun started for this program; 1 where it did not start it."""
    here = all(name in os.environ for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))
    return _number("WORLD_SIZE", 1) if here else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes: number 0, or alone."""
    return n_processes() == 1 or _number("RANK", 0) == 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise SettingError(f"the variable {name} must be a whole number, as torchrun sets it; got {text!r}. Unset it.")
    return int(text)


def joined() -> Processes:
    """The processes that :func:`current` connected; :data:`ALONE` where it did not."""
    return _joined[0] if _joined else ALONE


def current(device: str | torch.device | None = None) -> Processes:
    """The processes that torchrun started this one with, connected at the first call; :data:`ALONE` without torchrun.

    Args:
        device: "cuda": each process of a machine has the GPU of its local number; None or "cpu": processor cores.
    Raises:
        CapabilityError: the package lightning-fabric is missing.
        SettingError: a numbered device, or another kind than at the first call.
        RankError: the processes cannot be connected.
    """
    if n_processes() == 1:
        return ALONE
    place = torch.device("cpu" if device is None else device)
    if place.index is not None and place.index != _number("LOCAL_RANK", 0):
        raise SettingError(
            f"`device` must be a kind of device for several processes, which take one each; got {place}. Use "
            f"{place.type!r}."
        )
    if not _joined:
        _joined.append(_join(place))
    _joined[0].begin()
    if _joined[0].device.type != place.type:
        raise SettingError(
            f"`device` must stay {_joined[0].device.type!r}, which the processes were connected for; got {place}. "
            "Train on one kind of device."
        )
    return _joined[0]


def tells_all(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A training whose failure in one process is told to the others, who are not left waiting."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except BaseException as failure:
            joined().tell(failure)
            raise

    return call


def _join(place: torch.device) -> _Group:
    text = os.environ.get(TIMEOUT, str(_TIMEOUT_SECONDS))
    seconds = float(text) if text.replace(".", "", 1).isdigit() else math.nan
    if not 1 <= seconds <= _PATIENT_SECONDS:
        raise SettingError(f"{TIMEOUT} must be seconds, 1 to {_PATIENT_SECONDS:g}; got {text!r}. Leave it unset.")
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as cause:
        raise CapabilityError(
            f"several processes must have the package lightning-fabric; got none ({cause}). Install it with "
            "pip install 'discrete-ebm[distributed]'."
        ) from cause
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    n, local_n = n_processes(), _number("LOCAL_WORLD_SIZE", 1)
    patience = timedelta(seconds=_PATIENT_SECONDS)
    strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment(), timeout=patience)
    try:
        fabric = Fabric(accelerator=place.type, devices=local_n, num_nodes=n // local_n, strategy=strategy)
        _connect(place.type, patience)
        fabric.launch()
        return _Group(fabric, seconds)
    except (RuntimeError, ValueError) as cause:
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]
        raise RankError(
            f"{n} processes must connect, {local_n} on this machine, each with a device of kind {place.type!r}; got "
            f"{type(cause).__name__} ({first}). Start at most one process a device."
        ) from cause


def _connect(kind: str, patience: timedelta) -> None:
    """Make the process group that Fabric then finds.

    torchrun's store lives through its restarts, and what the processes before wrote there, their addresses, must not be
    taken for those of today: each attempt has a prefix of its own.
    """
    import torch.distributed as dist

    attempt = _number("TORCHELASTIC_RESTART_COUNT", 0)
    store, rank, n = next(dist.rendezvous("env://", timeout=patience))
    own = None
    if kind == "cuda":
        own = torch.device(kind, _number("LOCAL_RANK", 0))
        torch.cuda.set_device(own)
        atexit.register(dist.destroy_process_group)  # NCCL warns without
    dist.init_process_group(
        dist.get_default_backend_for_device(kind), store=dist.PrefixStore(f"attempt-{attempt}", store), rank=rank,
        world_size=n, timeout=patience, device_id=own,
    )  # fmt: skip


def stream_seed(seed: int, stream: int) -> int:
    """The seed of one of 2³² streams of a training: 0 = the order of the data, r + 1 = process r.

    Different streams of one ``seed`` have different seeds, not merely probably: torch's generator on the CPU looks at
    32 bits alone, and the streams are the values of a bijection of them (the finaliser of MurmurHash3).
    """
    start = int.from_bytes(hashlib.sha256(f"discrete_ebm {seed}".encode()).digest()[:4], "little")
    h = (start + stream) & 0xFFFFFFFF
    h = ((h ^ h >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ h >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ h >> 16
