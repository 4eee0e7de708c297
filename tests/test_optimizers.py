"""Tests of Adam, of schedules, and of the loop that minimises a loss."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.errors import NonFiniteLossError
from tfstyle.optimizers import loop as module
from tfstyle.optimizers.adam import EPSILON, Adam, adam_update, learning_rate_schedule
from tfstyle.optimizers.lbfgs import LBFGS
from tfstyle.optimizers.loop import Loop
from tfstyle.optimizers.loop import differentiated as with_gradient
from tfstyle.optimizers.progress import Progress

pytestmark = pytest.mark.fast

SHAPE = [1, 3, 4, 3]
NAMES = ("bowl", "waves")


def differentiated(evaluate):
    """The objective of a loss that is compared with nothing."""
    return with_gradient(lambda x, targets: evaluate(x))


def optimize(
    objective, optimizer, *, steps, term_names, report=lambda rows, steps: None
):
    return Loop(objective, optimizer, term_names).run(steps, (), report)


def start(dtype="float32"):
    values = np.random.default_rng(0).uniform(size=SHAPE).astype(dtype)
    return tf.Variable(values)


def bowl_and_waves(x):
    """A loss with curvatures from 1 to 36 and more than one minimum."""
    curvature = tf.cast(tf.reshape(tf.range(1, 37), SHAPE), x.dtype)
    bowl = tf.reduce_sum(curvature * tf.square(x - 0.3))
    waves = 0.1 * tf.reduce_sum(tf.sin(9 * x))
    return bowl + waves, {"bowl": bowl, "waves": waves}


def pools_and_gradients(traced):
    """What of pools each function of a graph has, and whether it is kept apart."""
    functions = traced.graph.as_graph_def().library.function
    found = [
        ({node.op for node in f.node_def if node.op.startswith("MaxPool")}, f)
        for f in functions
    ]
    return [(pools, f.attr["_noinline"].b) for pools, f in found if pools]


class Counted:
    """A loss that counts its traces and its evaluations, and may break.

    Attributes:
      traces: How often Python has run.
      evaluations: How often the graph has.
    """

    def __init__(self, broken_at=0, broken="waves", value=np.nan):
        self.traces = 0
        self.evaluations = tf.Variable(0)
        self._broken_at, self._broken, self._value = broken_at, broken, value

    def __call__(self, x):
        self.traces += 1
        total, terms = bowl_and_waves(x)
        breaks = tf.equal(self.evaluations.assign_add(1), self._broken_at)
        if self._broken in terms:
            broken = tf.where(breaks, tf.cast(self._value, x.dtype), 0)
            terms[self._broken] += broken
            return total + broken, terms
        # The derivative of a root is infinite at 0, its value is not.
        root = tf.sqrt(tf.where(breaks, 0.0, 1.0) * tf.square(x))
        return total + 1e-20 * tf.reduce_sum(root), terms


def optimizer_of(kind, variable, **options):
    if kind == "adam":
        return Adam(variable, **{"learning_rate": 0.02, **options})
    return LBFGS(variable, terms=2, first_step=0.05, **options)


class Reports:
    """Keeps what ``optimize`` reports; asks to stop at a step."""

    def __init__(self, stop_at=None):
        self.rows, self.steps, self.calls, self._stop_at = [], [], 0, stop_at

    def __call__(self, rows, row_steps):
        assert rows.dtype == np.float32 and rows.shape == (len(row_steps), 3)
        self.rows += rows.tolist()
        self.steps += row_steps.tolist()
        self.calls += 1
        return self._stop_at is not None and self.steps[-1] >= self._stop_at


def run(kind, steps, evaluate=bowl_and_waves, stop_at=None, **options):
    variable, reports = start(), Reports(stop_at)
    optimizer = optimizer_of(kind, variable, **options)
    optimize(
        differentiated(evaluate),
        optimizer,
        steps=steps,
        term_names=NAMES,
        report=reports,
    )
    return variable.numpy(), reports, optimizer


# Adam.


def keras_adam(
    steps, learning_rate=0.02, beta_2=0.999, after=lambda step, value: value
):
    """The values that Keras's Adam goes through, in a loop without a graph."""
    variable = start()
    adam = keras.optimizers.Adam(learning_rate, beta_2=beta_2, epsilon=EPSILON)
    values, losses = [], []
    for step in range(1, steps + 1):
        with tf.GradientTape() as tape:
            total, _ = bowl_and_waves(variable)
        adam.apply_gradients([(tape.gradient(total, variable), variable)])
        variable.assign(after(step, variable.value()))
        losses.append(float(total))
        values.append(variable.numpy())
    return values, losses


@pytest.mark.parametrize("beta_2", [0.999, 0.9])
def test_adam_goes_where_keras_adam_goes(beta_2):
    values, losses = keras_adam(20, beta_2=beta_2)
    picture, reports, _ = run("adam", 20, beta_2=beta_2)
    np.testing.assert_allclose(picture, values[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([row[0] for row in reports.rows], losses, rtol=5e-5)
    assert losses[-1] < losses[0] / 2


def test_the_first_step_of_adam_moves_every_pixel_by_the_learning_rate():
    picture, _, _ = run("adam", 1, learning_rate=0.125)
    moved = np.abs(picture - start().numpy())
    np.testing.assert_allclose(moved, 0.125, rtol=1e-4)


def test_adam_follows_its_schedule():
    schedule = learning_rate_schedule("cosine", 0.05, 0.0, 12)
    values, _ = keras_adam(12, learning_rate=schedule)
    picture, _, _ = run("adam", 12, learning_rate=schedule)
    np.testing.assert_allclose(picture, values[-1], rtol=1e-5, atol=1e-6)


def test_adam_clamps_after_each_step():
    values, _ = keras_adam(
        15, after=lambda step, value: tf.clip_by_value(value, 0.35, 0.6)
    )
    picture, _, _ = run("adam", 15, clamp=(0.35, 0.6))
    assert picture.min() == np.float32(0.35) and picture.max() <= np.float32(0.6)
    np.testing.assert_allclose(picture, values[-1], rtol=1e-5, atol=1e-6)


def test_adam_clamps_until_a_step_and_no_longer():
    def after(step, value):
        return tf.clip_by_value(value, 0.35, 0.6) if step <= 5 else value

    values, _ = keras_adam(9, after=after)
    for steps in (4, 5, 6, 9):
        picture, _, _ = run("adam", steps, clamp=(0.35, 0.6), clamp_until=5)
        np.testing.assert_allclose(picture, values[steps - 1], rtol=1e-5, atol=1e-6)
        assert (picture.min() < 0.349) == (steps > 5)


@pytest.mark.parametrize("beta_2", [0.999, 0.9])
def test_adam_update_equals_the_step_of_adam(beta_2):
    x, momentum, velocity = start().value(), 0.0, 0.0
    for step in range(1, 13):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total, _ = bowl_and_waves(x)
        gradient = tape.gradient(total, x)
        x, momentum, velocity = adam_update(
            x, gradient, momentum, velocity, step, 0.02, beta_2
        )
    picture, _, _ = run("adam", 12, beta_2=beta_2)
    np.testing.assert_allclose(picture, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_an_optimizer_that_is_reset_repeats_its_run(kind):
    variable = start()
    optimizer = optimizer_of(kind, variable)
    loop = Loop(differentiated(bowl_and_waves), optimizer, NAMES)
    pictures = []
    for _ in range(2):
        variable.assign(start())
        optimizer.reset()
        loop.run(9)
        pictures.append(variable.numpy())
    np.testing.assert_array_equal(*pictures)
    assert loop.traces == 1


# Schedules.


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_learning_rate_schedule_constant_is_a_number():
    assert learning_rate_schedule("constant", 0.3, 0.1, 10) == 0.3


def test_learning_rate_schedule_cosine():
    schedule = learning_rate_schedule("cosine", 0.4, 0.1, 100)
    expected = [0.4, 0.25 + 0.15 * np.cos(np.pi / 4), 0.25, 0.1, 0.1]
    np.testing.assert_allclose(
        rates(schedule, [0, 25, 50, 100, 130]), expected, rtol=1e-5
    )
    to_zero = learning_rate_schedule("cosine", 0.4, 0.0, 100)
    np.testing.assert_allclose(rates(to_zero, [50, 100]), [0.2, 0.0], atol=1e-7)


def test_learning_rate_schedule_exponential():
    schedule = learning_rate_schedule("exponential", 0.8, 0.2, 100)
    np.testing.assert_allclose(
        rates(schedule, [0, 50, 100]), [0.8, 0.4, 0.2], rtol=1e-5
    )
    to_zero = learning_rate_schedule("exponential", 0.8, 0.0, 100)
    assert 0 < rates(to_zero, [100])[0] < 1e-8


def test_learning_rate_schedule_piecewise_is_that_of_the_assignment():
    # There the rate falls after the step of index decay_step, counted from 0.
    schedule = learning_rate_schedule("piecewise", 3.0, 0.1, 200, decay_step=180)
    expected = [3.0, 3.0, 0.1, 0.1]
    np.testing.assert_allclose(rates(schedule, [0, 180, 181, 199]), expected, rtol=1e-6)


# The loop.


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_traces_the_loss_once(kind):
    evaluate = Counted()
    run(kind, 40, evaluate)
    assert evaluate.traces == 1


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_traces_nothing_for_other_targets_of_the_same_shapes(kind):
    def evaluate(x, targets):
        total = tf.reduce_sum(tf.square(x - targets["wanted"]))
        return total, {"distance": total}

    variable = start()
    optimizer = Adam(variable, learning_rate=0.05)
    if kind == "lbfgs":
        optimizer = LBFGS(variable, terms=1)
    loop = Loop(with_gradient(evaluate), optimizer, ["distance"])
    for wanted, traces in ((0.2, 1), (0.7, 1)):
        variable.assign(start())
        optimizer.reset()
        loop.run(200, {"wanted": tf.fill(SHAPE, wanted)})
        np.testing.assert_allclose(variable, tf.fill(SHAPE, wanted), atol=0.02)
        assert loop.traces == traces
    optimizer.reset()
    loop.run(200, {"wanted": tf.fill([3], 0.5)})
    assert loop.traces == 2


def distance(x, targets):
    total = sum(tf.reduce_sum(tf.square(x - tf.reduce_mean(t))) for t in targets)
    return total, {"distance": total}


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_traces_again_for_targets_of_other_shapes_or_structures(kind):
    variable = start()
    optimizer = Adam(variable, learning_rate=0.02)
    if kind == "lbfgs":
        optimizer = LBFGS(variable, terms=1)
    loop = Loop(with_gradient(distance), optimizer, ["distance"])
    traces = []
    for targets in (
        (tf.ones([2]),),
        (tf.zeros([2]),),
        (tf.ones([3]),),
        (tf.ones([2]), tf.ones([3])),
        (tf.ones([2]),),
        (tf.zeros([3]),),
    ):
        variable.assign(start())
        optimizer.reset()
        loop.run(4, targets)
        traces.append(loop.traces)
    assert traces == [1, 1, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("adam", "float32"), ("adam", "float64"), ("lbfgs", "float64")]
)
def test_loop_of_a_loss_without_terms(kind, dtype):
    def evaluate(x, targets):
        return tf.reduce_sum(tf.square(x - 0.3)), {}

    variable, rows = start(dtype), []
    optimizer = Adam(variable, learning_rate=0.1)
    if kind == "lbfgs":
        optimizer = LBFGS(variable, terms=0)
    loop = Loop(with_gradient(evaluate), optimizer, [])
    loop.run(30, report=lambda new, steps: rows.extend(new))
    assert all(row.shape == (1,) for row in rows)
    np.testing.assert_allclose(variable, np.full(SHAPE, 0.3), atol=0.2)
    assert rows[-1][0] < rows[0][0] / 5


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_keeps_a_pool_and_its_gradient_in_one_graph(kind):
    # Where the loop is, oneDNN's kernel of the gradient is a matter of chance.
    def evaluate(x):
        total = tf.reduce_sum(tf.nn.max_pool2d(tf.square(x), 2, 2, "VALID"))
        return total, {"pooled": total}

    variable = start()
    optimizer = Adam(variable, learning_rate=0.1)
    if kind == "lbfgs":
        optimizer = LBFGS(variable, terms=1)
    loop = Loop(differentiated(evaluate), optimizer, ["pooled"])
    traced = loop._call.get_concrete_function(
        tf.constant(1), tf.constant(2, tf.int64), ()
    )
    homes = pools_and_gradients(traced)
    assert homes == [({"MaxPool", "MaxPoolGrad"}, True)]


@pytest.mark.parametrize("steps", [1, 2, 17, 150])
def test_adam_evaluates_as_often_as_it_was_told(steps):
    evaluate = Counted()
    _, reports, optimizer = run("adam", steps, evaluate)
    assert evaluate.evaluations.numpy() == steps == optimizer.evaluations.numpy()
    assert reports.steps == list(range(1, steps + 1))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_lbfgs_keeps_to_its_budget(steps):
    evaluate = Counted()
    _, reports, optimizer = run("lbfgs", steps, evaluate)
    assert evaluate.evaluations.numpy() == steps == optimizer.evaluations.numpy()
    assert reports.steps[0] == 1 and reports.steps[-1] == steps
    assert np.all(np.diff(reports.steps) > 0)


def test_lbfgs_stops_before_its_budget_where_nothing_is_left_to_gain():
    def bowl(x):
        total = tf.reduce_sum(tf.square(x - 0.3))
        return total, {"bowl": total, "waves": tf.zeros([])}

    picture, reports, optimizer = run("lbfgs", 500, bowl)
    np.testing.assert_allclose(picture, 0.3, atol=1e-5)
    assert optimizer.evaluations.numpy() < 50
    assert reports.rows[-1][0] < 1e-9


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
@pytest.mark.parametrize("steps", [3, 300])
def test_loop_run_returns_whether_the_optimizer_has_converged(kind, steps):
    def evaluate(x):
        total = tf.reduce_sum(tf.square(x - 0.3))
        return total, {"bowl": total}

    variable = tf.Variable([0.9, 0.1])
    optimizer = Adam(variable, learning_rate=0.1)
    if kind == "lbfgs":
        optimizer = LBFGS(variable, terms=1)
    loop = Loop(differentiated(evaluate), optimizer, ["bowl"])
    assert loop.run(steps) is (kind == "lbfgs" and steps == 300)


def test_lbfgs_reports_the_loss_of_the_picture_that_it_holds():
    picture, reports, _ = run("lbfgs", 13)
    total, terms = bowl_and_waves(tf.constant(picture))
    np.testing.assert_allclose(
        reports.rows[-1], [total, terms["bowl"], terms["waves"]], rtol=1e-5
    )
    totals = [row[0] for row in reports.rows]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_reports_totals_with_the_terms_that_add_up_to_them(kind):
    _, reports, _ = run(kind, 12)
    rows = np.array(reports.rows)
    np.testing.assert_allclose(rows[:, 0], rows[:, 1] + rows[:, 2], rtol=1e-5)
    total, terms = bowl_and_waves(start())
    np.testing.assert_allclose(
        rows[0], [total, terms["bowl"], terms["waves"]], rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_result_does_not_depend_on_how_often_it_reports(kind, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_REPORTS", 1e9)
    results = []
    for most in (1, 7, 64):
        monkeypatch.setattr(module, "_MOST_STEPS_PER_CALL", most)
        picture, reports, _ = run(kind, 60)
        results.append((picture.tobytes(), reports.rows, reports.steps))
        assert reports.calls == {1: len(reports.steps)}.get(most, reports.calls)
        assert most == 1 or reports.calls < len(reports.steps)
    assert results[0] == results[1] == results[2]


def test_loop_reports_about_as_often_as_wanted(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_REPORTS", 0.2)
    times = []

    def slow(x):
        waited = tf.py_function(lambda: time.sleep(0.01) or 0.0, [], tf.float32)
        total, terms = bowl_and_waves(x)
        return total + tf.ensure_shape(waited, []), terms

    def report(rows, row_steps):
        times.append((time.monotonic(), len(rows)))

    adam = Adam(start(), learning_rate=0.01)
    optimize(differentiated(slow), adam, steps=40, term_names=NAMES, report=report)
    sizes = [size for _, size in times]
    assert sum(sizes) == 40
    assert sizes[:2] == [1, 1]  # the first call's time is that of tracing
    assert 2 <= max(sizes) <= 20  # a step takes at least 0.01 seconds


def test_loop_reports_slow_steps_one_by_one(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_REPORTS", 0.0)
    _, reports, _ = run("adam", 9)
    assert reports.calls == 9


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_stops_when_a_report_asks_for_it(kind, monkeypatch):
    monkeypatch.setattr(module, "_MOST_STEPS_PER_CALL", 1)
    evaluate = Counted()
    picture, reports, _ = run(kind, 100, evaluate, stop_at=4)
    assert 4 <= reports.steps[-1] <= 8  # L-BFGS ends a line search
    assert evaluate.evaluations.numpy() == reports.steps[-1]
    if kind == "adam":
        np.testing.assert_allclose(picture, keras_adam(4)[0][-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_loop_stop_at_ends_earlier_and_another_run_goes_on(kind):
    whole, all_reports, _ = run(kind, 40)
    variable, reports = start(), Reports()
    optimizer = optimizer_of(kind, variable)
    loop = Loop(differentiated(bowl_and_waves), optimizer, NAMES)
    loop.run(40, (), reports, stop_at=7)
    stopped = int(optimizer.evaluations)
    assert reports.steps[-1] == stopped
    # L-BFGS ends a line search.
    assert stopped == 7 if kind == "adam" else 7 <= stopped < 12
    loop.run(40, (), reports, stop_at=90)
    assert reports.steps == all_reports.steps and reports.rows == all_reports.rows
    np.testing.assert_array_equal(variable, whole)
    assert loop.traces == 1


# Losses that are not finite.


@pytest.mark.parametrize("most", [1, 64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_adam_stops_where_a_term_breaks_and_takes_the_step_back(
    monkeypatch, most, value
):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_REPORTS", 1e9)
    monkeypatch.setattr(module, "_MOST_STEPS_PER_CALL", most)
    variable, reports = start(), Reports()
    evaluate = Counted(broken_at=7, value=value)
    adam = Adam(variable, learning_rate=0.02)
    with pytest.raises(NonFiniteLossError) as caught:
        optimize(
            differentiated(evaluate), adam, steps=50, term_names=NAMES, report=reports
        )
    assert str(caught.value) == (
        "the loss became NaN or infinite at step 7 in waves; "
        "lower the learning rate or the weights"
    )
    assert (caught.value.step, caught.value.term) == (7, "waves")
    assert evaluate.evaluations.numpy() == 7
    # Six steps were good; the sixth evaluated what five updates had made.
    assert reports.steps == [1, 2, 3, 4, 5, 6]
    expected = keras_adam(5)[0][-1]
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clamp_until", [0, 2])
def test_adam_takes_a_step_back_by_its_schedule_within_the_box(clamp_until):
    def evaluate(x, scale):
        loss, _ = bowl_and_waves(x)
        return scale * loss, scale * (2 * x - 0.6), [scale * loss]

    variable = start()
    rate = keras.optimizers.schedules.ExponentialDecay(0.3, 1, 0.7)
    box = {"clamp": (0.2, 0.7), "clamp_until": clamp_until}
    adam = Adam(variable, learning_rate=rate, **box)
    for _ in range(3):
        before = variable.numpy()
        adam.step(lambda x: evaluate(x, 1.0), 1)
    after = variable.numpy()
    assert not adam.step(lambda x: evaluate(x, np.nan), 1).moved
    boxed = not clamp_until
    kept = (after > 0.2) & (after < 0.7) if boxed else np.full(after.shape, True)
    assert kept.any() and kept.all() != boxed
    np.testing.assert_allclose(variable.numpy()[kept], before[kept], atol=1e-6)
    assert np.abs(after - before)[kept].max() > 0.05
    if boxed:
        assert (variable.numpy() >= 0.2).all() and (variable.numpy() <= 0.7).all()


@pytest.mark.parametrize("clamp_until", [0, 1])
def test_adam_takes_a_step_back_that_is_wider_than_the_box(clamp_until):
    variable = tf.Variable(tf.fill(SHAPE, 0.6))
    box = {"clamp": (0.2, 0.7), "clamp_until": clamp_until}
    adam = Adam(variable, learning_rate=1.0, **box)
    for loss, expected in ((1.0, 0.2), (np.nan, 0.7)):
        adam.step(lambda x, loss=loss: (tf.constant(loss), tf.ones_like(x), [loss]), 1)
        np.testing.assert_allclose(variable, tf.fill(SHAPE, expected), rtol=1e-6)


def test_adam_leaves_the_first_picture_if_no_loss_is_finite():
    variable, reports = start(), Reports()
    with pytest.raises(NonFiniteLossError, match="at step 1 in bowl;"):
        optimize(
            differentiated(Counted(broken_at=1, broken="bowl")),
            Adam(variable, learning_rate=0.02),
            steps=9,
            term_names=NAMES,
            report=reports,
        )
    np.testing.assert_array_equal(variable, start())
    assert reports.calls == 0


def test_adam_names_a_gradient_that_is_not_finite():
    variable = start()
    with pytest.raises(NonFiniteLossError, match="at step 3 in the gradient;"):
        optimize(
            differentiated(Counted(broken_at=3, broken="the gradient")),
            Adam(variable, learning_rate=0.02),
            steps=9,
            term_names=NAMES,
        )
    np.testing.assert_allclose(variable, keras_adam(1)[0][-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", ["bowl", "waves", "the gradient"])
def test_lbfgs_names_what_is_not_finite_at_its_start(broken):
    variable = start()
    with pytest.raises(NonFiniteLossError, match=f"at step 1 in {broken};"):
        optimize(
            differentiated(Counted(broken_at=1, broken=broken)),
            LBFGS(variable, terms=2, first_step=0.05),
            steps=9,
            term_names=NAMES,
        )
    np.testing.assert_array_equal(variable, start())


def test_lbfgs_avoids_a_trial_that_is_not_finite():
    evaluate = Counted(broken_at=4)
    picture, reports, _ = run("lbfgs", 40, evaluate)
    assert np.isfinite(picture).all()
    assert np.isfinite(reports.rows).all()
    assert reports.rows[-1][0] < reports.rows[0][0] / 3


# Progress.


def test_progress_gives_the_last_row_by_name():
    progress = Progress(
        step=12,
        steps=40,
        scale=0,
        scales=2,
        columns=("total", "content/x", "style/y"),
        rows=np.float32([[9, 8, 1], [8, 6, 2], [6, 4, 2]]),
        row_steps=np.array([10, 11, 12]),
        seconds=1.0,
        size=(2, 2),
        image=lambda: np.zeros([1, 2, 2, 3]),
    )
    assert progress.total == 6.0
    assert progress.terms == {"content/x": 4.0, "style/y": 2.0}
