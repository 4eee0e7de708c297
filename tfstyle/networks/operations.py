"""What networks compute with: statistics of features, borders, enlargement.

Everything here is in ``keras.ops``, so that it runs on each backend of Keras.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

# What a kernel of three does to values that are enlarged linearly to twice their
# number, as a kernel of three on the values themselves, at even and at odd places.
_LINEAR = (
    np.array(
        [
            [[3, 1, 0], [1, 3, 3], [0, 0, 1]],
            [[1, 0, 0], [3, 3, 1], [0, 1, 3]],
        ],
        "float32",
    )
    / 4
)


def moments(x: Any) -> tuple[Any, Any]:
    """Mean and variance of each channel of each picture.

    Args:
      x: Features ``[N, H, W, C]``.

    Returns:
      Two tensors ``[N, 1, 1, C]``, float32.
    """
    wide = ops.cast(x, "float32")  # bfloat16 cannot add up a picture
    mean = ops.mean(wide, (1, 2), keepdims=True)
    return mean, ops.mean(ops.square(wide - mean), (1, 2), keepdims=True)


def mirrored(x: Any, border: int, more: int = 0) -> Any:
    """Adds a reflected border.

    Args:
      x: Features ``[N, H, W, C]``.
      border: Its width.
      more: Further rows below and columns to the right.

    Returns:
      Features ``[N, H + 2 * border + more, W + 2 * border + more, C]``.
    """
    if not border:
        return x
    widths = [border, border + more]
    return ops.pad(x, [[0, 0], widths, widths, [0, 0]], mode="reflect")


def mirrored_indices(length: Any, multiple: int) -> Any:
    """Which rows a picture needs so that their number is a multiple of one.

    The picture is continued by its mirror image, as often as needed.

    Args:
      length: Rows of the picture, an integer or a scalar tensor.
      multiple: The result has a multiple of this many, and twice as many at least.

    Returns:
      Numbers of rows, int32.
    """
    whole = ops.maximum((length + multiple - 1) // multiple, 2) * multiple
    turn = ops.maximum(2 * length - 2, 1)
    index = ops.arange(whole, dtype="int32") % turn
    return ops.minimum(index, turn - index)


def repeated_convolution(x: Any, kernel: Any) -> Any:
    """Doubles the size of features by repeating each value, and convolves the result.

    Where values repeat, the nine weights of a kernel meet only four values, so four
    kernels of two by two on the small features give the same numbers.

    Args:
      x: Features ``[N, h, w, C]``.
      kernel: ``[3, 3, C, D]``.

    Returns:
      Features ``[N, 2 * h, 2 * w, D]``.
    """
    quarters = [part for rows in _halves(kernel, 0) for part in _halves(rows, 1)]
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
    x = ops.conv(x, ops.cast(ops.concatenate(quarters, -1), x.dtype), 1, "valid")
    return spread(x)[:, 1:-1, 1:-1]


def enlarged_convolution(x: Any, kernel: Any) -> Any:
    """Doubles the size of features linearly, and convolves the result.

    Four kernels on the small features give the four pixels that a value becomes: as
    many products, and no large features in between.

    Args:
      x: Features ``[N, h, w, C]``. Beyond the border, they are what they are at it.
      kernel: ``[3, 3, C, D]``.

    Returns:
      Features ``[N, 2 * h, 2 * w, D]``.
    """
    channels, filters = kernel.shape[2:]
    parts = ops.einsum("pab,qcd,bdio->acipqo", _LINEAR, _LINEAR, kernel)
    parts = ops.reshape(parts, (3, 3, channels, 4 * filters))
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
    return spread(ops.conv(x, ops.cast(parts, x.dtype), 1, "valid"))


def convolution_to_rgb(x: Any, kernel: Any, bias: Any) -> Any:
    """A convolution with a reflected border that gives three channels.

    Computes four pixels at a time: three channels would leave most of a processor's
    vector idle, and two by two pixels have twelve.

    Args:
      x: Features ``[N, H, W, C]``.
      kernel: ``[9, 9, C, 3]``.
      bias: ``[3]``.

    Returns:
      Features ``[N, H, W, 3]``.
    """
    height, width = ops.shape(x)[1:3]
    shifted = [
        ops.pad(kernel, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]])
        for i in (0, 1)
        for j in (0, 1)
    ]
    kernel = ops.cast(ops.concatenate(shifted, -1), x.dtype)
    # The last pixels of an odd side need one more.
    x = ops.conv(mirrored(x, 4, more=1), kernel, 2, "valid")
    return spread(x)[:, :height, :width] + ops.cast(bias, x.dtype)


def spread(x: Any) -> Any:
    """Four pixels from each value: ``[N, H, W, 4 * C]`` to ``[N, 2 * H, 2 * W, C]``."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.depth_to_space(x, 2)  # Keras has no such operation
    batch, rows, columns, channels = ops.shape(x)
    x = ops.reshape(x, (batch, rows, columns, 2, 2, channels // 4))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (batch, 2 * rows, 2 * columns, channels // 4))


def _halves(kernel: Any, axis: int) -> tuple[Any, Any]:
    """What a kernel of three does to repeated values at odd and at even places."""
    first, middle, last = ops.split(kernel, 3, axis)
    odd, even = [first + middle, last], [first, middle + last]
    return ops.concatenate(odd, axis), ops.concatenate(even, axis)
