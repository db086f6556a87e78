"""What a model's weights look like: a tile a hidden unit, a matrix of couplings, a convolution's kernels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from discrete_ebm.pictures import grid

__all__ = ["Filters", "coloured", "find"]

_MOST = 100  # tiles


class Filters(NamedTuple):
    """``image`` (h, w, 3) uint8; ``caption``; ``limit``: the weight drawn in the darkest colour."""

    image: np.ndarray
    caption: str
    limit: float


def find(energy: Any) -> list[Filters]:
    """Pictures of the weights of an energy and, of a sum, of its members; empty where nothing can be drawn."""
    found = []
    for part in [energy, *getattr(energy, "members", [])] if isinstance(energy, nn.Module) else []:
        picture = _of(part)
        if picture is not None:
            found.append(picture)
    return found


def coloured(values: np.ndarray, limit: float) -> np.ndarray:
    """Red above 0, white at 0, blue below, as uint8 with a last axis of 3."""
    share = np.clip(values / limit if limit > 0 else values * 0, -1, 1)[..., None]
    red, blue = np.array([178, 24, 43]), np.array([33, 102, 172])
    shade = np.where(share > 0, red, blue)
    return np.rint(255 + (shade - 255) * np.abs(share)).astype(np.uint8)


@torch.no_grad()
def _of(energy: Any) -> Filters | None:
    weight = getattr(energy, "weight", None)
    shape = tuple(getattr(energy, "visible_shape", getattr(energy.space, "shape", ())))
    if hasattr(energy, "hidden_bias") and isinstance(weight, Tensor):
        tiles = weight if weight.dim() == 2 else (weight - weight.mean(1, keepdim=True)).square().sum(1).sqrt()
        what = "weights" if weight.dim() == 2 else "size of the weights over values"
        return _units(tiles.T, shape, f"{what} of the hidden units to the visible sites")
    weights = getattr(energy, "weights", None)
    if weights is not None and len(weights) and isinstance(weights[0], Tensor):
        return _units(weights[0].T, shape, "weights of the first hidden layer to the visible sites")
    coupling = getattr(energy, "coupling", None)
    if isinstance(coupling, Tensor):
        return _pairs(energy, coupling)
    for layer in energy.modules():
        if isinstance(layer, nn.Linear):
            per_site = layer.weight.shape[1] == math.prod(shape)
            return _units(layer.weight, shape, "weights of the first layer") if per_site else None
        if isinstance(layer, nn.Conv2d):
            kernels = layer.weight[:, 0] if layer.weight.shape[-1] > 1 else None
            return None if kernels is None else _units(kernels.flatten(1), tuple(kernels.shape[1:]),
                                                       "kernels of the first convolution (first channel)")  # fmt: skip
    return None


def _units(rows: Tensor, shape: tuple[int, ...], caption: str) -> Filters | None:
    """A tile a row, the largest first."""
    rows = rows.detach().float().cpu()
    if not rows.numel():
        return None
    order = rows.square().sum(1).argsort(descending=True)[:_MOST]
    side = math.isqrt(rows.shape[1])
    tile = shape if len(shape) == 2 else (side, side) if side * side == rows.shape[1] else (1, rows.shape[1])
    some = rows[order].numpy().reshape(len(order), *tile)
    limit = float(np.quantile(np.abs(some), 0.995))
    shown = f"the {len(order)} largest of {len(rows)}" if len(order) < len(rows) else f"all {len(rows)}, largest first"
    return Filters(grid(coloured(some, limit)), f"{caption}; {shown}", limit)


def _pairs(energy: Any, coupling: Tensor) -> Filters | None:
    n = energy.space.n_sites
    matrix: Tensor | None = None
    if hasattr(energy, "pair_scores"):
        matrix = energy.pair_scores()
        caption = "strength of the couplings, site by site (Frobenius norm, average product corrected)"
        if matrix is not None and matrix.shape != (n, n):
            matrix = None
    elif coupling.shape == (n, n):
        matrix, caption = (coupling + coupling.T) / 2, "couplings J, site by site"
        matrix = matrix * (1 - torch.eye(n, device=matrix.device))
    elif coupling.dim() == 1 and hasattr(energy, "edges"):
        i, j = energy.edges().cpu()
        if len(i) == len(coupling) and n <= 1024:
            matrix, caption = torch.zeros(n, n), "couplings J, site by site"
            matrix[i, j] = matrix[j, i] = coupling.detach().cpu()
    if matrix is None:
        return None
    values = matrix.detach().float().cpu().numpy()
    limit = float(np.quantile(np.abs(values), 0.999))
    return Filters(coloured(values, limit), caption, limit)
