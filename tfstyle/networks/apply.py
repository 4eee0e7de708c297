"""Applies a network to pictures of any size, by tiles where memory is short."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.images.color import keep_colors
from tfstyle.images.masks import protected, read_protection
from tfstyle.images.tiles import Field, Grid, Span, choose_grid
from tfstyle.options import APPLY_COLORS
from tfstyle.stylizer.memory import RUNTIME, memory_limit

if TYPE_CHECKING:
    from tfstyle.networks.style_net import StyleNet

Painter: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Gives pictures ``[N, H, W, 3]``, float32 in [0, 1], a style."""

_COPIES = 3  # of the picture: input, result, and one to be written

Moments: TypeAlias = tuple[tuple[tf.Tensor, tf.Tensor], ...]
"""Mean and variance of what each normalisation takes, from the first one on."""


class NetworkPasses(Protocol):
    """What applies a network to a picture ``[1, H, W, 3]``.

    Attributes:
      field: How far the network sees around a pixel, in multiples of its stride.
      bytes_per_pixel: The most that a pass takes, per pixel of the picture.
      most_pixels: Larger pictures are computed by tiles, however much memory there is.
      least_side: The shortest side of a picture in pixels.
    """

    field: Field
    bytes_per_pixel: float
    most_pixels: float
    least_side: int

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what is computed for a picture of a size."""
        ...

    def whole(self, picture: Any, blend: Any) -> tf.Tensor:
        """The network's result."""
        ...

    def by_tiles(self, picture: np.ndarray, blend: Any, grid: Grid) -> np.ndarray:
        """Equals ``whole``, except for rounding; the grid is of ``working_size``."""
        ...


class Passes:
    """What applies a ``StyleNet``; each function is traced once a shape.

    Attributes:
      field: See ``NetworkPasses``.
      bytes_per_pixel: See ``NetworkPasses``.
      most_pixels: Infinite, because tiles take a pass for each normalisation.
      least_side: Less cannot be reflected at each convolution.
      strides: The stride of the features that each normalisation takes.
      whole: ``whole(picture, blend)``: the network, for a picture of any size.
      tile: ``tile(crop, blend, moments)``: the network with given moments of every
        normalisation.
      tile_moments: ``tile_moments(crop, blend, begin, end, known)``: the moments of
        the next normalisation after those that are known, over the features from
        ``begin`` to ``end``. Traced for each number of known moments.
    """

    most_pixels = math.inf
    least_side = 6

    def __init__(self, network: StyleNet):
        """Traces nothing yet."""
        self._network = network
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

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See ``NetworkPasses``."""
        return size

    def by_tiles(self, picture: np.ndarray, blend: Any, grid: Grid) -> np.ndarray:
        """Equals the whole picture's result, except for rounding.

        Each normalisation needs the mean and the variance of the whole picture, which
        depend on those of earlier ones. So each takes a pass of its own over all tiles.
        """
        blend = tf.convert_to_tensor(blend, tf.float32)
        known: Moments = ()
        for stage in range(len(self._network.norms)):
            known += (self._moments(picture, blend, grid, stage, known),)
        return assembled(picture, grid, lambda crop: self.tile(crop, blend, known))

    def _moments(
        self,
        picture: np.ndarray,
        blend: tf.Tensor,
        grid: Grid,
        stage: int,
        known: Moments,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of what a normalisation takes, over all tiles."""
        sizes, means, variances = [], [], []
        for row, column in grid:
            begin, end = core_features((row, column), self.strides[stage])
            crop = cropped(picture, grid, row, column)
            places = tf.constant(begin), tf.constant(end)
            mean, variance = self.tile_moments(crop, blend, *places, known)
            sizes.append(math.prod(end - begin))
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
    passes: NetworkPasses = network.passes
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
    if color not in APPLY_COLORS:
        raise UsageError(f"color={color!r}: choose one of {', '.join(APPLY_COLORS)}")
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
