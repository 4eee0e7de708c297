"""The losses as pure functions of features and pictures.

With ``F`` the features of a layer as a matrix of H·W positions by C channels, ``P`` the
content picture's, ``G = FᵀF / (H·W·C)`` its Gram matrix and ``A`` the style picture's,
the published losses differ by a factor, the ``normalization``:

============ ===================== ========================= =======================
              content               style                     total variation
============ ===================== ========================= =======================
``relative``  ‖F−P‖² / ‖P‖²         ‖G−A‖² / ‖A‖²             Σ d² / (H·W·C)
``sum``       Σ (F−P)²              Σ (G−A)²                  Σ d²
``gatys``     ½ Σ (F−P)²            ¼ Σ (G−A)²                Σ d²
``mean``      Σ (F−P)² / (H·W·C)    Σ (G−A)² / C²             Σ d² / (H·W·C)
============ ===================== ========================= =======================

The temporal loss is normalised like the total variation. The Wasserstein distance, the
other style loss, compares means and covariances; see ``wasserstein_loss``.

``sum`` is the CS231n assignment's; ``gatys`` has equations 1, 4 and 5 of Gatys, Ecker
and Bethge (2016), whose 1/(4·N²·M²) is in ``G``; ``mean`` is that of Johnson et al.
(2016) for content. ``relative`` has no unit: the same weights mean the same at every
size and on every network.

Each loss is a factor times a sum over positions, or times a function of such a sum.
Factors can be computed once and passed as ``scale``; then the losses of the parts of a
picture add up to that of the whole, and so do the Gram matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import tensorflow as tf

from tfstyle.backbones.precision import multiplies_bfloat16
from tfstyle.options.options import Normalization, StyleLoss

Features = Mapping[str, tf.Tensor]
"""Features, or something else, by layer."""

_TINY = 1e-24  # far below the norm of any target that is not blank
_PARTS = 16
_COLUMNS = 128  # of the root of a covariance
_BESIDE_NEIGHBORS = 0.1
_LEAST_VARIANCE = 1e-13  # of their sum; below, slopes no longer grow


def gram_matrix(
    features: tf.Tensor,
    guide: tf.Tensor | None = None,
    positions: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Correlations of channels: ``G = FᵀF / (H·W·C)``.

    Gatys et al. (2016), equation 3, divided by the number of entries of ``F`` so that
    pictures of different sizes can be compared. With a guide, the matrix of a region
    (Gatys et al. 2017, "Controlling Perceptual Factors in Neural Style Transfer").

    Args:
      features: Float tensor ``[N, H, W, C]``. bfloat16 and float16 are summed as
        float32; CPUs that multiply bfloat16 round the sums of a sixteenth each to its
        8 bits.
      guide: How much of each position belongs to the region, ``[N or 1, H, W, 1]`` in
        [0, 1].
      positions: What stands for H·W. None: the positions of ``features``, or the sum
        of the guide. Those of a whole picture make the matrices of its parts add up.

    Returns:
      Tensor ``[N, C, C]``, float32 or float64.
    """
    features = tf.convert_to_tensor(features)
    count = _count(features, guide, positions)
    if guide is not None:
        features *= tf.sqrt(tf.cast(guide, features.dtype))
    return _products(features) / (count * features.shape[-1])


def moments(
    features: tf.Tensor,
    guide: tf.Tensor | None = None,
    positions: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Second moments and means of channels: ``FᵀF / (H·W)`` beside ``ΣF / (H·W)``.

    Args:
      features: Same as in ``gram_matrix``.
      guide: Same as in ``gram_matrix``.
      positions: Same as in ``gram_matrix``.

    Returns:
      Tensor ``[N, C, C + 1]``, float32 or float64; the means are the last column.
    """
    features = tf.convert_to_tensor(features)
    count = _count(features, guide, positions)
    root = tf.ones_like(features[..., :1])
    if guide is not None:
        root *= tf.sqrt(tf.cast(guide, features.dtype))
        features *= root
    return _products(features, root) / count


def content_loss(
    features: tf.Tensor,
    target: tf.Tensor,
    normalization: Normalization = "relative",
    *,
    scale: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Squared distance of features to the content picture's.

    Args:
      features: Float tensor ``[N, H, W, C]``.
      target: Tensor of the same shape.
      normalization: See the table of this module.
      scale: The factor of the squared distance, ``[N]``; None for the normalization's.

    Returns:
      One loss per picture, ``[N]``.
    """
    features, target = _at_least_float32(features), _at_least_float32(target)
    if scale is None:
        channels = tf.cast(tf.shape(target)[-1], target.dtype)
        entries = tf.cast(area(target), target.dtype) * channels
        scale = content_scale(sum_of_squares(target), entries, normalization)
    return scale * sum_of_squares(features - target)


def style_loss(
    gram: tf.Tensor,
    target: tf.Tensor,
    normalization: Normalization = "relative",
    *,
    scale: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Squared distance of a Gram matrix to the style picture's.

    Args:
      gram: ``[N, C, C]``, or ``[N, R, C, C]`` of regions.
      target: Of the same shape, or with 1 for N.
      normalization: See the table of this module.
      scale: The factor of the squared distance, ``[N]`` or ``[N, R]``; None for the
        normalization's.

    Returns:
      One loss per picture, ``[N]``, or per picture and region, ``[N, R]``.
    """
    if scale is None:
        scale = style_scale(target, normalization)
    return scale * _matrix_squares(gram - target)


def wasserstein_loss(
    found: tf.Tensor,
    target: tf.Tensor,
    normalization: Normalization = "relative",
    *,
    scale: tf.Tensor | float | None = None,
    root: tf.Tensor | None = None,
) -> tf.Tensor:
    """Squared 2-Wasserstein distance of two Gaussians to the style picture's.

    ``‖μ−ν‖² + tr(Σ + A − 2 (A^½ Σ A^½)^½)`` with means μ, ν and covariances Σ, A
    (Dowson and Landau 1982). As the last term depends on Σ only where A is not 0, a
    factor ``A = RRᵀ`` of few columns gives ``tr (RᵀΣR)^½`` of a small matrix.

    Args:
      found: From ``moments``, ``[N, C, C + 1]``, or ``[N, R, C, C + 1]`` of regions.
      target: Of the same shape, or with 1 for N.
      normalization: ``relative`` divides by ``E‖f‖²`` of the style, ``mean`` by C.
      scale: The factor of the distance, ``[N]`` or ``[N, R]``; None for the
        normalization's.
      root: From ``covariance_root`` of the target, where it is known.

    Returns:
      One loss per picture, ``[N]``, or per picture and region, ``[N, R]``.
    """
    if scale is None:
        scale = wasserstein_scale(target, normalization)
    if root is None:
        root = covariance_root(target)
    covariance, mean = _gaussian(found)
    target_covariance, target_mean = _gaussian(target)
    # TensorFlow 2.20 writes out of bounds where the gradient of a product broadcasts.
    batch = tf.shape(covariance)[:-2]
    root = tf.broadcast_to(root, tf.concat([batch, tf.shape(root)[-2:]], 0))
    inner = tf.matmul(root, tf.matmul(covariance, root), transpose_a=True)
    variances = tf.linalg.trace(covariance) + tf.linalg.trace(target_covariance)
    means = _matrix_squares(mean - target_mean)
    return scale * (means + variances - 2 * _trace_of_root(inner))


def covariance_root(target: tf.Tensor) -> tf.Tensor:
    """A factor R of the covariance of a style, ``A ≈ RRᵀ``, of at most 128 columns.

    Args:
      target: From ``moments``, ``[..., C, C + 1]``.

    Returns:
      Tensor ``[..., C, min(C, 128)]``; the largest variances, which are almost all.
    """
    variances, axes = tf.linalg.eigh(_gaussian(target)[0])
    largest = tf.nn.relu(variances[..., None, -_COLUMNS:])
    return axes[..., -_COLUMNS:] * tf.sqrt(largest)


def total_variation(
    images: tf.Tensor,
    normalization: Normalization = "sum",
    *,
    scale: tf.Tensor | float | None = None,
    core: tuple[Any, Any] = (None, None),
) -> tf.Tensor:
    """Squared differences ``d`` between neighbouring pixels, across and down.

    The total-variation regulariser of Mahendran and Vedaldi (2015), equation 3, with
    β = 2; with ``sum`` it is the CS231n assignment's.

    Args:
      images: Float tensor ``[N, H, W, C]``.
      normalization: See the table of this module.
      scale: The factor of the squared differences; None for the normalization's.
      core: Height and width of the part whose differences count, of a picture that
        goes on for one row and one column; None for all of ``images``.

    Returns:
      One loss per picture, ``[N]``.
    """
    images = _at_least_float32(images)
    if scale is None:
        scale = picture_scale(area(images), images.shape[-1], normalization)
    return tf.cast(scale, images.dtype) * _variation(images, *core)


def temporal_loss(
    images: tf.Tensor,
    warped: tf.Tensor,
    consistency: tf.Tensor,
    normalization: Normalization = "relative",
    *,
    scale: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Squared distance to the frame before, where that is known to be the same.

    Ruder, Dosovitskiy and Brox (2016), equation 7.

    Args:
      images: Float tensor ``[N, H, W, C]``.
      warped: The stylized frame before, moved along the motion, of the same shape.
      consistency: ``[N, H, W, 1]`` in [0, 1]: how far ``warped`` is to be trusted.
      normalization: See the table of this module.
      scale: The factor of the squared distance; None for the normalization's.

    Returns:
      One loss per picture, ``[N]``.
    """
    if scale is None:
        scale = picture_scale(area(images), images.shape[-1], normalization)
    change = (images - warped) * tf.sqrt(consistency)
    return tf.cast(scale, images.dtype) * sum_of_squares(change)


def content_scale(
    squares: tf.Tensor, entries: Any, normalization: Normalization
) -> tf.Tensor:
    """The factor of ``content_loss``.

    Args:
      squares: ‖P‖², ``[N]``.
      entries: H·W·C.
      normalization: See the table of this module.

    Returns:
      One factor per picture, ``[N]``.
    """
    if normalization == "relative":
        return 1 / (squares + _TINY)
    factors = {"sum": 1.0, "gatys": 0.5, "mean": 1 / entries}
    return factors[normalization] * tf.ones_like(squares)


def style_scale(target: tf.Tensor, normalization: Normalization) -> tf.Tensor:
    """The factor of ``style_loss``.

    Args:
      target: A, ``[..., C, C]``.
      normalization: See the table of this module.

    Returns:
      One factor per matrix, ``[...]``.
    """
    squares = _matrix_squares(target)
    if normalization == "relative":
        return 1 / (squares + _TINY)
    factors = {"sum": 1.0, "gatys": 0.25, "mean": 1 / float(target.shape[-1] ** 2)}
    return factors[normalization] * tf.ones_like(squares)


def wasserstein_scale(target: tf.Tensor, normalization: Normalization) -> tf.Tensor:
    """The factor of ``wasserstein_loss``.

    Args:
      target: From ``moments``, ``[..., C, C + 1]``.
      normalization: See ``wasserstein_loss``.

    Returns:
      One factor per style, ``[...]``.
    """
    energy = _energy(target)
    if normalization == "relative":
        return 1 / (energy + _TINY)
    channels = float(target.shape[-2]) if normalization == "mean" else 1.0
    return tf.ones_like(energy) / channels


def picture_scale(positions: Any, channels: int, normalization: Normalization) -> Any:
    """The factor of ``total_variation`` and ``temporal_loss``.

    Args:
      positions: H·W of the picture.
      channels: C.
      normalization: See the table of this module.
    """
    per_entry = normalization in ("relative", "mean")
    return 1 / (positions * channels) if per_entry else 1.0


def blend_styles(
    statistics: Sequence[Features],
    weights: npt.ArrayLike,
    normalization: Normalization = "relative",
    style_loss: StyleLoss = "gram",
) -> dict[str, tf.Tensor]:
    """The statistics of a style between several styles, region by region.

    A convex combination. With ``relative`` losses, each weight is divided by the size
    of what it weighs, so that equal weights mean equal relative distances to two
    styles, however much larger the features of one are than those of the other.

    Args:
      statistics: For each of S styles, those of ``style_loss`` by layer,
        ``[N, R, C, C]`` or ``[N, R, C, C + 1]``.
      weights: ``[S, R]``, by style and region.
      normalization: Of the loss.
      style_loss: The loss.

    Returns:
      Statistics like those of a single style.
    """
    size = STYLE_DISTANCES[style_loss].size
    blend = {}
    for layer in statistics[0]:
        found = tf.stack([style[layer] for style in statistics])  # [S, N, R, ...]
        shares = tf.cast(tf.convert_to_tensor(weights)[:, None], found.dtype)
        if normalization == "relative":
            shares /= size(found) + _TINY
        shares /= tf.reduce_sum(shares, 0)
        blend[layer] = tf.reduce_sum(found * shares[..., None, None], 0)
    return blend


def sum_of_squares(tensor: tf.Tensor) -> tf.Tensor:
    """Sum of the squares of each picture or its features, ``[N]``."""
    tensor = _at_least_float32(tensor)
    return tf.reduce_sum(tf.square(tensor), axis=tf.range(1, tf.rank(tensor)))


def area(tensor: tf.Tensor) -> tf.Tensor:
    """H·W of ``[N, H, W, C]`` as a float: an integer of 32 bits could overflow."""
    return tf.reduce_prod(tf.cast(tf.shape(tensor)[1:3], sum_dtype(tensor.dtype)))


def sum_dtype(dtype: Any) -> tf.DType:
    """What numbers of a type are summed and counted in: bfloat16 cannot count."""
    return tf.float64 if tf.as_dtype(dtype).size > 4 else tf.float32


def part(images: tf.Tensor, begin: Any, size: Any) -> tf.Tensor:
    """Some rows and columns, with a gradient that is computed on all cores.

    That of ``images[:, y : y + height, x : x + width]`` uses one.

    Args:
      images: ``[N, H, W, C]``.
      begin: The first row and column, integers or a tensor ``[2]``.
      size: Height and width, integers or a tensor ``[2]``.

    Returns:
      Tensor ``[N, height, width, C]``.
    """
    first = tf.concat([[0], begin, [0]], 0)
    found = tf.slice(images, first, tf.concat([[-1], size, [-1]], 0))
    return tf.ensure_shape(found, [images.shape[0], None, None, images.shape[3]])


def _at_least_float32(tensor: Any) -> tf.Tensor:
    tensor = tf.convert_to_tensor(tensor)
    return tensor if tensor.dtype.size >= 4 else tf.cast(tensor, tf.float32)


def _count(
    features: tf.Tensor, guide: tf.Tensor | None, positions: tf.Tensor | float | None
) -> tf.Tensor:
    """What sums over positions are divided by."""
    if positions is None:
        positions = area(features) if guide is None else tf.reduce_sum(guide)
    # A small region may have no position of a deep layer.
    return tf.maximum(tf.cast(positions, sum_dtype(features.dtype)), _TINY)


def _products(features: tf.Tensor, column: tf.Tensor | None = None) -> tf.Tensor:
    """``FᵀF``, ``[N, C, C]``, whose gradient takes one product, not two.

    For a gradient G of the result, that of F is F(G + Gᵀ): twice what one factor gets
    from a symmetric G. (`tf.custom_gradient` would keep every graph it is in forever.)

    Args:
      features: ``[N, H, W, C]``.
      column: ``[N, H, W, 1]``, whose products with F, in the same pass, become a last
        column of the result.
    """
    channels, left = features.shape[-1], tf.stop_gradient(features)
    if column is not None:
        left = tf.concat([left, column], -1)

    def whole() -> tf.Tensor:
        product = tf.matmul(_matrix(left), _matrix(features), transpose_a=True)
        return tf.reshape(product, [-1, left.shape[-1], channels])

    if features.dtype == tf.bfloat16 and multiplies_bfloat16():
        # Of few positions, the parts would take longer than the whole.
        many = tf.reduce_prod(tf.shape(features)[1:3]) >= 2 * _PARTS * channels
        product = tf.cond(many, lambda: _products_by_parts(left, features), whole)
    else:
        product = whole()
    square, *sums = tf.split(product, [channels] + [1] * (column is not None), 1)
    symmetric = (square + tf.linalg.matrix_transpose(square)) / 2
    square = 2 * symmetric - tf.stop_gradient(symmetric)
    return tf.concat([square, *map(tf.linalg.matrix_transpose, sums)], -1)


def _matrix(features: tf.Tensor) -> tf.Tensor:
    """``[H·W, C]`` of one picture, ``[N, H·W, C]`` of several.

    One product of two matrices takes up to half the time of a batch of one.
    """
    batch = [] if features.shape[0] == 1 else [tf.shape(features)[0]]
    return tf.reshape(_at_least_float32(features), [*batch, -1, features.shape[-1]])


def _products_by_parts(left: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """``LᵀF`` of bfloat16, in half the time: float32 sums of rounded parts.

    Rounded as a whole, the loss would be a staircase on which L-BFGS halts.
    """
    products = tf.matmul(_in_parts(left), _in_parts(features), transpose_a=True)
    return tf.reduce_sum(tf.cast(products, tf.float32), 1)


def _in_parts(features: tf.Tensor) -> tf.Tensor:
    """Positions in a sixteenth each, ``[N, 16, H·W / 16, C]``, filled up with zeros."""
    batch, channels = features.shape[0] or tf.shape(features)[0], features.shape[-1]
    matrix = tf.reshape(features, [batch, -1, channels])
    if matrix.shape[1] is None or matrix.shape[1] % _PARTS:
        missing = tf.math.floormod(-tf.shape(matrix)[1], _PARTS)
        matrix = tf.pad(matrix, [[0, 0], [0, missing], [0, 0]])
    return tf.reshape(matrix, [batch, _PARTS, -1, channels])


def _energy(moments: tf.Tensor) -> tf.Tensor:
    """``E‖f‖²``."""
    return tf.linalg.trace(moments[..., :-1])


def _gaussian(moments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Covariance ``[..., C, C]`` and mean ``[..., C, 1]``."""
    # The gradient of an index is computed on one core, that of a split on all.
    seconds, mean = tf.split(moments, [moments.shape[-2], 1], -1)
    return seconds - mean * tf.linalg.matrix_transpose(mean), mean


def _trace_of_root(matrix: tf.Tensor) -> tf.Tensor:
    """``tr M^½`` of symmetric matrices, whose gradient is ``½ M^-½``.

    That of an eigendecomposition is infinite where two eigenvalues are equal. The
    smallest of ``RᵀΣR``, a product of two variances, are lost in float32.
    """
    fixed = tf.cast(tf.stop_gradient(matrix), tf.float64)
    # An eigendecomposition of NaN raises an error; zeros leave the NaN to ``change``.
    fixed = tf.where(tf.math.is_finite(fixed), fixed, tf.zeros_like(fixed))
    values, axes = tf.linalg.eigh((fixed + tf.linalg.matrix_transpose(fixed)) / 2)
    least = _LEAST_VARIANCE * tf.linalg.trace(fixed)[..., None] + _TINY
    roots = tf.sqrt(tf.maximum(values, least))
    slope = tf.matmul(axes / roots[..., None, :], axes, transpose_b=True) / 2
    change = matrix - tf.stop_gradient(matrix)
    slope = tf.reduce_sum(tf.cast(slope, matrix.dtype) * change, [-2, -1])
    # Below the least value, the root goes on as a straight line.
    root = (roots + tf.maximum(values, 0) / roots) / 2
    return tf.cast(tf.reduce_sum(root, -1), matrix.dtype) + slope


def _variation(images: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
    rows, columns = tf.unstack(tf.shape(images)[1:3])
    tall = rows - 1, columns if width is None else width
    wide = rows if height is None else height, columns - 1
    down = part(images, (1, 0), tall) - part(images, (0, 0), tall)
    across = part(images, (0, 1), wide) - part(images, (0, 0), wide)
    # TensorFlow turns a chain of additions into one variable, which fails in a loop
    # within a loop; a sum of a stack is not a link of such a chain.
    return tf.reduce_sum(tf.stack([sum_of_squares(down), sum_of_squares(across)]), 0)


def _matrix_squares(tensor: tf.Tensor) -> tf.Tensor:
    """Sums of the squares of matrices."""
    return tf.reduce_sum(tf.square(tensor), [-2, -1])


class StyleDistance(NamedTuple):
    """What a style loss is made of.

    Attributes:
      statistics: Of features, a function of sums over positions.
      loss: The distance of statistics to those of the style.
      scale: Its factor.
      size: How large the statistics of a style are, ``[...]``.
    """

    statistics: Callable[..., tf.Tensor]
    loss: Callable[..., tf.Tensor]
    scale: Callable[[tf.Tensor, Normalization], tf.Tensor]
    size: Callable[[tf.Tensor], tf.Tensor]


STYLE_DISTANCES: dict[StyleLoss, StyleDistance] = {
    "gram": StyleDistance(
        gram_matrix,
        style_loss,
        style_scale,
        lambda gram: tf.sqrt(_matrix_squares(gram)),
    ),
    "wasserstein": StyleDistance(moments, wasserstein_loss, wasserstein_scale, _energy),
    "neighbors": StyleDistance(
        moments,
        wasserstein_loss,
        lambda target, normalization: (
            _BESIDE_NEIGHBORS * wasserstein_scale(target, normalization)
        ),
        _energy,
    ),
}
"""By the option ``style_loss``. Neighbours say which way features point; a share of the
Wasserstein distance beside them says how far, so that colours do not pale."""
