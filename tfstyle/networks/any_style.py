"""A feed-forward network for any style: it takes a photograph and a painting.

MicroAST (Wang et al. 2023, "MicroAST: Towards Super-Fast Ultra-Resolution Arbitrary
Style Transfer"). Two small encoders give features of the photograph and of the painting
at a quarter of the size. Twice, the photograph's features are given the painting's mean
and deviation (Huang and Belongie 2017, equation 8), and go through a residual block
whose convolutions are scaled by numbers that depend on the painting. A slim decoder
draws the picture.

A painting is known by its code only: means, deviations and scales, 512 numbers. A code
is computed once and serves every photograph, and the mean of codes is a style between
styles.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfstyle.errors import UsageError
from tfstyle.images import resize_image
from tfstyle.images.masks import assign_styles, read_mask
from tfstyle.images.tiles import Field, Grid
from tfstyle.networks.apply import (
    MomentsOf,
    Painter,
    Passes,
    apply_network,
    stylized,
)
from tfstyle.networks.blends import MOST_SCALE
from tfstyle.networks.network_files import write_preset
from tfstyle.networks.operations import (
    convolution_to_rgb,
    enlarged_convolution,
    mirrored,
    mirrored_indices,
    moments,
)
from tfstyle.stylizer.pictures import at_scale, scale_of_each, weighted_sources

STYLE_SIZE = 384
"""Longest side in pixels at which a painting is looked at; smaller ones stay so."""

STRIDE = 4
"""Pixels between the positions of the deepest features."""

_CHANNELS = 64
_DEPTHS = ("shallow", "deep")
_EPSILON = 1e-5  # added to variances

# Name: size of the kernel, stride, channels in and out.
_ENCODER = {
    "first": (9, 1, 3, 16),
    "half": (3, 2, 16, 32),
    "half_mixed": (1, 1, 32, 32),
    "quarter": (3, 2, 32, _CHANNELS),
    "quarter_mixed": (1, 1, _CHANNELS, _CHANNELS),
}
_BLOCKS = {
    f"{depth}_{i}": (3, 1, _CHANNELS, _CHANNELS) for depth in _DEPTHS for i in (1, 2)
}
_SCALES = {
    f"{kind}_{depth}": (3, 1, _CHANNELS, _CHANNELS)
    for kind in ("factor", "bypass")
    for depth in _DEPTHS
}
_DECODER = {
    "half": (3, 1, _CHANNELS, 32),
    "half_mixed": (1, 1, 32, 32),
    "whole": (3, 1, 32, 16),
    "whole_mixed": (1, 1, 16, 16),
    "rgb": (9, 1, 16, 3),
}
LAYERS = {
    f"{part}_{name}": shape
    for part, shapes in {
        "content": {**_ENCODER, **_BLOCKS},
        "style": {**_ENCODER, **_BLOCKS, **_SCALES},
        "decoder": {**_BLOCKS, **_DECODER},
    }.items()
    for name, shape in shapes.items()
}
"""The convolutions: size of the kernel, stride, channels in and out."""

Code = Mapping[str, Any]
"""What the network knows of a painting, ``[N, 64]`` each: ``mean_DEPTH``,
``deviation_DEPTH``, ``factor_DEPTH`` and ``bypass_DEPTH`` at two depths."""


@keras.saving.register_keras_serializable("tfstyle")
class AnyStyleNet(keras.Model):
    """Gives a picture the style of any other, in one pass and without training.

    Example:
      >>> network = tfstyle.StyleNet.from_preset("any")
      >>> image = network.stylize("photo.jpg", "painting.jpg", strength=0.8)
    """

    def __init__(self, *, seed: int | None = None, **kwargs: Any):
        """Builds the network with random weights.

        Args:
          seed: Seed of the random weights; None for Keras's own.
          **kwargs: Arguments of ``keras.Model``; ``dtype`` is its policy.
        """
        super().__init__(autocast=False, **kwargs)
        seeds = keras.random.SeedGenerator(seed)
        self.convolutions = {}
        for name, (size, stride, channels, filters) in LAYERS.items():
            layer = keras.layers.Conv2D(
                filters,
                size,
                stride,
                kernel_initializer=keras.initializers.HeNormal(seeds),
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build((None, None, None, channels))
            self.convolutions[name] = layer
        self.built = True

    def build(self, shape: Any = None) -> None:
        """Does nothing: the weights exist from the beginning, for every size."""

    def code(self, styles: Any) -> dict[str, Any]:
        """What the network knows of paintings.

        Args:
          styles: ``[N, H, W, 3]``, RGB in [0, 1], of any size.

        Returns:
          The code of each, see ``Code``.
        """
        code = {}
        for depth, x in self._encoded("style", styles).items():
            mean, variance = moments(x)
            found = {
                "mean": mean,
                "deviation": ops.sqrt(variance + _EPSILON),
                "factor": moments(self._convolved(f"style_factor_{depth}", x))[0],
                "bypass": moments(self._convolved(f"style_bypass_{depth}", x))[0],
            }
            for name, value in found.items():
                code[f"{name}_{depth}"] = ops.squeeze(value, (1, 2))
        return code

    def call(self, images: Any, code: Code) -> Any:
        """Stylizes pictures.

        Args:
          images: ``[N, H, W, 3]``, RGB in [0, 1], of any size.
          code: From ``code``, of N paintings or of one.

        Returns:
          Float32, of the same shape, RGB in [0, 1].
        """
        return self.with_moments(images, code, lambda i, x: moments(x))

    def with_moments(self, images: Any, code: Code, moments_of: MomentsOf) -> Any:
        """``call`` with other moments of features than each picture's own.

        Args:
          images: Same as in ``call``.
          code: Same as in ``call``.
          moments_of: ``moments_of(i, x)`` gives mean and variance, ``[N, 1, 1, C]``,
            of what the i-th of two transfers takes.

        Returns:
          Same as in ``call``.
        """
        known = {name: value[:, None, None] for name, value in code.items()}
        x = self._encoded("content", images)["deep"]
        for i, depth in enumerate(reversed(_DEPTHS)):
            mean, variance = moments_of(i, x)
            factor = known[f"deviation_{depth}"] / ops.sqrt(variance + _EPSILON)
            offset = known[f"mean_{depth}"] - mean * factor
            x = x * ops.cast(factor, x.dtype) + ops.cast(offset, x.dtype)
            scales = known[f"factor_{depth}"], known[f"bypass_{depth}"]
            x = self._block(f"decoder_{depth}", x, *scales)
        for name in ("decoder_half", "decoder_whole"):
            layer = self.convolutions[name]
            x = enlarged_convolution(x, layer.kernel) + ops.cast(layer.bias, x.dtype)
            x = ops.relu(self._convolved(f"{name}_mixed", ops.relu(x)))
        height, width = ops.shape(images)[1:3]
        layer = self.convolutions["decoder_rgb"]
        x = convolution_to_rgb(x, layer.kernel, layer.bias)[:, :height, :width]
        x = ops.cast(x, "float32")
        # Gradients pass where values are cut, so that a training can bring them back.
        return ops.clip(ops.stop_gradient(x), 0, 1) + (x - ops.stop_gradient(x))

    def _encoded(self, part: str, images: Any) -> dict[str, Any]:
        """Features of pictures by depth, from an encoder."""
        height, width = ops.shape(images)[1:3]
        x = ops.take(images, mirrored_indices(height, STRIDE), 1)
        x = ops.take(x, mirrored_indices(width, STRIDE), 2)
        x = ops.cast(x, self.compute_dtype)
        for name in _ENCODER:
            x = ops.relu(self._convolved(f"{part}_{name}", x))
        found = {}
        for depth in _DEPTHS:
            found[depth] = x = self._block(f"{part}_{depth}", x)
        return found

    def _convolved(self, name: str, x: Any) -> Any:
        layer = self.convolutions[name]
        return layer(mirrored(x, layer.kernel_size[0] // 2))

    def _block(self, name: str, x: Any, factor: Any = 1.0, bypass: Any = 0.0) -> Any:
        """A residual block of convolutions ``factor * convolved(x) + bypass * x``."""
        factor, bypass = ops.cast(factor, x.dtype), ops.cast(bypass, x.dtype)
        inner = ops.relu(factor * self._convolved(f"{name}_1", x) + bypass * x)
        return x + factor * self._convolved(f"{name}_2", inner) + bypass * inner

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
            self.passes.code(at_scale(picture, scale, STYLE_SIZE))
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


class AnyPasses(Passes):
    """What applies an ``AnyStyleNet``; see ``Passes``.

    Attributes:
      code: ``code(picture)``: what the network knows of a painting.
    """

    def __init__(self, network: AnyStyleNet):
        """Traces nothing yet."""
        names = network.code(np.zeros([1, 8, 8, 3], "float32"))
        super().__init__(
            network,
            {name: tf.TensorSpec([1, _CHANNELS]) for name in names},
            # The encoder sees 23 pixels far; at a quarter of the size, the decoder's
            # convolutions see 5, at half of the size 1, and at the whole 4.
            Field(STRIDE, 52, 52),
            strides=(STRIDE, STRIDE),
            # Two features of the first convolution's shape, and borders (measured).
            bytes_per_pixel=40.0 * tf.as_dtype(network.compute_dtype).size,
            # Lets a picture of any size be made in 3 GB.
            most_pixels=6e6,
        )
        picture = tf.TensorSpec([1, None, None, 3])
        self.code = tf.function(
            network.code, input_signature=[picture], autograph=False
        )

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See ``Passes``."""
        height, width = (len(mirrored_indices(side, STRIDE)) for side in size)
        return height, width

    def by_tiles(self, picture: np.ndarray, style: Any, grid: Grid) -> np.ndarray:
        """See ``Passes``."""
        height, width = picture.shape[1:3]
        rows, columns = (
            np.asarray(mirrored_indices(side, STRIDE)) for side in (height, width)
        )
        whole = super().by_tiles(picture[:, rows][:, :, columns], style, grid)
        return whole[:, :height, :width]


def mixed(codes: Sequence[Code], shares: Sequence[float]) -> dict[str, Any]:
    """The weighted mean of codes, a style between theirs."""
    return {
        name: sum(share * code[name] for share, code in zip(shares, codes, strict=True))
        for name in codes[0]
    }
