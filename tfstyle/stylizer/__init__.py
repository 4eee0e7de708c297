"""The engine that optimises pictures: ``Stylizer``."""

from tfstyle.stylizer.stylizer import (
    Stylizer,
    invert_features,
    stylize,
    synthesize_texture,
)

__all__ = ["Stylizer", "invert_features", "stylize", "synthesize_texture"]
