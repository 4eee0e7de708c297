"""Where the cells of a picture find their neighbours: styles, shares and regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfstyle.images import resize_image
from tfstyle.losses.neighbors import (
    CELL,
    MOST_REFERENCES,
    Neighbors,
    References,
    references,
)
from tfstyle.stylizer.guides import cell_guide
from tfstyle.stylizer.pictures import Pictures, StylePicture

Size = tuple[int, int]


def sample_steps(sizes: Sequence[Size], shares: np.ndarray) -> list[int]:
    """How many cells of each style picture to go on by, down and across.

    Together the samples have at most ``MOST_REFERENCES`` cells. A style of a smaller
    share is sampled less densely, so that fewer cells find their neighbour in it.

    Args:
      sizes: Height and width of each style picture in pixels.
      shares: The share of each style.

    Returns:
      Steps of at least 1; 0 for a style without a share.
    """
    cells = sum(
        _cells(size) for size, share in zip(sizes, shares, strict=True) if share
    )
    least, largest = math.ceil(math.sqrt(cells / MOST_REFERENCES)), max(shares)
    return [
        max(least, 1) * round(math.sqrt(largest / share)) if share else 0
        for share in shares
    ]


def search_table(
    tables: Sequence[tf.Tensor | None],
    steps: Sequence[int],
    sizes: Sequence[Size],
    channels: Mapping[str, int],
    pictures: Pictures,
) -> References:
    """The cells of all styles in one table, with the regions that each may serve.

    Each layer is divided by its root mean square over the table, so that all count
    alike in the angle between hypercolumns.

    Args:
      tables: From ``TiledLoss.style_cells``, for each style; None without a share.
      steps: From ``sample_steps``.
      sizes: Height and width of each style picture.
      channels: Channels by style layer, in the order of the table.
      pictures: For the styles' shares and regions.

    Returns:
      Where to search.
    """
    rows, allowed = [], []
    for s, (table, step) in enumerate(zip(tables, steps, strict=True)):
        if table is None:
            continue
        rows.append(tf.reshape(table, [-1, table.shape[-1]]))
        serves = _served(pictures.styles[s], sizes[s], step, len(rows[-1]))
        allowed.append(serves & (pictures.shares[s] > 0))
    columns, serving = tf.concat(rows, 0), np.concatenate(allowed)
    if serving.shape[1] == 1:
        columns = tf.boolean_mask(columns, serving[:, 0])
    barred = None
    if serving.shape[1] > 1:
        barred = tf.constant(np.where(serving, 0.0, -np.inf).T, columns.dtype)
    split = tf.split(columns, list(channels.values()), axis=1)
    parts = dict(zip(channels, split, strict=True))
    shares = {
        layer: tf.math.rsqrt(tf.maximum(_mean_energy(part), 1e-12))
        for layer, part in parts.items()
    }
    scaled = {layer: part * shares[layer] for layer, part in parts.items()}
    return references(scaled, shares, barred)


def compare_with(
    indices: np.ndarray,
    table: References,
    guide: np.ndarray | None,
    style_weight: float,
) -> Neighbors:
    """What the cells of a picture are compared with.

    Args:
      indices: From ``TiledLoss.neighbor_indices``.
      table: Where they were found.
      guide: How much of each cell belongs to each region, ``[1, h, w, R]``; None if
        all of it does.
      style_weight: The weight of the loss, a mean over cells.

    Returns:
      Targets of ``neighbor_loss``.
    """
    weights = None if guide is None else guide.sum(-1, keepdims=True)
    count = math.prod(indices.shape[1:3]) if weights is None else weights.sum()
    return Neighbors(
        tf.constant(indices),
        table.columns,
        table.shares,
        None if weights is None else tf.constant(weights),
        tf.constant(style_weight / max(float(count), 1e-12), tf.float64),
    )


def region_of_cells(guide: np.ndarray | None) -> tf.Tensor | None:
    """The region that has most of each cell, int32 ``[1, h, w, 1]``."""
    if guide is None or guide.shape[-1] == 1:
        return None
    return tf.constant(guide.argmax(-1)[..., None].astype("int32"))


def _served(style: StylePicture, size: Size, step: int, count: int) -> np.ndarray:
    """Which regions the sampled cells of a style picture belong to, ``[n, R or 1]``."""
    if style.regions is None:
        return np.ones([count, 1], bool)
    guide = cell_guide(resize_image(style.regions, size))[0, ::step, ::step]
    guide = guide.reshape(-1, guide.shape[-1])
    # A region may be smaller than a cell: then the cell that has most of it serves.
    return guide >= np.minimum(guide.max(0), 0.5)


def _cells(size: Size) -> int:
    return (size[0] // CELL) * (size[1] // CELL)


def _mean_energy(features: tf.Tensor) -> tf.Tensor:
    """Mean square of the length of features ``[R, C]``."""
    return tf.reduce_mean(tf.reduce_sum(tf.square(features), 1))
