"""Loss and gradient of a picture of any size, tile by tile, in bounded memory.

Everything that the loss needs to know of a picture is a sum over positions, so the sums
of tiles add up to those of the picture, and so do their gradients. The features of a
tile's halo are left out of the sums. The picture's own border is padded by the network,
as always. Hence loss and gradient equal those of the whole picture, seams and borders
included, except for rounding.

A first pass adds up the statistics of the style layers. A second pass propagates the
derivative by them back through each tile.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.images.tiles import Field, Grid, Span, widest_field
from tfstyle.losses.functions import Features, part, sum_dtype, sum_of_squares
from tfstyle.losses.neighbors import (
    CELL,
    References,
    hypercolumns,
    nearest,
    unit,
)
from tfstyle.losses.perceptual import IMAGE, PerceptualLoss, Targets, guide_areas
from tfstyle.raw_tensorflow import call_in_own_graph, empty, updated

_CELLS = "cells"
"""The key of the cells of a picture beside layers."""


class TiledLoss:
    """A ``PerceptualLoss`` of a network's features that looks at one tile at a time.

    Attributes:
      loss: The loss, over a ``FeatureExtractor``.
      extract: The ``FeatureExtractor``.
    """

    def __init__(self, loss: PerceptualLoss, *, keep_content: bool = True):
        """Takes the loss.

        Args:
          loss: Over a ``FeatureExtractor``.
          keep_content: Whether the features of the content picture are kept; if not,
            each evaluation computes them again, tile by tile, which takes a quarter of
            its time.
        """
        assert isinstance(loss.features, FeatureExtractor)
        self.loss = loss
        self.extract = loss.features
        self._keep_content = keep_content
        self._dtype = sum_dtype(self.extract.dtype)

    def content_targets(
        self, content: tf.Tensor | None, grid: Grid
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Same as ``PerceptualLoss.content_targets``, tile by tile.

        Where features are not kept, the content picture itself stands under ``IMAGE``
        in their place.
        """
        layers = list(self.loss.content_layers)
        if not layers:
            return {}, {}
        kept_layers = layers if self._keep_content else []
        shapes, dtypes = self.extract.shapes(*grid.size), self.extract.dtypes
        batch, count = tf.shape(content)[0], len(layers)

        def of_tile(tile: _Tile, *state: tf.Tensor) -> list[tf.Tensor]:
            features = tile.cores(self.extract(tile.crop(content)))
            norms = [
                norm + sum_of_squares(features[layer])
                for norm, layer in zip(state[:count], layers, strict=True)
            ]
            kept = [
                tile.write(whole, layer, features[layer])
                for whole, layer in zip(state[count:], kept_layers, strict=True)
            ]
            return [*norms, *kept]

        nothing = [tf.zeros([batch], self._dtype) for _ in layers]
        nothing += [
            empty([batch, *shapes[layer]], dtypes[layer]) for layer in kept_layers
        ]
        state = self._over_tiles(grid, of_tile, nothing)
        kept = dict(zip(kept_layers, state[count:], strict=True))
        norms = dict(zip(layers, state[:count], strict=True))
        return kept if self._keep_content else {IMAGE: content}, norms

    def style_statistics(
        self, style: tf.Tensor, grid: Grid, guides: Features | None = None
    ) -> dict[str, tf.Tensor]:
        """Same as ``PerceptualLoss.style_statistics``, tile by tile."""
        guides = guides or {}
        targets = Targets({}, {}, {}, guides, guide_areas(guides))
        return self._statistics(style, grid, lambda crop: crop, targets)

    def entries(self, grid: Grid) -> dict[str, float]:
        """H·W·C by layer of a picture that is cut by a grid."""
        shapes = self.extract.shapes(*grid.size)
        return {layer: float(math.prod(shape)) for layer, shape in shapes.items()}

    def style_cells(self, style: tf.Tensor, grid: Grid, step: int) -> tf.Tensor:
        """Features of the cells of a style picture, every ``step``-th down and across.

        Args:
          style: ``[1, H, W, 3]``.
          grid: How it is cut.
          step: At least 1.

        Returns:
          ``[1, rows, columns, D]``: all style layers, one after the other.
        """
        strides = self.loss.strides
        channels = sum(self.extract.channels[layer] for layer in strides)
        sides = [math.ceil(side // CELL / step) for side in grid.size]

        def of_tile(tile: _Tile, table: tf.Tensor) -> list[tf.Tensor]:
            features = tile.cores(self.extract(tile.crop(style)))
            found = hypercolumns(
                features, strides, dict.fromkeys(strides, 1.0), tile.cells
            )
            first = tf.math.floormod(-tile.first_cell, step)
            sample = found[:, first[0] :: step, first[1] :: step]
            return [updated(table, (tile.first_cell + first) // step, sample)]

        nothing = [empty([1, *sides, channels], self._dtype)]
        return self._over_tiles(grid, of_tile, nothing)[0]

    def neighbor_indices(
        self,
        query: tf.Tensor,
        grid: Grid,
        references: References,
        regions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The reference that is nearest to each cell of a picture.

        Args:
          query: ``[N, H, W, 3]``.
          grid: How it is cut.
          references: Where to search.
          regions: The region of each cell, int32 ``[1, h, w, 1]``; None if there is
            one.

        Returns:
          Int32 ``[N, h, w, 1]``.
        """
        strides = self.loss.strides
        shape = [query.shape[0], *(side // CELL for side in grid.size)]

        def columns_of(tile: _Tile) -> tf.Tensor:
            features = tile.cores(self.extract(tile.crop(query)))
            return hypercolumns(features, strides, references.shares, tile.cells)

        def added(tile: _Tile, total: tf.Tensor) -> list[tf.Tensor]:
            return [total + tf.reduce_sum(columns_of(tile), [1, 2], keepdims=True)]

        def written(tile: _Tile, found: tf.Tensor) -> list[tf.Tensor]:
            centered = unit(columns_of(tile) - mean)
            here = None if regions is None else tile.read(regions, _CELLS)
            return [tile.write(found, _CELLS, nearest(centered, references, here))]

        channels = references.centered.shape[-1]
        nothing = [tf.zeros([shape[0], 1, 1, channels], self._dtype)]
        total = self._over_tiles(grid, added, nothing)[0]
        mean = total / float(shape[1] * shape[2])
        return self._over_tiles(grid, written, [empty([*shape, 1], tf.int32)])[0]

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
          targets: From ``PerceptualLoss.assemble``, of this class's parts.
          grid: How the picture is cut.
          picture_of: Turns values into RGB in [0, 1], pixel by pixel.

        Returns:
          The total, its gradient by ``value`` and the terms.
        """
        loss, batch = self.loss, tf.shape(value)[:1]
        statistics = self._statistics(value, grid, picture_of, targets)
        nothing = [tf.zeros(batch, self._dtype) for _ in loss.local_names]
        with tf.GradientTape() as tape:
            tape.watch(statistics)
            # The slope by the statistics does not depend on the local terms.
            total, _ = loss.total(
                statistics, dict(zip(loss.local_names, nothing, strict=True)), targets
            )
        slopes = tape.gradient(total, statistics)
        positions = self._positions(grid)
        share = 1 / tf.cast(batch[0], self._dtype)  # losses are means over the batch

        def of_tile(
            tile: _Tile, gradient: tf.Tensor, *added: tf.Tensor
        ) -> list[tf.Tensor]:
            def of_crop(crop: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
                with tf.GradientTape() as tape:
                    tape.watch(crop)
                    features = tile.cores(self.extract(picture_of(crop)))
                    here = self._targets_of(tile, targets)
                    local = loss.local(features, here, *tile.framed_core(crop))
                    own = loss.statistics(features, here, positions)
                    slope = [share * tf.reduce_sum(term) for term in local.values()]
                    slope += [
                        tf.reduce_sum(slopes[layer] * gram)
                        for layer, gram in own.items()
                    ]
                    slope = tf.add_n(slope)
                return (
                    tape.gradient(slope, crop),
                    [local[name] for name in loss.local_names],
                )

            change, terms = call_in_own_graph(of_crop, tile.crop(value))
            terms = [a + t for a, t in zip(added, terms, strict=True)]
            return [tile.add(gradient, change), *terms]

        start = [empty(tf.shape(value), value.dtype), *nothing]
        gradient, *added = self._over_tiles(grid, of_tile, start)
        local = dict(zip(loss.local_names, added, strict=True))
        total, terms = loss.total(statistics, local, targets)
        return total, gradient, terms

    def _statistics(
        self,
        value: tf.Tensor,
        grid: Grid,
        picture_of: Callable[[tf.Tensor], tf.Tensor],
        targets: Targets,
    ) -> dict[str, tf.Tensor]:
        """``PerceptualLoss.statistics`` of a whole picture."""
        layers = list(self.loss.style_layers)
        if not layers:
            return {}
        positions = self._positions(grid)

        def of_tile(tile: _Tile, *added: tf.Tensor) -> list[tf.Tensor]:
            features = tile.cores(self.extract(picture_of(tile.crop(value))))
            here = targets._replace(guides=tile.read_all(targets.guides))
            statistics = self.loss.statistics(features, here, positions)
            return [
                a + statistics[layer] for a, layer in zip(added, layers, strict=True)
            ]

        batch = tf.shape(value)[0]
        channels = [self.extract.channels[layer] for layer in layers]
        guides = targets.guides
        regions = guides[layers[0]].shape[-1] if guides else 1
        more = int(self.loss.style_loss != "gram")  # a column of means
        nothing = [
            tf.zeros([batch, regions, c, c + more], self._dtype) for c in channels
        ]
        added = self._over_tiles(grid, of_tile, nothing)
        return dict(zip(layers, added, strict=True))

    def _targets_of(self, tile: _Tile, targets: Targets) -> Targets:
        """The part of the targets that belongs to the positions of a core."""
        if IMAGE in targets.content:
            content = tile.cores(self.extract(tile.crop(targets.content[IMAGE])))
        else:
            content = tile.read_all(targets.content)
        neighbors = targets.neighbors
        if neighbors is not None:
            weights = neighbors.weights
            neighbors = neighbors._replace(
                indices=tile.read(neighbors.indices, _CELLS),
                weights=None if weights is None else tile.read(weights, _CELLS),
            )
        pixels = {"warped": targets.warped, "consistency": targets.consistency}
        return targets._replace(
            content=content,
            guides=tile.read_all(targets.guides),
            neighbors=neighbors,
            **{
                name: tile.read(whole, IMAGE)
                for name, whole in pixels.items()
                if whole is not None
            },
        )

    def _positions(self, grid: Grid) -> dict[str, float]:
        """H·W by layer."""
        shapes = self.extract.shapes(*grid.size)
        return {layer: float(math.prod(shape[:2])) for layer, shape in shapes.items()}

    def _over_tiles(
        self,
        grid: Grid,
        of_tile: Callable[..., list[tf.Tensor]],
        nothing: list[tf.Tensor],
    ) -> list[tf.Tensor]:
        """Folds ``of_tile`` over the tiles, one after another, in one graph loop."""
        places = _places(grid, self.extract.fields, self.extract.shapes(*grid.size))
        numbers = {name: tf.constant(table) for name, table in places.items()}

        def body(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            place = {name: table[i] for name, table in numbers.items()}
            return i + 1, *of_tile(_Tile(grid.shape, place), *state)

        loop = tf.while_loop(
            lambda i, *_: i < len(grid), body, (0, *nothing), parallel_iterations=1
        )
        return list(loop[1:])


def halo_of(loss: PerceptualLoss) -> Field:
    """What must lie around a tile's core for a loss, and the coarsest stride."""
    assert isinstance(loss.features, FeatureExtractor)
    fields = list(loss.features.fields.values())
    if loss.finds_neighbors:
        fields.append(Field(CELL))
    return widest_field(fields)


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
        return updated(whole, self.begin, self.crop(whole) + part)

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

    @property
    def cells(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows and columns of cells of the core."""
        size = self._core_place(_CELLS)[1]
        return size[0], size[1]

    @property
    def first_cell(self) -> tf.Tensor:
        """Row and column in the whole picture of the core's first cell."""
        return self.place[_CELLS][4:]

    def read(self, whole: tf.Tensor, layer: str) -> tf.Tensor:
        """The core's part of a layer's features of the whole picture."""
        return part(whole, self.place[layer][4:], self._core_place(layer)[1])

    def read_all(self, wholes: Features) -> dict[str, tf.Tensor]:
        """``read`` of every layer."""
        return {layer: self.read(whole, layer) for layer, whole in wholes.items()}

    def write(self, whole: tf.Tensor, layer: str, part: tf.Tensor) -> tf.Tensor:
        """Puts the core's features into those of the whole picture."""
        return updated(whole, self.place[layer][4:], part)

    def _core_place(self, layer: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the core begins in the tile, row and column, and its size."""
        place = self.place[layer]
        return place[:2], place[2:4] - place[:2]


def _places(
    grid: Grid, fields: dict[str, Field], shapes: dict[str, tuple[int, int, int]]
) -> dict[str, np.ndarray]:
    """The ``_Tile.place`` of every tile, ``[tiles, 6]`` by layer."""
    cells = grid.size[0] // CELL, grid.size[1] // CELL
    lengths = {layer: shape[:2] for layer, shape in shapes.items()}
    lengths |= {IMAGE: grid.size, _CELLS: cells}
    strides = {layer: field.stride for layer, field in fields.items()}
    strides |= {IMAGE: 1, _CELLS: CELL}
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
