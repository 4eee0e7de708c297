"""Adam with a learning-rate schedule and a box."""

from __future__ import annotations

from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tfstyle.optimizers.lbfgs import StepResult, ValueAndGradient
from tfstyle.raw_tensorflow import apply_adam

BETA_1 = 0.9
# A pixel's share of a relative loss falls with the number of pixels, to 1e-8 at 4K.
EPSILON = 1e-12

LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


class Adam:
    """Adam (Kingma and Ba 2015) with a schedule and a box, one evaluation per step.

    The update is fused and in place: a picture of 50 megapixels takes 0.6 GB, and so
    would each intermediate result. For the same reason no picture is kept for the case
    that the loss breaks: the moments still know the last step.

    Attributes:
      variable: The variable that is optimised.
      evaluations: How many times the loss has been evaluated, an int64 variable.
    """

    def __init__(
        self,
        variable: tf.Variable,
        *,
        learning_rate: LearningRate,
        beta_2: float = 0.999,
        clamp: tuple[float, float] | None = None,
        clamp_until: int = 0,
    ):
        """Allocates the moments.

        Args:
          variable: What to optimise. Sides that its static shape leaves open may have
            another length after each ``reset``.
          learning_rate: A rate or a schedule of it, in units of the variable.
          beta_2: Decay of the second moment.
          clamp: Lowest and highest value, imposed after each step.
          clamp_until: The step after which nothing is clamped; 0 for never.
        """
        self.variable = variable
        self.evaluations = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._learning_rate, self._beta_2 = learning_rate, beta_2
        self._momentum, self._velocity = (
            tf.Variable(tf.zeros_like(variable), trainable=False, shape=variable.shape)
            for _ in range(2)
        )
        self._clamp, self._clamp_until = clamp, clamp_until

    @property
    def state(self) -> tuple[tf.Variable, ...]:
        """All variables, ``variable`` first."""
        return self.variable, self.evaluations, self._momentum, self._velocity

    def reset(self) -> None:
        """Forgets everything but the variable."""
        self.evaluations.assign(0)
        for moment in (self._momentum, self._velocity):
            moment.assign(tf.zeros_like(self.variable))

    def step(
        self, value_and_gradient: ValueAndGradient, budget: tf.Tensor | int
    ) -> StepResult:
        """Does one step; if the loss or gradient is not finite, undoes the last one.

        What the box had cut off from that one does not come back.

        Args:
          value_and_gradient: See ``LBFGS.step``.
          budget: Evaluations left; one is used.

        Returns:
          The loss and terms before the step.
        """
        del budget
        loss, gradient, terms = value_and_gradient(self.variable.read_value())
        # A sum of squares is finite only if all of them are, and takes no memory.
        finite = tf.math.is_finite(loss + tf.nn.l2_loss(gradient))
        with tf.control_dependencies([finite]):  # a failed evaluation does not count
            self.evaluations.assign_add(1)
        tf.cond(finite, lambda: self._move(gradient), self._undo)
        loss = tf.where(finite, loss, tf.fill([], tf.cast(np.nan, loss.dtype)))
        return StepResult(loss, terms, finite, tf.constant(False))

    def _move(self, gradient: tf.Tensor) -> tf.Tensor:
        rate, power_1, power_2 = self._constants(self.evaluations)
        apply_adam(
            self.variable,
            self._momentum,
            self._velocity,
            gradient,
            learning_rate=rate,
            beta_1=BETA_1,
            beta_2=self._beta_2,
            beta_1_power=power_1,
            beta_2_power=power_2,
            epsilon=EPSILON,
        )
        if self._clamp is not None:
            inside = tf.clip_by_value(self.variable.read_value(), *self._clamp)
            if self._clamp_until:
                clamps = self.evaluations <= self._clamp_until
                inside = tf.where(clamps, inside, self.variable.read_value())
            self.variable.assign(inside)
        return tf.identity(self.evaluations)

    def _constants(
        self, step: tf.Tensor | tf.Variable
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The learning rate and the powers of both decays at a step, from 1."""
        dtype, rate = self.variable.dtype, self._learning_rate
        if callable(rate):
            rate = rate(step - 1)
        power = tf.cast(step, dtype)
        return (
            tf.cast(rate, dtype),
            tf.constant(BETA_1, dtype) ** power,
            tf.constant(self._beta_2, dtype) ** power,
        )

    def _undo(self) -> tf.Tensor:
        rate, power_1, power_2 = self._constants(tf.maximum(self.evaluations - 1, 1))
        rate *= tf.sqrt(1 - power_2) / (1 - power_1)
        # Before the first step the moments are 0.
        before = self.variable + rate * self._momentum / (
            tf.sqrt(self._velocity) + EPSILON
        )
        if self._clamp is not None:
            clamps = not self._clamp_until or self.evaluations - 1 <= self._clamp_until
            before = tf.where(clamps, tf.clip_by_value(before, *self._clamp), before)
        self.variable.assign(before)
        return tf.identity(self.evaluations)


def adam_update(
    x: tf.Tensor,
    gradient: tf.Tensor,
    momentum: tf.Tensor,
    velocity: tf.Tensor,
    step: tf.Tensor,
    learning_rate: tf.Tensor,
    beta_2: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of ``Adam`` as a pure function, for graphs without variables.

    Args:
      x: What is optimised.
      gradient: The gradient of the loss there.
      momentum: First moment, at first 0.
      velocity: Second moment, at first 0.
      step: Number of the step, from 1.
      learning_rate: The rate at this step.
      beta_2: Decay of the second moment.

    Returns:
      The new values of ``x``, ``momentum`` and ``velocity``.
    """
    number = tf.cast(step, x.dtype)
    momentum = BETA_1 * momentum + (1 - BETA_1) * gradient
    velocity = beta_2 * velocity + (1 - beta_2) * gradient**2
    rate = learning_rate * tf.sqrt(1 - beta_2**number) / (1 - BETA_1**number)
    return x - rate * momentum / (tf.sqrt(velocity) + EPSILON), momentum, velocity


def learning_rate_schedule(
    schedule: str, first: float, last: float, steps: int, decay_step: int = 0
) -> LearningRate:
    """A learning rate that goes from ``first`` to ``last`` in ``steps`` steps.

    Args:
      schedule: ``constant``, ``cosine``, ``exponential`` or ``piecewise``.
      first: The first rate.
      last: The last rate; not used by ``constant``; positive for ``exponential``.
      steps: Length of the run.
      decay_step: With ``piecewise``, the step at which the rate drops to ``last``.

    Returns:
      The rate, or Keras's schedule of it.
    """
    schedules = keras.optimizers.schedules
    first, last = float(first), float(last)  # Keras takes the type of its numbers
    if schedule == "constant":
        return first
    if schedule == "cosine":
        return schedules.CosineDecay(first, steps, alpha=last / first if first else 0)
    if schedule == "exponential":
        return schedules.ExponentialDecay(first, steps, max(last, 1e-9) / first)
    return schedules.PiecewiseConstantDecay([decay_step], [first, last])
