r"""Classifiers as energies: logits f(x)[y] are −E(x, y), their logsumexp is −E(x), and p(y | x) is the softmax as ever.

E(x, y) = −f(x)[y] defines p(x, y) ∝ exp f(x)[y]. Summing labels out gives E(x) = −log Σ_y exp f(x)[y], and dividing the
one by the other gives softmax(f(x))[y], whatever the unknown log Z is.
Source: Grathwohl et al. 2020, "Your classifier is secretly an energy based model and you should treat it like one",
arXiv:1912.03263, eqs. 3–6.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm.energies.base import Energy, energy_device, energy_dtype
from discrete_ebm.energies.conditional import ConditionalEnergy, Given
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError
from discrete_ebm.spaces import Categorical, Encoding, Product, Space, map_encoding

__all__ = ["ClassEnergy", "ClassifierEnergy", "JointEnergy", "UncertaintyEnergy"]

IN_TRAINING = ("refuse", "frozen", "batch")
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_DROPOUT = nn.modules.dropout._DropoutNd


class ClassEnergy(Energy):
    """An energy of x that is a sum over Y labels: E(x) = −log Σ_y exp(−E(x, y)); subclasses give E(x, y)."""

    n_classes: int

    @abstractmethod
    def class_energies(self, encoding: Encoding) -> Tensor:
        """(C, Y) E(x, y) of every label, nats, differentiable."""

    def forward(self, encoding: Encoding) -> Tensor:
        return -(-self.class_energies(encoding)).logsumexp(-1)

    def label_log_probabilities(self, x: Tensor) -> Tensor:
        """(C, Y) log p(y | x) of states x (C, *shape); differentiable in the parameters."""
        return (-self.class_energies(self.space.encode_as(x, energy_dtype(self)))).log_softmax(-1)

    def given(self, label: Any) -> Given:
        """E(x | y) = E(x, y) on the space of x: one label for all chains (an int), or one a chain (C,).

        Raises:
            SettingError, ShapeError: not labels of this model.
        """
        return Given(ConditionalEnergy(_OfClass(self), self.space), check_labels("label", label, self.n_classes,
                                                                                 energy_device(self)))

    def joint(self) -> JointEnergy:
        """E(x, y) on ``Product({"x": space of x, "label": Categorical(1, Y)})``."""
        return JointEnergy(self)


class _OfClass(nn.Module):
    """(encoding, labels) -> E(x, y)."""

    def __init__(self, energy: ClassEnergy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, encoding: Encoding, label: Tensor) -> Tensor:
        return self.energy.class_energies(encoding).gather(1, label[:, None]).squeeze(1)


class JointEnergy(Energy):
    """E(x, y) of an image and its label: packed states (C, N + 1), the label last.

    Draw from p(x, y) with ``alternate``, a kernel for each member: ``de.samplers.create("alternate",
    kernels={"x": "hmc", "label": "gibbs"})``. Clamp the label to draw from a class. The parameters are the
    classifier's own.
    """

    def __init__(self, energy: ClassEnergy) -> None:
        super().__init__(Product({"x": energy.space, "label": Categorical(1, energy.n_classes)}))
        self.energy = energy

    def forward(self, encoding: dict[str, Tensor]) -> Tensor:
        return (self.energy.class_energies(encoding["x"]) * encoding["label"].flatten(1)).sum(-1)


class UncertaintyEnergy(Energy):
    """How unsure a classifier is, as an energy of x: low where p(y | x) is sharp.

    ``kind`` "entropy": H(p(y | x)), 0 to log Y nats; "surprise": −log max_y p(y | x). Add it with a weight to an energy
    of x to draw what is likely *and* clearly of one class; subtract it for what the classifier is unsure about.
    """

    def __init__(self, energy: ClassEnergy, kind: str = "entropy") -> None:
        super().__init__(energy.space)
        if kind not in ("entropy", "surprise"):
            raise SettingError(f"`kind` must be 'entropy' or 'surprise'; got {kind!r}. Use 'entropy'.")
        self.energy, self.kind = energy, kind

    def forward(self, encoding: Encoding) -> Tensor:
        log_p = (-self.energy.class_energies(encoding)).log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1) if self.kind == "entropy" else -log_p.max(-1).values


class ClassifierEnergy(ClassEnergy):
    """E(x) = −logsumexp f(x) of any network that turns encodings into logits (C, Y).

    The network's train or eval mode is never changed behind your back, but a batch norm in training mode makes the
    energy of one image depend on the others of its batch, and dropout makes it random: then chains have no law.
    ``in_training`` says what an *energy* is while such layers are in training mode (their logits as a classifier,
    :meth:`logits`, are always those of the mode they are in).

    Args:
        network: encodings of ``space`` -> logits (C, Y), unnormalised.
        space: of x; images are usually ``de.Real((1, 14, 14), low=-1, high=1)``.
        n_classes: Y, checked against the network; None = found by a trial.
        in_training: "refuse" raises a sentence; "frozen" evaluates batch norm with its running statistics and dropout
            off; "batch" takes them as they are, as JEM++ does: chains of a batch then interact.
    Raises:
        ShapeError: the network does not take the space's encodings, or its logits are not (C, Y).
    Source: see the module.
    """

    def __init__(self, network: nn.Module, space: Space, n_classes: int | None = None, *,
                 in_training: str = "refuse") -> None:
        super().__init__(space)
        if not isinstance(network, nn.Module):
            raise CapabilityError(f"`network` must be a torch module, encodings -> logits (C, Y); got "
                                  f"{type(network).__name__}. Wrap a function in a module.")
        if in_training not in IN_TRAINING:
            raise SettingError(f"`in_training` must be one of {', '.join(IN_TRAINING)}; got {in_training!r}. "
                               "Use 'frozen' for networks with batch norm.")
        if n_classes is not None and (isinstance(n_classes, bool) or not isinstance(n_classes, int) or n_classes < 2):
            raise SettingError(f"`n_classes` must be a whole number of at least 2, or None; got {n_classes!r}.")
        self.network, self.in_training = network, in_training
        self._unsteady = [part for part in network.modules() if isinstance(part, (_BATCH_NORM, _DROPOUT))]
        self.n_classes = self._try(n_classes)

    def logits(self, encoding: Encoding) -> Tensor:
        """(C, Y) f(x) of the network as it is, train or eval.

        Raises:
            ShapeError: not one number per row and class.
        """
        found = self.network(encoding)
        if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[1] != self.n_classes:
            raise _wrong_logits(found, f"(C, {self.n_classes})")
        return found

    def class_energies(self, encoding: Encoding) -> Tensor:
        moving = [part for part in self._unsteady if part.training]
        if not moving or self.in_training == "batch":
            return -self.logits(encoding)
        if self.in_training == "refuse":
            raise SettingError(
                f"`network` must not be in training mode with {type(moving[0]).__name__} layers while it is an energy: "
                "the energy of one state would depend on the rest of its batch, or be random. Call energy.eval(), or "
                "choose in_training='frozen' (running statistics, no dropout) or 'batch' (as JEM++)."
            )
        with _steady(moving):
            return -self.logits(encoding)

    def label_log_probabilities(self, x: Tensor) -> Tensor:
        """(C, Y) log p(y | x) of states x (C, *shape), by the network in the mode it is in."""
        return self.logits(self.space.encode_as(x, energy_dtype(self))).log_softmax(-1)

    def _try(self, n_classes: int | None) -> int:
        """The number of logits of two random states; nothing of the network changes."""
        x = self.space.random(2, torch.Generator().manual_seed(0))
        device = energy_device(self)
        encoding = map_encoding(lambda part: part.to(device) if device is not None else part,
                                self.space.encode_as(x, energy_dtype(self)))
        with torch.no_grad(), _steady([part for part in self._unsteady if part.training]):
            try:
                found = self.network(encoding)
            except (RuntimeError, ValueError, TypeError, IndexError) as cause:
                first = (str(cause).splitlines() or [type(cause).__name__])[0]
                raise ShapeError(
                    f"`network` must take encodings of {self.space!r}; got an error for two of them ({first}). Give "
                    "the space the shape of one input, colours first, e.g. de.Real((3, 32, 32), low=-1, high=1)."
                ) from cause
        wanted = f"(2, {n_classes if n_classes is not None else 'Y'})"
        if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[0] != 2 or found.shape[1] < 2 or (
            n_classes is not None and found.shape[1] != n_classes
        ):
            raise _wrong_logits(found, wanted)
        return found.shape[1]


def _wrong_logits(found: Any, wanted: str) -> ShapeError:
    got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    return ShapeError(f"`network` must return logits of shape {wanted}, a number for each row and class; got {got}. "
                      "Flatten before its last layer, and give that one output per class (two for a yes or no).")


@contextmanager
def _steady(parts: Sequence[nn.Module]) -> Iterator[None]:
    """These modules out of training mode within the block."""
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True


def check_labels(name: str, label: Any, n_classes: int, device: torch.device | None = None, *,
                 missing: bool = False) -> Tensor:
    """(C,) int64 labels from an int, a list or a tensor; −1 stands for none where ``missing``.

    Raises:
        ShapeError, SettingError: not whole numbers from 0 to Y − 1.
    """
    found = torch.as_tensor(label, device=device)
    found = found[None] if found.dim() == 0 else found
    if found.dim() != 1 or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ShapeError(f"`{name}` must be whole numbers of shape (C,), one a row; got shape {tuple(found.shape)} "
                         f"({found.dtype}). Turn one-hot labels into numbers with labels.argmax(1).")
    found = found.to(torch.int64)
    bad = (found < (-1 if missing else 0)) | (found >= n_classes)
    if bool(bad.any()):
        raise SettingError(f"`{name}` must be from 0 to {n_classes - 1}{', or −1 for none' if missing else ''}; got "
                           f"{found[bad][:3].tolist()}. Number the classes from 0.")
    return found
