"""The perceptual loss: content, style and total variation, with named terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.losses.functions import (
    STYLE_DISTANCES,
    Features,
    area,
    content_loss,
    content_scale,
    covariance_root,
    picture_scale,
    sum_of_squares,
    temporal_loss,
    total_variation,
)
from tfstyle.losses.neighbors import Neighbors, neighbor_loss
from tfstyle.options.options import Normalization, StyleLoss

NEIGHBORS = "style/neighbors"
TOTAL_VARIATION = "total_variation"
TEMPORAL = "temporal"
IMAGE = "image"
"""The key of the picture itself beside those of layers."""

_NONE: Mapping[str, tf.Tensor] = {}

Size = tuple[Any, Any]
"""Height and width; integers, or scalar tensors."""


class Targets(NamedTuple):
    """What a picture is compared with: computed once, then passed to each evaluation.

    A structure of tensors, so that it can be an argument of a traced function.

    Attributes:
      content: The content picture's features by content layer.
      statistics: The style's by style layer, of R regions, with 1 for R where there
        are none: Gram matrices ``[N, R, C, C]``, or ``moments`` ``[N, R, C, C + 1]``.
      scales: By term, the factor that its sum is multiplied with: the term's weight and
        what the normalization divides by. ``[N]`` for content, ``[N, R]`` for style, a
        scalar for the others.
      guides: How much of each position belongs to each region, ``[1, h, w, R]`` in
        [0, 1] by style layer; empty where the whole picture is one region.
      areas: Their sums over positions, ``[R]`` by style layer.
      roots: From ``covariance_root`` by style layer, for the Wasserstein distance.
      neighbors: What the cells of the picture are compared with, with
        ``style_loss=neighbors``; else None.
      warped: What the picture should be where ``consistency`` is 1, ``[N, H, W, 3]``,
        for the temporal term; else None.
      consistency: ``[N, H, W, 1]`` in [0, 1], or None.
    """

    content: Features
    statistics: Features
    scales: Mapping[str, tf.Tensor]
    guides: Features = _NONE
    areas: Features = _NONE
    roots: Features = _NONE
    neighbors: Neighbors | None = None
    warped: tf.Tensor | None = None
    consistency: tf.Tensor | None = None


def specs_of_any_size(targets: Targets) -> Targets:
    """What a function is traced for that serves pictures of every height and width.

    Args:
      targets: The targets of one size.

    Returns:
      The same structure of ``tf.TensorSpec``.
    """

    def open_at(axes: tuple[int, ...], structure: Any) -> Any:
        def spec(tensor: tf.Tensor | None) -> tf.TensorSpec | None:
            if tensor is None:
                return None
            sides = [None if i in axes else n for i, n in enumerate(tensor.shape)]
            return tf.TensorSpec(sides, tensor.dtype)

        return tf.nest.map_structure(spec, structure)

    size, neighbors = (1, 2), targets.neighbors
    if neighbors is not None:
        neighbors = open_at((), neighbors)._replace(
            indices=open_at(size, neighbors.indices),
            columns=open_at((0,), neighbors.columns),
            weights=open_at(size, neighbors.weights),
        )
    return open_at((), targets)._replace(
        content=open_at(size, targets.content),
        guides=open_at(size, targets.guides),
        neighbors=neighbors,
        warped=open_at(size, targets.warped),
        consistency=open_at(size, targets.consistency),
    )


class PerceptualLoss:
    """Weighted sum of content, style and total-variation losses with named terms.

    Any function from images to features by layer will do, such as a
    ``FeatureExtractor``: the loss knows no network.

    A picture can be evaluated in parts: ``statistics`` and ``local`` of the parts add
    up to those of the whole, and ``total`` of these is the loss. It is linear in
    ``local``, and not in ``statistics``.

    Attributes:
      features: Turns images into features by layer.
      content_layers: Weights by content layer.
      style_layers: Weights by style layer.
      normalization: Convention of the losses.
      style_loss: Kind of the style loss.
      strides: Pixels between the positions of each style layer, where neighbours are
        compared; else empty.
      term_names: Names of the terms, in the order in which they are returned.
      local_names: Those that ``local`` returns.
    """

    def __init__(
        self,
        features: Callable[[tf.Tensor], Features],
        *,
        content_layers: Mapping[str, float],
        style_layers: Mapping[str, float],
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        tv_weight: float = 0.0,
        temporal_weight: float = 0.0,
        normalization: Normalization = "relative",
        style_loss: StyleLoss = "gram",
    ):
        """Puts a loss together; terms of weight 0 are left out altogether.

        Args:
          features: Turns images ``[N, H, W, 3]`` into features by layer, all of them in
            one pass.
          content_layers: Weights by content layer, multiplied by ``content_weight``.
          style_layers: Weights by style layer, multiplied by ``style_weight``.
          content_weight: α of Gatys et al. (2016), equation 7.
          style_weight: β of the same.
          tv_weight: Weight of the total variation.
          temporal_weight: Weight of the distance to ``Targets.warped``.
          normalization: See ``losses.functions``.
          style_loss: Distance of Gram matrices, Wasserstein distance of Gaussians, or
            neural neighbours, which need a ``FeatureExtractor``.

        Raises:
          UsageError: If neighbours are asked of features whose strides are not known.
        """
        self.features, self.style_weight = features, style_weight
        self.content_layers = _weighted(content_layers, content_weight)
        self.style_layers = _weighted(style_layers, style_weight)
        self.tv_weight, self.temporal_weight = tv_weight, temporal_weight
        self.normalization, self.style_loss = normalization, style_loss
        self.strides = self._strides() if self.finds_neighbors else {}
        self._distance = STYLE_DISTANCES[style_loss]
        before = [f"content/{layer}" for layer in self.content_layers]
        before += [NEIGHBORS] * self.finds_neighbors
        styles = [f"style/{layer}" for layer in self.style_layers]
        after = [TOTAL_VARIATION] * bool(tv_weight) + [TEMPORAL] * bool(temporal_weight)
        self.term_names = (*before, *styles, *after)
        self.local_names = (*before, *after)

    def __call__(
        self, images: tf.Tensor, targets: Targets, tv_images: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Evaluates the loss.

        Args:
          images: Float tensor ``[N, H, W, 3]`` in [0, 1].
          targets: From ``targets`` or ``assemble``.
          tv_images: What the total variation and the temporal term are taken of, where
            that is not ``images``: the CS231n assignment takes it of normalised
            pictures.

        Returns:
          The total and the weighted terms that add up to it, scalars, each the mean
          over the batch.

        Raises:
          UsageError: If the features lack a layer.
        """
        features = self._features(images)
        picture = images if tv_images is None else tv_images
        return self.total(
            self.statistics(features, targets),
            self.local(features, targets, picture),
            targets,
        )

    def targets(
        self,
        content: tf.Tensor | None,
        style: tf.Tensor | None,
        size: Size | None = None,
    ) -> Targets:
        """What pictures are compared with.

        Args:
          content: Images ``[N, H, W, 3]`` in [0, 1], of the shape that is optimised;
            None where no content layer has a weight.
          style: Images ``[N, H', W', 3]`` or ``[1, H', W', 3]`` of any size; None where
            no style layer has a weight.
          size: Height and width of the pictures that will be compared; None for the
            content's.

        Returns:
          The targets that ``__call__`` takes.

        Raises:
          UsageError: If a picture is missing that a weight is about, or a size by
            which a term is divided, or if the features lack a layer. With neighbours,
            whose targets depend on the picture that is optimised: a ``Stylizer`` finds
            them.
        """
        if self.finds_neighbors:
            raise UsageError(
                "style_loss='neighbors' has targets that depend on the picture that is "
                "optimised; let a Stylizer find them"
            )
        for name, picture, layers in (
            ("content", content, self.content_layers),
            ("style", style, self.style_layers),
        ):
            if layers and picture is None:
                raise UsageError(f"{name}: give a picture, as {name} layers count")
        if size is None and content is not None:
            size = tuple(tf.unstack(tf.shape(content)[1:3]))
        kept, norms = self.content_targets(content)
        return self.assemble(size, kept, norms, self.style_statistics(style))

    def content_targets(
        self, content: tf.Tensor | None
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Features of the content picture, and the sums of their squares, ``[N]``."""
        features = self._features(content) if self.content_layers else {}
        kept = {layer: features[layer] for layer in self.content_layers}
        return kept, {layer: sum_of_squares(f) for layer, f in kept.items()}

    def style_statistics(
        self, style: tf.Tensor | None, guides: Features | None = None
    ) -> dict[str, tf.Tensor]:
        """Statistics of a style picture.

        Args:
          style: Same as in ``targets``.
          guides: Same as in ``Targets``, for the style picture.

        Returns:
          ``[N, R, C, C or C + 1]`` by style layer.
        """
        if not self.style_layers:
            return {}
        guides = guides or {}
        targets = Targets({}, {}, {}, guides, guide_areas(guides))
        return self.statistics(self._features(style), targets)

    def roots(self, statistics: Features) -> dict[str, tf.Tensor]:
        """What the Wasserstein distance needs of a style besides; else nothing.

        Args:
          statistics: From ``style_statistics``.

        Returns:
          ``covariance_root`` by style layer.
        """
        if self.style_loss == "gram":
            return {}
        return {
            layer: covariance_root(statistics[layer]) for layer in self.style_layers
        }

    def assemble(
        self,
        size: Size | None,
        content: Features,
        norms: Features,
        statistics: Features,
        guides: Features | None = None,
        *,
        roots: Features | None = None,
        entries: Mapping[str, Any] | None = None,
        neighbors: Neighbors | None = None,
        warped: tf.Tensor | None = None,
        consistency: tf.Tensor | None = None,
    ) -> Targets:
        """Targets from their parts, with the factor of each term.

        Args:
          size: Height and width of the pictures that will be compared; may be None
            where nothing is normalised by it.
          content: Features by content layer.
          norms: Sums of their squares, ``[N]`` by content layer.
          statistics: By style layer, ``[N, R, C, C or C + 1]``.
          guides: See ``Targets``.
          roots: From ``roots``, where they are known.
          entries: H·W·C by content layer, where ``content`` does not have features.
          neighbors: See ``Targets``.
          warped: See ``Targets``.
          consistency: See ``Targets``.

        Returns:
          The targets.

        Raises:
          UsageError: If ``size`` is missing where a term is divided by it.
        """
        guides = guides or {}
        areas = guide_areas(guides)
        scales = {}
        for layer, weight in self.content_layers.items():
            count = entries[layer] if entries else _entries(content[layer])
            scale = content_scale(norms[layer], count, self.normalization)
            scales[f"content/{layer}"] = weight * scale
        for layer, weight in self.style_layers.items():
            scale = weight * self._distance.scale(statistics[layer], self.normalization)
            scales[f"style/{layer}"] = scale * _shares(areas.get(layer), scale.dtype)
        for term, weight in (
            (TOTAL_VARIATION, self.tv_weight),
            (TEMPORAL, self.temporal_weight),
        ):
            if weight:
                factor = self._picture_scale(term, size)
                scales[term] = tf.cast(weight * factor, tf.float64)
        if roots is None:
            roots = self.roots(statistics)
        return Targets(
            content,
            statistics,
            scales,
            guides,
            areas,
            roots,
            neighbors,
            warped,
            consistency,
        )

    def statistics(
        self,
        features: Features,
        targets: Targets,
        positions: Mapping[str, float] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Statistics of each region.

        Args:
          features: Features ``[N, h, w, C]`` by layer.
          targets: Its ``guides`` of the same positions, and its ``areas``, are used.
          positions: H·W of the whole picture by style layer, where ``features`` are of
            a part; None for that of ``features``.

        Returns:
          ``[N, R, C, C or C + 1]`` by style layer.
        """
        found = {}
        for layer in self.style_layers:
            feature, guide = features[layer], targets.guides.get(layer)
            if guide is None:
                count = positions[layer] if positions else None
                found[layer] = self._distance.statistics(feature, positions=count)[
                    :, None
                ]
                continue
            areas = targets.areas[layer]
            regions = [
                self._distance.statistics(feature, guide[..., r : r + 1], areas[r])
                for r in range(guide.shape[-1])
            ]
            found[layer] = tf.stack(regions, 1)
        return found

    def local(
        self,
        features: Features,
        targets: Targets,
        picture: tf.Tensor,
        core: tuple[Any, Any] = (None, None),
    ) -> dict[str, tf.Tensor]:
        """The terms that are sums over positions.

        Args:
          features: Features ``[N, h, w, C]`` by layer.
          targets: What belongs to the same positions.
          picture: What the total variation is taken of, with one row and one column
            beyond ``core`` where the whole picture has them.
          core: Height and width of the part in pixels; None for all of ``picture``.

        Returns:
          ``[N]`` by the names in ``local_names``.
        """
        terms = {
            f"content/{layer}": content_loss(
                features[layer],
                targets.content[layer],
                scale=targets.scales[f"content/{layer}"],
            )
            for layer in self.content_layers
        }
        if targets.neighbors is not None:
            terms[NEIGHBORS] = neighbor_loss(features, self.strides, targets.neighbors)
        if self.tv_weight:
            scale = targets.scales[TOTAL_VARIATION]
            terms[TOTAL_VARIATION] = total_variation(picture, scale=scale, core=core)
        if self.temporal_weight:
            height, width = core
            terms[TEMPORAL] = temporal_loss(
                picture[:, :height, :width],
                targets.warped,
                targets.consistency,
                scale=targets.scales[TEMPORAL],
            )
        return terms

    def total(
        self,
        statistics: Mapping[str, tf.Tensor],
        local: Mapping[str, tf.Tensor],
        targets: Targets,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a picture.

        Args:
          statistics: From ``statistics``, of the whole picture.
          local: From ``local``, of the whole picture.
          targets: Its ``statistics`` and ``scales`` are used.

        Returns:
          Same as ``__call__``.
        """
        losses = dict(local)
        for layer in self.style_layers:
            term = f"style/{layer}"
            root = {"root": targets.roots[layer]} if targets.roots else {}
            loss = self._distance.loss(
                statistics[layer],
                targets.statistics[layer],
                scale=targets.scales[term],
                **root,
            )
            losses[term] = tf.reduce_sum(loss, 1)
        terms = {name: tf.reduce_mean(losses[name]) for name in self.term_names}
        return tf.add_n(list(terms.values())), terms

    @property
    def finds_neighbors(self) -> bool:
        """Whether cells of the picture are compared with their nearest of the style."""
        return self.style_loss == "neighbors" and bool(self.style_layers)

    def _strides(self) -> dict[str, int]:
        fields = getattr(self.features, "fields", None)
        if fields is None:
            raise UsageError("style_loss='neighbors': give a FeatureExtractor")
        return {layer: fields[layer].stride for layer in self.style_layers}

    def _picture_scale(self, term: str, size: Size | None) -> Any:
        if self.normalization in ("sum", "gatys"):
            return 1.0
        if size is None:
            raise UsageError(
                f"size: give the height and width of the pictures, by which {term} is "
                "divided"
            )
        return picture_scale(_positions(size), 3, self.normalization)

    def _features(self, images: tf.Tensor) -> Features:
        wanted = {"content": self.content_layers, "style": self.style_layers}
        if not any(wanted.values()):
            return {}
        found = self.features(images)
        for name, layers in wanted.items():
            for layer in layers:
                if layer not in found:
                    raise UsageError(
                        f"{name}_layers: {layer!r} is none of the layers that the "
                        f"features have, which are {', '.join(found)}"
                    )
        return found


def guide_areas(guides: Features) -> dict[str, tf.Tensor]:
    """How many positions each region has, ``[R]`` by layer."""
    return {layer: tf.reduce_sum(guide, [0, 1, 2]) for layer, guide in guides.items()}


def _weighted(layers: Mapping[str, float], weight: float) -> dict[str, float]:
    return {layer: weight * w for layer, w in layers.items() if weight * w}


def _shares(areas: tf.Tensor | None, dtype: Any) -> tf.Tensor:
    """The share of each region in the whole, ``[R]``."""
    if areas is None:
        return tf.ones([1], dtype)
    return tf.cast(areas / tf.reduce_sum(areas), dtype)


def _entries(features: tf.Tensor) -> tf.Tensor:
    """H·W·C of features, float32 or float64."""
    count = area(features)
    return count * tf.cast(tf.shape(features)[-1], count.dtype)


def _positions(size: Size) -> tf.Tensor:
    """H·W as a scalar that is exact for every size."""
    height, width = (tf.cast(side, tf.float64) for side in size)
    return height * width
