"""What a run is asked to do: options, their text form, presets, provenance."""

from tfstyle.options.options import (
    APPLY_COLORS,
    CHOICES,
    EXPORT_FORMATS,
    EXPORT_PRECISIONS,
    LossOptions,
    Options,
    TrainingOptions,
    weighted_layers,
)

__all__ = [
    "APPLY_COLORS",
    "CHOICES",
    "EXPORT_FORMATS",
    "EXPORT_PRECISIONS",
    "LossOptions",
    "Options",
    "TrainingOptions",
    "weighted_layers",
]
