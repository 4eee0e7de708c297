"""Perceptual losses: pure functions of features, and ``PerceptualLoss`` over them."""

from tfstyle.losses.perceptual import (
    IMAGE,
    NORMALIZATIONS,
    TOTAL_VARIATION,
    Features,
    PerceptualLoss,
    Targets,
    blend_grams,
    content_loss,
    gram_matrix,
    guide_areas,
    part,
    style_loss,
    sum_of_squares,
    total_variation,
)

__all__ = [
    "IMAGE",
    "NORMALIZATIONS",
    "TOTAL_VARIATION",
    "Features",
    "PerceptualLoss",
    "Targets",
    "blend_grams",
    "content_loss",
    "gram_matrix",
    "guide_areas",
    "part",
    "style_loss",
    "sum_of_squares",
    "total_variation",
]
