"""States as a grid of small pictures, and PNG files of them: no plotting library is needed."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.spaces import Product

__all__ = ["grid", "grid_of", "png", "tile_shape"]

_BORDER = 208  # grey between tiles


def tile_shape(space: Any) -> tuple[int, ...]:
    """(height, width[, 3]) of one state's picture: images as they are, everything else a square of its sites."""
    shape = _visible(space).shape
    if len(shape) == 2:
        return tuple(shape)
    if len(shape) == 3:
        return (shape[1], shape[2], 3) if shape[0] == 3 else (shape[1], shape[2])
    n = math.prod(shape)
    side = math.isqrt(n)
    return (side, side) if side * side == n else (1, n)


def grid_of(space: Any, x: Tensor, n: int = 100, columns: int | None = None) -> np.ndarray:
    """(height, width) or (height, width, 3) uint8 picture of the first ``n`` states (C, *shape), row after row.

    Bits are black on white; other alphabets run from white (the first value) to black (the last); reals from the
    smallest to the largest value shown. Sites that are no image fill a square where they can, else a line.
    """
    visible = _visible(space)
    x = x[:n].cpu()
    if isinstance(space, Product):
        x = space.split(x)[next(iter(space.spaces))]
    if visible.is_discrete:
        dark = visible.to_index(x).double() / (visible.n_values - 1).clamp(min=1)
    else:
        flat = x.reshape(len(x), -1).double()
        span = float(flat.max() - flat.min()) if flat.numel() else 0.0
        dark = (flat - flat.min()) / span if span > 0 else torch.zeros_like(flat)
    tall, wide, *colours = tile_shape(space)
    if colours:
        tiles = (1 - dark).reshape(len(x), 3, tall, wide).permute(0, 2, 3, 1)
    else:
        tiles = (1 - dark).reshape(len(x), -1, tall, wide)[:, 0]
    return grid((tiles * 255).round().to(torch.uint8).numpy(), columns)


def grid(tiles: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Tiles (n, height, width[, 3]) uint8 beside each other with a thin grey border; lines are stacked closely."""
    n, tall, wide, *colours = tiles.shape
    columns = columns or (1 if tall == 1 and wide > 16 else max(1, math.ceil(math.sqrt(n * tall / wide))))
    columns = min(columns, n)
    rows = -(-n // columns)
    gap = 0 if tall == 1 else 1
    page = np.full((rows * (tall + gap) + gap, columns * (wide + 1) + 1, *colours), _BORDER, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (tall + gap), 1 + i % columns * (wide + 1)
        page[top : top + tall, left : left + wide] = tile
    return page


def png(image: np.ndarray, scale: int = 1) -> bytes:
    """A PNG file of grey (h, w) or coloured (h, w, 3) uint8, each pixel ``scale`` by ``scale``.

    Source: ISO/IEC 15948, "Portable Network Graphics", chunks IHDR, IDAT, IEND; filter 0.
    """
    image = image.repeat(scale, 0).repeat(scale, 1)
    tall, wide = image.shape[:2]
    rows = np.concatenate([np.zeros((tall, 1), np.uint8), image.reshape(tall, -1)], axis=1)
    head = struct.pack(">IIBBBBB", wide, tall, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def _visible(space: Any) -> Any:
    return next(iter(space.spaces.values())) if isinstance(space, Product) else space
