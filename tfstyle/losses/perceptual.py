"""Perceptual losses: pure functions of features, and ``PerceptualLoss`` over them.

With ``F`` the features of a layer as a matrix of H·W positions by C channels, ``P`` the
content picture's, ``G = FᵀF / (H·W·C)`` its Gram matrix and ``A`` the style picture's,
the published losses differ by constants, the ``normalization``:

============ ===================== ========================= =======================
              content               style                     total variation
============ ===================== ========================= =======================
``relative``  ‖F−P‖² / ‖P‖²         ‖G−A‖² / ‖A‖²             Σ d² / (H·W·C)
``sum``       Σ (F−P)²              Σ (G−A)²                  Σ d²
``gatys``     ½ Σ (F−P)²            ¼ Σ (G−A)²                Σ d²
``mean``      Σ (F−P)² / (H·W·C)    Σ (G−A)² / C²             Σ d² / (H·W·C)
============ ===================== ========================= =======================

The temporal term is normalized like the total variation.

``sum`` is the CS231n assignment's; ``gatys`` equations 1, 4 and 5 of Gatys, Ecker and
Bethge (2016), whose 1/(4·N²·M²) is in ``G``; ``mean`` is that of Johnson et al. (2016)
for content. ``relative`` has no unit: the same weights mean the same at every size and
on every network.

With R guides, which say how much of each position belongs to each region, there is a
Gram matrix for each region (Gatys et al. 2017, "Controlling Perceptual Factors in
Neural Style Transfer", section 4), and each region counts by its area.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from tfstyle.backbones.precision import multiplies_bfloat16

Features = Mapping[str, tf.Tensor]

NORMALIZATIONS = ("relative", "sum", "gatys", "mean")
TOTAL_VARIATION = "total_variation"
TEMPORAL = "temporal"
IMAGE = "image"
"""Key of the picture's own H·W·C beside those of the layers."""

_TINY = 1e-24  # far below any target that is not blank
_PARTS = 16  # each of positions enough that products are smaller than features


def gram_matrix(features: tf.Tensor) -> tf.Tensor:
    """Correlations of channels: ``G = FᵀF / (H·W·C)``.

    Gatys et al. (2016), equation 3, divided by the number of entries of ``F`` so that
    pictures of different sizes can be compared.

    Args:
      features: Float tensor ``[N, H, W, C]``; bfloat16 and float16 are summed as
        float32, in which they cannot overflow. CPUs that multiply bfloat16 round the
        sums of a sixteenth each to its 8 bits.

    Returns:
      Tensor ``[N, C, C]``, float32 or float64.
    """
    features = tf.convert_to_tensor(features)
    return _products(features) / _entries(features)


def content_loss(
    features: tf.Tensor, target: tf.Tensor, normalization: str = "relative"
) -> tf.Tensor:
    """Squared distance of features to the content picture's.

    Args:
      features: Float tensor ``[N, H, W, C]``.
      target: Tensor of the same shape.
      normalization: One of ``NORMALIZATIONS``, see the table of this module.

    Returns:
      One loss per picture, ``[N]``.
    """
    features, target = _at_least_float32(features), _at_least_float32(target)
    squares, norm = sum_of_squares(features - target), sum_of_squares(target)
    return _content_term(squares, norm, _entries(features), normalization)


def style_loss(
    grams: Features,
    target_grams: Features,
    weights: Mapping[str, float],
    normalization: str = "relative",
) -> dict[str, tf.Tensor]:
    """Squared distances of Gram matrices to the style picture's, layer by layer.

    Args:
      grams: Gram matrices ``[N, C, C]``, or ``[N, R, C, C]`` of regions, by layer.
      target_grams: The style picture's, of the same shape, or with 1 for N, by layer.
      weights: The layers that count, with their weights.
      normalization: One of ``NORMALIZATIONS``, see the table of this module.

    Returns:
      The weighted loss of each layer in ``weights``, ``[N]`` or ``[N, R]``.
    """
    return {
        layer: weight * _gram_distance(grams[layer], target_grams[layer], normalization)
        for layer, weight in weights.items()
    }


def total_variation(images: tf.Tensor, normalization: str = "sum") -> tf.Tensor:
    """Squared differences ``d`` between neighbouring pixels, across and down.

    The total-variation regulariser of Mahendran and Vedaldi (2015), equation 3, with
    β = 2; with ``sum`` it is the CS231n assignment's.

    Args:
      images: Float tensor ``[N, H, W, C]``.
      normalization: One of ``NORMALIZATIONS``, see the table of this module.

    Returns:
      One value per picture, ``[N]``.
    """
    images = _at_least_float32(images)
    return _variation_term(_variation(images), _entries(images), normalization)


def blend_grams(
    grams: Sequence[Features], weights: npt.ArrayLike, normalization: str = "relative"
) -> dict[str, tf.Tensor]:
    """The Gram matrices of a style between several styles, region by region.

    A convex combination. With ``relative`` losses, each weight is divided by the norm
    of what it weighs, so that equal weights mean equal relative distances to two
    styles, however much larger the one's Gram matrix is.

    Args:
      grams: Of each of S styles, ``[N, R, C, C]`` by layer.
      weights: ``[S, R]``, by style and region.
      normalization: One of ``NORMALIZATIONS``.

    Returns:
      Gram matrices as of a single style.
    """
    blend = {}
    for layer in grams[0]:
        found = tf.stack([style[layer] for style in grams])  # [S, N, R, C, C]
        shares = tf.cast(tf.convert_to_tensor(weights)[:, None], found.dtype)
        if normalization == "relative":
            shares /= tf.sqrt(_matrix_squares(found)) + _TINY
        shares /= tf.reduce_sum(shares, 0)
        blend[layer] = tf.reduce_sum(found * shares[..., None, None], 0)
    return blend


@dataclasses.dataclass(frozen=True)
class Targets:
    """What a picture is compared with; computed once per scale, or per batch.

    Attributes:
      content: The content picture's features by content layer.
      norms: The sums of their squares, ``[N]`` by content layer.
      grams: The style's Gram matrices by style layer, ``[N, R, C, C]``, of R regions,
        with 1 for R where there are none.
      guides: How much of each position belongs to each region, ``[1, h, w, R]`` in
        [0, 1] by style layer; empty where the whole picture is one region.
      areas: Their sums over positions, ``[R]`` by style layer.
      warped: What the picture should be where ``consistency`` is 1, ``[N, H, W, 3]``;
        for the temporal term.
      consistency: ``[N, H, W, 1]`` in [0, 1].
    """

    content: Features
    norms: Features
    grams: Features
    guides: Features = dataclasses.field(default_factory=dict)
    areas: Features = dataclasses.field(default_factory=dict)
    warped: tf.Tensor | None = None
    consistency: tf.Tensor | None = None


class PerceptualLoss:
    """Weighted sum of content, style and total-variation losses with named terms.

    Any function from images to features by layer will do; nothing is known of networks.

    Attributes:
      content_layers: Weights by content layer.
      style_layers: Weights by style layer.
      term_names: Names of the terms, in the order in which they are returned.
    """

    def __init__(
        self,
        features: Callable[[tf.Tensor], Features],
        *,
        content_layers: Mapping[str, float],
        style_layers: Mapping[str, float],
        content_weight: float,
        style_weight: float,
        tv_weight: float,
        temporal_weight: float = 0.0,
        normalization: str = "relative",
    ):
        """Puts a loss together; terms of weight 0 are left out altogether.

        Args:
          features: Turns images ``[N, H, W, 3]`` into features by layer, with all the
            layers below in one pass.
          content_layers: Weights by content layer, multiplied by ``content_weight``.
          style_layers: Weights by style layer, multiplied by ``style_weight``.
          content_weight: α of Gatys et al. (2016), equation 7.
          style_weight: β of the same.
          tv_weight: Weight of the total variation.
          temporal_weight: Weight of the squared difference to ``Targets.warped``
            (Ruder et al. 2016, equation 7).
          normalization: One of ``NORMALIZATIONS``.
        """
        self.features = features
        self.content_layers = _weighted(content_layers, content_weight)
        self.style_layers = _weighted(style_layers, style_weight)
        self.tv_weight, self.temporal_weight = tv_weight, temporal_weight
        self.normalization = normalization
        self.term_names = (
            *(f"content/{layer}" for layer in self.content_layers),
            *(f"style/{layer}" for layer in self.style_layers),
            *((TOTAL_VARIATION,) if tv_weight else ()),
            *((TEMPORAL,) if temporal_weight else ()),
        )

    def targets(self, content: tf.Tensor | None, style: tf.Tensor | None) -> Targets:
        """Features of the content picture and Gram matrices of the style picture.

        Args:
          content: Images ``[N, H, W, 3]`` in [0, 1], of the shape that is optimised;
            may be None where no content layer counts.
          style: Images ``[N, H', W', 3]`` or ``[1, H', W', 3]`` of any size; may be
            None where no style layer counts.

        Returns:
          The targets that ``__call__`` takes.
        """
        return Targets(*self.content_targets(content), self.grams(style))

    def content_targets(
        self, content: tf.Tensor | None
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """The part of ``targets`` that is the content's: features and norms."""
        features = self.features(content) if self.content_layers else {}
        kept = {layer: features[layer] for layer in self.content_layers}
        return kept, {layer: sum_of_squares(f) for layer, f in kept.items()}

    def grams(
        self, style: tf.Tensor | None, guides: Features | None = None
    ) -> dict[str, tf.Tensor]:
        """The part of ``targets`` that is the style's.

        Args:
          style: As of ``targets``.
          guides: As of ``Targets``, for the style picture.

        Returns:
          ``Targets.grams``.
        """
        if not self.style_layers:
            return {}
        features, guides = self.features(style), guides or {}
        entries = {layer: _entries(features[layer]) for layer in self.style_layers}
        products = self.products(features, guides)
        return self.normalized(products, guide_areas(guides), entries)

    def __call__(
        self, images: tf.Tensor, targets: Targets, tv_images: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Evaluates the loss.

        Args:
          images: Float tensor ``[N, H, W, 3]`` in [0, 1].
          targets: What ``targets`` returned.
          tv_images: What the total variation and the temporal term are taken of, where
            that is not ``images``: the CS231n assignment takes it of normalised
            pictures.

        Returns:
          The total and the weighted terms that add up to it, scalars, each the mean
          over the batch.
        """
        features = self.features(images) if self._needs_features else {}
        picture = images if tv_images is None else tv_images
        entries = {layer: _entries(feature) for layer, feature in features.items()}
        sums = self.sums(features, targets, picture)
        return self.total(sums, targets, entries | {IMAGE: _entries(picture)})

    def sums(
        self,
        features: Features,
        targets: Targets,
        picture: tf.Tensor,
        core: tuple[Any, Any] = (None, None),
    ) -> dict[str, tf.Tensor]:
        """All that the loss needs to know of a picture, as sums over positions.

        Those of the parts of a picture add up to those of the whole.

        Args:
          features: Features ``[N, h, w, C]`` by layer.
          targets: What belongs to the same positions: ``content``, ``guides``,
            ``warped`` and ``consistency``; the rest is not looked at.
          picture: What the total variation is taken of, with one row and one column
            beyond ``core`` where the whole picture has them.
          core: Height and width of the part in pixels; None for all of ``picture``.

        Returns:
          By term, the squared distance ``[N]`` of a content layer, what ``products``
          returns, and the squared differences ``[N]`` of the total variation and of
          the temporal term.
        """
        sums = {
            f"content/{layer}": sum_of_squares(
                _at_least_float32(features[layer])
                - _at_least_float32(targets.content[layer])
            )
            for layer in self.content_layers
        }
        sums |= self.products(features, targets.guides)
        if self.tv_weight:
            sums[TOTAL_VARIATION] = _variation(_at_least_float32(picture), *core)
        if self.temporal_weight:
            height, width = core
            change = picture[:, :height, :width] - targets.warped
            sums[TEMPORAL] = sum_of_squares(change * tf.sqrt(targets.consistency))
        return sums

    def products(self, features: Features, guides: Features) -> dict[str, tf.Tensor]:
        """The sums that the loss is not linear in; see ``sums``.

        Args:
          features: As of ``sums``.
          guides: Those of the same positions, or empty.

        Returns:
          The products ``FᵀF`` of style layers by term, ``[N, R, C, C]``.
        """
        return {
            f"style/{layer}": _guided_products(features[layer], guides.get(layer))
            for layer in self.style_layers
        }

    def normalized(
        self,
        sums: Mapping[str, tf.Tensor],
        areas: Mapping[str, tf.Tensor],
        entries: Mapping[str, tf.Tensor | float],
    ) -> dict[str, tf.Tensor]:
        """The Gram matrices of a picture whose ``products`` are known.

        Args:
          sums: ``products`` of the whole picture.
          areas: As of ``Targets``.
          entries: H·W·C by layer.

        Returns:
          ``Targets.grams``.
        """
        grams = {}
        for layer in self.style_layers:
            products = sums[f"style/{layer}"]
            channels = products.shape[-1]
            area = areas.get(layer, tf.reshape(entries[layer] / channels, [1]))
            # A small region may have no position of a deep layer.
            area = tf.cast(tf.maximum(area, _TINY), products.dtype)
            grams[layer] = products / (channels * area[:, None, None])
        return grams

    def total(
        self,
        sums: Mapping[str, tf.Tensor],
        targets: Targets,
        entries: Mapping[str, tf.Tensor | float],
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a picture of which ``sums`` are known.

        Args:
          sums: What ``sums`` returned, added up over the whole picture.
          targets: What ``targets`` returned; the features are not looked at.
          entries: H·W·C by layer, and that of the picture under ``IMAGE``.

        Returns:
          As ``__call__``.
        """
        losses = [
            weight
            * _content_term(
                sums[f"content/{layer}"],
                targets.norms[layer],
                entries[layer],
                self.normalization,
            )
            for layer, weight in self.content_layers.items()
        ]
        style_losses = style_loss(
            self.normalized(sums, targets.areas, entries),
            targets.grams,
            self.style_layers,
            self.normalization,
        )
        losses += [
            _over_regions(loss, targets.areas.get(layer))
            for layer, loss in style_losses.items()
        ]
        for term, weight in (
            (TOTAL_VARIATION, self.tv_weight),
            (TEMPORAL, self.temporal_weight),
        ):
            if weight:
                squares = _variation_term(
                    sums[term], entries[IMAGE], self.normalization
                )
                losses.append(weight * squares)
        terms = {
            name: tf.reduce_mean(loss)
            for name, loss in zip(self.term_names, losses, strict=True)
        }
        return tf.add_n(list(terms.values())), terms

    @property
    def _needs_features(self) -> bool:
        return bool(self.content_layers or self.style_layers)


def guide_areas(guides: Features) -> dict[str, tf.Tensor]:
    """How many positions each region has, ``[R]`` by layer."""
    return {layer: tf.reduce_sum(guide, [0, 1, 2]) for layer, guide in guides.items()}


def _weighted(layers: Mapping[str, float], weight: float) -> dict[str, float]:
    return {layer: weight * w for layer, w in layers.items() if weight * w}


def _at_least_float32(tensor: Any) -> tf.Tensor:
    tensor = tf.convert_to_tensor(tensor)
    return tensor if tensor.dtype.size >= 4 else tf.cast(tensor, tf.float32)


def _entries(tensor: tf.Tensor) -> tf.Tensor:
    """H·W·C, as a float because 2³¹ overflow an integer."""
    wide = tf.as_dtype(tensor.dtype).size > 4
    dtype = tf.float64 if wide else tf.float32  # bfloat16 cannot count
    return tf.reduce_prod(tf.cast(tf.shape(tensor)[1:], dtype))


def _products(features: tf.Tensor) -> tf.Tensor:
    """``FᵀF``, ``[N, C, C]``, whose gradient takes one product, not two.

    For a gradient G of the result, that of F is F(G + Gᵀ): twice what one factor gets
    of a symmetric G. (`tf.custom_gradient` would keep every graph it is in for ever.)
    """
    positions, channels = features.shape[1:3].num_elements(), features.shape[-1]
    few = positions is not None and positions < 2 * _PARTS * channels
    if features.dtype == tf.bfloat16 and multiplies_bfloat16() and not few:
        product = _products_by_parts(features)
    else:
        # One product of two matrices takes down to half the time of a batch of one.
        batch = [] if features.shape[0] == 1 else [tf.shape(features)[0]]
        matrix = tf.reshape(_at_least_float32(features), [*batch, -1, channels])
        product = tf.matmul(tf.stop_gradient(matrix), matrix, transpose_a=True)
        product = tf.reshape(product, [*(batch or [1]), channels, channels])
    symmetric = (product + tf.linalg.matrix_transpose(product)) / 2
    return 2 * symmetric - tf.stop_gradient(symmetric)


def _products_by_parts(features: tf.Tensor) -> tf.Tensor:
    """``FᵀF`` of bfloat16, in half the time: float32 sums of parts that are rounded.

    Rounded as a whole, the loss would be a staircase, on which L-BFGS comes to a halt.
    """
    batch, channels = features.shape[0] or tf.shape(features)[0], features.shape[-1]
    matrix = tf.reshape(features, [batch, -1, channels])
    if matrix.shape[1] is None or matrix.shape[1] % _PARTS:
        missing = tf.math.floormod(-tf.shape(matrix)[1], _PARTS)
        matrix = tf.pad(matrix, [[0, 0], [0, missing], [0, 0]])
    parts = tf.reshape(matrix, [batch, _PARTS, -1, channels])
    products = tf.matmul(tf.stop_gradient(parts), parts, transpose_a=True)
    return tf.reduce_sum(tf.cast(products, tf.float32), 1)


def _guided_products(features: tf.Tensor, guide: tf.Tensor | None) -> tf.Tensor:
    if guide is None:
        return _products(features)[:, None]
    amplitudes = tf.sqrt(tf.cast(guide, features.dtype))
    regions = [
        _products(features * amplitudes[..., region : region + 1])
        for region in range(guide.shape[-1])
    ]
    return tf.stack(regions, 1)


def sum_of_squares(tensor: tf.Tensor) -> tf.Tensor:
    """Sum of squares of each picture or its features, ``[N]``."""
    tensor = _at_least_float32(tensor)
    return tf.reduce_sum(tf.square(tensor), axis=tf.range(1, tf.rank(tensor)))


def part(images: tf.Tensor, begin: Any, size: Any) -> tf.Tensor:
    """Some rows and columns, whose gradient is computed on all cores.

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


def _variation(images: tf.Tensor, height: Any = None, width: Any = None) -> tf.Tensor:
    rows, columns = tf.unstack(tf.shape(images)[1:3])
    tall = rows - 1, columns if width is None else width
    wide = rows if height is None else height, columns - 1
    down = part(images, (1, 0), tall) - part(images, (0, 0), tall)
    across = part(images, (0, 1), wide) - part(images, (0, 0), wide)
    # TensorFlow puts a chain of additions of tiles into one variable, which fails in a
    # loop within a loop, so this sum is not to be a link of it.
    return tf.reduce_sum(tf.stack([sum_of_squares(down), sum_of_squares(across)]), 0)


def _content_term(
    squares: tf.Tensor, norm: tf.Tensor, entries: Any, normalization: str
) -> tf.Tensor:
    if normalization == "relative":
        return squares / (norm + _TINY)
    if normalization == "mean":
        return squares / entries
    return squares * {"sum": 1.0, "gatys": 0.5}[normalization]


def _variation_term(squares: tf.Tensor, entries: Any, normalization: str) -> tf.Tensor:
    return squares / entries if normalization in ("relative", "mean") else squares


def _gram_distance(gram: tf.Tensor, target: tf.Tensor, normalization: str) -> tf.Tensor:
    squares = _matrix_squares(gram - target)
    if normalization == "relative":
        return squares / (_matrix_squares(target) + _TINY)
    if normalization == "mean":
        return squares / float(gram.shape[-1] ** 2)
    return squares * {"sum": 1.0, "gatys": 0.25}[normalization]


def _matrix_squares(tensor: tf.Tensor) -> tf.Tensor:
    """Sums of squares of matrices."""
    return tf.reduce_sum(tf.square(tensor), [-2, -1])


def _over_regions(losses: tf.Tensor, areas: tf.Tensor | None) -> tf.Tensor:
    """The mean over regions by their area: ``[N]`` of ``[N, R]``."""
    if areas is None:
        return losses[:, 0]
    shares = tf.cast(areas / tf.reduce_sum(areas), losses.dtype)
    return tf.reduce_sum(losses * shares, 1)
