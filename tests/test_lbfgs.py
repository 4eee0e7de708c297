"""L-BFGS: its mathematics against NumPy, what ``step`` guarantees and what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tfstyle.optimizers import lbfgs
from tfstyle.optimizers.lbfgs import LBFGS

Loss = Callable[[tf.Tensor], tf.Tensor]


def with_gradient(loss: Loss) -> lbfgs.ValueAndGradient:
    """The loss with its gradient; its only term is twice the loss."""

    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        return value, tape.gradient(value, x), tf.stack([2 * value])

    return value_and_gradient


def rosenbrock(x):
    return tf.reduce_sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(matrix, centre):
    matrix, centre = tf.constant(matrix), tf.constant(centre)

    def loss(x):
        move = (x - centre)[:, None]
        return 0.5 * tf.reduce_sum(move * (matrix @ move))

    return loss


def random_matrix(size, condition, seed=0):
    """A symmetric positive definite matrix with the given condition number."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return (q * np.geomspace(1, condition, size)) @ q.T


class Record:
    """The history of a run: one entry per step, the first for the start."""

    def __init__(self):
        self.x, self.loss, self.evaluations = [], [], []
        self.converged = False


def run(loss, start, limit=2000, dtype="float64", budget=None, **options):
    """Takes steps until convergence, or until ``limit`` evaluations are made."""
    variable = tf.Variable(np.asarray(start, dtype))
    optimiser = LBFGS(variable, terms=1, **options)
    function = with_gradient(loss)
    step = tf.function(lambda budget: optimiser.step(function, budget))
    record = Record()
    while not record.converged and optimiser.evaluations < limit:
        allowed = tf.constant(limit, tf.int64) - optimiser.evaluations
        if budget is not None:
            allowed = tf.minimum(allowed, budget)
        result = step(allowed)
        record.converged = bool(result.converged)
        record.x.append(variable.numpy())
        record.loss.append(float(result.loss))
        record.evaluations.append(int(optimiser.evaluations))
        np.testing.assert_allclose(result.terms, [2 * result.loss], rtol=1e-6)
    return record


def spent_until(record, optimum, tolerance=1e-6):
    """Returns the evaluations after which every component is within the tolerance."""
    for x, evaluations in zip(record.x, record.evaluations, strict=True):
        if np.abs(x - optimum).max() < tolerance:
            return evaluations
    raise AssertionError(f"only reached {record.x[-1]}")


@pytest.mark.parametrize(
    ("start", "enough"),
    [([-1.2, 1.0], 60), ([-1.2, 1.0] * 5, 120)],
    ids=["2-D", "10-D"],
)
def test_lbfgs_finds_the_optimum_of_rosenbrock(start, enough):
    record = run(rosenbrock, start)
    assert spent_until(record, 1.0) <= enough
    assert record.converged
    assert np.abs(record.x[-1] - 1).max() < 1e-6


def test_lbfgs_finds_the_optimum_of_an_ill_conditioned_quadratic():
    centre = np.linspace(-1, 1, 50)
    loss = quadratic(random_matrix(50, 1e4), centre)
    record = run(loss, np.full(50, 3.0), limit=900)
    # SciPy's L-BFGS-B needs 772 with a history of the same length.
    assert spent_until(record, centre) < 900


def test_lbfgs_converges_in_float32():
    record = run(rosenbrock, [-1.2, 1.0], dtype="float32", limit=500)
    assert record.converged
    assert np.abs(record.x[-1] - 1).max() < 1e-3


def test_lbfgs_takes_variables_of_any_shape():
    centre = np.arange(24.0).reshape(1, 2, 4, 3)
    record = run(lambda x: tf.reduce_sum((x - centre) ** 2), np.zeros_like(centre))
    np.testing.assert_allclose(record.x[-1], centre, atol=1e-9)


def constrained_optimum(matrix, centre, low, high):
    """Returns the optimum, found by projected gradient to the last digit."""
    x = np.clip(centre, low, high)
    length = 1 / np.linalg.eigvalsh(matrix).max()
    for _ in range(20000):
        x = np.clip(x - length * matrix @ (x - centre), low, high)
    return x


@pytest.mark.parametrize("seed", range(3))
def test_lbfgs_finds_the_optimum_of_a_quadratic_in_a_box(seed):
    matrix = random_matrix(20, 100, seed)
    centre = np.random.default_rng(seed).normal(size=20) * 2
    low, high = -0.7, 1.1
    expected = constrained_optimum(matrix, centre, low, high)
    held = np.isin(expected, [low, high]).sum()
    assert 0 < held < 20
    record = run(quadratic(matrix, centre), np.zeros(20), bounds=(low, high))
    assert spent_until(record, expected) <= 120
    assert record.converged
    assert all(low <= x.min() and x.max() <= high for x in record.x)
    assert (np.diff(record.loss) <= 0).all()
    # It stops soon after rounding hides any further gain.
    assert record.evaluations[-1] <= 70


@pytest.mark.fast
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_direction_does_not_lead_out_of_the_box(bounds):
    """Not even if only the coupling of the components sends one outwards."""
    matrix = np.array([[1.0, 0.9], [0.9, 1.0]])
    optimiser = LBFGS(tf.Variable([0.0, 0.5], dtype=tf.float64), bounds=bounds)
    optimiser._s_history[:2].assign(np.eye(2))
    optimiser._y_history[:2].assign(matrix)
    optimiser._newest.assign(1)
    x = tf.convert_to_tensor(optimiser.variable)
    start = lbfgs.Point(x, tf.constant([-0.1, -1.0], x.dtype), x[:0])
    direction = optimiser._direction(start, tf.constant(2, tf.int64))
    assert direction[1] > 0
    assert direction[0] < 0 if bounds is None else direction[0] == 0


@pytest.mark.fast
def test_clipped_components_add_nothing_to_the_slope():
    vectors = tf.constant([[0.0, 0.0, 0.5], [1.0, 4.0, -1.0]], tf.float64)
    bounds = tf.constant(0.0, tf.float64), tf.constant(1.0, tf.float64)

    def evaluate(x):
        return tf.reduce_sum(x), tf.constant([1.0, 10.0, 100.0], x.dtype), x[:0]

    half = tf.constant(0.5, tf.float64)
    sample, point = lbfgs._probe(evaluate, *tf.unstack(vectors), half, bounds)
    np.testing.assert_array_equal(point.x, [0.5, 1.0, 0.0])
    # The third component reaches its bound exactly, so it has moved all the way.
    assert sample.slope == 1 - 100


@pytest.mark.fast
def test_lbfgs_keeps_a_box_of_float32_exactly():
    matrix = random_matrix(20, 100).astype("float32")
    centre = np.linspace(-2, 2, 20, dtype="float32")
    low, high = np.float32(-0.7), np.float32(1.1)
    record = run(
        quadratic(matrix, centre),
        np.linspace(-5, 5, 20),
        dtype="float32",
        bounds=(float(low), float(high)),
        limit=300,
    )
    assert all(low <= x.min() and x.max() <= high for x in record.x)
    expected = constrained_optimum(matrix.astype("float64"), centre, low, high)
    np.testing.assert_allclose(record.x[-1], expected, atol=1e-4)


def test_lbfgs_finds_an_optimum_on_the_border_of_the_box():
    """Rosenbrock's optimum is outside; the constrained one has x₀ at its bound."""
    record = run(rosenbrock, [-1.2, 1.0], bounds=(-1.5, 0.5))
    np.testing.assert_allclose(record.x[-1], [0.5, 0.25], atol=1e-6)
    assert record.converged


@pytest.mark.parametrize("start", [[-1.2, 1.0], [-1.2, 1.0] * 5], ids=["2-D", "10-D"])
def test_step_meets_the_strong_wolfe_conditions(start):
    record = run(rosenbrock, start)
    function = with_gradient(rosenbrock)
    checked = 0
    for before, after in itertools.pairwise(record.x):
        loss, gradient, _ = function(tf.constant(before))
        new_loss, new_gradient, _ = function(tf.constant(after))
        if loss < 1e-18:
            break
        slope = np.dot(gradient, after - before)
        new_slope = np.dot(new_gradient, after - before)
        assert new_loss <= loss + lbfgs.SUFFICIENT_DECREASE * slope
        assert abs(new_slope) <= lbfgs.CURVATURE * abs(slope)
        checked += 1
    assert checked > 15


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.fast), "float64"]
)
def test_step_never_raises_the_loss(dtype):
    record = run(rosenbrock, [-1.2, 1.0] * 5, dtype=dtype, limit=300)
    assert (np.diff(record.loss) <= 0).all()


def test_step_of_length_one_costs_one_evaluation():
    """Near a well-conditioned quadratic's optimum, every step is of length 1."""
    centre = np.linspace(-1, 1, 50)
    record = run(quadratic(random_matrix(50, 2), centre), np.full(50, 3.0))
    steps = record.evaluations.index(spent_until(record, centre)) + 1
    assert steps > 8
    # The first search knows only the direction of steepest descent.
    assert record.evaluations[0] == 1
    assert (np.diff(record.evaluations[1:steps]) == 1).all()


def dense_direction(gradient, pairs, h0):
    """Returns the direction by the BFGS recursion of a dense matrix, equation 6.17."""
    identity = np.eye(gradient.size)
    inverse = h0
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = identity - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    return -inverse @ gradient


@pytest.mark.fast
@pytest.mark.parametrize("count", [0, 1, 3, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_two_loop_direction_is_that_of_dense_bfgs(count, masked, preconditioned):
    """Also after the history wrapped, with an unusable pair, and in a subspace."""
    rng = np.random.default_rng(count)
    size, history, newest = 12, 5, 1
    s, y = np.full((2, history, size), np.nan)
    gradient = rng.normal(size=size)
    keep = np.arange(size) % 3 > 0 if masked else np.full(size, True)
    pairs = []
    for age in reversed(range(count)):
        row = (newest - age) % history
        s[row] = rng.normal(size=size)
        y[row] = random_matrix(size, 10, age) @ s[row]
        if age == 2:
            y[row] *= -1
        elif s[row][keep] @ y[row][keep] > 0:
            pairs.append((s[row][keep], y[row][keep]))
    whole = random_matrix(size, 10, 7) if preconditioned else np.eye(size)
    guess = whole[np.ix_(keep, keep)]
    h0 = 0.25 * guess
    if pairs:
        latest_s, latest_y = pairs[-1]
        h0 = latest_s @ latest_y / (latest_y @ guess @ latest_y) * guess
    expected = np.zeros(size)
    expected[keep] = dense_direction(gradient[keep], pairs, h0)
    direction = lbfgs.two_loop_direction(
        tf.constant(gradient * keep),
        tf.Variable(s),
        tf.Variable(y),
        tf.constant(count, tf.int64),
        tf.constant(newest, tf.int64),
        tf.constant(0.25, tf.float64),
        tf.constant(keep) if masked else None,
        lambda vector: tf.linalg.matvec(tf.constant(whole), vector),
    )
    np.testing.assert_allclose(direction, expected, rtol=1e-9, atol=1e-12)


def sample(step, loss, slope):
    return lbfgs.Sample(*(tf.constant(v, tf.float64) for v in (step, loss, slope)))


@pytest.mark.fast
def test_cubic_minimizer_by_hand():
    """The minimum of x³ − 3x is at 1; a sample of infinite loss has no cubic."""
    a, b = sample(0.0, 0.0, -3.0), sample(3.0, 18.0, 24.0)
    limits = tf.constant([0.0, 3.0, 1.5], tf.float64)
    np.testing.assert_allclose(lbfgs.cubic_minimizer(a, b, *limits[:2]), 1.0)
    np.testing.assert_allclose(lbfgs.cubic_minimizer(b, a, *limits[:2]), 1.0)
    np.testing.assert_allclose(lbfgs.cubic_minimizer(a, b, limits[2], limits[1]), 1.5)
    infinite = sample(3.0, np.inf, 0.0)
    np.testing.assert_allclose(lbfgs.cubic_minimizer(a, infinite, *limits[:2]), 1.5)


@pytest.mark.fast
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_step_keeps_to_its_budget(budget):
    variable = tf.Variable([-1.2, 1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1)
    calls = []

    def counted(x):
        calls.append(1)
        return with_gradient(rosenbrock)(x)

    for _ in range(6):
        before = len(calls)
        optimiser.step(counted, budget)
        assert len(calls) - before <= budget
    assert optimiser.evaluations == len(calls)


@pytest.mark.fast
def test_step_without_budget_changes_nothing():
    variable = tf.Variable([-1.2, 1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1)
    for evaluations, budget in enumerate([0, 1]):
        optimiser.step(with_gradient(rosenbrock), budget)
        result = optimiser.step(with_gradient(rosenbrock), 0)
        assert not result.moved and not result.converged
        assert optimiser.evaluations == evaluations
        np.testing.assert_array_equal(variable, [-1.2, 1.0])


@pytest.mark.fast
@pytest.mark.parametrize("outside", [np.nan, np.inf, -np.inf])
def test_step_never_accepts_a_point_without_a_finite_loss(outside):
    """The loss is finite for x₀ < 1.5 only, and the first trials go beyond that."""
    base = quadratic(np.diag([1.0, 50.0]), np.array([1.4, -2.0]))
    beyond = []

    def loss(x):
        return tf.where(x[0] < 1.5, base(x), tf.constant(outside, x.dtype))

    def recorded(x):
        beyond.append(float(x[0]) >= 1.5)
        return with_gradient(loss)(x)

    variable = tf.Variable([-30.0, -1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1, first_step=100.0)
    for _ in range(30):
        result = optimiser.step(recorded, 100)
        assert np.isfinite(result.loss) and variable[0] < 1.5
        if result.converged:
            break
    assert any(beyond)
    np.testing.assert_allclose(variable, [1.4, -2.0], atol=1e-6)


@pytest.mark.fast
def test_step_never_accepts_a_gradient_that_is_not_finite():
    def function(x):
        bad = x[0] > 0
        nan = tf.constant(np.nan, x.dtype)
        return (x[0] - 1) ** 2, tf.where(bad, nan, 2 * (x - 1)), x[:0]

    variable = tf.Variable([-3.0], dtype=tf.float64)
    optimiser = LBFGS(variable, first_step=5.0)
    for _ in range(5):
        optimiser.step(function, 100)
    assert -3 < variable[0] <= 0


@pytest.mark.fast
def test_step_converges_at_a_start_that_is_not_finite():
    variable = tf.Variable([1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1)
    result = optimiser.step(with_gradient(lambda x: tf.math.log(-x[0])), 100)
    assert result.converged and not result.moved
    np.testing.assert_array_equal(variable, [1.0])


@pytest.mark.fast
def test_preconditioner_gives_the_first_steps_their_direction():
    """P gets the variable's shape; ``first_step`` is the largest move by it."""
    slopes = np.array([[1.0, 2.0], [-4.0, 1.0]])
    factors = np.array([[8.0, 1.0], [1.0, 1.0]])
    variable = tf.Variable(np.zeros((2, 2)))
    optimiser = LBFGS(
        variable, terms=1, first_step=0.5, preconditioner=lambda v: v * factors
    )
    function = with_gradient(lambda x: tf.reduce_sum(slopes * x + 1e-6 * x**2))
    for _ in range(2):
        optimiser.step(function, 1)
    np.testing.assert_allclose(variable, -slopes * factors / 16, rtol=1e-5)


@pytest.mark.fast
def test_preconditioner_sends_nothing_out_of_the_box():
    """P moves the second component, at the border, outwards against its gradient."""
    variable = tf.Variable([0.0, 0.0, 0.5], dtype=tf.float64)
    gradient = tf.constant([-1.0, -0.1, 0.0], tf.float64)
    optimiser = LBFGS(
        variable,
        bounds=(0.0, 1.0),
        first_step=0.5,
        preconditioner=lambda v: 2 * v - tf.reduce_mean(v),
    )
    start = lbfgs.Point(variable.read_value(), gradient, gradient[:0])
    direction = optimiser._direction(start, tf.constant(0, tf.int64))
    factor = 0.5 / (2 - 1.1 / 3)
    expected = [0.5, 0.0, -factor * 1.1 / 3]
    np.testing.assert_allclose(direction, expected, rtol=1e-12)


def test_with_the_inverse_hessian_for_preconditioner_it_is_newtons_method():
    curvatures = np.geomspace(1, 1e4, 50)

    def evaluations(**options):
        variable = tf.Variable(np.ones(50))
        optimiser = LBFGS(variable, terms=1, **options)
        function = with_gradient(lambda x: tf.reduce_sum(curvatures * x**2) / 2)
        step = tf.function(lambda: optimiser.step(function, 100))
        while not step().converged:
            if np.abs(variable).max() < 1e-9:
                break
        return int(optimiser.evaluations)

    # The start, a first step of length 1 at most, and Newton's step.
    assert evaluations(preconditioner=lambda v: v / curvatures) <= 3
    assert evaluations() > 30


@pytest.mark.fast
def test_step_converges_at_a_stationary_start_after_one_evaluation():
    variable = tf.Variable([1.0, 1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1)
    assert not optimiser.step(with_gradient(rosenbrock), 100).converged
    assert optimiser.step(with_gradient(rosenbrock), 100).converged
    assert optimiser.evaluations == 1


@pytest.mark.fast
def test_step_that_fails_clears_the_history_and_then_converges():
    """From some step on, every new point has a much higher loss."""
    wall = tf.Variable(False)
    function = with_gradient(rosenbrock)

    def walled(x):
        loss, gradient, terms = function(x)
        return tf.where(wall, loss + 1e9, loss), gradient, terms

    variable = tf.Variable([-1.2, 1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1)
    for _ in range(8):
        optimiser.step(walled, 100)
    wall.assign(True)
    before = variable.numpy()
    first, second = optimiser.step(walled, 100), optimiser.step(walled, 100)
    assert not first.moved and not first.converged
    assert not second.moved and second.converged
    np.testing.assert_array_equal(variable, before)
    wall.assign(False)
    assert optimiser.step(walled, 100).moved


def test_step_stores_no_pair_of_negative_curvature():
    """−cos is concave beyond π/2, and the search goes on all the same."""
    loss = with_gradient(lambda x: -tf.reduce_sum(tf.cos(x)))
    variable = tf.Variable([2.8, 2.5], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1, first_step=1e-3, max_evaluations_per_step=1)
    for _ in range(4):
        optimiser.step(loss, 100)
        assert optimiser._count == 0
    assert optimiser.evaluations == 4
    assert (variable.numpy() < [2.8, 2.5]).all()


def in_graph(start, evaluations):
    """Makes a whole run in one graph; counts how often the loss is traced."""
    variable = tf.Variable(np.asarray(start))
    optimiser = LBFGS(variable, terms=1)
    function = with_gradient(rosenbrock)
    traced = []

    def counted(x):
        traced.append(1)
        return function(x)

    @tf.function
    def optimise():
        def body(steps, _):
            result = optimiser.step(counted, evaluations - optimiser.evaluations)
            return steps + 1, result.converged

        return tf.while_loop(
            lambda _, done: ~done & (optimiser.evaluations < evaluations),
            body,
            (0, False),
        )

    steps, _ = optimise()
    return variable.numpy(), int(steps), int(optimiser.evaluations), len(traced)


def test_step_in_one_graph_equals_single_calls():
    start = [-1.2, 1.0] * 5
    x, steps, evaluations, traced = in_graph(start, 150)
    assert traced == 1
    np.testing.assert_allclose(x, 1.0, atol=1e-6)
    record = run(rosenbrock, start, limit=150)
    np.testing.assert_array_equal(x, record.x[-1])
    assert (steps, evaluations) == (len(record.x), record.evaluations[-1])


def test_step_repeats_bit_for_bit():
    first, second = (in_graph([-1.2, 1.0] * 5, 60) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1:] == second[1:]


@pytest.mark.fast
def test_reset_starts_over():
    variable = tf.Variable([-1.2, 1.0], dtype=tf.float64)
    optimiser = LBFGS(variable, terms=1)
    runs = []
    for _ in range(2):
        variable.assign([-1.2, 1.0])
        optimiser.reset()
        for _ in range(8):
            optimiser.step(with_gradient(rosenbrock), 100)
        runs.append((variable.numpy().tobytes(), int(optimiser.evaluations)))
    assert runs[0] == runs[1]


def staircase(x):
    """Rosenbrock's function and 1, rounded so that its valley is flat."""
    total, gradient, terms = with_gradient(rosenbrock)(x)
    return 1 + tf.round(total * 8) / 8, gradient, terms


def until_it_converges(noise):
    variable = tf.Variable([-1.2, 1.0], dtype=tf.float64)
    optimizer = LBFGS(variable, terms=1, noise=noise)
    results = []
    while not results or not (bool(results[-1].converged) or len(results) > 200):
        results.append(optimizer.step(staircase, 1000))
    return variable.numpy(), optimizer, results


def test_step_converges_at_the_second_failed_search():
    _, optimizer, results = until_it_converges(noise=0.0)
    assert optimizer._count == 0  # the last one was of steepest descent
    assert [bool(result.moved) for result in results[-2:]] == [False, False]


def test_step_with_noise_tells_the_loss_of_the_point_that_it_holds():
    """A budget may end a search at a higher loss, where the step does not move."""
    variable = tf.Variable([1.0], dtype=tf.float64)
    optimizer = LBFGS(variable, terms=1, noise=0.1, first_step=2.01)
    square = with_gradient(lambda x: tf.reduce_sum(x**2))
    optimizer.step(square, 1)
    result = optimizer.step(square, 1)  # looks at -1.01
    assert not result.moved and not result.converged
    assert variable.numpy() == [1.0] and result.loss == 1.0
    assert optimizer.step(square, 100).loss < 1.0


def test_step_with_noise_follows_slopes_where_losses_are_a_staircase():
    stuck, _, _ = until_it_converges(noise=0.0)
    found, _, results = until_it_converges(noise=0.2)
    assert np.linalg.norm(found - 1) < 1e-3 < np.linalg.norm(stuck - 1)
    losses = np.array([float(result.loss) for result in results])
    assert (losses[1:] <= 1.2 * losses[:-1] + 1e-12).all()
