"""Optimises a picture from coarse to fine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.backbones import get_backbone
from tfstyle.backbones.backbone import TORCH_MEAN_RGB, TORCH_STD_RGB
from tfstyle.checkpoint import Checkpoint, State, rows_of
from tfstyle.colors import keep_colors
from tfstyle.errors import UsageError
from tfstyle.features import LAPLACIAN, FeatureExtractor
from tfstyle.images import resize_image
from tfstyle.lbfgs import LBFGS
from tfstyle.losses import PerceptualLoss, Targets, blend_statistics, guide_areas
from tfstyle.memory import Cut, MemoryPlanner
from tfstyle.optimize import (
    Adam,
    Callback,
    NonFiniteLossError,
    Objective,
    Progress,
    differentiated,
    holding,
    learning_rate_schedule,
    optimize,
)
from tfstyle.options import LossOptions, Options, weighted_layers
from tfstyle.plans import Plan, Style
from tfstyle.regions import guides as region_guides
from tfstyle.tiling import Grid, TiledLoss

SCALE_FACTOR = 2


@dataclasses.dataclass
class Result:
    """What a run came to.

    Attributes:
      image: The picture or pictures, float32 ``[N, H, W, 3]``, RGB in [0, 1].
      history: Columns ``step``, ``scale``, ``total`` and one per term; a row per
        recorded step.
      seconds: How long the run took.
      stopped: Whether a callback ended it early.
    """

    image: np.ndarray
    history: dict[str, list[float]]
    seconds: float
    stopped: bool = False


class BrokenRunError(NonFiniteLossError):
    """A run that ended in a loss that is not finite.

    Attributes:
      result: The run to its last good picture.
    """

    def __init__(self, cause: NonFiniteLossError, steps_before: int, result: Result):
        super().__init__(steps_before + cause.step, cause.term)
        self.result = result


def perceptual_loss(options: LossOptions) -> PerceptualLoss:
    """The loss that options describe, on a network with its weights read."""
    backbone = get_backbone(options.backbone)
    content_layers = weighted_layers(
        "content_layers", options.content_layers, backbone.content_layers
    )
    style_layers = weighted_layers(
        "style_layers", options.style_layers, backbone.style_layers
    )
    used = [*content_layers] if options.content_weight else []
    used += [LAPLACIAN] if options.laplacian_weight else []
    used += [*style_layers] if options.needs_style else []
    features = FeatureExtractor(
        backbone,
        used,
        weights=str(options.weights),
        pooling=options.pooling,
        preprocessing=options.preprocessing,
        precision=options.precision,
        jit_compile=options.jit_compile,
    )
    return PerceptualLoss(
        features,
        content_layers={
            layer: options.content_weight * weight
            for layer, weight in content_layers.items()
        }
        | {LAPLACIAN: options.laplacian_weight},
        style_layers=style_layers,
        content_weight=1.0,
        style_weight=options.style_weight,
        tv_weight=options.tv_weight,
        moment_weight=options.moment_weight,
        normalization=options.normalization,
    )


def scale_sizes(
    size: tuple[int, int], scales: int, min_scale_size: int
) -> list[tuple[int, int]]:
    """Heights and widths of the scales, coarse to fine; each doubles the one before.

    Args:
      size: Height and width of the result.
      scales: How many scales; 0 for as many as ``min_scale_size`` allows.
      min_scale_size: The least longest side of a scale, where ``scales`` is 0.

    Returns:
      At least one size, ``size`` itself being the last.
    """
    sizes = [size]
    while len(sizes) < scales or not scales:
        factor = SCALE_FACTOR ** len(sizes)
        height, width = round(size[0] / factor), round(size[1] / factor)
        if not scales and max(height, width) < min_scale_size:
            break
        sizes.insert(0, (max(height, 1), max(width, 1)))
    return sizes


def start_noise(shape: tuple[int, ...], init: str, options: Options) -> np.ndarray:
    """A picture of noise around mid-grey, uniform or normal, in [0, 1]."""
    rng = np.random.default_rng(options.seed)
    if init == "noise":
        noise = rng.uniform(-0.5, 0.5, shape)
    else:
        noise = rng.normal(0.0, 0.25, shape)
    return np.clip(0.5 + options.noise * noise, 0.0, 1.0).astype("float32")


def to_space(picture: np.ndarray, space: str) -> np.ndarray:
    """A picture in [0, 1] as the values that are optimised."""
    if space == "rgb":
        return picture
    return ((picture - TORCH_MEAN_RGB) / TORCH_STD_RGB).astype("float32")


def from_space(value: tf.Tensor, space: str) -> tf.Tensor:
    """The inverse of ``to_space``, as a tensor."""
    if space == "rgb":
        return value
    return value * tf.constant(TORCH_STD_RGB) + tf.constant(TORCH_MEAN_RGB)


def with_margin(picture: np.ndarray, margin: int) -> np.ndarray:
    """Pictures ``[N, H, W, 3]`` with their mirror images around them."""
    sides = [(margin, margin)] * 2
    return np.pad(picture, [(0, 0), *sides, (0, 0)], mode="reflect")


def without_margin(canvas: np.ndarray, margin: int) -> np.ndarray:
    """The inverse of ``with_margin``."""
    height, width = canvas.shape[1:3]
    return canvas[:, margin : height - margin, margin : width - margin]


class PyramidRun:
    """One run over all scales: what it needs, and what it has reported so far."""

    def __init__(
        self,
        plan: Plan,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None = None,
    ):
        """Builds the loss.

        Args:
          plan: Pictures and options.
          callbacks: Are told of progress.
          checkpoint: Where the run goes on from, and keeps its state.
        """
        self.checkpoint = checkpoint
        self.resumed = checkpoint.load() if checkpoint else None
        self.plan, self.options, self.callbacks = plan, plan.options, callbacks
        self.loss = perceptual_loss(plan.options)
        regions = 0 if plan.regions is None else plan.regions.shape[-1]
        self.planner = MemoryPlanner(self.loss, plan.options, regions)
        self.sizes = self._scale_sizes()
        self.steps = plan.options.steps_per_scale(len(self.sizes))
        columns = ("step", "scale", "total", *self.loss.term_names)
        self.history: dict[str, list[float]] = {column: [] for column in columns}
        self.began = time.monotonic()
        if self.resumed:
            rows = self.resumed.rows.reshape(-1, len(columns)).T.tolist()
            self.history = dict(zip(columns, rows, strict=True))
            self.began -= self.resumed.seconds
        self.stopped = False

    def run(self) -> Result:
        """Optimises every scale, each starting from what the one before has made."""
        first = self.resumed.scale if self.resumed else 0
        picture = self._first_picture(self.sizes[0])
        for scale in range(first, len(self.sizes)):
            if scale > first:
                picture = self._enlarged(picture, scale)
            variable = self._variable(picture, scale)
            del picture  # large pictures are not kept twice
            try:
                self._optimize_scale(variable, scale)
            except NonFiniteLossError as error:
                steps_before = sum(self.steps[:scale])
                result = self._result(self._picture(variable))
                raise BrokenRunError(error, steps_before, result) from error
            picture = self._picture(variable)
            if self.stopped:
                break
        return self._result(picture)

    def _variable(self, picture: np.ndarray, scale: int) -> tf.Variable:
        """What is optimised at a scale, from a picture or where the run was."""
        if self.resumed and self.resumed.scale == scale:
            return tf.Variable(self.resumed.variables[0])
        canvas = with_margin(self._protected(picture), self.options.margin)
        return tf.Variable(to_space(canvas, self.options.space))

    def _scale_sizes(self) -> list[tuple[int, int]]:
        """The scales, without those that would be too small for the network."""
        options = self.options
        sizes = scale_sizes(self.plan.size, options.scales, options.min_scale_size)
        while len(sizes) > 1 and not options.scales:
            try:
                self._check_size(sizes[0])
                break
            except UsageError:
                sizes.pop(0)
        self._check_size(sizes[0])
        return sizes

    def _check_size(self, size: tuple[int, int]) -> None:
        extractor = self.loss.features
        assert isinstance(extractor, FeatureExtractor)
        extractor.check_size(*size)
        for style in self._style_sizes(size):
            extractor.check_size(*style)

    def _style_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Heights and widths of the style pictures at a scale."""
        ratio = size[1] / self.plan.size[1]
        sizes = [style.picture.shape[1:3] for style in self.plan.styles]
        return [
            (max(round(height * ratio), 1), max(round(width * ratio), 1))
            for height, width in sizes
        ]

    def _first_picture(self, size: tuple[int, int]) -> np.ndarray:
        start, content = self.plan.start, self.plan.content
        if isinstance(start, str):
            batch = 1 if content is None else len(content)
            return start_noise((batch, *size, 3), start, self.options)
        return resize_image(start, size)

    def _enlarged(self, picture: np.ndarray, scale: int) -> np.ndarray:
        """The coarser scale's result, enlarged, with the start's own fine detail."""
        size, coarser = self.sizes[scale], self.sizes[scale - 1]
        if isinstance(self.plan.start, str):
            return resize_image(picture, size)
        # Enlarging makes no fine detail; the first picture has some at no cost.
        start = resize_image(self.plan.start, size)
        blurred = resize_image(resize_image(self.plan.start, coarser), size)
        return np.clip(resize_image(picture, size) + start - blurred, 0.0, 1.0)

    def _protected(self, picture: np.ndarray) -> np.ndarray:
        """A picture with the original in its protected part."""
        protect, original = self.plan.protect, self.plan.original
        if protect is None or original is None:
            return picture
        kept = resize_image(protect, picture.shape[1:3])
        original = resize_image(original, picture.shape[1:3])
        # Neither product may round what is wholly kept.
        return np.where(kept == 1, original, kept * original + (1 - kept) * picture)

    def _finished(self, picture: np.ndarray) -> np.ndarray:
        """A picture as it is shown: with its final colours and what is protected."""
        original, options = self.plan.original, self.options
        if options.color == "content" and original is not None:
            colored = resize_image(original, picture.shape[1:3])
            picture = keep_colors(picture, colored, options.color_strength)
        return self._protected(picture)

    def _optimize_scale(self, variable: tf.Variable, scale: int) -> None:
        batch, *size, _ = variable.shape
        shapes = tuple(size), self._style_sizes(self.sizes[scale]), batch
        pairs = self.planner.pairs(*shapes)
        optimizer = make_optimizer(
            variable, self.steps[scale], self.loss, self.options, pairs
        )
        if self._restored(optimizer, scale):
            return
        while True:
            cut = self.planner.cut(*shapes, pairs)
            try:
                optimize(
                    self._objective(cut, self.sizes[scale]),
                    optimizer,
                    steps=self.steps[scale],
                    term_names=self.loss.term_names,
                    report=lambda rows, at: self._report(rows, at, scale, optimizer),
                )
                break
            except tf.errors.ResourceExhaustedError:
                self.planner.shrink(cut, batch)
        self._save(optimizer, scale, finished=not self.stopped)

    def _restored(self, optimizer: Adam | LBFGS, scale: int) -> bool:
        """Puts a resumed optimizer where it was; returns whether it has finished."""
        state, self.resumed = self.resumed, None
        if state is None or state.scale != scale:
            return False
        shapes = [tuple(variable.shape) for variable in optimizer.state]
        if shapes != [value.shape for value in state.variables]:
            raise UsageError(
                "the checkpoint was made with more or less memory, which decides how "
                "much the optimizer remembers; give the same max_memory, or choose "
                "another folder"
            )
        for variable, value in zip(optimizer.state, state.variables, strict=True):
            variable.assign(value)
        return state.finished

    def _save(self, optimizer: Adam | LBFGS, scale: int, finished: bool) -> None:
        if self.checkpoint:
            state = State(
                scale=scale,
                finished=finished,
                seconds=time.monotonic() - self.began,
                rows=rows_of(self.history),
                variables=[variable.numpy() for variable in optimizer.state],
            )
            self.checkpoint.save(state)

    def _objective(self, cut: Cut, size: tuple[int, int]) -> Objective:
        """The loss at a scale with its gradient, whole or tile by tile."""
        space = self.options.space
        if cut.tiles == 1:
            targets = self._targets(self.loss, cut, size)
            objective = differentiated(
                lambda value: self.loss(
                    from_space(value, space), targets, tv_images=value
                )
            )
        else:
            tiled = TiledLoss(self.loss, keep_content=cut.keep_content)
            targets = self._targets(tiled, cut, size)

            def objective(value: tf.Tensor) -> Any:
                return tiled.value_and_gradient(
                    value, targets, cut.content, lambda crop: from_space(crop, space)
                )

        if self.plan.protect is None:
            return objective
        kept = with_margin(resize_image(self.plan.protect, size), self.options.margin)
        return holding(objective, tf.constant(kept == 1))

    def _targets(
        self, loss: PerceptualLoss | TiledLoss, cut: Cut, size: tuple[int, int]
    ) -> Targets:
        """What the picture is compared with at a scale."""
        content = None
        if self.plan.content is not None:
            resized = resize_image(self.plan.content, size)
            content = tf.constant(with_margin(resized, self.options.margin))
        # Where nothing is cut, the grids go unused.
        grids = (cut.content,) if isinstance(loss, TiledLoss) else ()
        kept = loss.content_targets(content, *grids)
        styles = [
            self._style_statistics(loss, style, cut.styles[i], style_size)
            for i, (style, style_size) in enumerate(
                zip(self.plan.styles, self._style_sizes(size), strict=True)
            )
        ]
        normalization = self.options.normalization
        blend = (
            blend_statistics(styles, self.plan.shares, normalization) if styles else {}
        )
        guides = self._guides(self.plan.regions, size, self.options.margin)
        return Targets(*kept, blend, guides, guide_areas(guides))

    def _style_statistics(
        self,
        loss: PerceptualLoss | TiledLoss,
        style: Style,
        grid: Grid,
        size: tuple[int, int],
    ) -> dict[str, tf.Tensor]:
        picture = tf.constant(resize_image(style.picture, size))
        guides = self._guides(style.regions, size)
        if isinstance(loss, TiledLoss):
            return loss.style_statistics(picture, grid, guides)
        return loss.style_statistics(picture, guides)

    def _guides(
        self, regions: np.ndarray | None, size: tuple[int, int], margin: int = 0
    ) -> dict[str, tf.Tensor]:
        if regions is None:
            return {}
        canvas = with_margin(resize_image(regions, size), margin)
        found = region_guides(canvas, self.loss.features, self.loss.guided_layers)
        return {layer: tf.constant(guide) for layer, guide in found.items()}

    def _report(
        self,
        rows: np.ndarray,
        steps: np.ndarray,
        scale: int,
        optimizer: Adam | LBFGS,
    ) -> bool:
        steps = steps + sum(self.steps[:scale])
        self.history["step"] += steps.tolist()
        self.history["scale"] += [scale] * len(rows)
        columns = list(self.history)[2:]
        for column, values in zip(columns, rows.T, strict=True):
            self.history[column] += values.tolist()
        progress = Progress(
            step=int(steps[-1]),
            steps=sum(self.steps),
            scale=scale,
            scales=len(self.sizes),
            columns=tuple(columns),
            rows=rows,
            row_steps=steps,
            seconds=time.monotonic() - self.began,
            size=self.sizes[scale],
            image=lambda: self._finished(self._picture(optimizer.variable)),
        )
        answers = [callback(progress) for callback in self.callbacks]
        self.stopped = any(answers)
        if self.checkpoint and self.checkpoint.due:
            self._save(optimizer, scale, finished=False)
        return self.stopped

    def _picture(self, variable: tf.Variable) -> np.ndarray:
        canvas = from_space(variable.value(), self.options.space).numpy()
        return without_margin(np.clip(canvas, 0.0, 1.0), self.options.margin)

    def _result(self, picture: np.ndarray) -> Result:
        if picture.shape[1:3] != self.plan.size:
            picture = resize_image(picture, self.plan.size)
        seconds = time.monotonic() - self.began
        return Result(self._finished(picture), self.history, seconds, self.stopped)


def make_optimizer(
    variable: tf.Variable,
    steps: int,
    loss: PerceptualLoss,
    options: Options,
    pairs: int,
) -> Adam | LBFGS:
    """The optimizer of one scale: L-BFGS that remembers ``pairs``, or Adam if 0."""
    clamp = (options.clamp[0], options.clamp[1]) if options.clamp else None
    if pairs:
        return LBFGS(
            variable,
            terms=len(loss.term_names),
            history=pairs,
            bounds=clamp,
            first_step=options.learning_rate,
        )
    return Adam(
        variable,
        learning_rate=learning_rate_schedule(
            options.schedule,
            options.learning_rate,
            options.final_learning_rate,
            steps,
            options.decay_step,
        ),
        beta_2=options.beta_2,
        clamp=clamp,
        clamp_until=options.clamp_until,
    )
