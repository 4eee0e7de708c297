"""How much of each position of features belongs to each region of a picture."""

from __future__ import annotations

import numpy as np

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.images.tiles import Field
from tfstyle.losses.neighbors import CELL


def guides(
    regions: np.ndarray, extractor: FeatureExtractor, layers: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """How much of each position of a layer belongs to each region.

    A position's share is the mean over the pixels in the middle of what it sees, as
    many as the layer's stride.

    Args:
      regions: ``[1, H, W, R]`` in [0, 1].
      extractor: The network.
      layers: Layers of it.

    Returns:
      Float32 ``[1, h, w, R]`` by layer.
    """
    shapes = extractor.shapes(*regions.shape[1:3])
    return {
        layer: pooled(regions, extractor.fields[layer], shapes[layer][:2])
        for layer in layers
    }


def cell_guide(regions: np.ndarray) -> np.ndarray:
    """How much of each cell of ``losses.neighbors`` belongs to each region.

    Args:
      regions: ``[1, H, W, R]`` in [0, 1].

    Returns:
      Float32 ``[1, H // 4, W // 4, R]``.
    """
    height, width = regions.shape[1:3]
    return pooled(regions, Field(CELL), (height // CELL, width // CELL))


def pooled(regions: np.ndarray, field: Field, shape: tuple[int, ...]) -> np.ndarray:
    """The mean of each region over the pixels in the middle of what positions see."""
    if field.stride == 1 and shape == regions.shape[1:3]:
        return regions
    shift = (field.after - field.before) // 2
    rows, columns = (
        np.clip(np.arange(length * field.stride) + shift, 0, whole - 1)
        for length, whole in zip(shape, regions.shape[1:3], strict=True)
    )
    seen = regions[:, rows][:, :, columns]
    cells = seen.reshape(1, shape[0], field.stride, shape[1], field.stride, -1)
    return cells.mean((2, 4), dtype="float32")
