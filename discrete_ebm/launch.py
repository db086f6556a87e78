"""Start the processes of a command that trains on several devices of one machine: what ``--devices N`` does.

The processes are torchrun's (torch.distributed.elastic): one dies, and the others are ended; a signal to the command
reaches all of them. Over several machines, torchrun itself starts the command; see docs/distributed.md.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from discrete_ebm.distributed import n_processes
from discrete_ebm.errors import CapabilityError, SettingError

__all__ = ["launch", "must_launch", "restarted"]

_GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # seconds between the request to end and SIGKILL


def restarted() -> bool:
    """Whether torchrun --max-restarts started this process anew, after one had died."""
    return n_processes() > 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def must_launch(devices: int | None, device: str = "cpu") -> bool:
    """Whether ``--devices`` asks for processes that nobody has started yet.

    Raises:
        SettingError: torchrun started another number of them on this machine; or this machine has fewer GPUs.
    """
    if devices is None:
        return False
    if n_processes() > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if local != devices:
            raise SettingError(f"--devices must be {local}, the processes that torchrun started here; got {devices}. "
                               "Leave it out under torchrun.")  # fmt: skip
        return False
    if devices > 1 and device != "cpu":
        import torch

        if ":" in device:
            raise SettingError(f"--device must be a kind of device with --devices; got {device!r}. Use "
                               f"--device {device.split(':')[0]}.")  # fmt: skip
        found = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if found < devices:
            raise SettingError(f"--devices must be at most {found}, what this machine has of {device!r}; got "
                               f"{devices}. Start one process a device.")  # fmt: skip
    return devices > 1


def launch(module: str, arguments: Sequence[str], devices: int) -> int:
    """Run ``python -m module arguments`` in ``devices`` processes that know of each other; the exit code of them all.

    Code 128 + its number (130: Ctrl-C) when a signal ended the command, that of the first process that failed, or 2
    when that one was killed.

    Raises:
        CapabilityError: torch was built without torch.distributed.
    """
    try:
        from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    except ImportError as cause:
        raise CapabilityError(
            f"--devices must find torch.distributed; got a torch without it ({cause}). Train with one device."
        ) from cause
    for name in logging.root.manager.loggerDict:  # our commands say themselves, in one sentence, what went wrong
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    added = {"OMP_NUM_THREADS": str(max(1, cores // devices)), _GRACE: "60"}
    added = {name: value for name, value in added.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with tempfile.TemporaryDirectory(prefix="discrete-ebm-") as logs:
            config = LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=devices, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=str(Path(logs))),
            )  # fmt: skip
            elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            print(f"process {rank} of {devices} was ended by {name}, and so were the others. Go on from the last "
                  "checkpoint with --resume RUN_DIR.", file=sys.stderr)  # fmt: skip
            return 2
        return int(failure.exitcode)
    finally:
        for name in added:
            del os.environ[name]
    return 0
