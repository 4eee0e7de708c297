"""What is optimised: a picture with a margin, in RGB or in a published space."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfstyle.backbones.base import TORCH_MEAN_RGB, TORCH_STD_RGB
from tfstyle.raw_tensorflow import read_only_view

_CHROMA = 2.0
_GRAIN = 0.03
"""How far waves of 2 pixels move, in the units of long waves."""


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Turns pictures into the values that are optimised, and back.

    Attributes:
      margin: Pixels of mirrored border around the picture.
      space: ``rgb``, or ``normalized`` by ImageNet's mean and deviation.
    """

    margin: int
    space: str

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the values of a picture."""
        return picture[0] + 2 * self.margin, picture[1] + 2 * self.margin

    def values(self, picture: np.ndarray) -> np.ndarray:
        """The values of a picture.

        Args:
          picture: ``[N, H, W, 3]`` in [0, 1].

        Returns:
          Float32 ``[N, H + 2·margin, W + 2·margin, 3]``.
        """
        framed = self.framed(picture)
        if self.space == "rgb":
            return framed
        return ((framed - TORCH_MEAN_RGB) / TORCH_STD_RGB).astype("float32")

    def framed(self, picture: np.ndarray) -> np.ndarray:
        """A picture, or anything of its shape, with its mirror image around it.

        Args:
          picture: ``[N, H, W, C]``.

        Returns:
          The same with the margin; the array itself if there is none.
        """
        if not self.margin:
            return picture
        sides = [(self.margin, self.margin)] * 2
        return np.pad(picture, [(0, 0), *sides, (0, 0)], mode="reflect")

    def rgb(self, values: tf.Tensor) -> tf.Tensor:
        """Values as RGB, in the graph; in [0, 1] where the values were in range."""
        if self.space == "rgb":
            return values
        return values * tf.constant(TORCH_STD_RGB) + tf.constant(TORCH_MEAN_RGB)

    def picture(self, values: tf.Tensor) -> np.ndarray:
        """The picture of values.

        Args:
          values: ``[N, H + 2·margin, W + 2·margin, 3]``.

        Returns:
          ``[N, H, W, 3]`` in [0, 1], read-only.
        """
        whole = read_only_view(tf.clip_by_value(self.rgb(values), 0.0, 1.0))
        height, width = whole.shape[1:3]
        margin = self.margin
        return whole[:, margin : height - margin, margin : width - margin]


def favor_chroma(gradient: tf.Tensor) -> tf.Tensor:
    """A preconditioner by which differences between channels move further.

    The loss curves less along them than along grey, by a tenth and less in waves of 4
    to 15 pixels on VGG-19. L-BFGS finds out the rest.

    Args:
      gradient: Gradient by pictures, ``[..., 3]``.

    Returns:
      The gradient with the differences of channels from their mean enlarged.
    """
    grey = tf.reduce_mean(gradient, -1, keepdims=True)
    return grey + _CHROMA * (gradient - grey)


def favor_strokes(gradient: tf.Tensor) -> tf.Tensor:
    """A preconditioner by which colours and strokes move further than grain.

    In waves of 2 and 3 pixels, the first steps would find a regular weave that many
    layers hardly see, and too few steps come after them to take it out again. A run
    that begins with noise needs ``favor_chroma``: with this, the noise would stay.

    Args:
      gradient: Gradient by pictures, ``[N, H, W, 3]``.

    Returns:
      ``favor_chroma`` of the gradient with most of its finest waves left out: filtered
      by 1 4 6 4 1 along both axes, with mirrored borders. Pixels whose gradient is
      exactly 0 are held, and do not move with their neighbours.
    """
    colored = favor_chroma(gradient)
    smooth = tf.pad(colored, [[0, 0], [2, 2], [2, 2], [0, 0]], "SYMMETRIC")
    for _ in range(4):
        smooth = tf.nn.avg_pool2d(smooth, 2, 1, "VALID")
    held = tf.reduce_all(gradient == 0, -1, keepdims=True)
    return tf.where(held, 0.0, smooth + _GRAIN * (colored - smooth))
