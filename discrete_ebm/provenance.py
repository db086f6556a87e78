"""What another person needs to repeat a run: versions, machine, time, and the commit of a source tree."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["PACKAGES", "available_cores", "commit", "cpu_model", "provenance"]

PACKAGES = ("discrete-ebm", "torch", "numpy", "scipy", "numba", "networkx")


def provenance(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Versions of these packages, the machine, and the time."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    if versions.get("discrete-ebm") is None:  # run from a source tree
        from discrete_ebm import __version__

        versions["discrete-ebm"] = __version__
    return {
        "versions": versions,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
    }


def commit(root: Path) -> str | None:
    """The commit of the working tree at ``root``, with "+" where files differ from it; None outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True)
        command = ["git", "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return None if head.returncode else head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's word is next
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
