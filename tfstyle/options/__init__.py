"""What a run is asked to do: options, their text form, presets, provenance.

Nothing here imports TensorFlow.
"""

from tfstyle.options.fields import OptionField, check_choice, fields_of
from tfstyle.options.keywords import StylizeKeywords
from tfstyle.options.options import (
    APPLY_COLORS,
    EXPORT_FORMATS,
    EXPORT_PARTS,
    EXPORT_PRECISIONS,
    NOISE_STARTS,
    BackboneName,
    LossOptions,
    NetworkOptions,
    Options,
    TrainingOptions,
    weighted_layers,
)
from tfstyle.options.recipes import FRAMES, INVERT, RECIPES, STYLIZE, TEXTURE, Recipe

__all__ = [
    "APPLY_COLORS",
    "EXPORT_FORMATS",
    "EXPORT_PARTS",
    "EXPORT_PRECISIONS",
    "FRAMES",
    "INVERT",
    "NOISE_STARTS",
    "RECIPES",
    "STYLIZE",
    "TEXTURE",
    "BackboneName",
    "LossOptions",
    "NetworkOptions",
    "OptionField",
    "Options",
    "Recipe",
    "StylizeKeywords",
    "TrainingOptions",
    "check_choice",
    "fields_of",
    "weighted_layers",
]
