"""L-BFGS with a strong-Wolfe line search, wholly inside the TensorFlow graph.

The method is that of Nocedal and Wright, *Numerical Optimization*, 2nd edition
(2006): the two-loop recursion (algorithm 7.4), a line search for the strong Wolfe
conditions (algorithms 3.5 and 3.6) and cubic interpolation (equation 3.59). Box
constraints are kept by the two-metric projection of Bertsekas, "Projected Newton
methods for optimization problems with simple constraints", SIAM J. Control and
Optimization 20 (1982).

The functions are pure and work on flat vectors; `LBFGS` holds the state between
steps and knows the shape of the variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

ValueAndGradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
Preconditioner = Callable[[tf.Tensor], tf.Tensor]
"""Applies a guess of the inverse Hessian, but for its size, to a tensor: linear,
symmetric and positive definite."""
Structure = TypeVar("Structure", bound=tuple)

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9

# The next trial keeps this share of the bracket clear of both of its ends, so that
# the bracket shrinks even where the cubic is a poor model.
_MARGIN = 0.1
# Without an upper end of the bracket, a trial is this many times the last one. The
# slope is still 0.9 of what it was: a smaller growth would waste an evaluation.
_GROWTH = (2.0, 10.0)


class Sample(NamedTuple):
    """The loss along the search path at one step length; three scalars.

    Attributes:
      step: The step length; infinite for an end of the bracket not yet found.
      loss: The loss there; infinite where it is not finite.
      slope: The derivative of the loss along the path with respect to `step`.
    """

    step: tf.Tensor
    loss: tf.Tensor
    slope: tf.Tensor


class Point(NamedTuple):
    """What is known of one point.

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
      low: The best step so far among those with sufficient decrease; at first 0.
      high: The other end of the bracket: between `low` and `high` lie step lengths
        that meet the strong Wolfe conditions.
      best: The point at `low`.
      evaluations: How many points have been evaluated, int64.
      accepted: Whether `low` meets the strong Wolfe conditions, bool.
    """

    trial: tf.Tensor
    low: Sample
    high: Sample
    best: Point
    evaluations: tf.Tensor
    accepted: tf.Tensor


class StepResult(NamedTuple):
    """What one step of `LBFGS` came to; all about the point that the variable holds.

    Attributes:
      loss: The loss, a scalar; infinite if nothing has been evaluated yet.
      terms: The caller's terms of the loss, [k].
      moved: Whether the step accepted a new point, bool.
      converged: Whether no further progress is possible, bool.
    """

    loss: tf.Tensor
    terms: tf.Tensor
    moved: tf.Tensor
    converged: tf.Tensor


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    # Not a matrix product: that would be rounded to TF32 on recent GPUs.
    return tf.reduce_sum(a * b)


def _square(a: tf.Tensor) -> tf.Tensor:
    """Returns a·a, of which no vector of products is made, unlike `_dot`."""
    return 2 * tf.nn.l2_loss(a)


def _restricted(vector: tf.Tensor, free: tf.Tensor | None) -> tf.Tensor:
    """Returns a vector with 0 where not `free`; itself if all is."""
    return vector if free is None else tf.where(free, vector, 0)


def _select(condition: tf.Tensor, yes: Structure, no: Structure) -> Structure:
    """Picks one of two equal structures of tensors by a scalar bool; copies none."""

    def same(structure: Structure) -> Structure:
        return tf.nest.map_structure(tf.identity, structure)

    return tf.cond(condition, lambda: same(yes), lambda: same(no))


def _epsilon(dtype: tf.DType) -> float:
    """Returns the relative spacing of the numbers of a floating type."""
    return float(np.finfo(dtype.as_numpy_dtype).eps)


def inverse_curvature(s: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns 1 / s·y, or 0 where s·y is not safely positive.

    Args:
      s: A change of the point, [n].
      y: The change of the gradient that went with it, [n].

    Returns:
      A scalar, rho of Nocedal and Wright's equation 7.17. A pair for which it is 0
      would make the inverse Hessian indefinite, up to rounding.
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

    The history is read row by row by `tf.gather`, which does not copy the rest of a
    variable. With `free`, the recursion is that of the problem restricted to the
    free components: the pairs are restricted too, since the inverse Hessian of the
    restricted problem is not a part of the inverse of the whole Hessian.

    Args:
      gradient: [n]; 0 at components that are not free.
      s_history: Changes of the point, [history, n], a ring buffer of rows.
      y_history: Changes of the gradient, [history, n].
      count: How many rows are in use, int64.
      newest: The row of the latest pair, int64.
      scale: H is this multiple of the preconditioner P if there is no usable pair;
        with one, it starts from s·y / y·Py of the latest (equation 7.20, P being I).
      free: Which components are free, bool, [n]; None if all are.
      precondition: Applies P, to flat vectors.

    Returns:
      The direction, [n], of the dtype of `gradient`.
    """
    history = s_history.shape[0]

    def pair(age: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.math.floormod(newest - age, history)
        # A restricted y suffices: s meets only what is restricted, as r is at the end.
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
    """Returns where the cubic through two samples is least, kept within limits.

    This is equation 3.59, with the square root scaled against overflow.

    Args:
      a: One sample.
      b: Another, at another step.
      lower: The least step to return.
      upper: The greatest.

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
    """Returns the step to try next: beyond `low` if there is no bracket, else in it."""
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
      evaluate: As `ValueAndGradient`, on flat vectors.
      start: Where the path starts, [n].
      direction: Where it leads, [n].
      step: The step length, a scalar.
      bounds: The box onto which the path is projected, if any.

    Returns:
      The sample and the point. A loss that is not finite, or whose gradient is not,
      reads as infinite.
    """
    x = start + step * direction
    moves = None
    if bounds is not None:
        inside = tf.clip_by_value(x, *bounds)
        moves, x = tf.equal(x, inside), inside
    loss, gradient, terms = evaluate(x)
    # Not sooner, for the evaluation is what needs memory.
    with tf.control_dependencies([loss]):
        # A clipped component stands still, whatever its gradient.
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
) -> Search:
    """Looks for a step that meets the strong Wolfe conditions.

    Algorithms 3.5 (bracketing) and 3.6 (zoom) are one loop here: they differ only
    in whether the upper end of the bracket is known, and an infinite one obeys the
    same rules. The first trial is step 1. Decrease is measured against the move
    really made, g·(x − x₀), which is step·slope where nothing is clipped.

    Where losses differ by less than rounding, an equal loss with a flatter slope is
    progress, which is why an equal loss is not one that is too high.

    Args:
      evaluate: As `ValueAndGradient`, on flat vectors; traced once.
      start: The start, with its gradient.
      loss: The loss there. If it is infinite and the gradient is 0, the search
        evaluates the start and accepts it if it is finite.
      direction: A direction of descent, [n], with no component leading out of the
        box from its border.
      limit: How many points may be evaluated, int64.
      bounds: The box, if any.

    Returns:
      The last state of the search. Its `low` never lies above the start; if
      nothing better was found, it is the start.
    """
    dtype = direction.dtype
    zero, infinity = tf.zeros([], dtype), tf.constant(float("inf"), dtype)
    origin = Sample(zero, loss, _dot(start.gradient, direction))
    reach = tf.reduce_max(tf.abs(direction))
    epsilon = _epsilon(dtype)
    spacing = epsilon * tf.reduce_max(tf.abs(start.x))

    def undecided(search: Search) -> tf.Tensor:
        width = tf.abs(search.high.step - search.low.step)
        # The bracket is spent if it is narrower than the spacing of the points, or if
        # the most to gain in it, were the loss convex, is less than that of losses.
        # An infinite one never is, even if the direction is 0.
        gain = tf.abs(search.low.slope) * width
        distinct = (width * reach > spacing) & (gain > epsilon * tf.abs(loss))
        worthwhile = tf.math.is_inf(width) | distinct
        return ~search.accepted & worthwhile & (search.evaluations < limit)

    def body(search: Search) -> tuple[Search]:
        low, high = search.low, search.high
        sample, point = _probe(evaluate, start.x, direction, search.trial, bounds)
        promise = tf.minimum(_dot(start.gradient, point.x - start.x), zero)
        decreased = sample.loss <= origin.loss + SUFFICIENT_DECREASE * promise
        good = tf.math.is_finite(sample.loss) & decreased & (sample.loss <= low.loss)
        flat = tf.abs(sample.slope) <= CURVATURE * tf.abs(origin.slope)
        uphill = sample.slope * (high.step - low.step) >= 0
        new_high = _select(good, _select(uphill, low, high), sample)
        new_low, best = _select(good, (sample, point), (low, search.best))
        # Where no loss is finite yet, the terms tell why.
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
    """Minimises a loss of one variable by L-BFGS, with or without a box.

    Nocedal and Wright, Numerical Optimization, algorithms 7.4, 3.5 and 3.6, see the
    module. Everything that a step needs is kept in variables, so `step` may be called
    eagerly, in a `tf.function` or in the body of a `tf.while_loop`; the object itself
    must be built outside of them. With n components, it holds
    (2·history + 1)·n numbers besides the variable.

    The variable must not be changed between steps by anyone else without `reset`.

    Attributes:
      variable: The variable that is optimised.
      evaluations: How many times the loss has been evaluated, an int64 variable.
      restarts: Whether a failed search forgets the history, so that the next step is
        one of steepest descent; if not, there is no next step. Read where `step` is
        traced.
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
    ) -> None:
        """Allocates the state; evaluates nothing.

        Args:
          variable: What to optimise, of any static shape, float32 or float64.
          terms: The length k of the terms that the loss function returns.
          history: How many pairs to keep.
          bounds: The lowest and the highest value of every component, if limited.
          first_step: How far steepest descent, the first step and that after a
            failed one, at first tries to move the component that moves most.
          max_evaluations_per_step: The most evaluations in one line search.
          preconditioner: Takes and returns tensors of the variable's shape.

        Raises:
          ValueError: The dtype, the shape or a number is not one of those.
        """
        dtype = variable.dtype
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(f"L-BFGS needs float32 or float64, not {dtype.name}")
        if not variable.shape.is_fully_defined():
            raise ValueError(f"L-BFGS needs a static shape, not {variable.shape}")
        if history < 1 or max_evaluations_per_step < 1 or not first_step > 0:
            raise ValueError("L-BFGS needs positive numbers")
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"L-BFGS needs bounds in rising order, not {bounds}")

        def state(shape: list[int], dtype: tf.DType) -> tf.Variable:
            return tf.Variable(tf.zeros(shape, dtype), trainable=False)

        size = variable.shape.num_elements()
        self.variable = variable
        self.restarts = True
        self._bounds = bounds
        self._first_step = first_step
        self._max_evaluations = max_evaluations_per_step
        self._preconditioner = preconditioner
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
        """All variables, `variable` first."""
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
        """Forgets everything, the count of evaluations too; the variable stays.

        The next step evaluates the point that the variable then holds.
        """
        # Old rows of the history need not be wiped: without count, none is read.
        for variable in (self.evaluations, self._count, self._newest):
            variable.assign(tf.zeros_like(variable))
        self.renew()

    def renew(self) -> None:
        """Makes the next step evaluate the point, for the loss is another.

        The history stays: that of a similar loss is better than none.
        """
        # The line search takes an infinite loss without gradient for "unknown".
        self._loss.assign(float("inf"))
        for variable in (self._gradient, self._terms):
            variable.assign(tf.zeros_like(variable))

    def step(
        self, value_and_gradient: ValueAndGradient, budget: tf.Tensor | int
    ) -> StepResult:
        """Does one iteration.

        The first step only evaluates the point that the variable holds (moving it
        into the box if it lies outside), so that its loss can be reported like any
        other; it takes one evaluation. Later steps take one where step length 1
        meets the strong Wolfe conditions, which is the common case.

        A failed search, where this `restarts`, forgets the history, so that the next
        step is one of steepest descent; if that fails too, or there are no restarts,
        the result is `converged`. It also is if the projected gradient is 0, or the
        loss is not finite at the start.

        Args:
          value_and_gradient: Takes a tensor of the variable's shape and dtype;
            returns the loss, a scalar, its gradient, of the variable's shape, and
            its terms, [k]. Traced once per call of `step`.
          budget: The most evaluations that may be made, an integer scalar. A search
            that it cuts short before a better point was found leaves all as it was,
            and the next step starts over: pass all that is left, not small slices.

        Returns:
          The loss and the terms of the point that the variable now holds, whether
          that point is new, and whether there is nothing more to gain.
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
        )
        moved = search.accepted | (search.low.loss < loss)
        cut_short = (search.evaluations >= limit) & (limit < self._max_evaluations)
        failed = ~moved & ~cut_short
        # A search may end at another point of the same loss without having accepted
        # it; to go there could go on for ever.
        best = _select(moved, search.best, start)
        self._remember(start, best, usable=moved & tf.math.is_finite(loss))
        self._loss.assign(search.low.loss)
        self.evaluations.assign_add(search.evaluations)
        if self.restarts:
            self._count.assign(tf.where(failed, tf.zeros_like(count), self._count))
            failed &= tf.equal(count, 0)
        converged = stationary | failed
        known = tf.math.is_finite(search.low.loss)
        terms = tf.where(known, best.terms, search.best.terms)
        return StepResult(search.low.loss, terms, moved, converged)

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
            loss, gradient, terms = value_and_gradient(
                tf.reshape(x, self.variable.shape)
            )
            return (
                tf.ensure_shape(tf.cast(loss, dtype), []),
                tf.reshape(tf.cast(gradient, dtype), self._gradient.shape),
                tf.ensure_shape(tf.cast(terms, dtype), self._terms.shape),
            )

        return evaluate

    def _direction(self, start: Point, count: tf.Tensor) -> tf.Tensor:
        """Returns a direction of descent from `start` that does not leave the box.

        Args:
          start: Where from, with its gradient.
          count: How many pairs of the history to use, int64.

        Returns:
          The direction, [n]; 0 if there is no descent, or no gradient yet.
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
        # Exact arithmetic makes it a descent; rounding may not.
        descends = _dot(gradient, direction) < 0
        direction = tf.cond(descends, lambda: direction, lambda: -scale * steepest())
        if box is None:
            return direction
        # What is free to move inwards may still be sent outwards, against its own
        # gradient; to hold it makes the descent steeper.
        out = (x <= box[0]) & (direction < 0) | (x >= box[1]) & (direction > 0)
        return _restricted(direction, ~out)

    def _precondition(self, vector: tf.Tensor) -> tf.Tensor:
        """Applies the preconditioner to a flat vector."""
        shaped = tf.reshape(vector, self.variable.shape)
        return tf.reshape(self._preconditioner(shaped), [-1])

    def _remember(self, start: Point, best: Point, usable: tf.Tensor) -> None:
        """Moves to a point and stores the pair if its curvature is positive.

        Args:
          start: Where the search started.
          best: The point it found.
          usable: Whether they are two points whose gradients are known, bool.
        """
        s, y = best.x - start.x, best.gradient - start.gradient

        def store() -> tf.Tensor:
            history = self._s_history.shape[0]
            row = tf.math.floormod(self._newest + 1, history)
            # A write to one row, in place.
            self._s_history.scatter_nd_update([[row]], [s])
            self._y_history.scatter_nd_update([[row]], [y])
            self._newest.assign(row)
            self._count.assign(tf.minimum(self._count + 1, history))
            return row

        curved = inverse_curvature(s, y) > 0
        tf.cond(usable & curved, store, lambda: tf.identity(self._newest))
        self.variable.assign(tf.reshape(best.x, self.variable.shape))
        self._gradient.assign(best.gradient)
        self._terms.assign(best.terms)
