"""Features of pictures, from named layers of a frozen network."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstyle.backbones import get_backbone
from tfstyle.backbones.base import POOLINGS, PREPROCESSING, Backbone, preprocess
from tfstyle.backbones.laplacian import LAPLACIAN, laplacian
from tfstyle.backbones.precision import dtype_policy
from tfstyle.backbones.receptive_field import least_side, receptive_fields
from tfstyle.backbones.weights import IMAGENET, load_weights
from tfstyle.backbones.weights_assign import assign_weights
from tfstyle.errors import UsageError, did_you_mean
from tfstyle.images.tiles import Field

_CONVENTION = (
    "give pictures [N, H, W, 3] or [H, W, 3], RGB, float in [0, 1] or uint8 in [0, 255]"
)
_LARGEST_VALUE = 4.0
"""Above 1, because pictures that are being optimised leave [0, 1] by a little."""


class FeatureExtractor:
    """Computes the features of several layers of a frozen network in one pass.

    The network ends at the deepest of these layers.

    Example:
      >>> extract = FeatureExtractor("slim19", ["relu1_1", "block4_conv2"])
      >>> extract(images)["relu1_1"].shape
      TensorShape([1, 384, 512, 64])

    Attributes:
      backbone: The network.
      layers: The layers, by the names that the caller gave.
      model: The frozen ``keras.Model`` from pictures to features by tap.
      dtype: What the network computes in, except for the first convolution.
    """

    def __init__(
        self,
        backbone: str | Backbone,
        layers: str | Iterable[str],
        *,
        weights: str | os.PathLike[str] = IMAGENET,
        pooling: str = "max",
        preprocessing: str | None = None,
        precision: str = "float32",
        jit_compile: bool = False,
    ):
        """Builds the network and reads its weights.

        Args:
          backbone: ``slim19``, ``vgg19``, ``vgg16`` or ``squeezenet``.
          layers: Layer names of Keras (``block4_conv2``) or of the papers (``relu4_2``,
            or ``conv4_2`` before the ReLU), or the CS231n assignment's indices.
          weights: ``imagenet`` for the published weights (bundled with tfstyle or
            downloaded once), or an ``.h5``, ``.weights.h5`` or ``.npz`` file.
          pooling: ``max`` as published, or ``avg`` (Gatys et al. 2016, section 2).
          preprocessing: ``caffe`` or ``torch``, for a file that differs from the
            published weights and does not say so itself.
          precision: Precision of the network, see ``precision.dtype_policy``.
          jit_compile: Whether XLA compiles the network.

        Raises:
          UsageError: If a layer or another choice does not exist, if the weights file
            cannot be read, or if it lacks a layer that is needed.
          TfstyleError: If the published weights cannot be downloaded.
        """
        if isinstance(backbone, str):
            backbone = get_backbone(backbone)
        layers = [layers] if isinstance(layers, str) else layers
        _check_choice("pooling", pooling, POOLINGS)
        _check_choice("preprocessing", preprocessing, (*PREPROCESSING, None))
        self.backbone = backbone
        self.layers = tuple(dict.fromkeys(layers))
        self._taps = resolve_layers(backbone, self.layers)
        arrays, convention = load_weights(backbone, weights)
        policy = keras.dtype_policies.get(dtype_policy(precision))
        self.dtype = policy.compute_dtype
        with _dtype_policy(policy):
            inputs = keras.Input([None, None, 3])
            taps = backbone.build(
                preprocess(inputs, preprocessing or convention), pooling
            )
            taps[LAPLACIAN] = laplacian(inputs)
        self.model = keras.Model(
            inputs, {tap: taps[tap] for tap in self._taps.values()}
        )
        self.model.trainable = False
        assign_weights(self.model, arrays, str(weights))
        self._run = (
            tf.function(self.model, jit_compile=True) if jit_compile else self.model
        )

    def __call__(self, images: Any) -> dict[str, tf.Tensor]:
        """Computes the features of pictures.

        Args:
          images: Tensor or array ``[N, H, W, 3]``, RGB, float in [0, 1] or uint8 in
            [0, 255]. ``[H, W, 3]`` is a batch of one. Values are not looked at while a
            ``tf.function`` is traced.

        Returns:
          Features ``[N, h, w, C]`` by layer, under the names that the caller gave.

        Raises:
          UsageError: If ``images`` has another shape, dtype or range, or is too small
            for the deepest layer.
        """
        images = _as_pictures(images)
        height, width = images.shape[1:3]
        if height is not None and width is not None:
            self.check_size(height, width)
        outputs = self._run(images)
        return {layer: outputs[tap] for layer, tap in self._taps.items()}

    def check_size(self, height: int, width: int) -> None:
        """Refuses a picture that is too small for the deepest layer.

        Args:
          height: Height of the picture in pixels.
          width: Width of the picture in pixels.

        Raises:
          UsageError: If a side is too short; the message has the least size.
        """
        if min(height, width) < self.least_size:
            raise UsageError(
                f"a picture of {width}×{height} pixels is too small for the layers "
                f"{', '.join(self.layers)} of {self.backbone.name}: each side needs "
                f"at least {self.least_size} pixels; choose a larger picture or size, "
                "fewer scales, or layers that are less deep"
            )

    @functools.cached_property
    def least_size(self) -> int:
        """The shortest side, in pixels, for which every layer has an output."""
        return least_side(self.model)

    @functools.cached_property
    def fields(self) -> dict[str, Field]:
        """The receptive field of each layer, under the names that the caller gave."""
        fields, outputs = receptive_fields(self.model), self.model.output
        return {layer: fields[id(outputs[tap])][1] for layer, tap in self._taps.items()}

    @functools.cached_property
    def bytes_per_pixel(self) -> float:
        """Bytes of all tensors of the network together, per pixel of a picture."""
        return sum(
            tensor.shape[-1] * tf.as_dtype(tensor.dtype).size / field.stride**2
            for tensor, field in receptive_fields(self.model).values()
        )

    @functools.cached_property
    def channels(self) -> dict[str, int]:
        """The channels of each layer, under the names that the caller gave."""
        outputs = self.model.output
        return {layer: outputs[tap].shape[-1] for layer, tap in self._taps.items()}

    @functools.cached_property
    def dtypes(self) -> dict[str, tf.DType]:
        """The dtype of each layer's features, under the names that the caller gave."""
        outputs = self.model.output
        return {
            layer: tf.as_dtype(outputs[tap].dtype) for layer, tap in self._taps.items()
        }

    def shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Height, width and channels of the features of a picture, by layer."""
        shapes = self.model.compute_output_shape((1, height, width, 3))
        return {layer: tuple(shapes[tap][1:]) for layer, tap in self._taps.items()}


def resolve_layers(
    backbone: Backbone, layers: Iterable[str], name: str = ""
) -> dict[str, str]:
    """Finds the taps that layer names stand for.

    Args:
      backbone: The network.
      layers: The names.
      name: The argument that has them, for messages; may be empty.

    Raises:
      UsageError: If a name is unknown; the message has the nearest ones.
    """
    known = {**backbone.layers, LAPLACIAN: LAPLACIAN}
    for layer in layers:
        if layer not in known:
            some = f"did you mean {' or '.join(list(known)[:3])}?"
            hint = did_you_mean(layer, known, some, most=3, cutoff=0.3)
            raise UsageError(
                f"{name}{': ' * bool(name)}{backbone.name} has no layer {layer!r}; "
                f"{hint}"
            )
    return {layer: known[layer] for layer in layers}


def _as_pictures(images: Any) -> Any:
    """Pictures as floats ``[N, H, W, 3]``, checked as far as that is free of cost."""
    if not hasattr(images, "shape") or isinstance(images, np.ndarray):
        try:
            images = tf.convert_to_tensor(np.asarray(images))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"images: {type(images).__name__} is not an array; {_CONVENTION}"
            ) from error
    shape, dtype = images.shape, tf.as_dtype(images.dtype)
    known = list(shape) if shape or shape == () else None
    if known is None or len(known) not in (3, 4) or known[-1] != 3:
        raise UsageError(f"images: has the shape {known}; {_CONVENTION}")
    if dtype == tf.uint8:
        images = keras.ops.cast(images, "float32") / 255.0
    elif not dtype.is_floating:
        raise UsageError(f"images: holds {dtype.name}; {_CONVENTION}")
    # Symbolic tensors have no values yet.
    elif tf.executing_eagerly() and not isinstance(images, keras.KerasTensor):
        largest = float(tf.reduce_max(images))
        if largest > _LARGEST_VALUE:
            raise UsageError(f"images: holds floats up to {largest:g}; {_CONVENTION}")
    return images if len(known) == 4 else images[None]


def _check_choice(name: str, value: str | None, known: Collection[Any]) -> None:
    if value not in known:
        names = " or ".join(str(choice) for choice in known if choice is not None)
        raise UsageError(f"{name}={value!r}: give {names}")


@contextlib.contextmanager
def _dtype_policy(policy: keras.DTypePolicy) -> Iterator[None]:
    """Makes Keras build layers in a precision, inside the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
