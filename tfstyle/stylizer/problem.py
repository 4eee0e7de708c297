"""What a run minimises at each scale: its loss, and what it compares with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import is_full_memory
from tfstyle.images import resize_image
from tfstyle.images.tiles import Grid
from tfstyle.losses import Targets, blend_styles
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.losses.neighbors import References
from tfstyle.losses.perceptual import IMAGE, specs_of_any_size
from tfstyle.losses.tiled import TiledLoss
from tfstyle.optimizers.loop import Loop, Report
from tfstyle.options import Options
from tfstyle.options.identity import digest
from tfstyle.stylizer.canvas import Canvas
from tfstyle.stylizer.engine import LARGE, Engine, Program, cut_objective
from tfstyle.stylizer.guides import cell_guide, guides
from tfstyle.stylizer.memory import Cut, MemoryPlanner
from tfstyle.stylizer.neighbors import (
    compare_with,
    region_of_cells,
    sample_steps,
    search_table,
)
from tfstyle.stylizer.pictures import Pictures, StylePicture

Size = tuple[int, int]

NO_NEIGHBORS = np.zeros([0, 0, 0, 1], "int32")
_OF_PICTURE = 0.25  # of what neighbours are looked up for; the rest is the content's


class Problem:
    """The loss of a run at any scale.

    Attributes:
      engine: The network and the graphs.
      canvas: Turns pictures into what is optimised.
      loss: The loss of the options.
      planner: Cuts pictures so that they fit in memory.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        pictures: Pictures,
        temporal_weight: float = 0.0,
    ):
        """Puts the loss together.

        Args:
          engine: The network and the graphs.
          options: The options of the run.
          pictures: The pictures of the run.
          temporal_weight: Weight of the distance to ``pictures.warped``.
        """
        self.engine, self._options, self._pictures = engine, options, pictures
        self.canvas = Canvas(options.margin, options.space)
        self.loss = perceptual_loss(options, engine.features, temporal_weight)
        regions = 0 if pictures.regions is None else pictures.regions.shape[-1]
        self.planner = MemoryPlanner(self.loss, options, regions, pictures.size)

    def check_size(self, size: Size) -> None:
        """Refuses a scale that is too small for the network.

        Raises:
          UsageError: If the picture or a style picture is too small at this scale.
        """
        for side in (size, *self.style_sizes(size)):
            self.engine.features.check_size(*side)

    def style_sizes(self, size: Size) -> list[Size]:
        """Heights and widths of the style pictures at a scale of a size."""
        ratio = size[1] / self._pictures.size[1]
        sizes = [style.picture.shape[1:3] for style in self._pictures.styles]
        return [
            (max(round(height * ratio), 1), max(round(width * ratio), 1))
            for height, width in sizes
        ]

    def pairs(self, size: Size) -> int:
        """How many pairs of vectors L-BFGS remembers at a scale; 0 means Adam."""
        return self.planner.pairs(*self._shapes(size))

    def spare(self, size: Size) -> float:
        """Bytes of memory that a scale leaves to other programs."""
        return self.planner.spare(*self._shapes(size), self.pairs(size))

    def minimize(
        self,
        program: Program,
        size: Size,
        steps: int,
        neighbors: np.ndarray,
        report: Report,
        stop_at: int | None = None,
    ) -> None:
        """Takes the steps of a scale that are left.

        Args:
          program: The program of the scale.
          size: Height and width of the picture, without its margin.
          steps: Evaluations of the loss at this scale.
          neighbors: From ``find_neighbors``.
          report: See ``Loop.run``.
          stop_at: See ``Loop.run``.

        Raises:
          UsageError: If the scale does not fit in memory.
          NonFiniteLossError: If the loss became NaN or infinite.
        """

        def run(cut: Cut) -> bool:
            targets = self.targets(size, cut, neighbors), self._held(size)
            return self._loop(program, cut).run(steps, targets, report, stop_at)

        self._within_memory(size, run)

    def find_neighbors(self, size: Size, picture: np.ndarray | None) -> np.ndarray:
        """The cell of the style that is nearest to each cell at a scale.

        Args:
          size: Height and width of the scale.
          picture: What the scale begins with, ``[N, H, W, 3]``: a quarter of what is
            looked up, beside the content picture. None for the coarsest scale, where
            the content picture is all.

        Returns:
          Int32 ``[N, h, w, 1]``; ``NO_NEIGHBORS`` with other style losses.

        Raises:
          UsageError: If the scale does not fit in memory.
        """
        if not self.loss.finds_neighbors:
            return NO_NEIGHBORS
        assert self._pictures.content is not None
        query = resize_image(self._pictures.content, size)
        if picture is not None:
            query = (1 - _OF_PICTURE) * query + _OF_PICTURE * picture
        framed = self.canvas.framed(query)

        def search(cut: Cut) -> np.ndarray:
            found = TiledLoss(self.loss).neighbor_indices(
                tf.convert_to_tensor(framed, tf.float32),
                cut.content,
                self._references(size, cut),
                region_of_cells(self._cell_guide(size)),
            )
            return found.numpy()

        return self._within_memory(size, search)

    def _within_memory(self, size: Size, work: Callable[[Cut], Any]) -> Any:
        """Does something in tiles, which become smaller where memory is full."""
        while True:
            cut = self.planner.cut(*self._shapes(size), self.pairs(size))
            try:
                return work(cut)
            except tf.errors.OpError as error:
                if not is_full_memory(error):
                    raise
                self.planner.shrink(cut, self._pictures.batch)

    def targets(
        self, size: Size, cut: Cut, neighbors: np.ndarray = NO_NEIGHBORS
    ) -> Targets:
        """What a picture of this size, without its margin, is compared with."""
        pictures, canvas, loss = self._pictures, self.canvas, self.loss
        content = None
        if pictures.content is not None:
            content = canvas.framed(resize_image(pictures.content, size))
        kept, norms = self._content_targets(content, cut)
        found = [
            self._style_statistics(style, style_size, cut, grid)
            for style, style_size, grid in zip(
                pictures.styles, self.style_sizes(size), cut.styles, strict=True
            )
        ]
        blend = (
            blend_styles(found, pictures.shares, loss.normalization, loss.style_loss)
            if found
            else {}
        )
        tiled = cut.tiles > 1
        entries = TiledLoss(loss).entries(cut.content) if tiled else None
        compared = None
        if loss.finds_neighbors:
            compared = compare_with(
                neighbors,
                self._references(size, cut),
                self._cell_guide(size),
                loss.style_weight,
            )
        return loss.assemble(
            canvas.size(size),
            kept,
            norms,
            blend,
            self._guides(pictures.regions, size, self.canvas),
            entries=entries,
            neighbors=compared,
            warped=_constant(pictures.warped, size, canvas.values),
            consistency=_constant(pictures.consistency, size, canvas.framed),
        )

    def _shapes(self, size: Size) -> tuple[Size, list[Size], int]:
        """What the planner wants to know of a scale."""
        batch = self._pictures.batch
        return self.canvas.size(size), self.style_sizes(size), batch

    def _loop(self, program: Program, cut: Cut) -> Loop:
        held = self._pictures.protect is not None
        names = self.loss.term_names
        # A picture that is one tile has the graph of every other one.
        tiles = cut if cut.tiles > 1 else None
        key = (self.engine.features.dtype, tiles, held, names)
        if key not in program.loops:
            program.loops[key] = Loop(
                cut_objective(self.loss, cut, self.canvas, held),
                program.optimizer,
                names,
                _specs,
            )
        return program.loops[key]

    def _held(self, size: Size) -> tf.Tensor | tuple[()]:
        """Where nothing moves, ``[1, H, W, 1]``; nothing if all does."""
        if self._pictures.protect is None:
            return ()
        kept = resize_image(self._pictures.protect, size)
        return tf.constant(self.canvas.framed(kept) == 1)

    def _content_targets(
        self, content: np.ndarray | None, cut: Cut
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Features of the content layers, or the picture itself, and their norms."""
        layers = self.loss.content_layers
        if content is None or not layers:
            return {}, {}

        def compute() -> dict[str, tf.Tensor]:
            picture = tf.convert_to_tensor(content)
            if cut.tiles == 1:
                kept, norms = self.engine.all_layers.content_targets(picture)
            else:
                tiled = TiledLoss(self.engine.all_layers, keep_content=cut.keep_content)
                kept, norms = tiled.content_targets(picture, cut.content)
            return kept | {f"norm {layer}": norm for layer, norm in norms.items()}

        # Features of a large picture take more memory than computing them again saves.
        small = content.shape[1] * content.shape[2] < LARGE
        if self.engine.shares_content and small:
            found = self._known("content", content, cut, compute)
        else:
            found = compute()
        kept = {name: found[name] for name in (*layers, IMAGE) if name in found}
        return kept, {layer: found[f"norm {layer}"] for layer in layers}

    def _style_statistics(
        self, style: StylePicture, size: Size, cut: Cut, grid: Grid
    ) -> dict[str, tf.Tensor]:
        """What the loss knows of a style picture at a size."""
        if not self.loss.style_layers:
            return {}
        picture = resize_image(style.picture, size)

        def compute() -> dict[str, tf.Tensor]:
            loss, guides = self.engine.all_layers, self._guides(style.regions, size)
            if cut.tiles == 1:
                return loss.style_statistics(tf.convert_to_tensor(picture), guides)
            tensor = tf.convert_to_tensor(picture)
            return TiledLoss(loss).style_statistics(tensor, grid, guides)

        regions = None if style.regions is None else digest(style.regions)
        found = self._known(f"style {regions}", picture, cut, compute)
        return {layer: found[layer] for layer in self.loss.style_layers}

    def _references(self, size: Size, cut: Cut) -> References:
        """The cells of the style pictures at a scale."""
        pictures, sizes = self._pictures, self.style_sizes(size)
        steps = sample_steps(sizes, pictures.shares.max(1))

        def cells_of(style: StylePicture, side: Size, grid: Grid, step: int) -> Any:
            picture = resize_image(style.picture, side)

            def compute() -> dict[str, tf.Tensor]:
                found = TiledLoss(self.loss).style_cells(
                    tf.convert_to_tensor(picture), grid, step
                )
                return {"cells": found}

            kind = f"cells {step} {' '.join(self.loss.style_layers)}"
            return self._known(kind, picture, cut, compute)["cells"]

        tables = [
            cells_of(style, side, grid, step) if step else None
            for style, side, grid, step in zip(
                pictures.styles, sizes, cut.styles, steps, strict=True
            )
        ]
        of_layer = self.engine.features.channels
        channels = {layer: of_layer[layer] for layer in self.loss.style_layers}
        return search_table(tables, steps, sizes, channels, pictures)

    def _cell_guide(self, size: Size) -> np.ndarray | None:
        """How much of each cell belongs to each region; None if all of it does."""
        if self._pictures.regions is None:
            return None
        resized = resize_image(self._pictures.regions, size)
        return cell_guide(self.canvas.framed(resized))

    def _known(
        self,
        kind: str,
        picture: np.ndarray,
        cut: Cut,
        compute: Callable[[], dict[str, tf.Tensor]],
    ) -> dict[str, tf.Tensor]:
        """What has been computed of a picture, by this run or another."""
        return self.engine.targets((kind, digest(picture), cut), compute)

    def _guides(
        self, regions: np.ndarray | None, size: Size, canvas: Canvas | None = None
    ) -> dict[str, tf.Tensor]:
        """Guides of the style layers, from regions ``[1, H, W, R]``."""
        if regions is None:
            return {}
        resized = resize_image(regions, size)
        framed = resized if canvas is None else canvas.framed(resized)
        layers = tuple(self.engine.all_layers.style_layers)
        found = guides(framed, self.engine.features, layers)
        return {layer: tf.constant(guide) for layer, guide in found.items()}


def _specs(targets: tuple[Targets, tf.Tensor | tuple[()]]) -> Any:
    """What a loop is traced for, from its targets of one size."""
    held = tf.TensorSpec([1, None, None, 1], tf.bool) if len(targets[1]) else ()
    return specs_of_any_size(targets[0]), held


def _constant(
    picture: np.ndarray | None, size: Size, prepare: Callable[[np.ndarray], np.ndarray]
) -> tf.Tensor | None:
    if picture is None:
        return None
    return tf.constant(prepare(resize_image(picture, size)))
