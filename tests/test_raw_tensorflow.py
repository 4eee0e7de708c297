"""What tfstyle takes from outside TensorFlow's stable public API."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from tfstyle.raw_tensorflow import (
    apply_adam,
    call_in_own_graph,
    deterministic_ops,
    empty,
    fused_instance_norm,
    gpu_memory,
    read_only_view,
    updated,
)

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def leaves_the_process_as_it_was():
    assert not config.is_op_determinism_enabled()
    yield
    left = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    assert not left


def test_deterministic_ops_hold_inside_the_block_only():
    with deterministic_ops():
        assert config.is_op_determinism_enabled()
    assert not config.is_op_determinism_enabled()


def test_deterministic_ops_nested():
    with deterministic_ops():
        with deterministic_ops():
            assert config.is_op_determinism_enabled()
        assert config.is_op_determinism_enabled()
    assert not config.is_op_determinism_enabled()


def test_deterministic_ops_after_an_exception():
    with pytest.raises(KeyError), deterministic_ops(), deterministic_ops():
        raise KeyError
    assert not config.is_op_determinism_enabled()
    with deterministic_ops():
        assert config.is_op_determinism_enabled()


def test_deterministic_ops_in_a_process_that_has_them_already():
    config.enable_op_determinism()
    try:
        with deterministic_ops(), deterministic_ops():
            pass
        assert config.is_op_determinism_enabled()
    finally:
        config.disable_op_determinism()


def test_deterministic_ops_of_two_threads_end_with_the_last():
    """The thread that began first ends first, and must not take them from the other."""
    begun, ended, seen = threading.Event(), threading.Event(), []

    def second():
        with deterministic_ops():
            begun.set()
            assert ended.wait(10)
            seen.append(config.is_op_determinism_enabled())

    other = threading.Thread(target=second)
    with deterministic_ops():
        other.start()
        assert begun.wait(10)
    ended.set()
    other.join(10)
    assert seen == [True]
    assert not config.is_op_determinism_enabled()


def test_deterministic_ops_of_many_threads_leave_nothing():
    def work():
        for _ in range(200):
            with deterministic_ops():
                seen.append(config.is_op_determinism_enabled())

    seen = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 800 and all(seen)


def test_apply_adam_is_the_published_step():
    x, m, v, g = (np.random.default_rng(i).random(5) for i in range(4))
    variables = [tf.Variable(value) for value in (x, m, v)]
    apply_adam(
        *variables,
        tf.constant(g),
        learning_rate=tf.constant(0.1, tf.float64),
        beta_1=0.9,
        beta_2=0.99,
        beta_1_power=tf.constant(0.9**3, tf.float64),
        beta_2_power=tf.constant(0.99**3, tf.float64),
        epsilon=1e-3,
    )
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
    rate = 0.1 * np.sqrt(1 - 0.99**3) / (1 - 0.9**3)
    expected = x - rate * m / (np.sqrt(v) + 1e-3), m, v
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-12)


def test_empty_is_zero():
    np.testing.assert_array_equal(empty([2, 3], tf.float32), np.zeros([2, 3]))


@pytest.mark.parametrize("traced", [False, True])
def test_updated_replaces_a_part_and_leaves_what_was_given(traced):
    whole = tf.constant(np.arange(24.0).reshape(1, 4, 3, 2))
    part = tf.fill([1, 2, 1, 2], tf.constant(-1.0, tf.float64))
    function = tf.function(updated) if traced else updated
    found = function(whole, tf.constant([1, 2]), part)
    expected = np.arange(24.0).reshape(1, 4, 3, 2)
    np.testing.assert_array_equal(whole, expected)
    expected[:, 1:3, 2:3] = -1
    np.testing.assert_array_equal(found, expected)


def test_fused_instance_norm_equals_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (1, 5, 7, 4)).astype("float32")
    scale, offset = rng.normal(size=(2, 4)).astype("float32")
    found = fused_instance_norm(
        tf.constant(x), tf.constant(scale), tf.constant(offset), 1e-3
    )
    mean, variance = x.mean((1, 2)), x.var((1, 2))
    expected = (x - mean) / np.sqrt(variance + 1e-3) * scale + offset
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_read_only_view_has_the_values_and_cannot_be_written_to():
    tensor = tf.constant([[1.0, 2.0]])
    view = read_only_view(tensor)
    np.testing.assert_array_equal(view, [[1.0, 2.0]])
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 3


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="has a GPU")
def test_gpu_memory_without_a_gpu():
    assert gpu_memory() is None


def test_call_in_own_graph_returns_the_structure_and_has_a_gradient():
    def function(x):
        return x**2, {"sum": tf.reduce_sum(x)}

    x = tf.constant([1.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        squares, more = call_in_own_graph(function, x)
    np.testing.assert_array_equal(squares, [1, 9])
    assert float(more["sum"]) == 4
    np.testing.assert_array_equal(tape.gradient(squares, x), [2, 6])
