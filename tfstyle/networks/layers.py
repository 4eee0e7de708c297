"""The layers of ``StyleNet`` that Keras does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfstyle.networks.any_layers import kernel_of_enlarged
from tfstyle.raw_tensorflow import fused_instance_norm


@keras.saving.register_keras_serializable("tfstyle")
class ConditionalInstanceNormalization(keras.layers.Layer):
    """Normalises each channel of each picture, then scales and shifts it by style.

    Dumoulin, Shlens and Kudlur (2017), equation 5. A blend of styles has the same blend
    of their scales and offsets.
    """

    EPSILON = 1e-5

    def __init__(self, styles: int, **kwargs: Any):
        """Prepares a layer for a number of styles.

        Args:
          styles: How many styles there are.
          **kwargs: Arguments of ``keras.layers.Layer``.
        """
        super().__init__(**kwargs)
        self.styles = styles

    def build(self, shape: Sequence[int | None]) -> None:
        """Creates a scale of 1 and an offset of 0 for every style and channel."""
        size = (self.styles, shape[-1])
        self.scale = self.add_weight(
            name="scale", shape=size, initializer="ones", autocast=False
        )
        self.offset = self.add_weight(
            name="offset", shape=size, initializer="zeros", autocast=False
        )
        self.built = True

    def call(self, x: tf.Tensor, blend: tf.Tensor) -> tf.Tensor:
        """Normalises features by their own mean and variance.

        Args:
          x: Features ``[N, H, W, C]``.
          blend: Weights of the styles, ``[N, styles]`` or ``[1, styles]``.

        Returns:
          Features of the same shape and dtype.
        """
        if x.shape[0] is None:
            return self.normalized(x, blend, *self.moments(x))
        pictures = [
            fused_instance_norm(picture, scale, offset, self.EPSILON)
            for picture, scale, offset in zip(
                tf.split(x, x.shape[0]),
                *(tf.unstack(w, x.shape[0]) for w in self._blended(blend, x.shape[0])),
                strict=True,
            )
        ]
        return tf.concat(pictures, 0)

    @staticmethod
    def moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of each channel of each picture.

        Args:
          x: Features ``[N, H, W, C]``.

        Returns:
          Two tensors ``[N, 1, 1, C]``, float32.
        """
        wide = tf.cast(x, tf.float32)  # bfloat16 cannot add up a picture
        mean = tf.reduce_mean(wide, [1, 2], keepdims=True)
        squares = tf.math.squared_difference(wide, mean)
        return mean, tf.reduce_mean(squares, [1, 2], keepdims=True)

    def normalized(
        self, x: tf.Tensor, blend: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
    ) -> tf.Tensor:
        """Normalises features by a given mean and variance.

        Args:
          x: Same as in ``call``.
          blend: Same as in ``call``.
          mean: ``[N, 1, 1, C]``, such as the whole picture's where ``x`` is a tile.
          variance: ``[N, 1, 1, C]``.

        Returns:
          Same as ``call``.
        """
        scale, offset = self._blended(blend, tf.shape(x)[0])
        factor = scale[:, None, None] * tf.math.rsqrt(variance + self.EPSILON)
        shift = offset[:, None, None] - mean * factor
        return x * tf.cast(factor, x.dtype) + tf.cast(shift, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__``, for ``.keras`` files."""
        return {**super().get_config(), "styles": self.styles}

    def _blended(self, blend: tf.Tensor, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and offset of each picture, ``[batch, C]`` float32."""
        blend = tf.broadcast_to(tf.cast(blend, tf.float32), [batch, self.styles])
        return tf.matmul(blend, self.scale), tf.matmul(blend, self.offset)


def mirrored(x: tf.Tensor, border: int, more: int = 0) -> tf.Tensor:
    """Adds a reflected border.

    Args:
      x: Features ``[N, H, W, C]``.
      border: Its width.
      more: Further rows below and columns to the right.

    Returns:
      Features ``[N, H + 2 * border + more, W + 2 * border + more, C]``.
    """
    widths = [border, border + more]
    return tf.pad(x, [[0, 0], widths, widths, [0, 0]], "REFLECT")


def enlarged_convolution(x: tf.Tensor, kernel: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Doubles the size of features by repeating each value, and convolves the result.

    Where values repeat, the nine weights of a kernel meet only four values, so four
    kernels of two by two on the small features give the same numbers.

    Args:
      x: Features ``[N, h, w, C]``.
      kernel: ``[3, 3, C, D]``.
      size: Height and width of the result: twice those of ``x``, or one less.

    Returns:
      Features ``[N, *size, D]``.
    """
    kernel = kernel_of_enlarged(tf.cast(kernel, x.dtype))
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    x = tf.nn.conv2d(x, kernel, 1, "VALID")
    return tf.nn.depth_to_space(x, 2)[:, 1 : size[0] + 1, 1 : size[1] + 1]


def convolution_to_rgb(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
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
    kernel, size = tf.cast(kernel, x.dtype), tf.shape(x)[1:3]
    shifted = [
        tf.pad(kernel, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]])
        for i in (0, 1)
        for j in (0, 1)
    ]
    x = mirrored(x, 4, more=1)  # the last pixels of an odd side need one more
    x = tf.nn.conv2d(x, tf.concat(shifted, -1), 2, "VALID")
    x = tf.nn.depth_to_space(x, 2)[:, : size[0], : size[1]]
    return x + tf.cast(bias, x.dtype)
