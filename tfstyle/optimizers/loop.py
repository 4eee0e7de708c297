"""The loop that optimises a picture, inside the graph, and what it reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstyle.errors import NonFiniteLossError
from tfstyle.optimizers.lbfgs import LBFGS, StepResult, ValueAndGradient
from tfstyle.optimizers.progress import Callback as Callback
from tfstyle.optimizers.progress import Progress as Progress

Evaluate = Callable[[tf.Tensor], tuple[tf.Tensor, Mapping[str, tf.Tensor]]]
"""Turns what is optimised into the loss and its named terms."""
Objective = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, Mapping[str, tf.Tensor]]]
"""Turns what is optimised into the loss, its gradient and its named terms."""

SECONDS_BETWEEN_REPORTS = 0.25
_MOST_STEPS_PER_CALL = 64


class Adam:
    """Adam (Kingma and Ba 2015) with a schedule and a box, one evaluation per step.

    The update is Keras's, fused and in place: a picture of 50 megapixels takes 0.6 GB,
    and so would each intermediate result. For the same reason no picture is kept for
    the case that the loss breaks: the moments still know the last step.
    """

    BETA_1 = 0.9
    # A pixel's share of a relative loss falls with their number, to 1e-8 at 4K.
    EPSILON = 1e-12

    def __init__(
        self,
        variable: tf.Variable,
        *,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        beta_2: float = 0.999,
        clamp: tuple[float, float] | None = None,
        clamp_until: int = 0,
    ):
        """Prepares the moments.

        Args:
          variable: The picture.
          learning_rate: A rate or a schedule of it, in units of the variable.
          beta_2: Decay of the second moment.
          clamp: Lowest and highest value, imposed after each step.
          clamp_until: The step after which nothing is clamped; 0 for never.
        """
        self.variable = variable
        self.evaluations = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._learning_rate, self._beta_2 = learning_rate, beta_2
        self._momentum = tf.Variable(tf.zeros_like(variable), trainable=False)
        self._velocity = tf.Variable(tf.zeros_like(variable), trainable=False)
        self._clamp, self._clamp_until = clamp, clamp_until

    @property
    def state(self) -> tuple[tf.Variable, ...]:
        """All variables, ``variable`` first."""
        return self.variable, self.evaluations, self._momentum, self._velocity

    def step(
        self, value_and_gradient: ValueAndGradient, budget: tf.Tensor | int
    ) -> StepResult:
        """Does one step; a loss or gradient that is not finite takes back the last.

        What the box had cut off from that one does not come back.

        Args:
          value_and_gradient: See ``LBFGS.step``.
          budget: Evaluations left; one is used.

        Returns:
          The loss and terms before the step.
        """
        del budget
        loss, gradient, terms = value_and_gradient(self.variable.read_value())
        # A sum of squares is finite only if they all are, of which the second moment
        # consists, and takes no memory.
        finite = tf.math.is_finite(loss + tf.nn.l2_loss(gradient))
        with tf.control_dependencies([finite]):  # a failed evaluation does not count
            self.evaluations.assign_add(1)
        tf.cond(finite, lambda: self._move(gradient), self._take_back)
        loss = tf.where(finite, loss, tf.fill([], tf.cast(np.nan, loss.dtype)))
        return StepResult(loss, terms, finite, tf.constant(False))

    def _move(self, gradient: tf.Tensor) -> tf.Tensor:
        dtype = self.variable.dtype
        tf.raw_ops.ResourceApplyAdam(
            var=self.variable.handle,
            m=self._momentum.handle,
            v=self._velocity.handle,
            **self._constants(self.evaluations),
            beta1=tf.constant(self.BETA_1, dtype),
            beta2=tf.constant(self._beta_2, dtype),
            epsilon=tf.constant(self.EPSILON, dtype),
            grad=gradient,
        )
        if self._clamp is not None:
            inside = tf.clip_by_value(self.variable.read_value(), *self._clamp)
            if self._clamp_until:
                clamps = self.evaluations <= self._clamp_until
                inside = tf.where(clamps, inside, self.variable.read_value())
            self.variable.assign(inside)
        return tf.identity(self.evaluations)

    def _constants(self, step: tf.Tensor | tf.Variable) -> dict[str, tf.Tensor]:
        """The learning rate and the powers of the decays at a step, from 1."""
        dtype, rate = self.variable.dtype, self._learning_rate
        if callable(rate):
            rate = rate(step - 1)
        power = tf.cast(step, dtype)
        return {
            "lr": tf.cast(rate, dtype),
            "beta1_power": tf.constant(self.BETA_1, dtype) ** power,
            "beta2_power": tf.constant(self._beta_2, dtype) ** power,
        }

    def _take_back(self) -> tf.Tensor:
        last = self._constants(tf.maximum(self.evaluations - 1, 1))
        rate = last["lr"] * tf.sqrt(1 - last["beta2_power"]) / (1 - last["beta1_power"])
        # Before the first step the moments are 0.
        moved = rate * self._momentum / (tf.sqrt(self._velocity) + self.EPSILON)
        before = self.variable + moved
        if self._clamp is not None:
            clamps = not self._clamp_until or self.evaluations - 1 <= self._clamp_until
            before = tf.where(clamps, tf.clip_by_value(before, *self._clamp), before)
        self.variable.assign(before)
        return tf.identity(self.evaluations)


def learning_rate_schedule(
    schedule: str, first: float, last: float, steps: int, decay_step: int = 0
) -> float | keras.optimizers.schedules.LearningRateSchedule:
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
    if schedule == "constant":
        return first
    if schedule == "cosine":
        return schedules.CosineDecay(first, steps, alpha=last / first if first else 0)
    if schedule == "exponential":
        return schedules.ExponentialDecay(first, steps, max(last, 1e-9) / first)
    return schedules.PiecewiseConstantDecay([decay_step], [first, last])


def call_in_own_graph(function: Callable, *arguments: tf.Tensor) -> Any:
    """What a function returns, which is called, not copied into the graph around it.

    In the graph of a loop, TensorFlow's pass for oneDNN meets the gradients of some
    pools before the pools, and leaves them a kernel of one core, which may take a sixth
    of a step. A gradient and what it is the gradient of belong in one such function.
    """
    traced = tf.function(
        function, autograph=False, experimental_attributes={"_noinline": True}
    )
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in arguments]
    return traced.get_concrete_function(*specs)(*arguments)


def differentiated(evaluate: Evaluate) -> Objective:
    """The objective that is a loss with its derivative."""

    def objective(
        x: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, Mapping[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            total, terms = evaluate(x)
        return total, tape.gradient(total, x), terms

    return objective


def holding(objective: Objective, held: tf.Tensor) -> Objective:
    """An objective whose gradient is 0 where ``held``, so that nothing moves there."""

    def partly(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Mapping[str, tf.Tensor]]:
        total, gradient, terms = objective(x)
        return total, tf.where(held, tf.zeros_like(gradient), gradient), terms

    return partly


class Loop:
    """Minimises a loss of an optimizer's variable; traced once, for any number of runs.

    Many steps run inside one graph call, and the host hears of them about four times
    a second.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Adam | LBFGS,
        *,
        steps: int,
        term_names: Sequence[str],
    ):
        """Takes note of everything; traces nothing yet.

        Args:
          objective: Loss, gradient and terms of the variable's value.
          optimizer: ``Adam`` or ``LBFGS`` of the variable.
          steps: Evaluations of the loss.
          term_names: Names of the terms, in order.
        """
        self._optimizer, self._steps, self._term_names = optimizer, steps, term_names
        self._call = _graph_loop(objective, optimizer, steps)

    def run(
        self,
        report: Callable[[np.ndarray, np.ndarray], bool] = lambda rows, row_steps: (
            False
        ),
    ) -> bool:
        """Evaluates the loss as often as it may still be.

        Args:
          report: Is given the rows since the last report, ``[k, 1 + terms]``, and the
            evaluations at each; returns True to stop.

        Returns:
          Whether the optimizer has converged: it would go no further.

        Raises:
          NonFiniteLossError: The loss became NaN or infinite.
        """
        per_call, stop, goes_on = 1, False, True
        while (
            goes_on and not stop and self._optimizer.evaluations.numpy() < self._steps
        ):
            traced = self._call.experimental_get_tracing_count() > 0
            began = time.monotonic()
            row_steps, rows, goes_on = (
                x.numpy() for x in self._call(tf.constant(per_call))
            )
            elapsed = time.monotonic() - began
            finite = np.isfinite(rows[:, 0])
            if finite.any():
                stop = report(rows[finite], row_steps[finite])
            check_finite(row_steps, rows, self._term_names)
            if traced:  # the first call's time is that of tracing
                steps_per_second = len(rows) / max(elapsed, 1e-6)
                wanted = round(SECONDS_BETWEEN_REPORTS * steps_per_second)
                per_call = min(max(wanted, 1), _MOST_STEPS_PER_CALL)
        return not goes_on


def optimize(
    objective: Objective,
    optimizer: Adam | LBFGS,
    *,
    steps: int,
    term_names: Sequence[str],
    report: Callable[[np.ndarray, np.ndarray], bool] = lambda rows, row_steps: False,
) -> bool:
    """Minimises a loss once; see ``Loop``."""
    return Loop(objective, optimizer, steps=steps, term_names=term_names).run(report)


def _graph_loop(
    objective: Objective, optimizer: Adam | LBFGS, steps: int
) -> tf.types.experimental.PolymorphicFunction:
    def with_stacked_terms(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        total, gradient, terms = objective(x)
        return total, gradient, tf.stack(list(terms.values()))

    def value_and_gradient(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return call_in_own_graph(with_stacked_terms, x)

    @tf.function(autograph=False)
    def run(count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        end = optimizer.evaluations + tf.cast(count, tf.int64)

        def goes_on(i, row_steps, rows, alive):  # type: ignore[no-untyped-def]
            left = optimizer.evaluations < tf.minimum(end, steps)
            return alive & left & (i < count)

        def body(i, row_steps, rows, alive):  # type: ignore[no-untyped-def]
            # A budget that followed the clock would change the result.
            result = optimizer.step(value_and_gradient, steps - optimizer.evaluations)
            row = tf.concat([[result.loss], result.terms], 0)
            rows = rows.write(i, tf.cast(row, tf.float32))
            row_steps = row_steps.write(i, optimizer.evaluations.read_value())
            alive = tf.math.is_finite(result.loss) & ~result.converged
            return i + 1, row_steps, rows, alive

        i, row_steps, rows, alive = tf.while_loop(
            goes_on,
            body,
            (
                0,
                tf.TensorArray(tf.int64, count),
                tf.TensorArray(tf.float32, count),
                True,
            ),
            parallel_iterations=1,
        )
        return row_steps.stack()[:i], rows.stack()[:i], alive

    return run


def check_finite(
    row_steps: np.ndarray, rows: np.ndarray, term_names: Sequence[str]
) -> None:
    """Refuses losses that are not finite.

    Args:
      row_steps: The steps of the rows.
      rows: The total and the terms of each, ``[k, 1 + terms]``.
      term_names: Names of the terms, in order.

    Raises:
      NonFiniteLossError: There is one.
    """
    for step, row in zip(row_steps, rows, strict=True):
        if not np.isfinite(row[0]):
            broken = [
                name
                for name, value in zip(term_names, row[1:], strict=True)
                if not np.isfinite(value)
            ]
            raise NonFiniteLossError(int(step), broken[0] if broken else "the gradient")
