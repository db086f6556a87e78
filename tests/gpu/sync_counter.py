"""Count what makes the host wait for a device, on any device: on the CPU the same operations run and cost nothing."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SyncCounter"]

# Operations whose result's size or Python value depends on numbers on the device.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "unique_dim",
           "unique_consecutive", "is_nonzero", "bincount", "histc")
CONSTANTS = ("spaces.py", "space_base.py", "enumerated_gibbs.py", "patterns.py")  # tolist() of CPU constants
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")


class SyncCounter(TorchDispatchMode):
    """``found``: operation → how often. Tensors in ``free`` (a state's step, which lives on the CPU) may be read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.free: set[int] = set()
        self._patches: list[Any] = []

    def allow(self, tensor: Tensor) -> None:
        """Reading this tensor is no wait."""
        self.free.add(tensor.data_ptr())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if name in WAITING and not all(tensor.data_ptr() in self.free for tensor in tensors):
            self.found[name] += 1
        if name in INDEXING and any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
                                    for index in args[1]):
            self.found[f"{name} by a mask"] += 1
        if name == "repeat_interleave" and kwargs and "output_size" not in kwargs:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> SyncCounter:
        for name in ("tolist", "numpy"):  # these read memory without a dispatch
            original = getattr(Tensor, name)

            def counted(tensor: Tensor, *args: Any, _name: str = name, _original: Any = original,
                        **options: Any) -> Any:
                caller = sys._getframe(1).f_code.co_filename
                if tensor.data_ptr() not in self.free and not caller.endswith(CONSTANTS):
                    self.found[_name] += 1
                return _original(tensor, *args, **options)

            patch = mock.patch.object(Tensor, name, counted)
            patch.start()
            self._patches.append(patch)
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        while self._patches:
            self._patches.pop().stop()
        return super().__exit__(*error)
