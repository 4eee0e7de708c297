"""Perceptual losses: pure functions of features, and ``PerceptualLoss`` over them."""

from tfstyle.losses.functions import (
    Features,
    blend_styles,
    content_loss,
    gram_matrix,
    moments,
    style_loss,
    temporal_loss,
    total_variation,
    wasserstein_loss,
)
from tfstyle.losses.perceptual import (
    TOTAL_VARIATION,
    PerceptualLoss,
    Targets,
)

__all__ = [
    "TOTAL_VARIATION",
    "Features",
    "PerceptualLoss",
    "Targets",
    "blend_styles",
    "content_loss",
    "gram_matrix",
    "moments",
    "style_loss",
    "temporal_loss",
    "total_variation",
    "wasserstein_loss",
]
