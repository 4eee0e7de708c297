"""Optimises a picture from coarse to fine."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.backbones import get_backbone
from tfstyle.backbones.backbone import TORCH_MEAN_RGB, TORCH_STD_RGB
from tfstyle.checkpoint import Checkpoint, State, rows_of
from tfstyle.colors import keep_colors
from tfstyle.errors import UsageError, is_full_memory
from tfstyle.features import LAPLACIAN, FeatureExtractor
from tfstyle.images import resize_image
from tfstyle.lbfgs import LBFGS
from tfstyle.losses import Features, PerceptualLoss, Targets, blend_grams, guide_areas
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
from tfstyle.regions import protected
from tfstyle.tiling import Grid, TiledLoss

SCALE_FACTOR = 2
_LARGE = 3 * 2048**2
"""Numbers in a picture whose memory is worth a fifth of a second."""


@dataclasses.dataclass
class Result:
    """What a run came to.

    Attributes:
      image: The picture or pictures, float32 ``[N, H, W, 3]``, RGB in [0, 1];
        read-only, as a tensor is.
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


def perceptual_loss(
    options: LossOptions,
    features: FeatureExtractor | None = None,
    temporal_weight: float = 0.0,
) -> PerceptualLoss:
    """The loss that options describe, on a network with its weights read.

    Args:
      options: The options.
      features: The network, where it is there already.
      temporal_weight: See ``PerceptualLoss``.

    Returns:
      The loss.
    """
    content_layers, style_layers = _layers(options)
    return PerceptualLoss(
        features or feature_extractor([options]),
        content_layers=content_layers,
        style_layers=style_layers,
        content_weight=1.0,
        style_weight=options.style_weight,
        tv_weight=options.tv_weight,
        temporal_weight=temporal_weight,
        normalization=options.normalization,
    )


def feature_extractor(options: Sequence[LossOptions]) -> FeatureExtractor:
    """The network that options ask for, which may differ in their layers only."""
    used: list[str] = []
    for each in options:
        content_layers, style_layers = _layers(each)
        used += [layer for layer, weight in content_layers.items() if weight]
        used += [*style_layers] if each.needs_style else []
    return FeatureExtractor(
        get_backbone(options[0].backbone),
        used,
        weights=str(options[0].weights),
        pooling=options[0].pooling,
        preprocessing=options[0].preprocessing,
        precision=options[0].precision,
        jit_compile=options[0].jit_compile,
    )


def _layers(options: LossOptions) -> tuple[dict[str, float], dict[str, float]]:
    """Content layers, multiplied by their weight, and style layers."""
    backbone = get_backbone(options.backbone)
    content = weighted_layers(
        "content_layers", options.content_layers, backbone.content_layers
    )
    style = weighted_layers("style_layers", options.style_layers, backbone.style_layers)
    content = {layer: options.content_weight * w for layer, w in content.items()}
    return content | {LAPLACIAN: options.laplacian_weight}, style


class Encoder:
    """The network of one run or several, and the targets that several have in common.

    Attributes:
      features: The network.
    """

    def __init__(self, options: Sequence[LossOptions]):
        """Builds the network.

        Args:
          options: Of the runs, which may differ in layers and weights.
        """
        self.features = feature_extractor(options)
        losses = [perceptual_loss(each, self.features) for each in options]
        content = {layer: 1.0 for loss in losses for layer in loss.content_layers}
        style = {layer: 1.0 for loss in losses for layer in loss.style_layers}
        self.loss = PerceptualLoss(
            self.features,
            content_layers=content,
            style_layers=style,
            content_weight=1.0,
            style_weight=1.0,
            tv_weight=0.0,
        )
        self._targets: dict[Any, Targets] | None = {} if len(options) > 1 else None

    def targets(self, key: Any, compute: Callable[[], Targets]) -> Targets:
        """The targets of a key, which are kept only where several runs want them."""
        if self._targets is None:
            return compute()
        if key not in self._targets:
            self._targets[key] = compute()
        return self._targets[key]


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
    """Pictures ``[N, H, W, 3]`` with their mirror images around them.

    The array itself if there is no margin.
    """
    if not margin:
        return picture
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
        encoder: Encoder | None = None,
    ):
        """Builds the loss.

        Args:
          plan: Pictures and options.
          callbacks: Are told of progress.
          checkpoint: Where the run goes on from, and keeps its state.
          encoder: Of runs with the same pictures; a new one if None.
        """
        self.checkpoint = checkpoint
        self.resumed = checkpoint.load() if checkpoint else None
        self.plan, self.options, self.callbacks = plan, plan.options, callbacks
        self.encoder = encoder or Encoder([plan.options])
        self.loss = perceptual_loss(plan.options, self.encoder.features)
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
            if variable.shape.num_elements() >= _LARGE:
                # The graph, in cycles of references, holds the optimizer's state, of
                # several times the picture's size.
                gc.collect()
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
        enlarged = resize_image(picture, size)
        enlarged += start  # in place, for a large picture is as large as anything here
        enlarged -= blurred
        return np.clip(enlarged, 0.0, 1.0, out=enlarged)

    def _protected(self, picture: np.ndarray) -> np.ndarray:
        """A picture with the original in its protected part."""
        protect, original = self.plan.protect, self.plan.original
        if protect is None or original is None:
            return picture
        kept = resize_image(protect, picture.shape[1:3])
        original = resize_image(original, picture.shape[1:3])
        return protected(picture, original, kept)

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
            except tf.errors.OpError as error:
                if not is_full_memory(error):
                    raise
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
                variables=[_view(variable.value()) for variable in optimizer.state],
            )
            self.checkpoint.save(state)

    def _objective(self, cut: Cut, size: tuple[int, int]) -> Objective:
        """The loss at a scale with its gradient, whole or tile by tile."""
        targets = self._targets(cut, size)
        objective = cut_objective(self.loss, cut, self.options.space, lambda: targets)
        if self.plan.protect is None:
            return objective
        kept = with_margin(resize_image(self.plan.protect, size), self.options.margin)
        return holding(objective, tf.constant(kept == 1))

    def _targets(self, cut: Cut, size: tuple[int, int]) -> Targets:
        """What the picture is compared with at a scale."""
        key = size, cut, self.options.normalization
        return self.encoder.targets(key, lambda: self._computed_targets(cut, size))

    def _computed_targets(self, cut: Cut, size: tuple[int, int]) -> Targets:
        content = None
        if self.plan.content is not None:
            resized = resize_image(self.plan.content, size)
            content = tf.convert_to_tensor(with_margin(resized, self.options.margin))
        kept = cut_content_targets(self.encoder.loss, cut, content)
        styles = [
            self._grams(style, style_size, cut, grid)
            for style, style_size, grid in zip(
                self.plan.styles, self._style_sizes(size), cut.styles, strict=True
            )
        ]
        normalization = self.options.normalization
        blend = blend_grams(styles, self.plan.shares, normalization) if styles else {}
        guides = self._guides(self.plan.regions, size, self.options.margin)
        return Targets(*kept, blend, guides, guide_areas(guides))

    def _grams(
        self, style: Style, size: tuple[int, int], cut: Cut, grid: Grid
    ) -> dict[str, tf.Tensor]:
        picture = tf.convert_to_tensor(resize_image(style.picture, size))
        guides = self._guides(style.regions, size)
        return cut_grams(self.encoder.loss, cut, grid, picture, guides)

    def _guides(
        self, regions: np.ndarray | None, size: tuple[int, int], margin: int = 0
    ) -> dict[str, tf.Tensor]:
        if regions is None:
            return {}
        canvas = with_margin(resize_image(regions, size), margin)
        layers = list(self.encoder.loss.style_layers)
        found = region_guides(canvas, self.encoder.features, layers)
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
        canvas = from_space(variable.value(), self.options.space)
        view = _view(tf.clip_by_value(canvas, 0.0, 1.0))
        return without_margin(view, self.options.margin)

    def _result(self, picture: np.ndarray) -> Result:
        if picture.shape[1:3] != self.plan.size:
            picture = resize_image(picture, self.plan.size)
        seconds = time.monotonic() - self.began
        return Result(self._finished(picture), self.history, seconds, self.stopped)


def _view(tensor: tf.Tensor) -> np.ndarray:
    """A tensor's own memory, read-only, where ``numpy()`` takes as much again."""
    return np.asarray(memoryview(tensor))


def cut_objective(
    loss: PerceptualLoss, cut: Cut, space: str, targets: Callable[[], Targets]
) -> Objective:
    """A loss with its gradient, whole or tile by tile.

    Args:
      loss: The loss.
      cut: How pictures are cut.
      space: Of what is optimised.
      targets: Gives what it is compared with, where the graph is traced.

    Returns:
      The objective.
    """
    if cut.tiles == 1:
        return differentiated(
            lambda value: loss(from_space(value, space), targets(), tv_images=value)
        )
    tiled = TiledLoss(loss, keep_content=cut.keep_content)
    return lambda value: tiled.value_and_gradient(
        value, targets(), cut.content, lambda crop: from_space(crop, space)
    )


def cut_content_targets(
    loss: PerceptualLoss, cut: Cut, content: tf.Tensor | None
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """``PerceptualLoss.content_targets``, whole or tile by tile."""
    if cut.tiles == 1:
        return loss.content_targets(content)
    tiled = TiledLoss(loss, keep_content=cut.keep_content)
    return tiled.content_targets(content, cut.content)


def cut_grams(
    loss: PerceptualLoss,
    cut: Cut,
    grid: Grid,
    style: tf.Tensor,
    guides: Features | None = None,
) -> dict[str, tf.Tensor]:
    """``PerceptualLoss.grams`` of a style picture, whole or tile by tile."""
    if cut.tiles == 1:
        return loss.grams(style, guides)
    return TiledLoss(loss).grams(style, grid, guides)


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
