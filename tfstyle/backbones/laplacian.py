"""The Laplacian of the picture itself, a layer that every backbone has."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

LAPLACIAN = "laplacian"
"""Name of the layer."""

_POOL = 4
_KERNEL = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], "float32")


def laplacian(images: Any) -> Any:
    """The edges of pictures at a quarter of their size: the Laplacian of each channel.

    The Laplacian layer of Li et al. 2017, "Laplacian-Steered Neural Style Transfer",
    section 3.2, which adds up the channels.

    Args:
      images: Keras tensor ``[N, H, W, 3]``.

    Returns:
      Keras tensor ``[N, H // 4, W // 4, 3]``.
    """
    x = keras.layers.AveragePooling2D(_POOL, name="reduced")(images)
    # A mirrored border has no edge.
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    return keras.layers.DepthwiseConv2D(
        3,
        use_bias=False,
        depthwise_initializer=lambda shape, dtype=None: np.broadcast_to(
            _KERNEL[..., None, None], shape
        ),
        name=LAPLACIAN,
    )(x)
