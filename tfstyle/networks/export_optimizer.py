"""Writes the optimisation of a picture as a SavedModel."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.networks.formats import graph, within, write_saved_model
from tfstyle.optimizers.adam import adam_update
from tfstyle.optimizers.loop import differentiated
from tfstyle.options import Options
from tfstyle.stylizer import stylize

_TOLERANCE = 1 / 255


def export_optimizer(path: str | os.PathLike[str], **options: Any) -> float:
    """Writes the optimisation of a picture as a SavedModel, and checks it.

    Its signature ``stylize`` takes ``content`` and ``style``, float32
    ``[1, H, W, 3]`` in [0, 1] of any sizes, ``steps`` (int32), ``content_weight`` and
    ``style_weight`` (float32), and returns ``stylized`` and ``losses``, the total at
    each step. The loop runs in the graph: Adam from the content picture, at one scale,
    same as ``stylize`` with ``optimizer="adam"``, ``scales=1``, ``margin=0``,
    ``color="free"`` and ``style_scale=(1,)``.

    Args:
      path: A folder; the model is written to ``path/1``, or the next free number.
      **options: The fields of ``tfstyle.Options`` that describe the loss;
        ``precision="auto"`` means ``float32``, because the model may go to other
        machines.

    Returns:
      The largest difference from the library's own result, of values in [0, 1].

    Raises:
      UsageError: If an option cannot be used.
      TfstyleError: If the folder cannot be written, or the results differ.
    """
    if options.get("precision", "auto") == "auto":
        options["precision"] = "float32"
    module = _ServedOptimizer(Options(**options))
    return write_saved_model(
        module,
        {"stylize": module.stylize},
        pathlib.Path(path),
        lambda folder: _check(folder, options),
    )


class _ServedOptimizer(tf.Module):
    """The signature of the optimiser's SavedModel."""

    def __init__(self, options: Options):
        super().__init__()
        self._options = options
        # The weights of the terms are arguments of the signature.
        self._loss = perceptual_loss(
            dataclasses.replace(options, content_weight=1.0, style_weight=1.0)
        )
        assert isinstance(self._loss.features, FeatureExtractor)
        self.weights = [v.value for v in self._loss.features.model.variables]
        picture = [1, None, None, 3]
        self.stylize = graph(
            self._stylize,
            tf.TensorSpec(picture, tf.float32, "content"),
            tf.TensorSpec(picture, tf.float32, "style"),
            tf.TensorSpec([], tf.int32, "steps"),
            tf.TensorSpec([], tf.float32, "content_weight"),
            tf.TensorSpec([], tf.float32, "style_weight"),
        )

    def _stylize(
        self,
        content: tf.Tensor,
        style: tf.Tensor,
        steps: tf.Tensor,
        content_weight: tf.Tensor,
        style_weight: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        targets = self._loss.targets(content, style)
        weights = {"content": content_weight, "style": style_weight}
        targets = targets._replace(
            scales={
                name: weights.get(name.split("/")[0], 1.0) * scale
                for name, scale in targets.scales.items()
            }
        )
        objective, options = differentiated(self._loss), self._options

        def step(
            i: tf.Tensor,
            x: tf.Tensor,
            momentum: tf.Tensor,
            velocity: tf.Tensor,
            losses: tf.TensorArray,
        ) -> tuple[Any, ...]:
            total, gradient, _ = objective(x, targets)
            done = tf.cast(i, tf.float32) / tf.cast(steps, tf.float32)
            rate = 0.5 * options.learning_rate * (1 + tf.cos(np.pi * done))
            x, momentum, velocity = adam_update(
                x, gradient, momentum, velocity, i + 1, rate, options.beta_2
            )
            x = tf.clip_by_value(x, 0.0, 1.0)
            return i + 1, x, momentum, velocity, losses.write(i, total)

        nothing = tf.zeros_like(content)
        losses = tf.TensorArray(tf.float32, steps, element_shape=[])
        *_, stylized, _, _, losses = tf.while_loop(
            lambda i, *_: i < steps,
            step,
            (0, content, nothing, nothing, losses),
            parallel_iterations=1,
        )
        return {"stylized": stylized, "losses": losses.stack()}


def _check(folder: pathlib.Path, options: Mapping[str, Any]) -> float:
    """The largest difference from ``stylize``, after a few steps on noise."""
    random = np.random.default_rng(0)
    content, style = (
        np.clip(random.normal(0.5, 0.2, [1, *size, 3]), 0, 1).astype("float32")
        for size in ((64, 72), (80, 64))
    )
    chosen, steps = Options(**options), 4
    loaded = tf.saved_model.load(str(folder))
    found = loaded.signatures["stylize"](
        content=tf.constant(content),
        style=tf.constant(style),
        steps=tf.constant(steps),
        content_weight=tf.constant(chosen.content_weight, tf.float32),
        style_weight=tf.constant(chosen.style_weight, tf.float32),
    )["stylized"].numpy()
    plain = {"optimizer": "adam", "scales": 1, "margin": 0, "color": "free"}
    plain["style_scale"] = (1.0,)
    wanted = stylize(content, style, **{**options, **plain, "steps": steps}).images
    return within(float(np.abs(found - wanted).max()), _TOLERANCE)
