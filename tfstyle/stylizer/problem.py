"""What a run minimises at each scale: its loss, and what it compares with."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.errors import is_full_memory
from tfstyle.images import resize_image
from tfstyle.images.tiles import Field, Grid
from tfstyle.losses import Targets, blend_styles
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.losses.perceptual import IMAGE
from tfstyle.losses.tiled import TiledLoss
from tfstyle.optimizers.loop import Loop, Report
from tfstyle.options import Options
from tfstyle.options.identity import digest
from tfstyle.stylizer.canvas import Canvas
from tfstyle.stylizer.engine import LARGE, Engine, Program, cut_objective
from tfstyle.stylizer.memory import Cut, MemoryPlanner
from tfstyle.stylizer.pictures import Pictures, StylePicture

Size = tuple[int, int]


class Problem:
    """The loss of a run at any scale, in one precision.

    Attributes:
      engine: The network and the graphs.
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
        self._temporal_weight = temporal_weight
        self._canvas = Canvas.of(options)
        self.loss = perceptual_loss(options, engine.features, temporal_weight)
        regions = 0 if pictures.regions is None else pictures.regions.shape[-1]
        self.planner = MemoryPlanner(self.loss, options, regions, pictures.size)

    @functools.cached_property
    def exact(self) -> Problem:
        """The same in float32; see ``Engine.exact``."""
        return Problem(
            self.engine.exact, self._options, self._pictures, self._temporal_weight
        )

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

    @property
    def rounded(self) -> bool:
        """Whether ``exact`` is more precise."""
        return self.engine.rounded

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
        report: Report,
        stop_at: int | None = None,
    ) -> bool:
        """Takes the steps of a scale that are left.

        Args:
          program: The program of the scale.
          size: Height and width of the picture, without its margin.
          steps: Evaluations of the loss at this scale.
          report: See ``Loop.run``.
          stop_at: See ``Loop.run``.

        Returns:
          Whether the optimizer has converged.

        Raises:
          UsageError: If the scale does not fit in memory.
          NonFiniteLossError: If the loss became NaN or infinite.
        """
        shapes = self._shapes(size)
        pairs = self.pairs(size)
        while True:
            cut = self.planner.cut(*shapes, pairs)
            try:
                targets = self.targets(size, cut), self._held(size)
                return self._loop(program, cut, steps).run(targets, report, stop_at)
            except tf.errors.OpError as error:
                if not is_full_memory(error):
                    raise
                self.planner.shrink(cut, self._pictures.batch)

    def targets(self, size: Size, cut: Cut) -> Targets:
        """What a picture of this size, without its margin, is compared with."""
        pictures, canvas, loss = self._pictures, self._canvas, self.loss
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
        return loss.assemble(
            canvas.size(size),
            kept,
            norms,
            blend,
            self._guides(pictures.regions, size, self._canvas),
            entries=entries,
            warped=_constant(pictures.warped, canvas.values),
            consistency=_constant(pictures.consistency, canvas.framed),
        )

    def _shapes(self, size: Size) -> tuple[Size, list[Size], int]:
        """What the planner wants to know of a scale."""
        batch = self._pictures.batch
        return self._canvas.size(size), self.style_sizes(size), batch

    def _loop(self, program: Program, cut: Cut, steps: int) -> Loop:
        held = self._pictures.protect is not None
        names = self.loss.term_names
        key = (self.engine.features.dtype, cut, held, names)
        if key not in program.loops:
            program.loops[key] = Loop(
                cut_objective(self.loss, cut, self._canvas, held),
                program.optimizer,
                steps=steps,
                term_names=names,
            )
        return program.loops[key]

    def _held(self, size: Size) -> tf.Tensor | tuple[()]:
        """Where nothing moves, ``[1, H, W, 1]``; nothing if all does."""
        if self._pictures.protect is None:
            return ()
        kept = resize_image(self._pictures.protect, size)
        return tf.constant(self._canvas.framed(kept) == 1)

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


def _constant(
    picture: np.ndarray | None, prepare: Callable[[np.ndarray], np.ndarray]
) -> tf.Tensor | None:
    return None if picture is None else tf.constant(prepare(picture))


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
        layer: _pooled(regions, extractor.fields[layer], shapes[layer][:2])
        for layer in layers
    }


def _pooled(regions: np.ndarray, field: Field, shape: tuple[int, ...]) -> np.ndarray:
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
