"""What applies ``AnyStyleNet`` to pictures of any size, whole or by tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfstyle.images.tiles import Field, Grid
from tfstyle.networks.any_layers import mirrored_indices, moments
from tfstyle.networks.apply import assembled, core_features, cropped

if TYPE_CHECKING:
    from tfstyle.networks.any_style import AnyStyleNet, Moments

STRIDES = {"block2_conv1": 2, "block3_conv1": 4, "block4_conv1": 8}
"""Pixels between the positions of each layer that is given a style."""

STRIDE = max(STRIDES.values())

_IMAGE = tf.TensorSpec([1, None, None, 3])


class AnyPasses:
    """See ``NetworkPasses``; each function is traced once.

    Attributes:
      field: See ``NetworkPasses``.
      bytes_per_pixel: See ``NetworkPasses``.
      most_pixels: See ``NetworkPasses``. Tiles take one pass more, and let a picture of
        any size be made in 3 GB.
      least_side: See ``NetworkPasses``.
      code: ``code(picture)``: what the network knows of a painting.
      whole: ``whole(picture, code)``: the network.
    """

    most_pixels = 3.2e6
    least_side = 1

    def __init__(self, network: AnyStyleNet):
        """Traces nothing yet."""
        # The encoder sees 37 pixels far; the decoder's convolutions see 40 at an eighth
        # of the size, 16 at a quarter, 6 at a half and 3 at the whole.
        self.field = Field(STRIDE, 104, 104)
        # At most two features of the first block, with their borders.
        self.bytes_per_pixel = 128.0 * tf.as_dtype(network.compute_dtype).size

        def tile_moments(crop: tf.Tensor, cores: dict[str, tf.Tensor]) -> Moments:
            features, found = network.features(crop), {}
            for name, core in cores.items():
                (top, left), (bottom, right) = (tf.unstack(x) for x in tf.unstack(core))
                found[name] = moments(features[name][:, top:bottom, left:right])
            return found

        def tile(crop: tf.Tensor, code: Any, of_whole: Moments) -> tf.Tensor:
            return network.decode(network.features(crop), of_whole, code)

        def whole(picture: tf.Tensor, code: Any) -> tf.Tensor:
            return network(picture, code)

        self.code = tf.function(network.code, input_signature=[_IMAGE], autograph=False)
        # Heights and widths may differ from call to call.
        self.whole = tf.function(whole, autograph=False, reduce_retracing=True)
        self._tile = tf.function(tile, autograph=False)
        self._tile_moments = tf.function(tile_moments, autograph=False)

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See ``NetworkPasses``."""
        height, width = (len(mirrored_indices(side, STRIDE)) for side in size)
        return height, width

    def by_tiles(self, picture: np.ndarray, code: Any, grid: Grid) -> np.ndarray:
        """See ``NetworkPasses``.

        The moments of the whole picture take a pass over all tiles, the pictures of the
        tiles another one.
        """
        height, width = picture.shape[1:3]
        rows, columns = (
            np.asarray(mirrored_indices(side, STRIDE)) for side in (height, width)
        )
        picture = picture[:, rows][:, :, columns]
        known = self._moments(picture, grid)
        result = assembled(picture, grid, lambda crop: self._tile(crop, code, known))
        return result[:, :height, :width]

    def _moments(self, picture: np.ndarray, grid: Grid) -> Moments:
        """Mean and covariance of the features of a picture, over all its tiles."""
        sizes, parts = [], []
        for row, column in grid:
            cores = {
                name: tf.constant(core_features((row, column), stride))
                for name, stride in STRIDES.items()
            }
            found = self._tile_moments(cropped(picture, grid, row, column), cores)
            parts.append(tf.nest.map_structure(lambda x: x[0].numpy(), found))
            sizes.append(row.core * column.core)
        shares = np.array(sizes) / sum(sizes)
        return {
            name: _of_whole(shares, *zip(*[part[name] for part in parts], strict=True))
            for name in STRIDES
        }


def _of_whole(
    shares: np.ndarray, means: tuple[np.ndarray, ...], covariances: tuple[Any, ...]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and covariance of a whole from those of its parts, in float64."""
    mean = shares @ np.array(means, "float64")
    apart = np.array(means, "float64") - mean
    # The mean covariance of the parts, and the covariance of their means.
    covariance = np.tensordot(shares, np.array(covariances, "float64"), 1)
    covariance += (apart.T * shares) @ apart
    return tf.constant(mean[None], tf.float32), tf.constant(
        covariance[None], tf.float32
    )
