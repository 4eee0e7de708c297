"""The feed-forward network of style transfer, one network for many styles.

The image transformation network of Johnson, Alahi and Fei-Fei (2016): convolutions down
to a quarter of the size, residual blocks, and up again, with later improvements:
reflected borders; instance normalisation (Ulyanov et al. 2016), with a scale and an
offset for each style (Dumoulin et al. 2017), so that one network holds many styles and
blends them; nearest-neighbour enlargement before a convolution in place of transposed
convolutions, which leave a checkerboard (Odena et al. 2016); and a sigmoid at the end,
so that pictures are in [0, 1].
"""

from __future__ import annotations

import difflib
import io
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from tfstyle.backbones.weights_hdf5 import check_hdf5, check_heaps
from tfstyle.errors import UsageError
from tfstyle.files import replaced
from tfstyle.images.tiles import Field
from tfstyle.raw_tensorflow import fused_instance_norm

BUNDLED = "bundled"
BUNDLED_FILE = pathlib.Path(__file__).with_name("styles.keras")
LEAST_SIDE = 6
"""Sides below cannot be reflected at each convolution."""
_MOST_BLOCKS = 200

Normalize = Callable[[int, tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable("tfstyle")
class ConditionalInstanceNormalization(keras.layers.Layer):
    """Normalises each channel of each picture, then scales and shifts it by style.

    Dumoulin, Shlens and Kudlur (2017), equation 5. A blend of styles has the same blend
    of their scales and offsets.
    """

    EPSILON = 1e-5

    def __init__(self, styles: int, **kwargs: Any):
        """Makes a layer for a number of styles.

        Args:
          styles: How many.
          **kwargs: Arguments of ``keras.layers.Layer``.
        """
        super().__init__(**kwargs)
        self.styles = styles

    def build(self, shape: Sequence[int | None]) -> None:
        """Makes a scale of 1 and an offset of 0 for every style and channel."""
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
          blend: Weights of the styles, ``[N, styles]``.

        Returns:
          Features of the same shape.
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

    def _blended(self, blend: tf.Tensor, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and offset of each picture, ``[batch, C]`` float32."""
        blend = tf.broadcast_to(tf.cast(blend, tf.float32), [batch, self.styles])
        return tf.matmul(blend, self.scale), tf.matmul(blend, self.offset)

    @staticmethod
    def moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of each channel of each picture, ``[N, 1, 1, C]``."""
        wide = tf.cast(x, tf.float32)  # bfloat16 cannot add up a picture
        mean = tf.reduce_mean(wide, [1, 2], keepdims=True)
        squares = tf.math.squared_difference(wide, mean)
        return mean, tf.reduce_mean(squares, [1, 2], keepdims=True)

    def normalized(
        self, x: tf.Tensor, blend: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
    ) -> tf.Tensor:
        """Normalises features by a mean and a variance, such as a whole picture's."""
        scale, offset = self._blended(blend, tf.shape(x)[0])
        factor = scale[:, None, None] * tf.math.rsqrt(variance + self.EPSILON)
        shift = offset[:, None, None] - mean * factor
        return x * tf.cast(factor, x.dtype) + tf.cast(shift, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """What ``.keras`` files keep."""
        return {**super().get_config(), "styles": self.styles}


@keras.saving.register_keras_serializable("tfstyle")
class StyleNet(keras.Model):
    """A network that gives pictures the styles that it was trained on, in one pass.

    Example:
      >>> network = load_network("bundled")
      >>> stylized = network(images, network.blend("starry_night:0.7,the_scream:0.3"))

    Attributes:
      style_names: Names of the styles, in the order of a blend's weights.
      width: Channels of the first convolution.
      blocks: Number of residual blocks.
    """

    def __init__(
        self,
        style_names: Sequence[str],
        width: int = 32,
        blocks: int = 5,
        **kwargs: Any,
    ):
        """Builds the network with random weights.

        Args:
          style_names: A name for each style.
          width: Channels of the first convolution, doubled at each halving of the
            size; 32 in the paper.
          blocks: Residual blocks; 5 in the paper.
          **kwargs: Arguments of ``keras.Model``; ``dtype`` is its policy.
        """
        super().__init__(**kwargs)
        self.style_names = list(style_names)
        self.width, self.blocks = width, blocks
        # Size of the kernel, stride, channels.
        down = [(9, 1, width), (3, 2, 2 * width), (3, 2, 4 * width)]
        residual = [(3, 1, 4 * width)] * (2 * blocks)
        up = [(3, 1, 2 * width), (3, 1, width)]
        self.convolutions, self.norms, channels = [], [], 3
        for i, (size, stride, filters) in enumerate([*down, *residual, *up]):
            # A bias would be taken off again with the mean.
            convolution = keras.layers.Conv2D(
                filters,
                size,
                stride,
                use_bias=False,
                dtype=self.dtype_policy,
                name=f"convolution_{i}",
            )
            norm = ConditionalInstanceNormalization(
                len(self.style_names), dtype=self.dtype_policy, name=f"norm_{i}"
            )
            convolution.build([None, None, None, channels])
            norm.build([None, None, None, filters])
            self.convolutions.append(convolution)
            self.norms.append(norm)
            channels = filters
        # Pictures are mid-grey at first: a sigmoid that is saturated learns nothing.
        self.last = keras.layers.Conv2D(
            3,
            9,
            kernel_initializer=keras.initializers.RandomNormal(stddev=1e-3),
            dtype=self.dtype_policy,
            name="last",
        )
        self.last.build([None, None, None, channels])
        self.built = True

    def build(self, shape: Any = None) -> None:
        """Everything is built at once, whatever the pictures' size."""

    def call(self, images: tf.Tensor, blend: tf.Tensor | None = None) -> tf.Tensor:
        """Stylizes pictures.

        Args:
          images: Float tensor ``[N, H, W, 3]``, RGB in [0, 1], of any height and width
            from 6 pixels.
          blend: Weights of the styles, ``[N, styles]`` or ``[1, styles]``, which
            should add up to 1; None for the first style.

        Returns:
          Float32 tensor of the same shape, RGB in [0, 1].
        """
        if blend is None:
            blend = tf.one_hot([0], len(self.style_names))
        return self.run(images, lambda i, x: self.norms[i](x, blend))

    def run(self, images: tf.Tensor, normalize: Normalize) -> tf.Tensor:
        """``call`` with another normalisation than by the pictures' own statistics.

        Args:
          images: Same as in ``call``.
          normalize: ``normalize(i, x)`` takes the place of the i-th normalisation.

        Returns:
          Same as ``call``.
        """
        stages = iter(range(len(self.convolutions)))

        def stage(x: tf.Tensor, activation: Callable = tf.nn.relu) -> tf.Tensor:
            i = next(stages)
            border = self.convolutions[i].kernel_size[0] // 2
            return activation(normalize(i, self.convolutions[i](_mirrored(x, border))))

        x, sizes = tf.cast(images, self.compute_dtype), []
        for stride in (1, 2, 2):
            if stride > 1:
                sizes.append(tf.shape(x)[1:3])
            x = stage(x)
        for _ in range(self.blocks):
            x += stage(stage(x), activation=tf.identity)
        for i in stages:
            x = tf.nn.relu(normalize(i, self._enlarged(x, i, sizes.pop())))
        return tf.sigmoid(tf.cast(self._to_rgb(x), tf.float32))

    def _enlarged(self, x: tf.Tensor, i: int, size: tf.Tensor) -> tf.Tensor:
        """The i-th convolution of features twice as large, each taken four times.

        Where values repeat, the nine weights of a kernel meet but four values, so four
        kernels of two by two on the small features give the same numbers.
        """
        kernel = tf.cast(self.convolutions[i].kernel, x.dtype)
        quarters = [part for rows in _halves(kernel, 0) for part in _halves(rows, 1)]
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        x = tf.nn.conv2d(x, tf.concat(quarters, -1), 1, "VALID")
        return tf.nn.depth_to_space(x, 2)[:, 1 : size[0] + 1, 1 : size[1] + 1]

    def _to_rgb(self, x: tf.Tensor) -> tf.Tensor:
        """The last convolution, the same numbers four pixels at a time.

        Three channels would leave most of a processor's vector idle: twelve, those of
        two by two pixels, take a third of the time.
        """
        kernel, size = tf.cast(self.last.kernel, x.dtype), tf.shape(x)[1:3]
        shifted = [
            tf.pad(kernel, [[i, 1 - i], [j, 1 - j], [0, 0], [0, 0]])
            for i in (0, 1)
            for j in (0, 1)
        ]
        x = _mirrored(x, 4, more=1)  # where the size is odd, the last pixels need it
        x = tf.nn.conv2d(x, tf.concat(shifted, -1), 2, "VALID")
        x = tf.nn.depth_to_space(x, 2)[:, : size[0], : size[1]]
        return x + tf.cast(self.last.bias, x.dtype)

    @property
    def field(self) -> Field:
        """How far the network sees around a pixel, in multiples of its stride."""
        # Two borders of 4; 1, 2, 2 and 1 of the convolutions beside the blocks; up to 7
        # where an enlargement rounds.
        reach = 17 + 8 * self.blocks
        return Field(stride=4, before=reach, after=reach)

    def stride(self, stage: int) -> int:
        """The stride of the features that the i-th normalisation takes."""
        return (1, 2, *[4] * (1 + 2 * self.blocks), 2, 1)[stage]

    @property
    def bytes_per_pixel(self) -> float:
        """What a pass takes at most, per pixel of the picture."""
        # Two or three tensors of the first convolution's shape are held at a time;
        # measured with TensorFlow 2.21 on a CPU.
        return 2.75 * self.width * tf.as_dtype(self.compute_dtype).size

    def blend(self, text: str | Mapping[str, float] | None = None) -> tf.Tensor:
        """The weights of styles.

        Args:
          text: A name, or ``name:weight,...``, or a mapping; the weights are divided by
            their sum. None for the first style.

        Returns:
          Weights ``[1, styles]``, float32, that add up to 1.

        Raises:
          UsageError: If a style does not exist, or a weight is not above 0.
        """
        parts = self.style_names[0] if text is None else text
        weights = parts if isinstance(parts, Mapping) else parse_blend(parts)
        blend = np.zeros([1, len(self.style_names)], "float32")
        for name, weight in weights.items():
            if not 0 < weight < np.inf:
                raise UsageError(f"style {name}:{weight}: give a weight above 0")
            blend[0, self._index(name)] += weight
        return tf.constant(blend / blend.sum())

    def _index(self, name: str) -> int:
        if name not in self.style_names:
            nearest = difflib.get_close_matches(name, self.style_names, 1, 0.4)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise UsageError(
                f"there is no style {name!r}; {hint}the styles are "
                f"{', '.join(self.style_names)}"
            )
        return self.style_names.index(name)

    def get_config(self) -> dict[str, Any]:
        """What ``.keras`` files keep."""
        return {
            **super().get_config(),
            "style_names": self.style_names,
            "width": self.width,
            "blocks": self.blocks,
        }


def _mirrored(x: tf.Tensor, border: int, more: int = 0) -> tf.Tensor:
    """With a border, which has ``more`` rows below and columns to the right."""
    widths = [border, border + more]
    return tf.pad(x, [[0, 0], widths, widths, [0, 0]], "REFLECT")


def _halves(kernel: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor]:
    """What a kernel of three does to repeated values at odd and at even places."""
    first, middle, last = tf.split(kernel, 3, axis)
    odd, even = [first + middle, last], [first, middle + last]
    return tf.concat(odd, axis), tf.concat(even, axis)


def parse_blend(text: str) -> dict[str, float]:
    """``a:0.7,b:0.3`` as a mapping; a name without weight has weight 1.

    Raises:
      UsageError: If there is no name, or a weight is not a number.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = (text.strip() for text in part.partition(":"))
        try:
            weights[name] = weights.get(name, 0.0) + float(weight or 1)
        except ValueError:
            raise UsageError(
                f"style {part!r}: {weight!r} is not a number; write name:weight,..."
            ) from None
    if not weights:
        raise UsageError(f"style {text!r}: give the name of a style")
    return weights


def load_network(model: str | os.PathLike[str] = BUNDLED) -> StyleNet:
    """Reads a trained network.

    Keras does not deserialise the file, because it would build whatever a file says:
    only names, two sizes and numbers are taken from it.

    Args:
      model: ``bundled`` for the styles that come with tfstyle, a ``.keras`` file, or
        the folder of a training run.

    Returns:
      The network, in float32.

    Raises:
      UsageError: If the file does not exist, or is not such a network.
    """
    path = BUNDLED_FILE if str(model) == BUNDLED else pathlib.Path(model)
    if path.is_dir():
        path /= "model.keras"
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; give 'bundled', a .keras file that tfstyle train "
            "wrote, or the folder of its run"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            settings = json.loads(_member(archive, "config.json", 10**6))
            if settings["registered_name"] != "tfstyle>StyleNet":
                raise UsageError(
                    f"{path}: a Keras model, but not one that tfstyle train wrote; "
                    "give its model.keras"
                )
            weights = _member(archive, "model.weights.h5", 2**30)
        network = _empty_network(settings["config"], len(weights))
        _fill(network, weights, str(path))
    except UsageError:
        raise
    except Exception as error:  # Keras raises whatever comes along
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path}: cannot be read as a .keras file of tfstyle train ({reason})"
        ) from error
    return network


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    if archive.getinfo(name).file_size > most_bytes:
        raise ValueError(f"{name} unpacks to more than {most_bytes} bytes")
    return archive.read(name)


def _empty_network(config: Mapping[str, Any], size: int) -> StyleNet:
    """A network as a file describes it.

    Args:
      config: What the file says; anybody may have written it.
      size: Bytes of its weights.

    Raises:
      ValueError: If it does not describe a network, or describes a larger one.
    """
    names, width, blocks = (config[key] for key in ("style_names", "width", "blocks"))
    if not (
        isinstance(names, list)
        and names
        and all(isinstance(name, str) and name.isprintable() for name in names)
        and type(width) is type(blocks) is int
        and width > 0
        and 0 <= blocks <= _MOST_BLOCKS
    ):
        raise ValueError("no list of styles, or no width and blocks")
    # Not all that it has: the third convolution, the blocks and a normalisation.
    least = (2 + 8 * blocks) * (6 * width) ** 2 + 2 * len(names) * width
    if 4 * least > size:
        raise ValueError("fewer weights than the network has")
    return StyleNet(names, width, blocks)


def _fill(network: StyleNet, weights: bytes, source: str) -> None:
    """Gives a network the weights of an HDF5 file, which Keras reads from disk only."""
    check_heaps(weights)
    with h5py.File(io.BytesIO(weights), "r") as file:
        check_hdf5(file, source, len(weights))
    with tempfile.TemporaryDirectory(prefix="tfstyle-") as folder:
        file_name = pathlib.Path(folder) / "model.weights.h5"
        file_name.write_bytes(weights)
        network.load_weights(file_name)
    if not all(np.isfinite(part).all() for part in network.get_weights()):
        raise ValueError("weights that are NaN or infinite")


def save_network(network: StyleNet, path: str | os.PathLike[str]) -> None:
    """Writes a network as a ``.keras`` file, in float32, over one that exists.

    Args:
      network: The network.
      path: The file.

    Raises:
      TfstyleError: If the file cannot be written.
    """
    plain = StyleNet(network.style_names, network.width, network.blocks)
    plain.set_weights(network.get_weights())
    with replaced(path) as temporary:
        plain.save(temporary)
