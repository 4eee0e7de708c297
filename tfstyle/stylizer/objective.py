"""What a run minimises: the loss that options and pictures describe."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.backbones import get_backbone
from tfstyle.backbones.base import TORCH_MEAN_RGB, TORCH_STD_RGB
from tfstyle.backbones.feature_extractor import LAPLACIAN, FeatureExtractor
from tfstyle.images import resize_image
from tfstyle.images.masks import guides as region_guides
from tfstyle.losses import Features, PerceptualLoss, Targets, blend_grams, guide_areas
from tfstyle.losses.tiled import Grid, TiledLoss
from tfstyle.optimizers.loop import Objective, differentiated, holding
from tfstyle.options import LossOptions, weighted_layers
from tfstyle.stylizer.memory import Cut, MemoryPlanner
from tfstyle.stylizer.pictures import Plan, Style

_CHROMA = 2.0
"""Better than 1 on most pictures tried, 1.5 and 3 being better on some of them."""


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
        self._options = options
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

    @property
    def rounded(self) -> bool:
        """Whether ``precision=auto`` has become bfloat16, so that ``exact`` differs."""
        return self._options[0].precision == "auto" and self.features.dtype != "float32"

    @functools.cached_property
    def exact(self) -> Encoder:
        """The same in float32, for where rounding hides what is left to gain."""
        return Encoder(
            [dataclasses.replace(each, precision="float32") for each in self._options]
        )

    def targets(self, key: Any, compute: Callable[[], Targets]) -> Targets:
        """The targets of a key, which are kept only where several runs want them."""
        if self._targets is None:
            return compute()
        if key not in self._targets:
            self._targets[key] = compute()
        return self._targets[key]


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


def favor_chroma(gradient: tf.Tensor) -> tf.Tensor:
    """A preconditioner, by which differences between channels move further.

    The loss curves less along them: on VGG-19, in waves of 4 to 15 pixels, a tenth as
    much as along grey, or less. L-BFGS finds out the rest.

    Args:
      gradient: By pictures, ``[..., 3]``.

    Returns:
      The gradient with the differences of channels from their mean enlarged.
    """
    grey = tf.reduce_mean(gradient, -1, keepdims=True)
    return grey + _CHROMA * (gradient - grey)


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


class PlanObjective:
    """What a plan asks to minimise at any scale, in one precision.

    Attributes:
      encoder: The network.
      loss: The loss of the plan's options.
      planner: Cuts pictures to the memory that there is.
    """

    def __init__(self, plan: Plan, encoder: Encoder):
        """Builds the loss.

        Args:
          plan: Pictures and options.
          encoder: Of the plan's network.
        """
        self.encoder, self._plan = encoder, plan
        self.loss = perceptual_loss(plan.options, encoder.features)
        regions = 0 if plan.regions is None else plan.regions.shape[-1]
        self.planner = MemoryPlanner(self.loss, plan.options, regions, plan.size)

    @functools.cached_property
    def exact(self) -> PlanObjective:
        """The same in float32; see ``Encoder.exact``."""
        return PlanObjective(self._plan, self.encoder.exact)

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuses a scale that is too small for the network.

        Args:
          size: Height and width of the picture.

        Raises:
          UsageError: It is, or a style picture is.
        """
        self.encoder.features.check_size(*size)
        for style in self.style_sizes(size):
            self.encoder.features.check_size(*style)

    def style_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Heights and widths of the style pictures at a scale of a size."""
        ratio = size[1] / self._plan.size[1]
        sizes = [style.picture.shape[1:3] for style in self._plan.styles]
        return [
            (max(round(height * ratio), 1), max(round(width * ratio), 1))
            for height, width in sizes
        ]

    def at(self, size: tuple[int, int], cut: Cut) -> Objective:
        """The loss at a scale with its gradient.

        Args:
          size: Height and width of the picture, without its margin.
          cut: How pictures are cut.

        Returns:
          The objective, for which targets have been computed.
        """
        options = self._plan.options
        targets = self.targets(size, cut)
        objective = cut_objective(self.loss, cut, options.space, lambda: targets)
        if self._plan.protect is None:
            return objective
        kept = with_margin(resize_image(self._plan.protect, size), options.margin)
        return holding(objective, tf.constant(kept == 1))

    def targets(self, size: tuple[int, int], cut: Cut) -> Targets:
        """What the picture is compared with at a scale; see ``at``."""
        key = size, cut, self._plan.options.normalization
        return self.encoder.targets(key, lambda: self._computed_targets(size, cut))

    def _computed_targets(self, size: tuple[int, int], cut: Cut) -> Targets:
        plan, margin = self._plan, self._plan.options.margin
        content = None
        if plan.content is not None:
            resized = resize_image(plan.content, size)
            content = tf.convert_to_tensor(with_margin(resized, margin))
        kept = cut_content_targets(self.encoder.loss, cut, content)
        styles = [
            self._grams(style, style_size, cut, grid)
            for style, style_size, grid in zip(
                plan.styles, self.style_sizes(size), cut.styles, strict=True
            )
        ]
        normalization = plan.options.normalization
        blend = blend_grams(styles, plan.shares, normalization) if styles else {}
        guides = self._guides(plan.regions, size, margin)
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
