"""Applies a network to pictures of any size, by tiles where memory is short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.images.tiles import Field, Grid, Span, choose_grid
from tfstyle.stylizer.memory import RUNTIME, memory_limit

if TYPE_CHECKING:
    from tfstyle.networks.style_net import StyleNet

LEAST_SIDE = 6
"""The shortest side in pixels: less cannot be reflected at each convolution."""

_COPIES = 3  # of the picture: input, result, and one to be written

Moments: TypeAlias = tuple[tuple[tf.Tensor, tf.Tensor], ...]
"""Mean and variance of what each normalisation takes, from the first one on."""


class Passes:
    """What applies a network, whole or by tiles; each function is traced once a shape.

    Attributes:
      field: How far the network sees around a pixel, in multiples of its stride.
      strides: The stride of the features that each normalisation takes.
      bytes_per_pixel: The most that a pass takes, per pixel of the picture.
      whole: ``whole(picture, blend)``: the network, for a picture of any size.
      tile: ``tile(crop, blend, moments)``: the network with given moments of every
        normalisation.
      tile_moments: ``tile_moments(crop, blend, begin, end, known)``: the moments of
        the next normalisation after those that are known, over the features from
        ``begin`` to ``end``. Traced for each number of known moments.
    """

    def __init__(self, network: StyleNet):
        """Traces nothing yet."""
        # Two borders of 4; 1, 2, 2 and 1 of the convolutions beside the blocks; up to 7
        # where an enlargement rounds.
        reach = 17 + 8 * network.blocks
        self.field = Field(stride=4, before=reach, after=reach)
        self.strides = (1, 2, *[4] * (1 + 2 * network.blocks), 2, 1)
        # Two or three tensors of the first convolution's shape are held at a time.
        size = tf.as_dtype(network.compute_dtype).size
        self.bytes_per_pixel = 2.75 * network.width * size

        def tile(crop: tf.Tensor, blend: tf.Tensor, moments: Moments) -> tf.Tensor:
            return network.run(
                crop, lambda i, x: network.norms[i].normalized(x, blend, *moments[i])
            )

        def tile_moments(
            crop: tf.Tensor,
            blend: tf.Tensor,
            begin: tf.Tensor,
            end: tf.Tensor,
            known: Moments,
        ) -> tuple[tf.Tensor, tf.Tensor]:
            found = []

            def normalize(i: int, x: tf.Tensor) -> tf.Tensor:
                if i == len(known):
                    core = x[:, begin[0] : end[0], begin[1] : end[1]]
                    found.append(network.norms[i].moments(core))
                if i >= len(known):
                    return x  # nothing asks for what comes after
                return network.norms[i].normalized(x, blend, *known[i])

            network.run(crop, normalize)
            return found[0]

        specs = (
            tf.TensorSpec([1, None, None, 3]),
            tf.TensorSpec([1, len(network.style_names)]),
        )
        self.whole = tf.function(network.call, input_signature=specs, autograph=False)
        self.tile = tf.function(tile, autograph=False)
        self.tile_moments = tf.function(tile_moments, autograph=False)


def apply_network(
    network: StyleNet,
    pictures: np.ndarray,
    blend: tf.Tensor | np.ndarray,
    max_memory: float = 0.0,
) -> np.ndarray:
    """Stylizes pictures one by one, by tiles where they would take too much memory.

    Args:
      network: The network.
      pictures: ``[N, H, W, 3]`` float32, RGB in [0, 1].
      blend: Shares of the styles, ``[1, styles]``, see ``StyleNet.blend``.
      max_memory: Gigabytes that may be taken. A picture that needs more is computed
        tile by tile, with the same result. 0: a safe share of what there is.

    Returns:
      ``[N, H, W, 3]`` float32, RGB in [0, 1].

    Raises:
      UsageError: If the pictures are too small, or there is not enough memory.
    """
    size = pictures.shape[1:3]
    if min(size) < LEAST_SIDE:
        raise UsageError(
            f"a picture of {size[1]}×{size[0]} pixels is too small: each side needs at "
            f"least {LEAST_SIDE} pixels"
        )
    free = memory_limit(max_memory) - RUNTIME - _COPIES * pictures.nbytes
    passes = network.passes
    grid = choose_grid(size, passes.field, free / passes.bytes_per_pixel)
    results = [
        _by_tiles(network, picture, blend, grid)
        if len(grid) > 1
        else passes.whole(picture, blend).numpy()
        for picture in np.split(pictures, len(pictures))
    ]
    return np.concatenate(results) if len(results) > 1 else results[0]


def _by_tiles(
    network: StyleNet, picture: np.ndarray, blend: tf.Tensor | np.ndarray, grid: Grid
) -> np.ndarray:
    """Equals the whole picture's result, except for rounding.

    Each normalisation needs the mean and the variance of the whole picture, which
    depend on those of earlier ones. So each takes a pass of its own over all tiles.
    """
    blend = tf.convert_to_tensor(blend, tf.float32)
    known: Moments = ()
    for stage in range(len(network.norms)):
        known += (_moments(network, picture, blend, grid, stage, known),)
    result = np.empty(picture.shape, "float32")
    for row, column in grid:
        crop = _crop(picture, grid, row.begin, column.begin)
        tile = network.passes.tile(crop, blend, known)[
            :,
            row.core_begin - row.begin : row.core_end - row.begin,
            column.core_begin - column.begin : column.core_end - column.begin,
        ]
        result[
            :, row.core_begin : row.core_end, column.core_begin : column.core_end
        ] = tile
    return result


def _moments(
    network: StyleNet,
    picture: np.ndarray,
    blend: tf.Tensor,
    grid: Grid,
    stage: int,
    known: Moments,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of what a normalisation takes, over all tiles."""
    stride = network.passes.strides[stage]
    sizes, means, variances = [], [], []
    for row, column in grid:
        spans = [_features(span, stride) for span in (row, column)]
        begin, end = np.array(spans, "int32").T
        crop = _crop(picture, grid, row.begin, column.begin)
        places = tf.constant(begin), tf.constant(end)
        mean, variance = network.passes.tile_moments(crop, blend, *places, known)
        sizes.append(math.prod(end - begin))
        means.append(mean.numpy().astype("float64"))
        variances.append(variance.numpy().astype("float64"))
    shares = np.array(sizes)[:, None, None, None, None] / sum(sizes)
    mean = (shares * means).sum(0)
    # Of the whole: the mean variance of the parts and the variance of their means.
    variance = (shares * (np.array(variances) + (means - mean) ** 2)).sum(0)
    return tf.constant(mean, tf.float32), tf.constant(variance, tf.float32)


def _features(span: Span, stride: int) -> tuple[int, int]:
    """Where a core's features begin and end in those of its tile."""
    begin, end = span.core_begin - span.begin, span.core_end - span.begin
    return begin // stride, math.ceil(end / stride)  # only the last end may round


def _crop(picture: np.ndarray, grid: Grid, top: int, left: int) -> tf.Tensor:
    height, width = grid.shape
    return tf.constant(picture[:, top : top + height, left : left + width])
