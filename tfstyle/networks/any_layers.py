"""What ``AnyStyleNet`` computes with: statistics of features, borders, enlargement.

Everything here is in ``keras.ops``, so that the network runs on each backend of Keras.
"""

from __future__ import annotations

from typing import Any

from keras import ops

_RIDGE = 1e-2  # of the mean variance, added to each: whitening must not raise noise
_LEAST = 1e-4  # added to the variances of a flat picture, which has none
_ITERATIONS = 15


def moments(features: Any) -> tuple[Any, Any]:
    """Mean and covariance of the channels of each picture.

    Args:
      features: ``[N, H, W, C]``.

    Returns:
      ``[N, C]`` and ``[N, C, C]``, float32.
    """
    wide = ops.cast(features, "float32")  # bfloat16 cannot add up a picture
    mean = ops.mean(wide, (1, 2))
    centred = wide - mean[:, None, None]
    rows = ops.reshape(centred, (ops.shape(wide)[0], -1, wide.shape[-1]))
    count = ops.cast(ops.shape(rows)[1], "float32")
    return mean, ops.matmul(ops.transpose(rows, (0, 2, 1)), rows) / count


def roots(covariance: Any) -> tuple[Any, Any]:
    """The square root of covariances and its inverse, by Newton-Schulz iterations.

    These are products of matrices only, which every runtime has; eigenvalues are not.
    Higham (2008), "Functions of Matrices", equation 6.35. A hundredth of the mean
    variance is added to each, so that both roots are bounded.

    Args:
      covariance: Symmetric matrices ``[N, C, C]``, float32.

    Returns:
      Two tensors of the same shape.
    """
    channels = covariance.shape[-1]
    eye = ops.eye(channels, dtype="float32")
    variance = ops.mean(diagonal(covariance), -1)
    variance = variance[:, None, None] + _LEAST
    matrix = covariance / variance + _RIDGE * eye
    norm = ops.sqrt(ops.sum(ops.square(matrix), (1, 2), keepdims=True))
    root, inverse = matrix / norm, ops.broadcast_to(eye, ops.shape(matrix))
    for _ in range(_ITERATIONS):
        step = 1.5 * eye - 0.5 * ops.matmul(inverse, root)
        root, inverse = ops.matmul(root, step), ops.matmul(step, inverse)
    scale = ops.sqrt(norm * variance)
    return root * scale, inverse / scale


def diagonal(matrices: Any) -> Any:
    """The diagonals of matrices ``[N, C, C]``, of operations that LiteRT has."""
    return ops.sum(matrices * ops.eye(matrices.shape[-1], dtype="float32"), -1)


def mirrored(x: Any, border: int) -> Any:
    """Adds a reflected border to ``[N, H, W, C]``."""
    if not border:
        return x
    return ops.pad(x, [[0, 0], [border] * 2, [border] * 2, [0, 0]], mode="reflect")


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


def enlarged_convolution(x: Any, kernel: Any, bias: Any) -> Any:
    """Doubles the size of features by repeating each value, and convolves the result.

    Where values repeat, the nine weights of a kernel meet only four values, so four
    kernels of two by two on the small features give the same numbers.

    Args:
      x: Features ``[N, h, w, C]``.
      kernel: ``[3, 3, C, D]``.
      bias: ``[D]``.

    Returns:
      Features ``[N, 2 * h, 2 * w, D]``.
    """
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
    x = ops.conv(x, kernel_of_enlarged(kernel), 1, "valid")
    batch, rows, columns = ops.shape(x)[:3]
    channels = kernel.shape[-1]
    x = ops.reshape(x, (batch, rows, columns, 2, 2, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (batch, 2 * rows, 2 * columns, channels))
    return x[:, 1:-1, 1:-1] + bias


def kernel_of_enlarged(kernel: Any) -> Any:
    """What a kernel does to features whose values are repeated, on the small features.

    Args:
      kernel: ``[3, 3, C, D]``.

    Returns:
      Four kernels of two by two, ``[2, 2, C, 4 * D]``, for the four pixels that a
      value becomes.
    """
    quarters = [part for rows in _halves(kernel, 0) for part in _halves(rows, 1)]
    return ops.concatenate(quarters, -1)


def enlarged(x: Any) -> Any:
    """Doubles the size of features ``[N, H, W, C]`` by repeating each value."""
    return ops.repeat(ops.repeat(x, 2, 1), 2, 2)


def _halves(kernel: Any, axis: int) -> tuple[Any, Any]:
    """What a kernel of three does to repeated values at odd and at even places."""
    first, middle, last = ops.split(kernel, 3, axis)
    odd, even = [first + middle, last], [first, middle + last]
    return ops.concatenate(odd, axis), ops.concatenate(even, axis)
