"""Optimises the frames of a film one after another, each from the one before."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.images.color import keep_colors
from tfstyle.losses import Targets, blend_grams
from tfstyle.optimizers.lbfgs import LBFGS
from tfstyle.optimizers.loop import Loop
from tfstyle.options import Options
from tfstyle.stylizer.memory import MemoryPlanner
from tfstyle.stylizer.objective import (
    cut_content_targets,
    cut_grams,
    cut_objective,
    feature_extractor,
    from_space,
    perceptual_loss,
    to_space,
    with_margin,
    without_margin,
)
from tfstyle.stylizer.pictures import Plan, make_options, plan_stylize
from tfstyle.stylizer.recipes import run_plan
from tfstyle.stylizer.run import make_optimizer
from tfstyle.video.stylize import FRAME_STEPS, TEMPORAL_WEIGHT


class FrameOptimizer:
    """Stylizes a frame so that it goes on with the one before.

    After Ruder, Dosovitskiy and Brox, "Artistic Style Transfer for Videos" (2016): the
    first frame is stylized from coarse to fine like a picture; each further one starts
    from the last result, warped along the motion, and is drawn to it wherever that is
    consistent (equation 7). One graph serves all frames.
    """

    def __init__(
        self,
        style: Any,
        *,
        frame_steps: int = FRAME_STEPS,
        temporal_weight: float = TEMPORAL_WEIGHT,
        **options: Any,
    ):
        """Checks the options.

        Args:
          style: As of ``stylize``.
          frame_steps: Evaluations of the loss at each frame but the first.
          temporal_weight: Weight of the difference to the last frame's result.
          **options: The fields of ``tfstyle.Options``.

        Raises:
          UsageError: One cannot be used.
        """
        make_options(options)
        self._style, self._options = style, options
        self._frame_steps, self._temporal_weight = frame_steps, temporal_weight
        self._follower: _Follower | None = None

    def __call__(
        self,
        frame: np.ndarray,
        warped: np.ndarray | None,
        consistency: np.ndarray | None,
    ) -> np.ndarray:
        """Stylizes a frame.

        Args:
          frame: ``[1, H, W, 3]`` in [0, 1].
          warped: The last frame's result, warped to this one, of the same shape; None
            for the first frame.
          consistency: ``[1, H, W, 1]`` in [0, 1], 1 where ``warped`` is to be trusted.

        Returns:
          The stylized frame, of the same shape, float32 in [0, 1].
        """
        size = {"size": max(frame.shape[1:3]), "size_of": "longest"}
        plan = plan_stylize(frame, self._style, **{**self._options, **size})
        if warped is None or consistency is None:
            return run_plan(plan).image
        if self._follower is None:
            self._follower = _Follower(plan, self._frame_steps, self._temporal_weight)
        return self._follower.follow(plan, warped, consistency)


class _Follower:
    """The graph that all frames but the first have in common."""

    def __init__(self, plan: Plan, steps: int, temporal_weight: float):
        self.options: Options = plan.options
        features = feature_extractor([plan.options])
        self.loss = perceptual_loss(plan.options, features, temporal_weight)
        margin = plan.options.margin
        size = plan.size[0] + 2 * margin, plan.size[1] + 2 * margin
        styles = [style.picture.shape[1:3] for style in plan.styles]
        self.cut = MemoryPlanner(self.loss, plan.options).cut(
            size, styles, 1, plan.options.history
        )
        self.picture = tf.Variable(tf.zeros([1, *size, 3]))
        self.warped = tf.Variable(tf.zeros([1, *size, 3]))
        self.consistency = tf.Variable(tf.zeros([1, *size, 1]))
        self.targets = [_variables(part) for part in self._frame_targets(plan)]
        pairs = plan.options.history
        optimizer = make_optimizer(self.picture, steps, self.loss, self.options, pairs)
        assert isinstance(optimizer, LBFGS)  # as long as it remembers pairs
        self.optimizer = optimizer
        self.loop = Loop(
            cut_objective(self.loss, self.cut, self.options.space, self._targets),
            self.optimizer,
            steps=steps,
            term_names=self.loss.term_names,
        )

    def follow(
        self, plan: Plan, warped: np.ndarray, consistency: np.ndarray
    ) -> np.ndarray:
        """Stylizes the frame of a plan."""
        assert plan.content is not None
        found = self._frame_targets(plan)
        for variables, tensors in zip(self.targets, found, strict=True):
            for layer, tensor in tensors.items():
                variables[layer].assign(tensor)
        # Where nothing is known of the last frame, this one's content is a start.
        start = consistency * warped + (1 - consistency) * plan.content
        for variable, picture in (
            (self.picture, to_space(start.astype("float32"), self.options.space)),
            (self.warped, to_space(warped, self.options.space)),
            (self.consistency, consistency),
        ):
            variable.assign(with_margin(picture, self.options.margin))
        self.optimizer.reset()
        self.loop.run()
        canvas = from_space(self.picture.value(), self.options.space).numpy()
        picture = without_margin(np.clip(canvas, 0.0, 1.0), self.options.margin)
        if plan.original is not None:
            picture = keep_colors(picture, plan.original, self.options.color_strength)
        return picture

    def _frame_targets(self, plan: Plan) -> list[dict[str, tf.Tensor]]:
        """Features and norms of the content, and Gram matrices of the style.

        These too are of the frame: the style may have taken the frame's colours.
        """
        assert plan.content is not None
        content = tf.constant(with_margin(plan.content, self.options.margin))
        parts = cut_content_targets(self.loss, self.cut, content)
        return [*parts, self._grams(plan)]

    def _grams(self, plan: Plan) -> dict[str, tf.Tensor]:
        found = [
            cut_grams(self.loss, self.cut, grid, tf.constant(style.picture))
            for grid, style in zip(self.cut.styles, plan.styles, strict=True)
        ]
        normalization = self.options.normalization
        return blend_grams(found, plan.shares, normalization) if found else {}

    def _targets(self) -> Targets:
        content, norms, grams = (
            {layer: variable.read_value() for layer, variable in part.items()}
            for part in self.targets
        )
        return Targets(
            content,
            norms,
            grams,
            warped=self.warped.read_value(),
            consistency=self.consistency.read_value(),
        )


def _variables(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Variable]:
    return {
        name: tf.Variable(tensor, trainable=False) for name, tensor in tensors.items()
    }
