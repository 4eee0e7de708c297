"""Applies a trained network to pictures of any size."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.images.color import keep_colors
from tfstyle.images.masks import protected, read_protection
from tfstyle.images.tiles import Grid, Span, choose_grid
from tfstyle.networks.style_net import BUNDLED, LEAST_SIDE, StyleNet, load_network
from tfstyle.options import APPLY_COLORS
from tfstyle.stylizer.memory import RUNTIME, memory_limit

_COPIES = 3  # of the picture: input, result, and one to be written


def apply_style(
    content: Any,
    style_name: str | Mapping[str, float] | None = None,
    *,
    model: str | os.PathLike[str] | StyleNet = BUNDLED,
    size: int | None = None,
    color: str = "style",
    protect: Any = None,
    max_memory: float = 0.0,
) -> np.ndarray:
    """Gives a picture a style that a network was trained on, in one pass.

    Example:
      >>> image = tfstyle.apply_style("photo.jpg", "starry_night")
      >>> tfstyle.save_image(image, "out.png")

    Args:
      content: Path, ``PIL.Image``, array or tensor, see ``load_image``.
      style_name: A style, or a blend ``name:weight,...``; None for the first one.
      model: ``bundled``, a ``.keras`` file, the folder of a training run, or what
        ``load_network`` returned.
      size: Longest side in pixels; None keeps the picture's own.
      color: ``style``, or ``content`` to keep the picture's colours and stylize its
        luminance only, see ``keep_colors``.
      protect: A grey picture; what is white stays as it is.
      max_memory: Gigabytes that may be taken; a picture that needs more is computed
        tile by tile, with the same result. 0: a safe share of what there is.

    Returns:
      The picture, ``[1, H, W, 3]`` float32 in [0, 1].

    Raises:
      UsageError: If the style or the model does not exist, or the picture is too small.
      ImageError: If the file is not a picture, or is damaged.
    """
    network = model if isinstance(model, StyleNet) else _loaded(model)
    picture = load_image(content, size, name="content")
    if color not in APPLY_COLORS:
        raise UsageError(f"color={color!r}: choose one of {', '.join(APPLY_COLORS)}")
    kept = None if protect is None else read_protection(protect, picture.shape[1:3])
    result = apply_network(network, picture, network.blend(style_name), max_memory)
    if color == "content":
        result = keep_colors(result, picture)
    return result if kept is None else protected(result, picture, kept)


def _loaded(model: str | os.PathLike[str]) -> StyleNet:
    return _bundled() if model == BUNDLED else load_network(model)


@functools.lru_cache(1)
def _bundled() -> StyleNet:
    """The bundled network, whose graph is traced once."""
    return load_network(BUNDLED)


def apply_network(
    network: StyleNet,
    picture: np.ndarray,
    blend: tf.Tensor,
    max_memory: float = 0.0,
) -> np.ndarray:
    """Stylizes a picture, by tiles where it would take too much memory.

    Args:
      network: The network.
      picture: ``[1, H, W, 3]`` float32 in [0, 1].
      blend: Weights of the styles, ``[1, styles]``.
      max_memory: See ``apply_style``.

    Returns:
      Same as ``apply_style``.

    Raises:
      UsageError: If the picture is too small, or there is not enough memory.
    """
    size = picture.shape[1:3]
    if min(size) < LEAST_SIDE:
        raise UsageError(
            f"a picture of {size[1]}×{size[0]} pixels is too small: each side needs at "
            f"least {LEAST_SIDE} pixels"
        )
    free = memory_limit(max_memory) - RUNTIME - _COPIES * picture.nbytes
    grid = choose_grid(size, network.field, free / network.bytes_per_pixel)
    if len(grid) == 1:
        return _whole(network)(picture, blend).numpy()
    return _by_tiles(network, picture, blend, grid)


@functools.lru_cache(4)
def _whole(network: StyleNet) -> tf.types.experimental.PolymorphicFunction:
    """The network as a graph for a picture of any size."""
    specs = (
        tf.TensorSpec([1, None, None, 3]),
        tf.TensorSpec([1, len(network.style_names)]),
    )
    return tf.function(network.call, input_signature=specs, autograph=False)


def _by_tiles(
    network: StyleNet, picture: np.ndarray, blend: tf.Tensor, grid: Grid
) -> np.ndarray:
    """Equals the whole picture's result, except for rounding.

    Each normalisation needs the mean and the variance of the whole picture, which
    depend on those before; so each is found in a pass of its own over all tiles.
    """
    known: tuple[tuple[tf.Tensor, tf.Tensor], ...] = ()
    for stage in range(len(network.norms)):
        known += (_moments(network, picture, blend, grid, stage, known),)
    result = np.empty(picture.shape, "float32")
    stylized = _stylized_tile(network)
    for row, column in grid:
        crop = _crop(picture, grid, row.begin, column.begin)
        tile = stylized(crop, blend, known)[
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
    known: tuple[tuple[tf.Tensor, tf.Tensor], ...],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of what a normalisation takes, over all tiles."""
    stride, tile_moments = network.stride(stage), _tile_moments(network)
    sizes, means, variances = [], [], []
    for row, column in grid:
        spans = [_features(span, stride) for span in (row, column)]
        begin, end = np.array(spans, "int32").T
        crop = _crop(picture, grid, row.begin, column.begin)
        places = tf.constant(begin), tf.constant(end)
        mean, variance = tile_moments(crop, blend, *places, known)
        sizes.append(math.prod(end - begin))
        means.append(mean.numpy().astype("float64"))
        variances.append(variance.numpy().astype("float64"))
    shares = np.array(sizes)[:, None, None, None, None] / sum(sizes)
    mean = (shares * means).sum(0)
    # Of the whole: the mean variance of the parts and the variance of their means.
    variance = (shares * (np.array(variances) + (means - mean) ** 2)).sum(0)
    return tf.constant(mean, tf.float32), tf.constant(variance, tf.float32)


@functools.lru_cache(4)
def _stylized_tile(network: StyleNet) -> tf.types.experimental.PolymorphicFunction:
    """The network with moments as arguments; traced once for each shape of a tile."""

    @tf.function(autograph=False)
    def stylized(crop: tf.Tensor, blend: tf.Tensor, moments: Any) -> tf.Tensor:
        return network.run(
            crop, lambda i, x: network.norms[i].normalized(x, blend, *moments[i])
        )

    return stylized


@functools.lru_cache(4)
def _tile_moments(network: StyleNet) -> tf.types.experimental.PolymorphicFunction:
    """The moments of a tile's core at the first normalisation that is not known.

    Traced once for each shape of a tile and each number of known moments.
    """

    @tf.function(autograph=False)
    def tile_moments(
        crop: tf.Tensor, blend: tf.Tensor, begin: tf.Tensor, end: tf.Tensor, known: Any
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

    return tile_moments


def _features(span: Span, stride: int) -> tuple[int, int]:
    """Where a core's features begin and end in those of its tile."""
    begin, end = span.core_begin - span.begin, span.core_end - span.begin
    return begin // stride, math.ceil(end / stride)  # only the last end may round


def _crop(picture: np.ndarray, grid: Grid, top: int, left: int) -> tf.Tensor:
    height, width = grid.shape
    return tf.constant(picture[:, top : top + height, left : left + width])
