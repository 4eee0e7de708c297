"""A feed-forward network for any style: it takes a photograph and a painting.

A frozen encoder, the first layers of a VGG-19 of few channels, gives features of both.
At three depths, the photograph's features are given the painting's mean and covariance
(whitening and colouring, Li et al. 2017, "Universal Style Transfer via Feature
Transforms"), and a slim decoder draws a picture from the three. How the decoder draws
depends on the painting too: a small network turns its statistics into a factor and an
offset for each channel of the decoder, like the modulator of MicroAST (Wang et al.
2023).

A painting is known by its code only: means, square roots of covariances, factors and
offsets. A code is computed once and serves every photograph, and the mean of codes is
a style between styles.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfstyle.backbones import vgg
from tfstyle.backbones.base import preprocess
from tfstyle.errors import UsageError
from tfstyle.images import load_image, resize_image
from tfstyle.images.masks import assign_styles, read_mask
from tfstyle.networks import any_layers as layers
from tfstyle.networks.any_apply import STRIDE, AnyPasses
from tfstyle.networks.apply import Painter, apply_network, stylized
from tfstyle.networks.blends import MOST_SCALE
from tfstyle.networks.network_files import write_preset
from tfstyle.stylizer.pictures import scale_of_each, weighted_sources

TAPS = {"block2_conv1": 48, "block3_conv1": 96, "block4_conv1": 128}
"""The layers whose features get the painting's statistics, with their channels."""

STYLE_SIZE = 256
"""Longest side in pixels at which a painting is looked at."""

_DESCRIBED = {"block1_conv1": 16, **TAPS}
_ENCODER = dict(
    zip(
        vgg.convolutions((2, 2, 4, 1)),
        (16, 32, 48, 48, 96, 64, 64, 64, 128),
        strict=True,
    )
)
_DEEP, _MIDDLE, _FINE, _LAST, _HIDDEN = 96, 64, 32, 16, 128
# Name: size of the kernel, channels in and out.
_DECODER = {
    "deep": (3, TAPS["block4_conv1"], _DEEP),
    **{f"deep_{i}": (3, _DEEP, _DEEP) for i in range(4)},
    "deep_to_middle": (1, _DEEP, _MIDDLE),
    "middle": (1, TAPS["block3_conv1"], _MIDDLE),
    **{f"middle_{i}": (3, _MIDDLE, _MIDDLE) for i in range(4)},
    "middle_to_fine": (3, _MIDDLE, _FINE),
    "fine": (1, TAPS["block2_conv1"], _FINE),
    **{f"fine_{i}": (3, _FINE, _FINE) for i in range(2)},
    "fine_to_last": (3, _FINE, _LAST),
    "rgb": (5, _LAST, 3),
}
_PLAIN = ("deep_to_middle", "middle", "fine", "rgb")  # not modulated
_MODULATED = {name: out for name, (_, _, out) in _DECODER.items() if name not in _PLAIN}

Code = Mapping[str, Any]
"""What the network knows of a painting: ``mean_LAYER`` ``[N, C]``, ``root_LAYER``
``[N, C, C]``, and ``modulation`` ``[N, K]``."""

Moments = Mapping[str, tuple[Any, Any]]
"""Mean ``[N, C]`` and covariance ``[N, C, C]`` by layer."""


@keras.saving.register_keras_serializable("tfstyle")
class AnyStyleNet(keras.Model):
    """Gives a picture the style of any other, in one pass and without training.

    Example:
      >>> network = tfstyle.StyleNet.from_preset("any")
      >>> image = network.stylize("photo.jpg", "painting.jpg", strength=0.8)
    """

    def __init__(self, *, seed: int | None = None, **kwargs: Any):
        """Builds the network, with random weights and an encoder of zeros.

        A training takes the encoder of the network that comes with tfstyle, see
        ``take_encoder``.

        Args:
          seed: Seed of the random weights; None for Keras's own.
          **kwargs: Arguments of ``keras.Model``; ``dtype`` is its policy.
        """
        super().__init__(autocast=False, **kwargs)
        seeds = keras.random.SeedGenerator(seed)
        self.encoder, channels = {}, 3
        for name, filters in _ENCODER.items():
            layer = self._convolution(name, 3, channels, filters, "zeros")
            layer.trainable = False
            self.encoder[name], channels = layer, filters
        self.decoder = {
            name: self._convolution(name, *shape, _initializer(name, seeds))
            for name, shape in _DECODER.items()
        }
        self.hidden = keras.layers.Dense(
            _HIDDEN,
            "relu",
            kernel_initializer=keras.initializers.GlorotUniform(seeds),
            dtype="float32",
            name="hidden",
        )
        self.hidden.build((None, 2 * sum(_DESCRIBED.values())))
        self.modulation = keras.layers.Dense(
            2 * sum(_MODULATED.values()),
            kernel_initializer="zeros",
            dtype="float32",
            name="modulation",
        )
        self.modulation.build((None, _HIDDEN))
        self.built = True

    def _convolution(
        self, name: str, size: int, channels: int, filters: int, initializer: Any
    ) -> keras.layers.Conv2D:
        layer = keras.layers.Conv2D(
            filters,
            size,
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None, None, channels))
        return layer

    def build(self, shape: Any = None) -> None:
        """Does nothing: the weights exist from the beginning, for every size."""

    def take_encoder(self, other: AnyStyleNet) -> None:
        """Copies the frozen layers of another network."""
        for name, layer in self.encoder.items():
            layer.set_weights(other.encoder[name].get_weights())

    def features(self, images: Any) -> dict[str, Any]:
        """Features of the layers that the network works with.

        Args:
          images: ``[N, H, W, 3]``, RGB in [0, 1].

        Returns:
          ``[N, h, w, C]`` by layer.
        """
        x = ops.cast(preprocess(images, "torch"), self.compute_dtype)
        found = {}
        for name, layer in self.encoder.items():
            if name.endswith("conv1") and name != "block1_conv1":
                x = ops.max_pool(x, 2, 2)
            x = ops.relu(layer(layers.mirrored(x, 1)))
            if name in _DESCRIBED:
                found[name] = x
        return found

    def code(self, styles: Any) -> dict[str, Any]:
        """What the network knows of paintings.

        Args:
          styles: ``[N, H, W, 3]``, RGB in [0, 1], of any size.

        Returns:
          The code of each, see ``Code``.
        """
        features = self.features(_continued(styles))
        code, described = {}, []
        for name in _DESCRIBED:
            mean, covariance = layers.moments(features[name])
            variance = layers.diagonal(covariance)
            energy = ops.mean(variance + mean * mean, -1, keepdims=True) + 1e-6
            described += [
                mean / ops.sqrt(energy),
                ops.log(variance / energy + 1e-3) / 3,
            ]
            if name in TAPS:
                code[f"mean_{name}"] = mean
                code[f"root_{name}"] = layers.roots(covariance)[0]
        hidden = self.hidden(ops.concatenate(described, -1))
        return {**code, "modulation": self.modulation(hidden)}

    def call(self, images: Any, code: Code) -> Any:
        """Stylizes pictures.

        Args:
          images: ``[N, H, W, 3]``, RGB in [0, 1], of any size.
          code: From ``code``, of N paintings or of one.

        Returns:
          Float32, of the same shape, RGB in [0, 1].
        """
        height, width = ops.shape(images)[1:3]
        features = self.features(_continued(images))
        found = {name: layers.moments(features[name]) for name in TAPS}
        return self.decode(features, found, code)[:, :height, :width]

    def decode(self, features: Mapping[str, Any], moments: Moments, code: Code) -> Any:
        """Draws pictures from features.

        Args:
          features: Of pictures, or of a tile of one, from ``features``.
          moments: Of the whole pictures, by layer of ``TAPS``.
          code: From ``code``.

        Returns:
          ``[N, H, W, 3]`` float32 in [0, 1].
        """
        x = {
            name: _transferred(features[name], moments[name], code, name)
            for name in TAPS
        }
        modulation, at = {}, 0
        both = ops.cast(code["modulation"], self.compute_dtype)[:, None, None]
        for name, channels in _MODULATED.items():
            modulation[name] = (
                1 + both[..., at : at + channels],
                both[..., at + channels : at + 2 * channels],
            )
            at += 2 * channels

        def convolved(name: str, x: Any, enlarge: bool = False) -> Any:
            layer = self.decoder[name]
            if enlarge:
                x = layers.enlarged_convolution(
                    x, ops.cast(layer.kernel, x.dtype), ops.cast(layer.bias, x.dtype)
                )
            else:
                x = layer(layers.mirrored(x, layer.kernel_size[0] // 2))
            factor, offset = modulation.get(name, (1, 0))
            return x * factor + offset

        def residual(prefix: str, blocks: int, x: Any) -> Any:
            for i in range(0, 2 * blocks, 2):
                inner = ops.relu(convolved(f"{prefix}_{i}", x))
                x += convolved(f"{prefix}_{i + 1}", inner)
            return x

        y = ops.relu(convolved("deep", x["block4_conv1"]))
        y = convolved("deep_to_middle", residual("deep", 2, y))
        y = layers.enlarged(y) + convolved("middle", x["block3_conv1"])
        y = convolved("middle_to_fine", residual("middle", 2, y), enlarge=True)
        y = ops.relu(y + convolved("fine", x["block2_conv1"]))
        y = ops.relu(convolved("fine_to_last", residual("fine", 1, y), enlarge=True))
        return ops.sigmoid(ops.cast(convolved("rgb", y), "float32"))

    def save_to_preset(self, folder: str | os.PathLike[str]) -> None:
        """Writes the network, in float32, as a folder that ``from_preset`` reads.

        Args:
          folder: Same as in ``StyleNet.save_to_preset``.

        Raises:
          TfstyleError: If it cannot be written; an earlier preset stays as it was.
        """
        write_preset(self.plain(), folder)

    def stylize(
        self,
        content: Any,
        style: Any,
        *,
        size: int | None = None,
        color: str = "style",
        strength: float = 1.0,
        style_scale: float | Sequence[float] = 1.0,
        content_mask: Any = None,
        protect: Any = None,
        max_memory: float = 0.0,
    ) -> np.ndarray:
        """Gives a picture the style of another.

        Args:
          content: Path, ``PIL.Image``, array or tensor, see ``load_image``.
          style: The same. Several are blended: a list, with weights a list of pairs
            ``(picture, weight)`` or a mapping.
          size: Same as in ``StyleNet.stylize``.
          color: Same as in ``StyleNet.stylize``.
          strength: From 0, the photograph itself, to 1.
          style_scale: Scale of the strokes; 2 makes them coarser. One number for all
            styles, or one for each.
          content_mask: A picture that divides the content into regions, each of which
            takes one of the styles, see ``tfstyle.stylize``.
          protect: Same as in ``StyleNet.stylize``.
          max_memory: Same as in ``StyleNet.stylize``.

        Returns:
          The picture, ``[H, W, 3]`` float32, RGB in [0, 1].

        Raises:
          UsageError: If there is no style, or an argument has a value that it cannot
            have.
          ImageError: If a file is not a picture, or is damaged.
        """
        paint = self.painter(
            style,
            strength=strength,
            style_scale=style_scale,
            content_mask=content_mask,
            max_memory=max_memory,
        )
        return stylized(paint, content, size=size, color=color, protect=protect)

    def painter(
        self,
        style: Any,
        *,
        strength: float = 1.0,
        style_scale: float | Sequence[float] = 1.0,
        content_mask: Any = None,
        max_memory: float = 0.0,
    ) -> Painter:
        """A function that gives pictures a style, whose code is computed once.

        Args:
          style: Same as in ``stylize``.
          strength: Same as in ``stylize``.
          style_scale: Same as in ``stylize``.
          content_mask: Same as in ``stylize``.
          max_memory: Same as in ``stylize``.

        Returns:
          A function of a picture ``[1, H, W, 3]``, float32 in [0, 1], that returns one
          of the same shape.

        Raises:
          UsageError: Same as in ``stylize``.
          ImageError: Same as in ``stylize``.
        """
        if not 0 <= strength <= 1:
            raise UsageError(f"strength={strength}: give a number from 0 to 1")
        styles = weighted_sources(style)
        weights = [weight for _, weight in styles]
        if not styles or min(weights) < 0 or not sum(weights) > 0:
            raise UsageError(
                "style: give a picture, or several with weights of at least 0, not "
                "all 0"
            )
        scales = _scales(style_scale, len(styles))
        codes = [
            self._code_of(picture, scale)
            for (picture, _), scale in zip(styles, scales, strict=True)
        ]

        def paint(picture: np.ndarray) -> np.ndarray:
            size, regions = picture.shape[1:3], None
            if content_mask is not None:
                regions = read_mask("content_mask", content_mask, size)
            shares, labels = assign_styles(weights, regions, None)
            own = self._own_code(picture) if strength < 1 else None
            result = np.zeros_like(picture)
            for share, label in zip(shares.T, labels, strict=True):
                code = mixed(codes, share)
                if own is not None:
                    code = mixed([code, own], (strength, 1 - strength))
                part = apply_network(self, picture, code, max_memory)
                result += part if regions is None else part * regions[label]
            if own is None:
                return result
            # What drawing loses of the photograph is added in the same measure.
            lost = picture - apply_network(self, picture, own, max_memory)
            return np.clip(result + (1 - strength) * lost, 0, 1)

        return paint

    def _code_of(self, picture: Any, scale: float) -> dict[str, Any]:
        """The code of a picture that is still to be read."""
        size = max(1, round(STYLE_SIZE * scale))
        return self.passes.code(
            load_image(picture, size, allow_upscale=True, name="style")
        )

    def _own_code(self, picture: np.ndarray) -> dict[str, Any]:
        """The code of a photograph, at its own scale where memory allows."""
        size = np.array(picture.shape[1:3])
        scale = min(1.0, math.sqrt(self.passes.most_pixels / size.prod()))
        if scale < 1:
            height, width = np.maximum(1, scale * size).astype(int)
            picture = resize_image(picture, (int(height), int(width)))
        return self.passes.code(picture)

    @functools.cached_property
    def passes(self) -> AnyPasses:
        """What applies the network to pictures of any size."""
        return AnyPasses(self)

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__`` that files keep: none."""
        return super().get_config()

    def plain(self) -> AnyStyleNet:
        """The same network in float32, as files hold it."""
        plain = AnyStyleNet(seed=0)
        plain.set_weights(self.get_weights())
        return plain


def _scales(given: float | Sequence[float], styles: int) -> tuple[float, ...]:
    """The scale of each style."""
    scales = given if isinstance(given, Sequence) else [given]
    scales = scale_of_each(scales, styles)
    if not all(0 < scale <= MOST_SCALE for scale in scales):
        raise UsageError(
            f"style_scale={given}: give numbers above 0, at most {MOST_SCALE}"
        )
    return scales


def _continued(images: Any) -> Any:
    """Pictures continued by their mirror images to whole positions of each layer."""
    height, width = ops.shape(images)[1:3]
    images = ops.take(images, layers.mirrored_indices(height, STRIDE), 1)
    return ops.take(images, layers.mirrored_indices(width, STRIDE), 2)


def _transferred(features: Any, moments: tuple[Any, Any], code: Code, name: str) -> Any:
    """Features with the mean and, nearly, the covariance of a painting's."""
    (mean, covariance), dtype = moments, features.dtype
    change = ops.matmul(layers.roots(covariance)[1], code[f"root_{name}"])
    offset = code[f"mean_{name}"][:, None] - ops.matmul(mean[:, None], change)
    batch, height, width = ops.shape(features)[:3]
    channels = features.shape[-1]
    rows = ops.reshape(features, (batch, height * width, channels))
    rows = ops.matmul(rows, ops.cast(change, dtype)) + ops.cast(offset, dtype)
    return ops.reshape(rows, (batch, height, width, channels))


def _initializer(name: str, seeds: Any) -> Any:
    """Blocks begin near the identity, and pictures near grey."""
    if name == "rgb":
        return keras.initializers.VarianceScaling(0.1, seed=seeds)
    if name[-1] in "13":
        return keras.initializers.VarianceScaling(0.2, seed=seeds)
    return keras.initializers.HeNormal(seeds)


def mixed(codes: Sequence[Code], shares: Sequence[float]) -> dict[str, Any]:
    """The weighted mean of codes, a style between theirs."""
    return {
        name: sum(share * code[name] for share, code in zip(shares, codes, strict=True))
        for name in codes[0]
    }
