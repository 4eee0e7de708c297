"""Applies a network to pictures of any size, by tiles where memory is short."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.images.color import keep_colors
from tfstyle.images.masks import protected, read_protection
from tfstyle.images.tiles import Field, Grid, Span, choose_grid
from tfstyle.networks.operations import moments
from tfstyle.options import APPLY_COLORS, check_choice
from tfstyle.stylizer.memory import RUNTIME, memory_limit

Painter: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Gives pictures ``[N, H, W, 3]``, float32 in [0, 1], a style."""

_COPIES = 3  # of the picture: input, result, and one to be written

Moments: TypeAlias = tuple[tuple[tf.Tensor, tf.Tensor], ...]
"""Mean and variance of what each normalisation takes, from the first one on."""

MomentsOf: TypeAlias = Callable[[int, Any], tuple[Any, Any]]
"""Gives mean and variance ``[N, 1, 1, C]`` of what the i-th normalisation takes."""


class Network(Protocol):
    """A network that normalises features by their mean and variance on its way."""

    def __call__(self, images: Any, style: Any) -> Any:
        """Gives pictures ``[N, H, W, 3]`` a style."""
        ...

    def with_moments(self, images: Any, style: Any, moments_of: MomentsOf) -> Any:
        """The same, where ``moments_of(i, x)`` gives the moments at the i-th place."""
        ...


class Passes:
    """What applies a network to a picture ``[1, H, W, 3]``; traced when first needed.

    Attributes:
      field: How far the network sees around a pixel, in multiples of its stride.
      strides: The stride of the features that each normalisation takes.
      bytes_per_pixel: The most that a pass takes, per pixel of the picture.
      least_side: The shortest side of a picture in pixels.
      most_pixels: Larger pictures are computed by tiles, however much memory there is.
      whole: ``whole(picture, style)``: the network, for a picture of any size.
      tile: ``tile(crop, style, moments)``: the network with given moments of every
        normalisation.
      tile_moments: ``tile_moments(crop, style, begin, end, known)``: the moments of
        the next normalisation after those that are known, over the features from
        ``begin`` to ``end``. Traced for each number of known moments.
    """

    def __init__(
        self,
        network: Network,
        style: Any,
        field: Field,
        strides: Sequence[int],
        bytes_per_pixel: float,
        least_side: int = 1,
        most_pixels: float = math.inf,
    ):
        """Traces nothing yet.

        Args:
          network: The network.
          style: Describes what the network takes as style: a spec, or several by name.
          field: See the attribute.
          strides: See the attribute.
          bytes_per_pixel: See the attribute.
          least_side: See the attribute.
          most_pixels: See the attribute.
        """
        self.field, self.strides = field, tuple(strides)
        self.bytes_per_pixel, self.least_side = bytes_per_pixel, least_side
        self.most_pixels, self._style = most_pixels, style

        def tile(crop: tf.Tensor, style: Any, of_all: Moments) -> tf.Tensor:
            return network.with_moments(crop, style, lambda i, x: of_all[i])

        def tile_moments(
            crop: tf.Tensor,
            style: Any,
            begin: tf.Tensor,
            end: tf.Tensor,
            known: Moments,
        ) -> tuple[tf.Tensor, tf.Tensor]:
            found = []

            def moments_of(i: int, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                if i < len(known):
                    return known[i]
                found.append(moments(x[:, begin[0] : end[0], begin[1] : end[1]]))
                return found[-1]

            network.with_moments(crop, style, moments_of)
            return found[0]  # nothing asks for what comes after

        self.whole = tf.function(
            lambda picture, style: network(picture, style),
            input_signature=(tf.TensorSpec([1, None, None, 3]), style),
            autograph=False,
        )
        self.tile = tf.function(tile, autograph=False)
        self.tile_moments = tf.function(tile_moments, autograph=False)

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what is computed for a picture of a size."""
        return size

    def by_tiles(self, picture: np.ndarray, style: Any, grid: Grid) -> np.ndarray:
        """Equals ``whole``, except for rounding; the grid is of ``working_size``.

        Each normalisation needs the mean and the variance of the whole picture, which
        depend on those of earlier ones. So each takes a pass of its own over all tiles.
        """
        style = tf.nest.map_structure(
            lambda spec, value: tf.convert_to_tensor(value, spec.dtype),
            self._style,
            style,
        )
        known: Moments = ()
        for stride in self.strides:
            known += (self._moments(picture, style, grid, stride, known),)
        return assembled(picture, grid, lambda crop: self.tile(crop, style, known))

    def _moments(
        self, picture: np.ndarray, style: Any, grid: Grid, stride: int, known: Moments
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of what a normalisation takes, over all tiles."""
        sizes, means, variances = [], [], []
        for row, column in grid:
            places = core_features((row, column), stride)
            crop = cropped(picture, grid, row, column)
            mean, variance = self.tile_moments(
                crop, style, *map(tf.constant, places), known
            )
            sizes.append(math.prod(places[1] - places[0]))
            means.append(mean.numpy().astype("float64"))
            variances.append(variance.numpy().astype("float64"))
        shares = np.array(sizes)[:, None, None, None, None] / sum(sizes)
        mean = (shares * means).sum(0)
        # Of the whole: the mean variance of the parts and the variance of their means.
        variance = (shares * (np.array(variances) + (means - mean) ** 2)).sum(0)
        return tf.constant(mean, tf.float32), tf.constant(variance, tf.float32)


def apply_network(
    network: Any, pictures: np.ndarray, blend: Any, max_memory: float = 0.0
) -> np.ndarray:
    """Stylizes pictures one by one, by tiles where they would take too much memory.

    Args:
      network: A ``StyleNet`` or an ``AnyStyleNet``.
      pictures: ``[N, H, W, 3]`` float32, RGB in [0, 1].
      blend: Shares of the styles, see ``StyleNet.blend``, or a code, see
        ``AnyStyleNet.code``.
      max_memory: Gigabytes that may be taken. A picture that needs more is computed
        tile by tile, with the same result. 0: a safe share of what there is.

    Returns:
      ``[N, H, W, 3]`` float32, RGB in [0, 1].

    Raises:
      UsageError: If the pictures are too small, or there is not enough memory.
    """
    passes: Passes = network.passes
    size = pictures.shape[1:3]
    if min(size) < passes.least_side:
        raise UsageError(
            f"a picture of {size[1]}×{size[0]} pixels is too small: each side needs at "
            f"least {passes.least_side} pixels"
        )
    free = memory_limit(max_memory) - RUNTIME - _COPIES * pictures.nbytes
    most_pixels = min(free / passes.bytes_per_pixel, passes.most_pixels)
    grid = choose_grid(passes.working_size(size), passes.field, most_pixels)
    results = [
        passes.by_tiles(picture, blend, grid)
        if len(grid) > 1
        else passes.whole(picture, blend).numpy()
        for picture in np.split(pictures, len(pictures))
    ]
    return np.concatenate(results) if len(results) > 1 else results[0]


def stylized(
    paint: Painter, content: Any, *, size: int | None, color: str, protect: Any
) -> np.ndarray:
    """Reads a picture, paints it, and keeps of it what stays.

    Arguments are those of ``StyleNet.stylize``; ``paint`` is called once.

    Returns:
      The picture, ``[H, W, 3]`` float32, RGB in [0, 1].

    Raises:
      UsageError: Same as in ``StyleNet.stylize``.
      ImageError: Same as in ``StyleNet.stylize``.
    """
    check_choice("color", color, APPLY_COLORS)
    picture = load_image(content, size, name="content")
    kept = None if protect is None else read_protection(protect, picture.shape[1:3])
    result = paint(picture)
    if color == "content":
        result = keep_colors(result, picture)
    if kept is not None:
        result = protected(result, picture, kept)
    return result[0]


def assembled(
    picture: np.ndarray, grid: Grid, compute: Callable[[tf.Tensor], tf.Tensor]
) -> np.ndarray:
    """A picture made of what is computed for each of its tiles."""
    result = np.empty(picture.shape, "float32")
    for row, column in grid:
        tile = compute(cropped(picture, grid, row, column))
        core = tile[
            :,
            row.core_begin - row.begin : row.core_end - row.begin,
            column.core_begin - column.begin : column.core_end - column.begin,
        ]
        result[
            :, row.core_begin : row.core_end, column.core_begin : column.core_end
        ] = core
    return result


def core_features(spans: tuple[Span, Span], stride: int) -> np.ndarray:
    """Where the features of a tile's core begin and end, rows and columns each."""
    return np.array([_features(span, stride) for span in spans], "int32").T


def cropped(picture: np.ndarray, grid: Grid, row: Span, column: Span) -> tf.Tensor:
    """The pixels of a tile, ``[1, h, w, 3]``."""
    height, width = grid.shape
    top, left = row.begin, column.begin
    return tf.constant(picture[:, top : top + height, left : left + width])


def _features(span: Span, stride: int) -> tuple[int, int]:
    """Where a core's features begin and end in those of its tile."""
    begin, end = span.core_begin - span.begin, span.core_end - span.begin
    return begin // stride, math.ceil(end / stride)  # only the last end may round
