"""Neural neighbours: each part of a picture is drawn like a part of the style.

Kolkin, Kucera, Paris, Sýkora, Shechtman and Shakhnarovich, "Neural Neighbor Style
Transfer" (2022). A picture is divided into cells of 4×4 pixels. The features of all
layers at a cell, one below the other, are its hypercolumn. At each scale, each cell of
the content is given the cell of the style whose hypercolumn is nearest by centred
cosine distance; then the picture is changed until its hypercolumns point the same way.

The loss is a sum over cells, and a cell never needs features outside of it, so that
parts of a picture add up to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfstyle.backbones.precision import multiplies_bfloat16
from tfstyle.losses.functions import Features

CELL = 4
"""Side of a cell in pixels."""
MOST_REFERENCES = 16384
"""Cells of the style pictures that are searched; of larger pictures, a sample."""

_CHUNK = 1024  # cells that are compared with all references at once
_TINY = 1e-12


class References(NamedTuple):
    """Cells of the style pictures, to search in.

    Attributes:
      columns: The parts of hypercolumns of length 1, ``[R, C]`` by layer.
      centered: Hypercolumns less their mean, of length 1, ``[R, D]``.
      barred: 0 where a reference may be used in a region, else -inf, ``[regions, R]``;
        None if all may be used everywhere.
      shares: The factor of each layer in hypercolumns, by layer.
    """

    columns: Features
    centered: tf.Tensor
    barred: tf.Tensor | None
    shares: Features


class Neighbors(NamedTuple):
    """What the cells of a picture are compared with.

    Attributes:
      indices: The reference of each cell, int32 ``[N, h, w, 1]``.
      columns: See ``References``.
      shares: See ``References``.
      weights: How much each cell counts, ``[1, h, w, 1]``; None for all alike.
      scale: The factor of the sum over cells, a scalar.
    """

    indices: tf.Tensor
    columns: Features
    shares: Features
    weights: tf.Tensor | None
    scale: tf.Tensor


def hypercolumns(
    features: Features,
    strides: Mapping[str, int],
    shares: Features,
    cells: tuple[Any, Any],
) -> tf.Tensor:
    """The features of all layers at each cell.

    Fine layers are averaged over a cell, coarse ones are repeated.

    Args:
      features: Features ``[N, h', w', C]`` by layer.
      strides: Pixels between the positions of each layer, powers of 2.
      shares: The factor of each layer, scalars; the layers that are used.
      cells: Rows and columns of cells, integers or scalar tensors.

    Returns:
      Float32 or float64 ``[N, h, w, D]``.
    """
    parts = [
        cell_features(features[layer], strides[layer], cells) * share
        for layer, share in shares.items()
    ]
    return tf.concat(parts, -1)


def cell_features(
    features: tf.Tensor, stride: int, cells: tuple[Any, Any]
) -> tf.Tensor:
    """The features of one layer at each cell.

    Args:
      features: Features ``[N, h', w', C]``.
      stride: Pixels between positions.
      cells: Rows and columns of cells.

    Returns:
      Float32 or float64 ``[N, h, w, C]``.
    """
    side = _cells_per_position(stride)
    positions = _at_positions(features, stride, cells)
    repeated = tf.tile(positions[:, :, None, :, None], [1, 1, side, 1, side, 1])
    rows, columns = (side * n for n in tf.unstack(tf.shape(positions)[1:3]))
    shape = [tf.shape(features)[0], rows, columns, features.shape[-1]]
    return tf.reshape(repeated, shape)[:, : cells[0], : cells[1]]


def neighbor_loss(
    features: Features, strides: Mapping[str, int], neighbors: Neighbors
) -> tf.Tensor:
    """Cosine distances of hypercolumns to their references.

    The products and lengths of hypercolumns are sums over layers, and where a position
    of a layer is shared by several cells, they need it once: no hypercolumn is put
    together.

    Args:
      features: Features ``[N, h', w', C]`` by layer.
      strides: Pixels between the positions of each layer, powers of 2.
      neighbors: What the cells are compared with.

    Returns:
      One loss per picture, ``[N]``.
    """
    cells = tuple(tf.unstack(tf.shape(neighbors.indices)[1:3]))
    products, squares = [], []
    for layer, share in neighbors.shares.items():
        side = _cells_per_position(strides[layer])
        found = _at_positions(features[layer], strides[layer], cells)
        shared = _blocks(neighbors.indices, side)
        targets = tf.gather(neighbors.columns[layer], shared)  # [N, h, w, side², C]
        product = tf.matmul(targets, found[..., None])[..., 0]
        square = tf.tile(_squared(found), [1, 1, 1, side**2])
        products.append(share * _from_blocks(product, side, cells))
        squares.append(share**2 * _from_blocks(square, side, cells))
    lengths = tf.math.rsqrt(tf.maximum(tf.add_n(squares), _TINY))
    distances = 1 - tf.add_n(products) * lengths
    if neighbors.weights is not None:
        distances *= tf.cast(neighbors.weights, distances.dtype)
    scale = tf.cast(neighbors.scale, distances.dtype)
    return scale * tf.reduce_sum(distances, [1, 2, 3])


def nearest(
    centered: tf.Tensor, references: References, regions: tf.Tensor | None
) -> tf.Tensor:
    """The reference that is nearest to each cell.

    Args:
      centered: Hypercolumns less their mean, of length 1, ``[N, h, w, D]``.
      references: Where to search.
      regions: The region of each cell, int32 ``[1, h, w, 1]``; None if there is one.

    Returns:
      Int32 ``[N, h, w, 1]``.
    """
    shape = tf.shape(centered)
    dtype = tf.bfloat16 if multiplies_bfloat16() else centered.dtype
    among = tf.cast(references.centered, dtype)
    rows = _chunks(tf.cast(tf.reshape(centered, [-1, centered.shape[-1]]), dtype))
    if regions is None or references.barred is None:
        found = tf.map_fn(
            lambda chunk: _largest(tf.matmul(chunk, among, transpose_b=True)),
            rows,
            fn_output_signature=tf.int32,
        )
    else:
        barred = tf.cast(references.barred, dtype)
        everywhere = tf.repeat(tf.reshape(regions, [1, -1]), shape[0], 0)
        found = tf.map_fn(
            lambda each: _largest(
                tf.matmul(each[0], among, transpose_b=True) + tf.gather(barred, each[1])
            ),
            (rows, _chunks(tf.reshape(everywhere, [-1, 1]))[..., 0]),
            fn_output_signature=tf.int32,
        )
    count = tf.reduce_prod(shape[:3])
    return tf.reshape(tf.reshape(found, [-1])[:count], [*tf.unstack(shape[:3]), 1])


def references(
    parts: Features, shares: Features, barred: tf.Tensor | None
) -> References:
    """Cells of the style to search in.

    Args:
      parts: The parts of hypercolumns, ``[R, C]`` by layer.
      shares: See ``References``.
      barred: See ``References``.
    """
    whole = tf.concat(list(parts.values()), 1)
    sizes = [part.shape[1] for part in parts.values()]
    columns = dict(zip(parts, tf.split(unit(whole), sizes, axis=1), strict=True))
    centered = unit(whole - tf.reduce_mean(whole, 0, keepdims=True))
    return References(columns, centered, barred, shares)


def unit(columns: tf.Tensor) -> tf.Tensor:
    """Vectors with the length 1; those of no length stay 0."""
    squares = tf.reduce_sum(tf.square(columns), -1, keepdims=True)
    return columns * tf.math.rsqrt(tf.maximum(squares, _TINY))


def _cells_per_position(stride: int) -> int:
    """How many cells, down and across, have the same position of a layer."""
    return max(stride // CELL, 1)


def _at_positions(
    features: tf.Tensor, stride: int, cells: tuple[Any, Any]
) -> tf.Tensor:
    """Means over cells, or the positions that are as large as cells or larger.

    Returns:
      Float32 or float64 ``[N, h, w, C]``, just so many that they cover the cells; where
      a network has fewer, with the last ones repeated.
    """
    if stride < CELL:
        side = CELL // stride
        features = tf.nn.avg_pool2d(features, side, side, "VALID")
    if features.dtype.size < 4:
        features = tf.cast(features, tf.float32)
    rows, columns = (-(-n // _cells_per_position(stride)) for n in cells)
    features = features[:, :rows, :columns]
    missing = rows - tf.shape(features)[1]
    features = tf.concat([features, tf.tile(features[:, -1:], [1, missing, 1, 1])], 1)
    missing = columns - tf.shape(features)[2]
    last = features[:, :, -1:]
    return tf.concat([features, tf.tile(last, [1, 1, missing, 1])], 2)


def _blocks(indices: tf.Tensor, side: int) -> tf.Tensor:
    """``[N, ⌈h / side⌉, ⌈w / side⌉, side²]`` of ``[N, h, w, 1]``."""
    if side == 1:
        return indices
    missing = tf.math.floormod(-tf.shape(indices)[1:3], side)
    indices = tf.pad(indices, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
    return tf.nn.space_to_depth(indices, side)


def _from_blocks(blocks: tf.Tensor, side: int, cells: tuple[Any, Any]) -> tf.Tensor:
    """The reverse, ``[N, h, w, 1]``."""
    if side == 1:
        return blocks
    return tf.nn.depth_to_space(blocks, side)[:, : cells[0], : cells[1]]


def _squared(features: tf.Tensor) -> tf.Tensor:
    """Squared lengths ``[..., 1]``, whose gradient takes one product, not three."""
    fixed, column = tf.stop_gradient(features)[..., None, :], features[..., None]
    square = tf.matmul(fixed, column)[..., 0]
    return 2 * square - tf.stop_gradient(square)


def _chunks(rows: tf.Tensor) -> tf.Tensor:
    """``[chunks, 1024, D]`` of ``[n, D]``, filled up with zeros."""
    missing = tf.math.floormod(-tf.shape(rows)[0], _CHUNK)
    padded = tf.pad(rows, [[0, missing], [0, 0]])
    return tf.reshape(padded, [-1, _CHUNK, rows.shape[-1]])


def _largest(similarities: tf.Tensor) -> tf.Tensor:
    return tf.argmax(similarities, -1, output_type=tf.int32)
