"""SqueezeNet v1.1 (Iandola et al. 2016) without its classifier.

v1.1 is the authors' later variant: 64 filters of 3×3 in conv1, pools after conv1, fire3
and fire5, and 2.4 times fewer operations than in the paper at the same accuracy.
"""

from __future__ import annotations

from typing import Any

import keras

from tfstyle.backbones.base import Backbone, convolution, dtype_for, pool
from tfstyle.backbones.weights import read_weights
from tfstyle.backbones.weights_download import download

# Channels of the squeeze layer and of each expand layer.
FIRES = {
    "fire2": (16, 64),
    "fire3": (16, 64),
    "fire4": (32, 128),
    "fire5": (32, 128),
    "fire6": (48, 192),
    "fire7": (48, 192),
    "fire8": (64, 256),
    "fire9": (64, 256),
}
FIRE_LAYERS = (
    *("squeeze1x1", "relu_squeeze1x1", "expand1x1", "expand3x3"),
    *("relu_expand1x1", "relu_expand3x3", "concat"),
)
POOL_AFTER = {"fire3": "pool3", "fire5": "pool5"}

# The CS231n assignment's indices, which are torchvision's `features.N`, in order.
INDEXED = (
    *("conv1", "relu_conv1", "pool1", "fire2", "fire3", "pool3", "fire4", "fire5"),
    *("pool5", "fire6", "fire7", "fire8", "fire9"),
)

# MIT licence.
URL = (
    "https://raw.githubusercontent.com/DeepCognition/keras-squeezenet/"
    "a73d4339aa4d37c51a0b3ba044bed55477abec73/"
    "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
SHA256 = "17154246284f555591549ac2c83e127abfbf4307dc4b0060fdaa2931d0fa38da"


def build(x: Any, pooling: str = "max") -> dict[str, Any]:
    """Builds SqueezeNet and returns all its taps.

    Pools drop an incomplete window at the border, as in Keras's version. Caffe and
    torchvision keep it, so their features can be one row and one column larger.

    Args:
      x: Preprocessed images, Keras tensor ``[N, H, W, 3]``; the layers after ``pool5``
        need 31 pixels a side.
      pooling: ``max`` as published, or ``avg``.

    Returns:
      From shallow to deep: ``conv1`` and ``relu_conv1``
      (``[N, (H-1)//2, (W-1)//2, 64]``), the pools, and for each fire module every
      convolution before its ReLU (``fire2/expand3x3``) and after it
      (``fire2/relu_expand3x3``) and their concatenation (``fire2/concat``).
    """
    conv1 = keras.layers.Conv2D(
        64, 3, strides=2, padding="valid", dtype=dtype_for(x), name="conv1"
    )(x)
    relu = keras.ops.relu(conv1)
    x = pool(relu, "pool1", pooling, size=3)
    taps = {"conv1": conv1, "relu_conv1": relu, "pool1": x}
    for name, (squeeze, expand) in FIRES.items():
        taps |= _fire(x, name, squeeze, expand)
        x = taps[f"{name}/concat"]
        if name in POOL_AFTER:
            x = taps[POOL_AFTER[name]] = pool(x, POOL_AFTER[name], pooling, size=3)
    return taps


def _fire(x: Any, name: str, squeeze: int, expand: int) -> dict[str, Any]:
    """A fire module (section 3.2): a 1×1 bottleneck, then 1×1 and 3×3 side by side."""
    squeezed = convolution(x, f"{name}_squeeze1x1", squeeze, 1, "zero")
    relu = keras.ops.relu(squeezed)
    left = convolution(relu, f"{name}_expand1x1", expand, 1, "zero")
    right = convolution(relu, f"{name}_expand3x3", expand, 3, "zero")
    relu_left, relu_right = keras.ops.relu(left), keras.ops.relu(right)
    both = keras.ops.concatenate([relu_left, relu_right], axis=-1)
    tensors = (squeezed, relu, left, right, relu_left, relu_right, both)
    names = [f"{name}/{layer}" for layer in FIRE_LAYERS]
    return dict(zip(names, tensors, strict=True))


def _layer_names() -> dict[str, str]:
    taps = ["conv1", "relu_conv1", "pool1", *POOL_AFTER.values()]
    taps += [f"{fire}/{layer}" for fire in FIRES for layer in FIRE_LAYERS]
    names = {tap: tap for tap in taps} | {fire: f"{fire}/concat" for fire in FIRES}
    return names | {str(i): names[layer] for i, layer in enumerate(INDEXED)}


SQUEEZENET = Backbone(
    name="squeezenet",
    layers=_layer_names(),
    content_layers={"fire2": 1.0},
    style_layers={"relu_conv1": 1.0, "fire3": 1.0, "fire4": 1.0, "fire5": 1.0},
    preprocessing="caffe",
    build=build,
    published_weights=lambda: read_weights(download(URL, SHA256))[0],
)
