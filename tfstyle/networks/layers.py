"""The normalisation of ``StyleNet``, which Keras does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfstyle.networks.operations import moments
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
            return self.normalized(x, blend, *moments(x))
        pictures = [
            fused_instance_norm(picture, scale, offset, self.EPSILON)
            for picture, scale, offset in zip(
                tf.split(x, x.shape[0]),
                *(tf.unstack(w, x.shape[0]) for w in self._blended(blend, x.shape[0])),
                strict=True,
            )
        ]
        return tf.concat(pictures, 0)

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
