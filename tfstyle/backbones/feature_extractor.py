"""Named-layer features of a frozen network."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstyle.backbones import get_backbone
from tfstyle.backbones.base import Backbone, preprocess
from tfstyle.backbones.precision import dtype_policy
from tfstyle.backbones.weights import assign_weights, read_weights
from tfstyle.errors import UsageError

IMAGENET = "imagenet"
LAPLACIAN = "laplacian"
"""The layer of every network that has the edges of the picture itself."""
_LAPLACIAN_POOL = 4


@dataclasses.dataclass(frozen=True)
class Field:
    """Where the features of a layer look.

    The feature at ``i`` sees the pixels from ``i·stride − before`` up to, but without,
    ``(i + 1)·stride + after``.
    """

    stride: int = 1
    before: int = 0
    after: int = 0

    def windowed(self, size: int, stride: int, padding: int) -> Field:
        """The field after windows of ``size`` over features padded on the left."""
        stride_after = self.stride * stride
        end = self.after + (size - 1 - padding) * self.stride + self.stride
        return Field(
            stride_after, self.before + padding * self.stride, end - stride_after
        )


class FeatureExtractor:
    """Turns pictures into the features of some layers of a frozen network, in one pass.

    The network is cut at the deepest layer asked for.

    Example:
      >>> extract = FeatureExtractor("slim19", ["relu1_1", "block4_conv2"])
      >>> extract(images)["relu1_1"].shape
      TensorShape([1, 384, 512, 64])

    Attributes:
      backbone: The network.
      layers: The layers as they were named by the caller.
      model: The frozen ``keras.Model`` from pictures to features by layer.
    """

    def __init__(
        self,
        backbone: str | Backbone,
        layers: Iterable[str],
        *,
        weights: str | pathlib.Path = IMAGENET,
        pooling: str = "max",
        preprocessing: str | None = None,
        precision: str = "float32",
        jit_compile: bool = False,
    ):
        """Builds the network and reads its weights.

        Args:
          backbone: ``slim19``, ``vgg19``, ``vgg16`` or ``squeezenet``.
          layers: Names of Keras (``block4_conv2``), of the papers (``relu4_2``, or
            ``conv4_2`` before the ReLU), or the CS231n assignment's indices.
          weights: ``imagenet`` for the published ones (bundled with tfstyle or fetched
            once), or a file ``.h5``, ``.weights.h5`` or ``.npz``.
          pooling: ``max`` as published, or ``avg`` (Gatys et al. 2016, section 2).
          preprocessing: ``caffe`` or ``torch``, where a file does not say and does
            not follow the published weights.
          precision: Of the network, see ``precision.dtype_policy``. float16 is not
            offered: the products of a Gram matrix overflow in it.
          jit_compile: Whether XLA compiles the network.

        Raises:
          UsageError: A layer is unknown, or the file lacks a layer that is needed.
          TfstyleError: The published weights could not be fetched.
        """
        if isinstance(backbone, str):
            backbone = get_backbone(backbone)
        self.backbone = backbone
        self.layers = tuple(dict.fromkeys(layers))
        taps = resolve_layers(self.backbone, self.layers)
        arrays, convention = self._read(str(weights))
        with _dtype_policy(dtype_policy(precision)):
            inputs = keras.Input([None, None, 3])
            x = preprocess(
                inputs, preprocessing or convention or self.backbone.preprocessing
            )
            outputs = self.backbone.build(x, pooling)
            outputs[LAPLACIAN] = laplacian(inputs)
        self.model = keras.Model(inputs, {tap: outputs[tap] for tap in taps.values()})
        self.model.trainable = False
        assign_weights(self.model, arrays, str(weights))
        self._run = (
            tf.function(self.model, jit_compile=True) if jit_compile else self.model
        )
        self._taps = taps

    def _read(self, weights: str) -> tuple[Any, str | None]:
        if weights == IMAGENET:
            return self.backbone.published_weights(), None
        return read_weights(weights)

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Features of pictures.

        Args:
          images: Float tensor ``[N, H, W, 3]``, RGB in [0, 1].

        Returns:
          Features ``[N, h, w, C]`` by layer, under the names the caller gave.

        Raises:
          UsageError: The pictures are too small for the deepest layer.
        """
        height, width = images.shape[1:3]
        if height is not None and width is not None:
            self.check_size(height, width)
        outputs = self._run(images)
        return {layer: outputs[tap] for layer, tap in self._taps.items()}

    def check_size(self, height: int, width: int) -> None:
        """Refuses a picture that is too small for the deepest layer.

        Raises:
          UsageError: It is; the message has the least size.
        """
        if min(height, width) >= 64:  # ample for every layer of every backbone
            return
        if min(height, width) < self.least_size:
            raise UsageError(
                f"a picture of {width}×{height} pixels is too small for the layers "
                f"{', '.join(self.layers)} of {self.backbone.name}: each side needs "
                f"at least {self.least_size} pixels"
            )

    @functools.cached_property
    def least_size(self) -> int:
        """The shortest side in pixels that every layer has an output for."""
        return next(side for side in range(1, 65) if self._fits(side))

    @functools.cached_property
    def fields(self) -> dict[str, Field]:
        """What the features of each layer see, under the names the caller gave."""
        fields, outputs = receptive_fields(self.model), self.model.output
        return {layer: fields[id(outputs[tap])][1] for layer, tap in self._taps.items()}

    @functools.cached_property
    def bytes_per_pixel(self) -> float:
        """What all tensors of the network take together, per pixel of a picture."""
        return sum(
            tensor.shape[-1] * tf.as_dtype(tensor.dtype).size / field.stride**2
            for tensor, field in receptive_fields(self.model).values()
        )

    @property
    def dtype(self) -> str:
        """The dtype of the features."""
        return next(iter(self.model.output.values())).dtype

    def shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Height, width and channels of each layer's features of a picture."""
        shapes = self.model.compute_output_shape((1, height, width, 3))
        return {layer: tuple(shapes[tap][1:]) for layer, tap in self._taps.items()}

    def _fits(self, side: int) -> bool:
        try:
            # An empty pool ends the process, so shapes are asked first. They do not
            # know what reflect padding needs, so a picture is tried as well.
            shapes = self.model.compute_output_shape((1, side, side, 3)).values()
            if min(min(shape[1:3]) for shape in shapes) < 1:
                return False
            outputs = self.model(tf.zeros([1, side, side, 3]))
        except (ValueError, tf.errors.InvalidArgumentError):
            return False
        return all(min(output.shape[1:3]) > 0 for output in outputs.values())


def laplacian(images: Any) -> Any:
    """The edges of pictures reduced to a quarter: each channel's Laplacian.

    After the Laplacian layer of Li et al. 2017, "Laplacian-Steered Neural Style
    Transfer", section 3.2, which adds the channels up.

    Args:
      images: Keras tensor ``[N, H, W, 3]``.

    Returns:
      Keras tensor ``[N, H // 4, W // 4, 3]``.
    """
    cross = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], "float32")
    x = keras.layers.AveragePooling2D(_LAPLACIAN_POOL, name="reduced")(images)
    # A mirrored border has no edge.
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    return keras.layers.DepthwiseConv2D(
        3,
        use_bias=False,
        depthwise_initializer=lambda shape, dtype=None: np.broadcast_to(
            cross[..., None, None], shape
        ),
        name=LAPLACIAN,
    )(x)


@contextlib.contextmanager
def _dtype_policy(policy: str) -> Iterator[None]:
    """Lets Keras build layers in a precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def resolve_layers(backbone: Backbone, layers: Iterable[str]) -> dict[str, str]:
    """The taps of a backbone that layer names mean.

    Args:
      backbone: The network.
      layers: Layer names.

    Returns:
      Tap by layer name.

    Raises:
      UsageError: A name is unknown; the message offers the nearest ones.
    """
    known = {**backbone.layers, LAPLACIAN: LAPLACIAN}
    return {layer: _resolve(layer, backbone.name, known) for layer in layers}


def _resolve(layer: str, backbone: str, known: Mapping[str, str]) -> str:
    if layer in known:
        return known[layer]
    nearest = difflib.get_close_matches(layer, known, n=3, cutoff=0.3)
    raise UsageError(
        f"{backbone} has no layer {layer!r}; "
        f"did you mean {' or '.join(nearest or list(known)[:3])}?"
    )


def receptive_fields(model: keras.Model) -> dict[int, tuple[Any, Field]]:
    """What every tensor of a model sees, the same across and down.

    Args:
      model: Functional model of one input, of convolutions, pools, paddings and
        operations that look at one position.

    Returns:
      The tensors with their fields, by ``id``, from shallow to deep.

    Raises:
      ValueError: A convolution or pool of stride above 1 pads its input.
    """
    image = model.inputs[0]
    fields = {id(image): (image, Field())}
    for operation in model.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(operation.input)
        field = _widest([fields[id(x)][1] for x in inputs])
        for output in keras.tree.flatten(operation.output):
            fields[id(output)] = output, _field_after(operation, field)
    return fields


def _widest(fields: list[Field]) -> Field:
    return Field(
        fields[0].stride,
        max(field.before for field in fields),
        max(field.after for field in fields),
    )


def _field_after(operation: Any, field: Field) -> Field:
    if (width := getattr(operation, "pad_width", None)) is not None:
        return Field(
            field.stride,
            field.before + width[1][0] * field.stride,
            field.after - width[1][0] * field.stride,
        )
    size = getattr(operation, "kernel_size", getattr(operation, "pool_size", None))
    if size is None:
        return field
    padding = size[0] // 2 if operation.padding == "same" else 0
    if operation.padding == "same" and operation.strides[0] > 1:
        raise ValueError(f"{operation.name}: strides with padding cannot be tiled")
    return field.windowed(size[0], operation.strides[0], padding)
