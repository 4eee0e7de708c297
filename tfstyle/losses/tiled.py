"""Loss and gradient of a picture of any size, tile by tile, in bounded memory.

Everything that a loss needs to know of a picture is a sum over positions
(``PerceptualLoss.sums``), so the sums of tiles add up to those of the picture, and so
do their gradients. A tile is a part of the picture (its core) with a halo as wide as
the network sees, whose features are left out of the sums; tiles begin at multiples of
the network's stride, so that every pool has the windows that it has in the whole
picture. The picture's own border is padded by the network, as always. Hence loss and
gradient equal those of the whole picture, seams and borders included, but for rounding.

A first pass adds up the Gram matrices, whose derivative the second pass propagates back
through each tile.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.backbones.feature_extractor import FeatureExtractor, Field
from tfstyle.errors import UsageError
from tfstyle.losses import (
    IMAGE,
    Features,
    PerceptualLoss,
    Targets,
    guide_areas,
    part,
    sum_of_squares,
)
from tfstyle.optimizers.loop import call_in_own_graph

_MOST_TILES_PER_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one side: its begin and that of its core, and the core's end."""

    begin: int
    core_begin: int
    core_end: int


@dataclasses.dataclass(frozen=True)
class Side:
    """How one side of a picture is cut.

    Attributes:
      length: Of the side.
      tile: Length of every tile, halo included.
      spans: The tiles; their cores follow each other without a gap.
    """

    length: int
    tile: int
    spans: tuple[Span, ...]


def cut(length: int, tiles: int, halo: Field) -> Side | None:
    """Cuts a side into tiles of equal length whose begins are multiples of the stride.

    Args:
      length: Of the side in pixels.
      tiles: How many tiles.
      halo: The coarsest stride, and what must lie around a core.

    Returns:
      The side, or None where so many tiles have no room.
    """
    if tiles == 1:
        return Side(length, length, (Span(0, 0, length),))
    stride = halo.stride
    before = math.ceil(halo.before / stride) * stride
    after = math.ceil(halo.after / stride) * stride
    step = (length - before - after) // (tiles * stride) * stride
    if step <= 0:
        return None
    begins = [i * step for i in range(tiles)]
    cores = [0, *[begin + before for begin in begins[1:]], length]
    spans = (Span(*span) for span in zip(begins, cores[:-1], cores[1:], strict=True))
    return Side(length, length - begins[-1], tuple(spans))


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a picture is cut into tiles of one shape."""

    rows: Side
    columns: Side

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every tile, halo included."""
        return self.rows.tile, self.columns.tile

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.rows.length, self.columns.length

    def __len__(self) -> int:
        return len(self.rows.spans) * len(self.columns.spans)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        for row in self.rows.spans:
            for column in self.columns.spans:
                yield row, column


def choose_grid(size: tuple[int, int], halo: Field, most_pixels: float) -> Grid:
    """The grid with the least work among those whose tiles are small enough.

    Args:
      size: Height and width of the picture.
      halo: See ``cut``.
      most_pixels: The largest tile in pixels, halo included.

    Returns:
      The grid; of one tile where the whole picture is small enough.

    Raises:
      UsageError: Even the smallest tiles are larger.
    """
    rows, columns = (_cuts(side, halo) for side in size)
    work = {}
    smallest = math.prod(size)
    for row in rows:
        for column in columns:
            pixels = row.tile * column.tile
            smallest = min(smallest, pixels)
            if pixels <= most_pixels:
                grid = Grid(row, column)
                work[len(grid) * pixels] = grid
    if not work:
        raise UsageError(
            f"a tile of {smallest / 1e6:.2f} megapixels, the least for these layers, "
            "takes more memory than is left; raise max_memory, use shallower layers or "
            "a smaller size"
        )
    return work[min(work)]


def _cuts(length: int, halo: Field) -> list[Side]:
    cuts = (cut(length, tiles, halo) for tiles in range(1, _MOST_TILES_PER_SIDE))
    return [side for side in cuts if side]


class TiledLoss:
    """A ``PerceptualLoss`` of a network's features that looks at one tile at a time.

    Attributes:
      loss: The loss, over a ``FeatureExtractor``.
    """

    def __init__(self, loss: PerceptualLoss, *, keep_content: bool = True):
        """Finds out how far the network sees.

        Args:
          loss: Over a ``FeatureExtractor``.
          keep_content: Whether the features of the content picture are kept; if not,
            each step computes them again, a quarter of its time, tile by tile.
        """
        assert isinstance(loss.features, FeatureExtractor)
        self.loss = loss
        self.extract = loss.features
        self.keep_content = keep_content
        self.fields = self.extract.fields
        self.halo = widest_halo(self.fields.values())
        wide = tf.as_dtype(self.extract.dtype).size > 4
        self._dtype = tf.float64 if wide else tf.float32  # of sums

    def targets(
        self,
        content: tf.Tensor | None,
        style: tf.Tensor | None,
        content_grid: Grid,
        style_grid: Grid,
    ) -> Targets:
        """See ``PerceptualLoss.targets``.

        Args:
          content: As there.
          style: As there.
          content_grid: How the content picture is cut.
          style_grid: How the style picture is cut.

        Returns:
          The targets. Where features are not kept, ``content`` has the content picture
          itself under ``IMAGE`` instead.
        """
        return Targets(
            *self.content_targets(content, content_grid),
            self.grams(style, style_grid),
        )

    def content_targets(
        self, content: tf.Tensor | None, grid: Grid
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """See ``PerceptualLoss.content_targets``, and ``targets``."""
        if not self.loss.content_layers:
            return {}, {}
        kept, norms = self._content_features(content, grid)
        return kept if self.keep_content else {IMAGE: content}, norms

    def grams(
        self, style: tf.Tensor | None, grid: Grid, guides: Features | None = None
    ) -> dict[str, tf.Tensor]:
        """See ``PerceptualLoss.grams``."""
        guides = guides or {}
        products = self._products(style, grid, lambda crop: crop, guides)
        return self.loss.normalized(products, guide_areas(guides), self._entries(grid))

    def value_and_gradient(
        self,
        value: tf.Tensor,
        targets: Targets,
        grid: Grid,
        picture_of: Callable[[tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """The loss and its gradient, exactly those of the whole picture.

        Args:
          value: What is optimised, ``[N, H, W, 3]``.
          targets: What ``targets`` returned.
          grid: How the picture is cut.
          picture_of: Turns values into RGB in [0, 1], pixel by pixel.

        Returns:
          The total, its gradient by ``value`` and the terms.
        """
        loss, entries = self.loss, self._entries(grid)
        products = self._products(value, grid, picture_of, targets.guides)
        batch = tf.shape(value)[:1]
        # The loss is linear in all sums but these, so 0 serves for the others.
        sums = {
            name: tf.zeros(batch, self._dtype) for name in loss.term_names
        } | products
        with tf.GradientTape() as tape:
            tape.watch(sums)
            total, _ = loss.total(sums, targets, entries)
        slopes = tape.gradient(total, sums)
        linear = [name for name in loss.term_names if name not in products]

        def of_tile(
            tile: _Tile, gradient: tf.Tensor, *added: tf.Tensor
        ) -> list[tf.Tensor]:
            def of_crop(crop: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
                with tf.GradientTape() as tape:
                    tape.watch(crop)
                    sums = loss.sums(
                        tile.cores(self.extract(picture_of(crop))),
                        self._targets_of(tile, targets),
                        *tile.framed_core(crop),
                    )
                    slope = tf.add_n(
                        [
                            tf.reduce_sum(slopes[name] * sums[name])
                            for name in loss.term_names
                        ]
                    )
                return tape.gradient(slope, crop), [sums[name] for name in linear]

            change, sums = call_in_own_graph(of_crop, tile.crop(value))
            sums = [a + s for a, s in zip(added, sums, strict=True)]
            return [tile.add(gradient, change), *sums]

        nothing = [
            _blank(tf.shape(value), value.dtype),
            *[tf.zeros(batch, self._dtype) for _ in linear],
        ]
        gradient, *added = self._over_tiles(grid, of_tile, nothing)
        sums |= dict(zip(linear, added, strict=True))
        total, terms = loss.total(sums, targets, entries)
        return total, gradient, terms

    def _products(
        self,
        value: tf.Tensor,
        grid: Grid,
        picture_of: Callable[[tf.Tensor], tf.Tensor],
        guides: Features,
    ) -> dict[str, tf.Tensor]:
        """``PerceptualLoss.products`` of a whole picture."""
        layers = list(self.loss.style_layers)
        if not layers:
            return {}

        def of_tile(tile: _Tile, *added: tf.Tensor) -> list[tf.Tensor]:
            features = tile.cores(self.extract(picture_of(tile.crop(value))))
            products = self.loss.products(features, tile.read_all(guides)).values()
            return [a + p for a, p in zip(added, products, strict=True)]

        shapes, batch = self.extract.shapes(*grid.size), tf.shape(value)[0]
        channels = [shapes[layer][-1] for layer in layers]
        regions = guides[layers[0]].shape[-1] if guides else 1
        nothing = [tf.zeros([batch, regions, c, c], self._dtype) for c in channels]
        added = self._over_tiles(grid, of_tile, nothing)
        terms = (f"style/{layer}" for layer in layers)
        return dict(zip(terms, added, strict=True))

    def _content_features(
        self, content: tf.Tensor, grid: Grid
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """The content layers' features, if they are kept, and their norms."""
        layers, batch = list(self.loss.content_layers), tf.shape(content)[0]
        shapes = self.extract.shapes(*grid.size)

        def of_tile(tile: _Tile, *state: tf.Tensor) -> list[tf.Tensor]:
            sums, kept = state[: len(layers)], state[len(layers) :]
            features = tile.cores(self.extract(tile.crop(content)))
            norms = [
                n + sum_of_squares(features[layer])
                for n, layer in zip(sums, layers, strict=True)
            ]
            written = [
                tile.write(whole, layer, features[layer])
                for whole, layer in zip(kept, layers if kept else [], strict=True)
            ]
            return [*norms, *written]

        nothing = [tf.zeros([batch], self._dtype) for _ in layers]
        if self.keep_content:
            dtype = self.extract.dtype
            nothing += [_blank([batch, *shapes[layer]], dtype) for layer in layers]
        state = self._over_tiles(grid, of_tile, nothing)
        norms, kept = state[: len(layers)], state[len(layers) :]
        return (
            dict(zip(layers, kept, strict=False)),
            dict(zip(layers, norms, strict=True)),
        )

    def _targets_of(self, tile: _Tile, targets: Targets) -> Targets:
        """The part of the targets that belongs to the positions of a core."""
        if IMAGE in targets.content:
            content = tile.cores(self.extract(tile.crop(targets.content[IMAGE])))
        else:
            content = tile.read_all(targets.content)
        pixels = {"warped": targets.warped, "consistency": targets.consistency}
        return dataclasses.replace(
            targets,
            content=content,
            guides=tile.read_all(targets.guides),
            **{
                name: tile.read(whole, IMAGE)
                for name, whole in pixels.items()
                if whole is not None
            },
        )

    def _entries(self, grid: Grid) -> dict[str, float]:
        shapes = self.extract.shapes(*grid.size)
        entries = {layer: float(math.prod(shape)) for layer, shape in shapes.items()}
        return entries | {IMAGE: math.prod(grid.size) * 3.0}

    def _over_tiles(
        self,
        grid: Grid,
        of_tile: Callable[..., list[tf.Tensor]],
        nothing: list[tf.Tensor],
    ) -> list[tf.Tensor]:
        """Folds ``of_tile`` over the tiles, one after another, in one graph loop."""
        places = _places(grid, self.fields, self.extract.shapes(*grid.size))
        numbers = {name: tf.constant(table) for name, table in places.items()}

        def body(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            place = {name: table[i] for name, table in numbers.items()}
            return i + 1, *of_tile(_Tile(grid.shape, place), *state)

        loop = tf.while_loop(
            lambda i, *_: i < len(grid), body, (0, *nothing), parallel_iterations=1
        )
        return list(loop[1:])


def widest_halo(fields: Any) -> Field:
    """What lies around a core for all fields, and their coarsest stride."""
    fields = list(fields)
    return Field(
        max(field.stride for field in fields),
        max(field.before for field in fields),
        # The total variation looks one pixel beyond the core.
        max(1, *(field.after for field in fields)),
    )


@dataclasses.dataclass(frozen=True)
class _Tile:
    """One tile in the graph.

    Attributes:
      shape: Height and width, halo included.
      place: By layer and for ``IMAGE``, where the core begins and ends in the tile and
        where it begins in the whole: six integers.
    """

    shape: tuple[int, int]
    place: dict[str, tf.Tensor]

    @property
    def begin(self) -> tf.Tensor:
        """Where the tile begins in the picture, row and column."""
        image = self.place[IMAGE]
        return image[4:] - image[:2]

    def crop(self, value: tf.Tensor) -> tf.Tensor:
        """The tile of a picture."""
        shape = [value.shape[0], *self.shape, value.shape[3]]
        return tf.ensure_shape(part(value, self.begin, self.shape), shape)

    def add(self, whole: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        """Adds the tile to what is in the whole picture at its place."""
        return _updated(whole, self.begin, self.crop(whole) + part)

    def cores(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The features of the core."""
        return {
            layer: part(feature, *self._core_place(layer))
            for layer, feature in features.items()
        }

    def framed_core(
        self, picture: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        """The core with a row and a column more, and its own height and width."""
        begin, size = self._core_place(IMAGE)
        framed = tf.minimum(size + 1, tf.shape(picture)[1:3] - begin)
        return part(picture, begin, framed), (size[0], size[1])

    def read(self, whole: tf.Tensor, layer: str) -> tf.Tensor:
        """The core's part of a layer's features of the whole picture."""
        return part(whole, self.place[layer][4:], self._core_place(layer)[1])

    def read_all(self, wholes: Features) -> dict[str, tf.Tensor]:
        """``read`` of every layer."""
        return {layer: self.read(whole, layer) for layer, whole in wholes.items()}

    def write(self, whole: tf.Tensor, layer: str, part: tf.Tensor) -> tf.Tensor:
        """Puts the core's features into those of the whole picture."""
        return _updated(whole, self.place[layer][4:], part)

    def _core_place(self, layer: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the core begins in the tile, row and column, and its size."""
        place = self.place[layer]
        return place[:2], place[2:4] - place[:2]


def _blank(shape: Any, dtype: Any) -> tf.Tensor:
    """Zeros that TensorFlow does not keep a copy of, as it does of constants."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def _updated(whole: tf.Tensor, begin: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """``whole`` with ``part`` at row and column ``begin``, in place where possible."""
    first = tf.concat([[0], begin, [0]], 0)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=whole,
        begin=first,
        end=first + tf.shape(part),
        strides=tf.ones_like(first),
        value=part,
    )


def _places(
    grid: Grid, fields: dict[str, Field], shapes: dict[str, tuple[int, int, int]]
) -> dict[str, np.ndarray]:
    """The ``_Tile.place`` of every tile, ``[tiles, 6]`` by layer."""
    lengths = {layer: shape[:2] for layer, shape in shapes.items()} | {IMAGE: grid.size}
    strides = {layer: field.stride for layer, field in fields.items()} | {IMAGE: 1}
    return {
        layer: np.array(
            [
                _place(row, column, strides[layer], lengths[layer], grid.size)
                for row, column in grid
            ],
            "int32",
        )
        for layer in lengths
    }


def _place(
    row: Span,
    column: Span,
    stride: int,
    lengths: tuple[int, ...],
    size: tuple[int, int],
) -> list[int]:
    begins, ends, wholes = [], [], []
    for span, length, whole in zip((row, column), lengths, size, strict=True):
        last = span.core_end == whole
        end = length if last else span.core_end // stride
        wholes.append(span.core_begin // stride)
        begins.append((span.core_begin - span.begin) // stride)
        ends.append(end - span.begin // stride)
    return [*begins, *ends, *wholes]
