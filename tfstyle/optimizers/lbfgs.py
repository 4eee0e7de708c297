"""L-BFGS with a strong-Wolfe line search that runs inside the TensorFlow graph.

The method follows Nocedal and Wright, *Numerical Optimization*, 2nd edition (2006): the
two-loop recursion (algorithm 7.4), a line search for the strong Wolfe conditions
(algorithms 3.5 and 3.6) and cubic interpolation (equation 3.59). The two-metric
projection of Bertsekas, "Projected Newton methods for optimization problems with simple
constraints", SIAM J. Control and Optimization 20 (1982), keeps the variable inside a
box.

The functions are pure and work on flat vectors. ``LBFGS`` holds the state between steps
and knows the shape of the variable, which may change between two runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from tfstyle.raw_tensorflow import empty

ValueAndGradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
Preconditioner = Callable[[tf.Tensor], tf.Tensor]
"""Multiplies a tensor by an estimate of the inverse Hessian, up to a factor: linear,
symmetric and positive definite."""
Structure = TypeVar("Structure", bound=tuple)

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9

# The next trial is at least this share of the bracket away from both ends, so that the
# bracket shrinks even where the cubic is a poor model.
_MARGIN = 0.1
# As long as the bracket has no upper end, the next trial is between 2 and 10 times the
# last one: the slope is still 0.9 of what it was, so less would waste an evaluation.
_GROWTH = (2.0, 10.0)


class Sample(NamedTuple):
    """The loss at one step length along the search path; three scalars.

    Attributes:
      step: The step length; infinite for an end of the bracket that is not known yet.
      loss: The loss there; infinite if it is not finite.
      slope: The derivative of the loss by ``step``.
    """

    step: tf.Tensor
    loss: tf.Tensor
    slope: tf.Tensor


class Point(NamedTuple):
    """A point and what is known about it.

    Attributes:
      x: The point, [n].
      gradient: The gradient of the loss there, [n].
      terms: The caller's terms of the loss there, [k].
    """

    x: tf.Tensor
    gradient: tf.Tensor
    terms: tf.Tensor


class Search(NamedTuple):
    """The state of a line search.

    Attributes:
      trial: The step length to evaluate next.
      low: The best step so far with sufficient decrease; 0 at first.
      high: The other end of the bracket. Some step between ``low`` and ``high`` meets
        the strong Wolfe conditions.
      best: The point at ``low``.
      evaluations: How many points have been evaluated, int64.
      accepted: Whether ``low`` meets the strong Wolfe conditions, bool.
    """

    trial: tf.Tensor
    low: Sample
    high: Sample
    best: Point
    evaluations: tf.Tensor
    accepted: tf.Tensor


class StepResult(NamedTuple):
    """The result of one step of ``LBFGS``.

    Attributes:
      loss: The loss of the point that the variable holds, a scalar; infinite if nothing
        has been evaluated yet.
      terms: The caller's terms of that loss, [k].
      moved: Whether the step accepted a new point, bool.
      converged: Whether no further progress is possible, bool.
    """

    loss: tf.Tensor
    terms: tf.Tensor
    moved: tf.Tensor
    converged: tf.Tensor


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    # Recent GPUs would round a matrix product to TF32.
    return tf.reduce_sum(a * b)


def _square(a: tf.Tensor) -> tf.Tensor:
    """Returns a·a without a vector of products, which ``_dot`` makes."""
    return 2 * tf.nn.l2_loss(a)


def _restricted(vector: tf.Tensor, free: tf.Tensor | None) -> tf.Tensor:
    """Returns a vector with 0 where it is not ``free``; None means free everywhere."""
    return vector if free is None else tf.where(free, vector, 0)


def _select(condition: tf.Tensor, yes: Structure, no: Structure) -> Structure:
    """Returns one of two structures of tensors, by a scalar bool, without a copy."""

    def same(structure: Structure) -> Structure:
        return tf.nest.map_structure(tf.identity, structure)

    return tf.cond(condition, lambda: same(yes), lambda: same(no))


def _epsilon(dtype: tf.DType) -> float:
    """Returns the relative spacing of the numbers of a floating-point type."""
    return float(np.finfo(dtype.as_numpy_dtype).eps)


def inverse_curvature(s: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns 1 / s·y, or 0 if s·y is not safely positive.

    Args:
      s: A change of the point, [n].
      y: The change of the gradient between the same points, [n].

    Returns:
      A scalar: rho of Nocedal and Wright's equation 7.17. It is 0 for a pair that would
      make the inverse Hessian indefinite, up to rounding.
    """
    sy = _dot(s, y)
    safe = sy > _epsilon(s.dtype) * tf.sqrt(_square(s)) * tf.sqrt(_square(y))
    return tf.where(safe, tf.math.reciprocal(sy), tf.zeros_like(sy))


def two_loop_direction(
    gradient: tf.Tensor,
    s_history: tf.Tensor | tf.Variable,
    y_history: tf.Tensor | tf.Variable,
    count: tf.Tensor,
    newest: tf.Tensor,
    scale: tf.Tensor,
    free: tf.Tensor | None = None,
    precondition: Preconditioner = tf.identity,
) -> tf.Tensor:
    """Returns the quasi-Newton direction −H·gradient (algorithm 7.4).

    ``tf.gather`` reads the history row by row; it does not copy the rest of a variable.
    With ``free``, the recursion solves the problem restricted to the free components.
    The pairs are restricted too, because the inverse Hessian of the restricted problem
    is not a part of the inverse of the whole Hessian.

    Args:
      gradient: [n]; 0 at components that are not free.
      s_history: Changes of the point, [history, n], a ring buffer of rows.
      y_history: Changes of the gradient, [history, n].
      count: How many rows are in use, int64.
      newest: The row of the latest pair, int64.
      scale: Factor of the preconditioner P in H if no pair is usable. Otherwise the
        factor is s·y / y·Py of the latest usable pair (equation 7.20, where P is I).
      free: Which components are free, bool, [n]; None if all are.
      precondition: Multiplies a flat vector by P.

    Returns:
      The direction, [n], of the dtype of ``gradient``.
    """
    history = s_history.shape[0]

    def pair(age: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.math.floormod(newest - age, history)
        # It is enough to restrict y: s is only multiplied by restricted vectors, and
        # the result is restricted at the end.
        return tf.gather(s_history, row), _restricted(tf.gather(y_history, row), free)

    def put(vector: tf.Tensor, age: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        return tf.tensor_scatter_nd_update(vector, [[age]], [value])

    def backward(
        age: tf.Tensor, q: tf.Tensor, rhos: tf.Tensor, alphas: tf.Tensor, h: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        s, y = pair(age)
        rho = inverse_curvature(s, y)
        with tf.control_dependencies([rho]):  # one vector of products at a time
            alpha = rho * _dot(s, q)
        first = (rho > 0) & tf.reduce_all(tf.equal(rhos, 0))
        h = tf.cond(
            first, lambda: tf.math.reciprocal(rho * _dot(y, precondition(y))), lambda: h
        )
        return age + 1, q - alpha * y, put(rhos, age, rho), put(alphas, age, alpha), h

    zeros = tf.zeros([history], gradient.dtype)
    _, q, rhos, alphas, h = tf.while_loop(
        lambda age, *_: age < count,
        backward,
        (tf.zeros_like(count), gradient, zeros, zeros, scale),
        parallel_iterations=1,
    )

    def forward(age: tf.Tensor, r: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        s, y = pair(age)
        beta = rhos[age] * _dot(y, r)
        return age - 1, r + (alphas[age] - beta) * s

    _, r = tf.while_loop(
        lambda age, _: age >= 0,
        forward,
        (count - 1, h * precondition(q)),
        parallel_iterations=1,
    )
    return _restricted(-r, free)


def cubic_minimizer(
    a: Sample, b: Sample, lower: tf.Tensor, upper: tf.Tensor
) -> tf.Tensor:
    """Returns the minimizer of the cubic through two samples, within limits.

    This is equation 3.59, with the square root scaled against overflow.

    Args:
      a: One sample.
      b: A sample at another step.
      lower: The lowest step to return.
      upper: The highest step to return.

    Returns:
      The step, a scalar; halfway between the limits if the cubic has no minimum.
    """
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    size = tf.maximum(tf.abs(d1), tf.maximum(tf.abs(a.slope), tf.abs(b.slope)))
    root = tf.sqrt((d1 / size) ** 2 - (a.slope / size) * (b.slope / size))
    d2 = tf.sign(b.step - a.step) * size * root
    share = (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
    step = b.step - (b.step - a.step) * share
    inside = tf.minimum(tf.maximum(step, lower), upper)
    return tf.where(tf.math.is_finite(step), inside, (lower + upper) / 2)


def _next_trial(previous: Sample, low: Sample, high: Sample) -> tf.Tensor:
    """Returns the next step to try: in the bracket, or beyond ``low`` without one."""
    extrapolated = cubic_minimizer(
        previous, low, _GROWTH[0] * low.step, _GROWTH[1] * low.step
    )
    margin = _MARGIN * tf.abs(high.step - low.step)
    interpolated = cubic_minimizer(
        low,
        high,
        tf.minimum(low.step, high.step) + margin,
        tf.maximum(low.step, high.step) - margin,
    )
    return tf.where(tf.math.is_inf(high.step), extrapolated, interpolated)


def _probe(
    evaluate: ValueAndGradient,
    start: tf.Tensor,
    direction: tf.Tensor,
    step: tf.Tensor,
    bounds: tuple[tf.Tensor, tf.Tensor] | None,
) -> tuple[Sample, Point]:
    """Evaluates the loss at one step along the projected path.

    Args:
      evaluate: A ``ValueAndGradient`` of flat vectors.
      start: Where the path starts, [n].
      direction: The direction of the path, [n].
      step: The step length, a scalar.
      bounds: The box onto which the path is projected, if any.

    Returns:
      The sample and the point. The sample's loss is infinite if the loss or its
      gradient is not finite.
    """
    x = start + step * direction
    moves = None
    if bounds is not None:
        inside = tf.clip_by_value(x, *bounds)
        moves, x = tf.equal(x, inside), inside
    loss, gradient, terms = evaluate(x)
    # The evaluation needs the most memory, so this vector is made after it.
    with tf.control_dependencies([loss]):
        # A clipped component does not move, whatever its gradient is.
        moving = _restricted(direction, moves)
    finite = tf.math.is_finite(loss) & tf.reduce_all(tf.math.is_finite(gradient))
    loss = tf.where(finite, loss, tf.constant(float("inf"), loss.dtype))
    return Sample(step, loss, _dot(gradient, moving)), Point(x, gradient, terms)


def line_search(
    evaluate: ValueAndGradient,
    start: Point,
    loss: tf.Tensor,
    direction: tf.Tensor,
    limit: tf.Tensor,
    bounds: tuple[tf.Tensor, tf.Tensor] | None = None,
    noise: float = 0.0,
) -> Search:
    """Searches for a step that meets the strong Wolfe conditions.

    Algorithms 3.5 (bracketing) and 3.6 (zoom) are one loop here. They differ only in
    whether the upper end of the bracket is known, and the same rules hold for an
    infinite one. The first trial is step 1. Decrease is measured against the actual
    move, g·(x − x₀), which equals step·slope where nothing is clipped.

    Where losses differ by less than rounding, an equal loss with a flatter slope is
    progress, so an equal loss does not count as too high.

    Args:
      evaluate: A ``ValueAndGradient`` of flat vectors; traced once.
      start: The start, with its gradient.
      loss: The loss at the start. If it is infinite and the gradient is 0, the search
        evaluates the start, and accepts it if its loss is finite.
      direction: A direction of descent, [n]. At the border of the box, no component
        may lead out of it.
      limit: How many points may be evaluated, int64.
      bounds: The box, if any.
      noise: The relative error of losses. By so much a loss may be above what the
        conditions ask for: then the slopes decide, which are known better (Hager and
        Zhang 2005, "A new conjugate gradient method with guaranteed descent and an
        efficient line search", section 4).

    Returns:
      The last state of the search. The loss at ``low`` is above that of the start by no
      more than ``noise``; ``low`` is the start if nothing better was found.
    """
    dtype = direction.dtype
    zero, infinity = tf.zeros([], dtype), tf.constant(float("inf"), dtype)
    origin = Sample(zero, loss, _dot(start.gradient, direction))
    reach = tf.reduce_max(tf.abs(direction))
    epsilon = _epsilon(dtype)
    spacing = epsilon * tf.reduce_max(tf.abs(start.x))

    def undecided(search: Search) -> tf.Tensor:
        width = tf.abs(search.high.step - search.low.step)
        # The search ends if the bracket is narrower than the spacing of the points, or
        # if a convex loss could not fall in it by more than the spacing of losses. An
        # infinite bracket does not end it, even if the direction is 0.
        gain = tf.abs(search.low.slope) * width
        distinct = (width * reach > spacing) & (gain > epsilon * tf.abs(loss))
        worthwhile = tf.math.is_inf(width) | distinct
        return ~search.accepted & worthwhile & (search.evaluations < limit)

    def body(search: Search) -> tuple[Search]:
        low, high = search.low, search.high
        sample, point = _probe(evaluate, start.x, direction, search.trial, bounds)
        promise = tf.minimum(_dot(start.gradient, point.x - start.x), zero)
        most = tf.minimum(origin.loss + SUFFICIENT_DECREASE * promise, low.loss)
        if noise:  # 0 times the infinite loss of an unknown start is no number
            most += noise * tf.abs(origin.loss)
        good = tf.math.is_finite(sample.loss) & (sample.loss <= most)
        flat = tf.abs(sample.slope) <= CURVATURE * tf.abs(origin.slope)
        uphill = sample.slope * (high.step - low.step) >= 0
        new_high = _select(good, _select(uphill, low, high), sample)
        new_low, best = _select(good, (sample, point), (low, search.best))
        # As long as no loss is finite, the terms of the last trial tell why.
        known = tf.math.is_finite(new_low.loss)
        best = best._replace(terms=tf.where(known, best.terms, point.terms))
        trial = _next_trial(low, new_low, new_high)
        evaluations = search.evaluations + 1
        return (Search(trial, new_low, new_high, best, evaluations, good & flat),)

    first = Search(
        trial=tf.ones([], dtype),
        low=origin,
        high=Sample(infinity, infinity, zero),
        best=start,
        evaluations=tf.zeros([], tf.int64),
        accepted=tf.constant(False),
    )
    return tf.while_loop(undecided, body, (first,), parallel_iterations=1)[0]


class LBFGS:
    """Minimises a loss of one variable by L-BFGS, optionally inside a box.

    See the module for the algorithms. All state is kept in variables, so ``step`` may
    be called eagerly, in a ``tf.function`` or in the body of a ``tf.while_loop``. The
    object itself must be created outside of them. For a variable of n components, it
    holds another (2·history + 1)·n numbers.

    Call ``reset`` after changing the variable between two steps.

    Attributes:
      variable: The variable that is optimised.
      evaluations: How many times the loss has been evaluated, an int64 variable.
    """

    def __init__(
        self,
        variable: tf.Variable,
        *,
        terms: int = 0,
        history: int = 10,
        bounds: tuple[float, float] | None = None,
        first_step: float = 1.0,
        max_evaluations_per_step: int = 20,
        preconditioner: Preconditioner = tf.identity,
        noise: float = 0.0,
    ) -> None:
        """Allocates the state; evaluates nothing.

        Args:
          variable: What to optimise, float32 or float64. Sides that its static shape
            leaves open may have another length after each ``reset``.
          terms: The length k of the terms that the loss function returns.
          history: How many pairs to keep.
          bounds: The lowest and the highest value of every component, or None.
          first_step: The largest change of a component in the first trial of a step of
            steepest descent: the first step, and the one after a failed search.
          max_evaluations_per_step: Limit of evaluations in one line search.
          preconditioner: Takes and returns tensors of the variable's shape.
          noise: See ``line_search``.

        Raises:
          ValueError: If the variable has another dtype or an unknown rank, a number is
            not positive, or the bounds are not in rising order.
        """
        dtype = variable.dtype
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(f"L-BFGS needs float32 or float64, not {dtype.name}")
        if variable.shape.rank is None:
            raise ValueError(f"L-BFGS needs a static rank, not {variable.shape}")
        if history < 1 or max_evaluations_per_step < 1 or not first_step > 0:
            raise ValueError("L-BFGS needs positive numbers")
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"L-BFGS needs bounds in rising order, not {bounds}")

        def state(shape: list[int | None], dtype: tf.DType) -> tf.Variable:
            first = tf.zeros([side or 0 for side in shape], dtype)
            return tf.Variable(first, trainable=False, shape=shape)

        size = variable.shape.num_elements()
        self.variable = variable
        self._bounds = bounds
        self._first_step = first_step
        self._max_evaluations = max_evaluations_per_step
        self._preconditioner, self._noise = preconditioner, noise
        # 64 bits throughout: GPUs keep 32-bit integers in host memory.
        self.evaluations = state([], tf.int64)
        self._count = state([], tf.int64)
        self._newest = state([], tf.int64)
        self._s_history = state([history, size], dtype)
        self._y_history = state([history, size], dtype)
        self._loss = state([], dtype)
        self._gradient = state([size], dtype)
        self._terms = state([terms], dtype)
        self.reset()

    @property
    def state(self) -> tuple[tf.Variable, ...]:
        """All variables, ``variable`` first."""
        return (
            self.variable,
            self.evaluations,
            self._count,
            self._newest,
            self._s_history,
            self._y_history,
            self._loss,
            self._gradient,
            self._terms,
        )

    def reset(self) -> None:
        """Clears everything but the variable, including the count of evaluations.

        The next step evaluates the point that the variable holds by then, which may
        have another number of components than the one before.
        """
        size = tf.size(self.variable)
        for history in (self._s_history, self._y_history):
            # Rows of the same length may stay: with a count of 0, none is read.
            if tf.shape(history)[1] != size:
                history.assign(empty([history.shape[0], size], history.dtype))
        for variable in (self.evaluations, self._count, self._newest, self._terms):
            variable.assign(tf.zeros_like(variable))
        # To the line search, an infinite loss without a gradient means "unknown".
        self._loss.assign(float("inf"))
        self._gradient.assign(empty([size], self._gradient.dtype))

    def step(
        self, value_and_gradient: ValueAndGradient, budget: tf.Tensor | int
    ) -> StepResult:
        """Does one iteration.

        The first step only evaluates the point that the variable holds, after moving it
        into the box, so that its loss can be reported like any other. It takes one
        evaluation. So does each later step in which step length 1 meets the strong
        Wolfe conditions, which is the common case.

        If a search fails, the history is cleared, so that the next step is one of
        steepest descent. If that fails too, the result is ``converged``. The result is
        also ``converged`` if the projected gradient is 0, or the loss is not finite at
        the start.

        Args:
          value_and_gradient: Takes a tensor of the variable's shape and dtype. Returns
            the loss, a scalar; its gradient, of the variable's shape; and its terms,
            [k]. Traced once per call of ``step``.
          budget: Limit of evaluations, an integer scalar. If it ends a search before a
            better point was found, nothing changes, and the next step starts the search
            again: pass all evaluations that are left, not small slices.

        Returns:
          The loss and the terms of the point that the variable now holds, whether that
          point is new, and whether no further progress is possible.
        """
        start = Point(
            tf.reshape(self.variable, [-1]),
            tf.identity(self._gradient),
            tf.identity(self._terms),
        )
        loss, count = tf.identity(self._loss), tf.identity(self._count)
        direction = self._direction(start, count)
        stationary = tf.math.is_finite(loss) & tf.reduce_all(tf.equal(direction, 0))
        limit = tf.minimum(tf.cast(budget, tf.int64), self._max_evaluations)
        limit = tf.where(stationary, tf.zeros_like(limit), limit)

        search = line_search(
            self._flattened(value_and_gradient),
            start,
            loss,
            direction,
            limit,
            self._box(),
            self._noise,
        )
        moved = search.accepted | (search.low.loss < loss)
        # Within ``noise``, the search may end above the start without moving there.
        loss_now = tf.where(moved, search.low.loss, loss)
        cut_short = (search.evaluations >= limit) & (limit < self._max_evaluations)
        failed = ~moved & ~cut_short
        # A search may end at another point of the same loss without accepting it.
        # Moving there could go on forever.
        best = _select(moved, search.best, start)
        self._remember(start, best, usable=moved & tf.math.is_finite(loss))
        self._loss.assign(loss_now)
        self.evaluations.assign_add(search.evaluations)
        self._count.assign(tf.where(failed, tf.zeros_like(count), self._count))
        converged = stationary | failed & tf.equal(count, 0)
        known = tf.math.is_finite(loss_now)
        terms = tf.where(known, best.terms, search.best.terms)
        return StepResult(loss_now, terms, moved, converged)

    def _box(self) -> tuple[tf.Tensor, tf.Tensor] | None:
        """Returns the bounds as tensors of the variable's dtype."""
        if self._bounds is None:
            return None
        low, high = (tf.constant(b, self.variable.dtype) for b in self._bounds)
        return low, high

    def _flattened(self, value_and_gradient: ValueAndGradient) -> ValueAndGradient:
        """Wraps a loss of the variable's shape as one of a flat vector."""
        dtype = self.variable.dtype

        def evaluate(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            loss, gradient, terms = value_and_gradient(self._shaped(x))
            flat = tf.reshape(tf.cast(gradient, dtype), [-1])
            return (
                tf.ensure_shape(tf.cast(loss, dtype), []),
                tf.ensure_shape(flat, self._gradient.shape),
                tf.ensure_shape(tf.cast(terms, dtype), self._terms.shape),
            )

        return evaluate

    def _direction(self, start: Point, count: tf.Tensor) -> tf.Tensor:
        """Returns a direction of descent from ``start`` that does not leave the box.

        Args:
          start: The point, with its gradient.
          count: How many pairs of the history to use, int64.

        Returns:
          The direction, [n]; 0 if there is none, or the gradient is not known yet.
        """
        x, gradient = start.x, start.gradient
        box, free = self._box(), None
        if box is not None:
            held = (x <= box[0]) & (gradient > 0) | (x >= box[1]) & (gradient < 0)
            free = ~held

        def steepest() -> tf.Tensor:
            descent = self._precondition(_restricted(gradient, free))
            return _restricted(descent, free)

        scale = tf.math.divide_no_nan(
            tf.constant(self._first_step, x.dtype), tf.reduce_max(tf.abs(steepest()))
        )
        direction = two_loop_direction(
            _restricted(gradient, free),
            self._s_history,
            self._y_history,
            count,
            self._newest,
            scale,
            free,
            self._precondition,
        )
        # In exact arithmetic it is a direction of descent; rounding may change that.
        descends = _dot(gradient, direction) < 0
        direction = tf.cond(descends, lambda: direction, lambda: -scale * steepest())
        if box is None:
            return direction
        # Components at the border that are free to move inwards may still be sent
        # outwards, against their own gradient. Holding them makes the descent steeper.
        out = (x <= box[0]) & (direction < 0) | (x >= box[1]) & (direction > 0)
        return _restricted(direction, ~out)

    def _precondition(self, vector: tf.Tensor) -> tf.Tensor:
        """Applies the preconditioner to a flat vector."""
        return tf.reshape(self._preconditioner(self._shaped(vector)), [-1])

    def _shaped(self, vector: tf.Tensor) -> tf.Tensor:
        """A flat vector in the shape of the variable."""
        shaped = tf.reshape(vector, tf.shape(self.variable))
        return tf.ensure_shape(shaped, self.variable.shape)

    def _remember(self, start: Point, best: Point, usable: tf.Tensor) -> None:
        """Moves to a point and stores the pair if its curvature is positive.

        Args:
          start: The point at which the search started.
          best: The point that it found.
          usable: Whether the two points differ and both gradients are known, bool.
        """
        s, y = best.x - start.x, best.gradient - start.gradient

        def store() -> tf.Tensor:
            history = self._s_history.shape[0]
            row = tf.math.floormod(self._newest + 1, history)
            # This writes one row in place.
            self._s_history.scatter_nd_update([[row]], [s])
            self._y_history.scatter_nd_update([[row]], [y])
            self._newest.assign(row)
            self._count.assign(tf.minimum(self._count + 1, history))
            return row

        curved = inverse_curvature(s, y) > 0
        tf.cond(usable & curved, store, lambda: tf.identity(self._newest))
        self.variable.assign(self._shaped(best.x))
        self._gradient.assign(best.gradient)
        self._terms.assign(best.terms)
