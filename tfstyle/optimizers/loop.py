"""The loop that minimises a loss, many steps inside one call of a graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import NonFiniteLossError
from tfstyle.optimizers.adam import Adam
from tfstyle.optimizers.lbfgs import LBFGS
from tfstyle.raw_tensorflow import call_in_own_graph

Evaluate = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Mapping[str, tf.Tensor]]]
"""Turns what is optimised, and its targets, into the loss and its terms."""
Objective = Callable[
    [tf.Tensor, Any], tuple[tf.Tensor, tf.Tensor, Mapping[str, tf.Tensor]]
]
"""Turns what is optimised, and its targets, into the loss, its gradient and its
terms."""
Report = Callable[[np.ndarray, np.ndarray], bool | None]
"""Receives the losses since the last report, ``[k, 1 + terms]``, and the step of each;
returns True to stop."""

SECONDS_BETWEEN_REPORTS = 0.25
_MOST_STEPS_PER_CALL = 64


def differentiated(evaluate: Evaluate) -> Objective:
    """The objective that is a loss with its derivative."""

    def objective(
        x: tf.Tensor, targets: Any
    ) -> tuple[tf.Tensor, tf.Tensor, Mapping[str, tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            total, terms = evaluate(x, targets)
        return total, tape.gradient(total, x), terms

    return objective


class Loop:
    """Minimises a loss of an optimizer's variable, as often as it is run.

    Many steps run inside one graph call, and the host hears of them about four times a
    second. What the loss compares with is an argument of the graph, so that another
    run, with other targets or with more steps, traces nothing.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Adam | LBFGS,
        term_names: Sequence[str],
        specs_of: Callable[[Any], Any] = lambda targets: targets,
    ):
        """Prepares a graph, which is traced by the first run.

        Args:
          objective: Loss, gradient and terms of the variable's value.
          optimizer: The optimizer of the variable.
          term_names: Names of the terms, in order.
          specs_of: What the graph is traced for: turns targets into a structure of
            ``tf.TensorSpec``, which may leave sides open. Without it, targets of each
            shape have a graph of their own.
        """
        self._optimizer, self._term_names = optimizer, term_names
        self._specs_of = specs_of
        self._call = _graph_loop(objective, optimizer, term_names)

    @property
    def traces(self) -> int:
        """How many times the graph has been traced."""
        return self._call.experimental_get_tracing_count()

    @property
    def _evaluations(self) -> int:
        return int(self._optimizer.evaluations.numpy())

    def run(
        self,
        steps: int,
        targets: Any = (),
        report: Report = lambda rows, steps: None,
        stop_at: int | None = None,
    ) -> bool:
        """Evaluates the loss until ``steps`` evaluations are made.

        Args:
          steps: Evaluations of the loss in the whole run.
          targets: What the objective compares with: a structure of tensors.
          report: Receives the progress.
          stop_at: Evaluations after which to stop earlier, if the optimizer is between
            two of its steps then; otherwise after that step.

        Returns:
          Whether the optimizer has converged, so that it would go no further.

        Raises:
          NonFiniteLossError: If the loss became NaN or infinite.
        """
        per_call, stop, goes_on = 1, False, True
        end = steps if stop_at is None else min(stop_at, steps)
        last = tf.constant(steps, tf.int64)
        specs = tf.TensorSpec([], tf.int32), last, self._specs_of(targets)
        while goes_on and not stop and (left := end - self._evaluations) > 0:
            traces, began = self.traces, time.monotonic()
            arguments = tf.constant(min(per_call, left)), last, targets
            # Called directly, TensorFlow would warn that sizes and engines trace anew.
            graph = self._call.get_concrete_function(*specs)
            row_steps, rows, goes_on = (x.numpy() for x in graph(*arguments))
            elapsed = time.monotonic() - began
            finite = np.isfinite(rows[:, 0])
            if finite.any():
                stop = bool(report(rows[finite], row_steps[finite]))
            check_finite(row_steps, rows, self._term_names)
            if self.traces == traces:  # a call that traces says nothing about speed
                steps_per_second = len(rows) / max(elapsed, 1e-6)
                wanted = round(SECONDS_BETWEEN_REPORTS * steps_per_second)
                per_call = min(max(wanted, 1), _MOST_STEPS_PER_CALL)
        return not goes_on


def _graph_loop(
    objective: Objective,
    optimizer: Adam | LBFGS,
    term_names: Sequence[str],
) -> tf.types.experimental.PolymorphicFunction:
    @tf.function(autograph=False, reduce_retracing=False)
    def run(
        count: tf.Tensor, steps: tf.Tensor, targets: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        end = optimizer.evaluations + tf.cast(count, tf.int64)

        def evaluate(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            total, gradient, terms = objective(x, targets)
            values = [terms[name] for name in term_names]
            return total, gradient, tf.stack(values) if values else total[None][:0]

        def value_and_gradient(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return call_in_own_graph(evaluate, x)

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
      row_steps: The step of each row.
      rows: The total and the terms of each step, ``[k, 1 + terms]``.
      term_names: Names of the terms, in order.

    Raises:
      NonFiniteLossError: If a total is NaN or infinite.
    """
    for step, row in zip(row_steps, rows, strict=True):
        if not np.isfinite(row[0]):
            broken = [
                name
                for name, value in zip(term_names, row[1:], strict=True)
                if not np.isfinite(value)
            ]
            raise NonFiniteLossError(int(step), broken[0] if broken else "the gradient")
