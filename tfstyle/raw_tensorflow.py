"""Parts of TensorFlow outside its stable public API; nothing else uses any.

Checked with TensorFlow 2.16 to 2.21. Each function says what would replace it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_lock = threading.Lock()
_scopes = 0
_switched = False  # whether the first of the scopes that are open switched it on


@contextlib.contextmanager
def deterministic_ops() -> Iterator[None]:
    """Makes TensorFlow use deterministic kernels inside the block, for all threads.

    Blocks may overlap, in one thread or in several: the last one that ends leaves the
    process as the first one found it. ``enable_op_determinism`` alone would change the
    process for good; TensorFlow has no public way to undo it.
    """
    global _scopes, _switched
    from tensorflow.python.framework import config

    with _lock:
        if _scopes == 0:
            _switched = not config.is_op_determinism_enabled()
            if _switched:
                config.enable_op_determinism()
        _scopes += 1
    try:
        yield
    finally:
        with _lock:
            _scopes -= 1
            if _scopes == 0 and _switched:
                config.disable_op_determinism()


def apply_adam(
    variable: tf.Variable,
    momentum: tf.Variable,
    velocity: tf.Variable,
    gradient: tf.Tensor,
    *,
    learning_rate: tf.Tensor,
    beta_1: float,
    beta_2: float,
    beta_1_power: tf.Tensor,
    beta_2_power: tf.Tensor,
    epsilon: float,
) -> None:
    """One fused update of Adam, in place: Keras's makes passing copies of a picture."""
    dtype = variable.dtype
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.handle,
        v=velocity.handle,
        lr=learning_rate,
        beta1_power=beta_1_power,
        beta2_power=beta_2_power,
        beta1=tf.constant(beta_1, dtype),
        beta2=tf.constant(beta_2, dtype),
        epsilon=tf.constant(epsilon, dtype),
        grad=gradient,
    )


def empty(shape: Any, dtype: Any) -> tf.Tensor:
    """Zeros that TensorFlow does not keep a copy of, unlike ``tf.zeros``."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def updated(whole: tf.Tensor, begin: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """``whole`` with ``part`` at row and column ``begin``, in place where possible."""
    first = tf.concat([[0], begin, [0]], 0)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=whole,
        begin=first,
        end=first + tf.shape(part),
        strides=tf.ones_like(first),
        value=part,
    )


def fused_instance_norm(
    picture: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Normalises the features of one picture, in a third of ``tf.nn``'s time.

    A batch normalisation of a batch of one is an instance normalisation.
    """
    return tf.compat.v1.nn.fused_batch_norm(
        picture, scale, offset, epsilon=epsilon, is_training=True
    )[0]


def read_only_view(tensor: tf.Tensor) -> np.ndarray:
    """A tensor's own memory, where ``numpy()`` takes as much again."""
    return np.asarray(memoryview(tensor))


def gpu_memory() -> float | None:
    """Bytes of the first GPU's memory; None without a GPU."""
    if not tf.config.list_logical_devices("GPU"):
        return None
    from tensorflow.python.client import device_lib

    devices: Sequence[Any] = device_lib.list_local_devices()
    gpus = [device for device in devices if device.device_type == "GPU"]
    return float(gpus[0].memory_limit)


def call_in_own_graph(function: Callable, *arguments: tf.Tensor) -> Any:
    """What a function returns, called instead of copied into the graph around it.

    In the graph of a loop, TensorFlow's pass for oneDNN meets the gradients of some
    pools before the pools, and leaves them a kernel of one core, which may take a sixth
    of a step. A gradient and what it is the gradient of belong in one such function.
    """
    traced = tf.function(
        function, autograph=False, experimental_attributes={"_noinline": True}
    )
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in arguments]
    return traced.get_concrete_function(*specs)(*arguments)
