"""The network and the loss that options describe."""

from __future__ import annotations

from collections.abc import Sequence

from tfstyle.backbones import get_backbone
from tfstyle.backbones.feature_extractor import FeatureExtractor, resolve_layers
from tfstyle.backbones.laplacian import LAPLACIAN
from tfstyle.losses.perceptual import PerceptualLoss
from tfstyle.options import LossOptions, weighted_layers

_FALL = 4
"""How much less each deeper layer counts by default in the Wasserstein distance: fine
layers carry colours and strokes."""

_LAYERS_OF_NEIGHBORS = 4
"""How many style layers neighbours are compared by: one position of a deeper one is as
large as 16 cells."""


def feature_extractor(options: Sequence[LossOptions]) -> FeatureExtractor:
    """The network that options ask for.

    Args:
      options: Of one loss, or of several that may differ in their layers only.

    Returns:
      The network, with its weights read.

    Raises:
      UsageError: If a layer does not exist, or the weights do not fit.
    """
    used = [layers for each in options for layers in used_layers(each)]
    return FeatureExtractor(
        get_backbone(options[0].backbone),
        [name for names in used for name in names],
        weights=str(options[0].weights),
        pooling=options[0].pooling,
        preprocessing=options[0].preprocessing,
        precision=options[0].precision,
        jit_compile=options[0].jit_compile,
    )


def used_layers(options: LossOptions) -> tuple[list[str], list[str]]:
    """The content layers and the style layers that have a weight."""
    content, style = _layers(options)
    return (
        [layer for layer, weight in content.items() if weight],
        [layer for layer, weight in style.items() if weight * options.style_weight],
    )


def perceptual_loss(
    options: LossOptions,
    features: FeatureExtractor | None = None,
    temporal_weight: float = 0.0,
) -> PerceptualLoss:
    """The loss that options describe.

    Args:
      options: The options.
      features: The network, where it exists already.
      temporal_weight: See ``PerceptualLoss``.

    Returns:
      The loss, over a network with its weights read.

    Raises:
      UsageError: If a layer does not exist, or the weights do not fit.
    """
    content_layers, style_layers = _layers(options)
    return PerceptualLoss(
        features or feature_extractor([options]),
        content_layers=content_layers,
        style_layers=style_layers,
        style_weight=options.style_weight,
        tv_weight=options.tv_weight,
        temporal_weight=temporal_weight,
        normalization=options.normalization,
        style_loss=options.style_loss,
    )


def _layers(options: LossOptions) -> tuple[dict[str, float], dict[str, float]]:
    """Content layers, multiplied by their weight, and style layers."""
    backbone = get_backbone(options.backbone)
    content = weighted_layers(
        "content_layers", options.content_layers, backbone.content_layers
    )
    given = options.style_layers
    if given is None and options.style_loss != "gram":
        names = list(backbone.style_layers)
        if options.style_loss == "neighbors":
            names = names[:_LAYERS_OF_NEIGHBORS]
        falling = {name: _FALL**-i for i, name in enumerate(names)}
        given = {
            name: weight / sum(falling.values()) for name, weight in falling.items()
        }
    style = weighted_layers("style_layers", given, backbone.style_layers)
    for name, layers in (("content_layers", content), ("style_layers", style)):
        resolve_layers(backbone, layers, name)
    content = {layer: options.content_weight * w for layer, w in content.items()}
    return content | {LAPLACIAN: options.laplacian_weight}, style
