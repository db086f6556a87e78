r"""Centred gradients of restricted Boltzmann machines: the gradient as if units were measured from their means.

With offsets μ of the visible and λ of the hidden units, the gradient of the joint energy
−(v − μ)ᵀW(h − λ) − b·(v − μ) − c·(h − λ), written back in ordinary parameters, is a linear map of the ordinary one:

    dW = g_W − μ g_cᵀ − g_b λᵀ,   db = g_b − dW λ,   dc = g_c − dWᵀ μ,

where g are the ordinary derivatives. Those of the free energy hold hidden *means*, not samples, on both sides.
Source: Montavon & Müller 2012, "Deep Boltzmann machines and the centering trick"; Melchior, Fischer & Wiskott 2016,
"How to center deep Boltzmann machines".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm.errors import CapabilityError, SettingError

__all__ = ["Offsets", "centred_gradient", "centred_loss", "need_rbm"]

_NAMES = ("weight", "visible_bias", "hidden_bias")


class Offsets:
    """Running means of encoded visible units ``visible``, flat, and of ``hidden`` units (H,).

    ``average``: of batch means over the processes that train together, see ``ObjectiveState.average``; None = one.
    """

    def __init__(self, visible: Tensor, hidden: Tensor) -> None:
        self.visible, self.hidden = visible, hidden
        self.average: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def move(self, energy: Any, x: Tensor, rate: float) -> None:
        """A step of ``rate`` towards the means of states x (B, *shape) and of their hidden units."""
        self.step(*means(energy, x), rate)

    def step(self, visible: Tensor, hidden: Tensor, rate: float) -> None:
        """The same towards the means (N,) and (H,) of a batch."""
        if self.average is not None:
            visible, hidden = self.average(torch.cat([visible, hidden])).split([len(visible), len(hidden)])
        self.visible = self.visible.lerp(visible, rate)
        self.hidden = self.hidden.lerp(hidden, rate)


@torch.no_grad()
def means(energy: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean visible units (N,), or (N·K,) of one-hot ones, and mean hidden ones (H,) of states x."""
    visible = energy.space.encode_as(x, energy.weight.dtype).reshape(len(x), -1).mean(0)
    return visible, energy.hidden_probabilities(x).mean(0)


def need_rbm(energy: Any) -> None:
    """:class:`CapabilityError` unless the energy is an RBM of 0/1 or one-hot visible units."""
    found = [getattr(energy, name, None) for name in _NAMES]
    fits = all(isinstance(part, nn.Parameter) for part in found) and hasattr(energy, "hidden_probabilities")
    if fits and energy.space.is_discrete:
        weight, visible, hidden = (tuple(part.shape) for part in found if isinstance(part, Tensor))
        encoding = energy.space.encode(energy.space.random(1, torch.Generator(energy.weight.device)))
        width = encoding.numel() if isinstance(encoding, Tensor) else 0
        fits = weight == (*visible, *hidden) and len(hidden) == 1 and width == energy.visible_bias.numel()
    if not (fits and energy.space.is_discrete):
        raise CapabilityError(
            "`energy` must be an RBM of 0/1 or one-hot units (weight (N, H), visible_bias, hidden_bias, "
            f"hidden_probabilities) for `centre`; got {type(energy).__name__}. Use centre=None."
        )
    frozen = [name for name in _NAMES if not getattr(energy, name).requires_grad]
    if frozen:
        raise SettingError(
            f"`centre` must be None while {', '.join(frozen)} does not require gradients: centring mixes the gradients "
            "of weight and biases. Train all three, or use centre=None."
        )


def centred_gradient(
    weight: Tensor, visible: Tensor, hidden: Tensor, offsets: Offsets
) -> tuple[Tensor, Tensor, Tensor]:
    """The centred (dW, db, dc) from ordinary derivatives (N, H), (N,), (H,), or (N, K, H), (N, K), (H,)."""
    mu, lam, shape = offsets.visible, offsets.hidden, weight.shape
    centred = weight.reshape(len(mu), -1) - torch.outer(mu, hidden) - torch.outer(visible.flatten(), lam)
    return centred.reshape(shape), visible - (centred @ lam).reshape(visible.shape), hidden - centred.t() @ mu


def centred_loss(energy: Any, loss: Tensor, offsets: Offsets) -> Tensor:
    """A scalar with the value of ``loss`` whose derivative is the centred gradient (and the plain one elsewhere)."""
    own = [getattr(energy, name) for name in _NAMES]
    others = [p for p in energy.parameters() if p.requires_grad and all(p is not q for q in own)]
    found = torch.autograd.grad(loss, [*own, *others], allow_unused=True)
    plain = [torch.zeros_like(p) if g is None else g for p, g in zip([*own, *others], found, strict=True)]
    gradients = [*centred_gradient(plain[0], plain[1], plain[2], offsets), *plain[3:]]
    change = sum(((p - p.detach()) * g).sum() for p, g in zip([*own, *others], gradients, strict=True))
    return loss.detach() + change
