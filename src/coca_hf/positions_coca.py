# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Positions of an image's patches: fixed ones, and those of a grid of another size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sincos_positions(size: int, grid_size: tuple[int, int]) -> Tensor:
    """
    Fixed two-dimensional sine-cosine positions, with a zero row for the class token: -> (1 + patches, size).

    The first half of the channels encodes the column, the second half the row; each half is sines, then cosines
    (Masked Autoencoders' `get_2d_sincos_pos_embed`, which open_clip uses).
    """
    height, width = grid_size
    # On a CPU, since not every device has float64.
    double = {"dtype": torch.float64, "device": "cpu"}
    frequencies = 1 / 10000 ** (torch.arange(size // 4, **double) / (size / 4))
    rows = torch.arange(height, **double).repeat_interleave(width)
    columns = torch.arange(width, **double).repeat(height)
    angles = [positions[:, None] * frequencies for positions in (columns, rows)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    return F.pad(table, (0, 0, 1, 0)).float()


def resize_positions(positions: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """
    Positions of an image's patches, and of its class token before them, for another grid of patches.

    (1 + patches, hidden) -> (1 + new patches, hidden): bicubic, with antialiasing (open_clip's `resize_pos_embed`).
    """
    patches = positions[1:].t().unflatten(1, old_grid)[None].float()  # (1, hidden, rows, columns)
    resized = F.interpolate(patches, size=new_grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], resized[0].flatten(1).t().to(positions.dtype)])


class CoCaFixedPositions(nn.Module):
    """Position embeddings that are not trained."""

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__()
        self.register_buffer("weight", torch.empty(num_embeddings, embedding_dim))

    def forward(self, position_ids: Tensor) -> Tensor:
        """(...) -> (..., hidden)."""
        return F.embedding(position_ids, self.weight)


__all__ = ["CoCaFixedPositions", "resize_positions", "sincos_positions"]
